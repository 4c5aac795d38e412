"""Responses out of files: plain rows, lm-evaluation-harness samples, lighteval details, our own runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.evaluation.import_lighteval import is_lighteval, lighteval_rows
from ibpo.evaluation.import_lm_eval import is_lm_eval, lm_eval_rows
from ibpo.evaluation.import_plain import OnError, plain_rows
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.run_facts import budget_of, part_of
from ibpo.rewards import Candidate, Judge
from ibpo.tasks import JudgeName, judge_for, local_rows
from ibpo.types import Problem

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How files are read."""

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """Field -> column, for plain files."""
    metric: str = ""
    filter: str = ""
    judge: JudgeName = "math"
    """Judges the responses that come without a reward."""
    count_tokens: Callable[[str], int] | None = None
    """Counts the tokens of a response whose file does not say."""
    on_error: OnError = "fail"
    """At a bad row of a plain file: stop, or leave it out and say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """All responses of a report."""

    parts: dict[str, Responses]
    """Task or model -> its responses; each part is a comparison of its own. "" where there is only one."""
    cost_unit: dict[str, str]
    """Part -> `"tokens"`, else `"characters"`, else `"responses"`, where nothing else is known."""
    notes: tuple[str, ...]
    """What a reader should know about how they were read."""


def read_responses(paths: Sequence[tuple[str, Path]], options: ReadOptions | None = None) -> Read:
    """Read and bring together all files.

    Args:
        paths: (name of the configuration or "", file or folder). A folder stands for all files in it: of an `ibpo eval`
            run `responses.jsonl`, of a demo run every `responses/*.parquet`, else every file of a known suffix.
        options: How to read them.

    Raises:
        IbpoError: for what cannot be read, names file, row, field and mend.
    """
    options = options or ReadOptions()
    rows: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    bad: list[str] = []
    for name, path in paths:
        for part, configuration, file in _files(name, path):
            kind, found = _read_file(file, configuration, options, bad)
            kinds[kind] = kinds.get(kind, 0) + 1
            more = ({"part": part} if part else {}) | ({} if (q := budget_of(file.stem)) is None else {"budget": q})
            rows += [row | more for row in found]
    if not rows:
        raise IbpoError(f"{', '.join(str(path) for _, path in paths)}: no responses; give a file with one a line")
    _check_same_problems(rows)
    notes = [f"{count} file{'s' * (count > 1)}: {kind}" for kind, count in kinds.items()]
    notes += [f"{len(bad)} bad rows left out, the first: {bad[0]}"] if bad else []
    notes += _judge(rows, options) + _count(rows, options)
    parts, units = {}, {}
    for part in dict.fromkeys(str(row.get("part") or "") for row in rows):
        own = [row for row in rows if str(row.get("part") or "") == part]
        units[part] = _cost_unit(own)
        if units[part] != "tokens":
            for row in own:
                row["tokens"] = float(len(row.get("completion") or "")) if units[part] == "characters" else 1.0
        unknown = sum(row.get("tokens") is None for row in own)
        if unknown:
            notes.append(f"{part + ': ' if part else ''}tokens unknown for {unknown} of {len(own)} responses")
        parts[part] = Responses.from_rows(own)
    return Read(parts=parts, cost_unit=units, notes=tuple(notes))


def _files(name: str, path: Path) -> list[tuple[str, str, Path]]:
    """(part or "", configuration or "", file) of everything that the path stands for."""
    if not path.exists():
        raise IbpoError(f"{path}: there is no such file or folder; give a run, or a file of responses")
    if path.is_file():
        return [("", name, path)]
    if (path / "responses.jsonl").is_file():
        return [("", name, path / "responses.jsonl")]
    demo = sorted(path.glob("**/responses/*__*.parquet"))
    if demo:  # EXPERIMENT/seedN/responses/POLICY__HOW.parquet
        return [(part_of(file, demo), _policy(file), file) for file in demo]
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise IbpoError(f"{path}: holds no {', '.join(SUFFIXES)}; name the file")
    return [("", name, file) for file in files]


def _policy(file: Path) -> str:
    policy, _, how = file.stem.rpartition("__")
    return f"{policy.replace('_', ' ')}, {how}"


def _read_file(path: Path, name: str, options: ReadOptions, bad: list[str]) -> tuple[str, list[dict[str, Any]]]:
    rows = list(local_rows(path))
    if not rows:
        raise IbpoError(f"{path}: holds no responses; remove it or name another")
    first = rows[0][1]
    if is_lm_eval(path, first):
        filters = sorted({str(row.get("filter", "")) for _, row in rows})
        found = lm_eval_rows(path, rows, metric=options.metric, wanted_filter=options.filter)
        more = (
            f", filter {first.get('filter')} of {', '.join(filters)}" if len(filters) > 1 and not options.filter else ""
        )
        kind = f"lm-evaluation-harness samples{more}"
    elif is_lighteval(path, first):
        kind, found = "lighteval details", lighteval_rows(path, rows, metric=options.metric)
    else:
        found = plain_rows(rows, dict(options.columns), name, on_error=options.on_error, bad=bad)
        return "one response a row", found
    return kind, [row | {"configuration": name} for row in found] if name else found


def _check_same_problems(rows: Sequence[Mapping[str, Any]]) -> None:
    """Files of different versions of a data set number their problems alike; their hashes tell them apart."""
    seen: dict[tuple[str, str], tuple[Any, str]] = {}
    for row in rows:
        if row.get("hash") is None:
            continue
        key = (str(row.get("part") or ""), row["problem"])
        digest, place = seen.setdefault(key, (row["hash"], row["place"]))
        if digest != row["hash"]:
            raise IbpoError(
                f"{row['place']}: problem {row['problem']} is another one than at {place}; "
                "compare runs on the same version of the data"
            )


def _judge(rows: Sequence[dict[str, Any]], options: ReadOptions) -> list[str]:
    """Reward those that came without; says how many."""
    todo = [row for row in rows if row.get("reward") is None]
    if not todo:
        return []
    for row in todo:
        if row.get("gold") is None:
            raise IbpoError(f"{row['place']}: neither a reward nor a gold answer to judge by; add one of them")
    judge: Judge = judge_for(options.judge)
    candidates = [
        Candidate(
            problem=Problem(problem_id=row["problem"], prompt=row.get("prompt") or "", answer=row["gold"]),
            completion=row.get("completion") or "",
            predicted_answer=row.get("answer"),
        )
        for row in todo
    ]
    for row, judgement in zip(todo, judge.judge(candidates), strict=True):
        row["reward"] = judgement.reward
    return [f"{len(todo)} responses judged here, by the {options.judge} judge"]


def _count(rows: Sequence[dict[str, Any]], options: ReadOptions) -> list[str]:
    todo = [row for row in rows if row.get("tokens") is None and row.get("completion")]
    if options.count_tokens is None or not todo:
        return []
    for row in todo:
        row["tokens"] = float(options.count_tokens(row["completion"]))
    return [f"tokens of {len(todo)} responses counted by the tokenizer given"]


def _cost_unit(rows: Sequence[Mapping[str, Any]]) -> str:
    if any(row.get("tokens") is not None for row in rows):
        return "tokens"
    return "characters" if all(row.get("completion") for row in rows) else "responses"
