"""What `ibpo allocate --out` writes: the choices, the rows that were chosen, the summary, the picture."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.data import Labels, LogColumns, LogReader, LogRows, OnError
from ibpo.errors import IbpoError
from ibpo.evaluation.log_allocation import Answer
from ibpo.evaluation.log_parts import LogPart, Say, judge_when_needed
from ibpo.evaluation.log_picture import draw_answers
from ibpo.evaluation.log_verdict import summarise_parts
from ibpo.runs import atomic_files, number_equal_names

CHUNK = 100_000
"""Problems that are turned into lines of JSON at a time."""


def write_files(
    out: Path,
    path: Path,
    names: LogColumns,
    all_answers: list[tuple[LogPart, list[Answer]]],
    *,
    on_error: OnError,
    join: Sequence[Path] = (),
    num_bad: int,
    say: Say,
) -> None:
    """Write choices.jsonl (a problem and a budget a line), rows.jsonl (the chosen rows), summary.json, frontier.png.

    All of them or none; where summary.json is, the other files are those that it belongs to.

    Args:
        out: Folder.
        path: The log; it is read again for the chosen rows.
        names: Which columns hold what.
        all_answers: Each part with its answers.
        on_error: As when the log was read.
        join: As when the log was read.
        num_bad: Rows that were left out then.
        say: Takes what a reader should know.
    """
    choices = (row for part, answers in all_answers for answer in answers for row in _choices(part, answer))
    whole = summarise_parts(path, names.by, all_answers, num_bad=num_bad)
    with atomic_files(out, "summary.json") as folder:
        for name, lines in (
            ("choices.jsonl", choices),
            ("rows.jsonl", _chosen_rows(path, names, all_answers, on_error, join)),
            ("summary.json", [json.dumps(whole, indent=2) + "\n"]),
        ):
            with (folder / name).open("w", encoding="utf-8") as file:
                file.writelines(lines)
        for (part, answers), name in zip(
            all_answers, _picture_names([part.name for part, _ in all_answers]), strict=True
        ):
            try:
                draw_answers(part, answers, folder / name)
            except IbpoError as error:
                say(f"no picture: {error}")


def _picture_names(parts: Sequence[str]) -> list[str]:
    """A file for each part."""
    stems = ["_".join(["frontier", *([re.sub(r"[^\w.-]", "_", part)[:50]] if part else [])]) for part in parts]
    return [f"{name}.png" for name in number_equal_names(stems)]


def _choices(part: LogPart, answer: Answer) -> Iterator[str]:
    head = f'{{"part": {json.dumps(part.name)}, "budget": {json.dumps(answer.question.label)}, "problem": '
    groups = [f', "response_group": {json.dumps(name)}, "mean_reward": ' for name in part.groups]
    for first in range(0, len(answer.pick), CHUNK):
        rows = slice(first, first + CHUNK)
        pick = answer.pick[rows].astype(np.int64)[:, None]
        values = (np.take_along_axis(table[rows], pick, 1)[:, 0].tolist() for table in (part.reward, part.cost))
        for problem, g, reward, cost in zip(_ids(part.problems[rows]), pick[:, 0].tolist(), *values, strict=True):
            yield f'{head}{problem}{groups[g]}{reward!r}, "mean_cost": {cost!r}}}\n'


def _ids(problems: Any) -> list[str]:
    """Ids as JSON strings."""
    if isinstance(problems, np.ndarray):
        return [f'"{x}"' for x in problems.tolist()]
    return [json.dumps(str(x)) for x in problems]


def _chosen_rows(
    path: Path,
    names: LogColumns,
    all_answers: list[tuple[LogPart, list[Answer]]],
    on_error: OnError,
    join: Sequence[Path],
) -> Iterator[str]:
    """The second pass: the log's rows whose response group was chosen for their problem under the budget as asked."""
    parts = {
        part.name: (part, [x for x in answers if x.question.times == 1 and x.allocation])
        for part, answers in all_answers
    }
    reader = LogReader(path, names, on_error=on_error, join=join, judge=judge_when_needed)
    for block in reader.blocks():
        for name, rows in block.by_part():
            if name in parts:
                yield from _written(
                    rows.take(np.flatnonzero(_is_chosen(rows, *parts[name]))), name if names.by else None
                )


def _is_chosen(rows: LogRows, part: LogPart, answers: list[Answer]) -> NDArray[np.bool_]:
    place = part.find(rows.problem)
    group = np.array([part.groups.index(x) if x in part.groups else -1 for x in rows.response_group.names])
    group_R = group[rows.response_group.code]
    chosen = np.zeros(len(rows), bool)
    for answer in answers:
        chosen |= answer.pick[place] == group_R
    return chosen & (place >= 0)


def _written(rows: LogRows, part: str | None) -> Iterator[str]:
    """The rows as lines of JSON; by hand, for `json.dumps` of a dictionary takes five times as long."""

    def texts(labels: Labels, key: str) -> list[str]:
        return Labels(code=labels.code, names=[f', "{key}": {json.dumps(x)}' for x in labels.names]).tolist()

    by = "" if part is None else f', "by": {json.dumps(part)}'
    ids = rows.problem
    columns = (
        _ids(ids)
        if isinstance(ids, np.ndarray)
        else Labels(code=ids.code, names=[json.dumps(x) for x in ids.names]).tolist(),
        texts(rows.response_group, "response_group"),
        rows.reward.tolist(),
        rows.cost.tolist(),
        [""] * len(rows) if rows.shown is None else texts(rows.shown, "show"),
    )
    for problem, group, reward, cost, shown in zip(*columns, strict=True):
        yield f'{{"problem": {problem}{group}, "reward": {reward!r}, "cost": {cost!r}{by}{shown}}}\n'
