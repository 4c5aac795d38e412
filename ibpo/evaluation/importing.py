"""Responses out of files that others made, whatever tool wrote them, and our own runs: checked, judged and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ibpo.data import (
    COMPLETIONS,
    GUESSES,
    IDENTIFIERS,
    MONEY,
    NOTHING,
    NUM_PEEKED,
    Commas,
    LogColumns,
    LogError,
    MissingColumns,
    Row,
    Source,
    check_number,
    divided,
    find_alike,
    identifier_of,
    is_own,
    lookup,
    names_in,
    note_repeats,
    read_log_rows,
    read_number,
    says_error,
)
from ibpo.endpoint import as_finish_reason
from ibpo.errors import IbpoError
from ibpo.evaluation.responses import Responses, natural
from ibpo.evaluation.run_facts import budget_of, part_of, policy_and_task, run_tables, sampled_with
from ibpo.prices import Prices
from ibpo.responses import boxed, last_number, split_thought
from ibpo.rewards import Candidate, Judge
from ibpo.tasks import JudgeName, judge_for
from ibpo.types import Problem

COLUMNS = {
    "problem": GUESSES["problem"],
    "configuration": ("configuration", *GUESSES["response_group"]),
    "response_group": ("response_group",),
    "reward": GUESSES["reward"],
    "tokens": GUESSES["cost"],
    "thinking_tokens": ("thinking_tokens", "reasoning_tokens"),
    "answer": ("answer", "predicted_answer"),
    "gold": ("gold", "target"),
    "level": ("level",),
    "domain": ("domain", "subject"),
    "hash": ("hash",),
    "truncated": ("truncated", "finish_reason"),
    "budget": ("budget",),
    "prompt": ("prompt", "question"),
    "completion": COMPLETIONS,
}
"""Field -> the columns that are tried for it, the first that the first rows have."""
IN_MONEY = "cost_usd"
"""The column that names a cost in money."""
CALLED = {"configuration": "response_group", "tokens": "cost"}
"""What a field is called where a user names its column: as in every other command that reads a log."""
COLD_START = ("cold start, standard", "cold start, extended")
"""In a demo run: what its policies were trained from, each response group forced."""
NEEDED = ("problem", "configuration")
DIVIDED = ("reward", "tokens")
"""Fields of which a column may be named as `score/100`."""
NESTED = ("problem", "configuration", "reward", "tokens")
"""Fields that are also looked for inside of objects, by the last part of their names."""
Json = dict[str, Any]
OnError = Literal["fail", "skip"]
NUMBERS = {"reward": "reward", "tokens": "cost", "thinking_tokens": "thinking_tokens", "budget": "budget"}
"""Fields that are numbers, and what a message calls them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """How files are read."""

    columns: Mapping[str, str] = dataclass_field(default_factory=dict[str, str])
    """Field -> column, for plain files: `problem`, `response_group`, `reward`, `cost`, any other of `COLUMNS`, `by`."""
    metric: str = ""
    filter: str = ""
    judge: JudgeName = "math"
    """Judges the responses that come without a reward."""
    count_tokens: Callable[[str], int] | None = None
    """Counts the tokens of a response whose file does not say."""
    on_error: OnError = "fail"
    """At a bad row: stop, or leave it out and say so."""
    prices: Prices | None = None
    """What tokens cost: the cost is then money, and `columns["cost"]` names the tokens of the completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """All responses of a report."""

    parts: dict[str, Responses]
    """Task or model -> its responses; each part is a comparison of its own. "" where there is only one."""
    cost_unit: dict[str, str]
    """Part -> `"tokens"` (`"money"` with prices, or where only `cost_usd` is known), else `"characters"`, else
    `"responses"`: nothing else is known."""
    notes: tuple[str, ...]
    """What a reader should know about how they were read."""
    called: tuple[tuple[str, Mapping[str, str]], ...] = ()
    """For each path, in their order: the part that its table is in, and configuration as it calls it -> as they are
    called here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """The rows of one path that are a table of ours."""

    name: str
    """What the caller calls it; "" where he does not."""
    path: Path
    policy: Json
    task: str
    rows: list[Json]

    @property
    def parts(self) -> list[str]:
        """Those of the report that its rows are in."""
        return list(dict.fromkeys(row["part"] for row in self.rows))


def import_responses(paths: Sequence[tuple[str, Path]], options: ImportOptions | None = None) -> Imported:
    """Read and bring together all files.

    Args:
        paths: (name of the configuration or "", file or folder). A folder stands for all files in it: of an `ibpo eval`
            run `responses.jsonl`, of a demo run every table in `responses/`, else every file of a known suffix. If a
            run has several configurations, the name is put before theirs.
        options: How to read them.

    Runs of one policy on one task are parts of one evaluation, whatever their seeds. Configurations of runs of
    different policies are alternatives, and named by their runs; runs of different tasks are parts of the report.

    Raises:
        IbpoError: for what cannot be read, names file, row, field and fix.
    """
    options = options or ImportOptions()
    rows: list[Json] = []
    runs: list[_Run] = []
    files: list[tuple[Path, list[Json]]] = []
    kinds: dict[tuple[str, ...], int] = {}
    bad: list[str] = []
    for name, path in paths:
        first = len(rows)
        for part, policy, file in _files(path):
            kind, found = _read_file(file, policy or name, options, bad, is_policy=bool(policy))
            kinds[kind] = kinds.get(kind, 0) + 1
            more = ({"part": part} if part else {}) | ({} if (q := budget_of(_stem(file))) is None else {"budget": q})
            for row in found if more else ():
                row.update(more)
            rows += found
            files.append((file, found))
        own = [row for row in rows[first:] if row.get("way")]
        policy, task = policy_and_task(path) if own else ({}, "")
        runs.append(_Run(name=name, path=path, policy=policy, task=task, rows=own))
    if not rows:
        raise IbpoError(f"{', '.join(str(path) for _, path in paths)}: no responses; give a file with one a line")
    notes = [f"{count} file{'s' * (count > 1)}: {'; '.join(said)}" for said, count in kinds.items()]
    _split_tasks(runs)
    notes += _name_policies(runs)
    notes += _split_models(rows)
    rows, copied = _without_copies(files)
    notes += copied
    _check_same_problems(rows)
    mixed = _settle_levels(rows)
    notes += [f"{len(bad)} bad rows left out, the first: {bad[0]}"] if bad else []
    notes += [f"levels differ within {mixed} problems: each has that of most of its rows"] if mixed else []
    notes += _judge(rows, options) + _count(rows, options) + _repeated(rows)
    parts, units = {}, {}
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        rows_of.setdefault(str(row.get("part") or ""), []).append(row)
    for part, own in rows_of.items():
        units[part] = "money" if options.prices else _cost_unit(own)
        if units[part] in ("characters", "responses"):
            for row in own:
                row["tokens"] = float(len(row.get("completion") or "")) if units[part] == "characters" else 1.0
        if units[part] == "tokens" and (more := _drop_thinking_beyond(own)):
            notes.append(
                f"{part + ': ' if part else ''}thinking tokens of {more} responses are left out, being more than all "
                "tokens of the response; name the column that counts both with --columns cost=COLUMN"
            )
        unknown = sum(row.get("tokens") is None for row in own)
        if unknown:
            notes.append(f"{part + ': ' if part else ''}tokens unknown for {unknown} of {len(own)} responses")
        parts[part] = Responses.from_rows(own)
    called = tuple(
        (str(run.rows[0]["part"] or "") if run.rows else "", {row["way"]: row["configuration"] for row in run.rows})
        for run in runs
    )
    return Imported(parts=parts, cost_unit=units, notes=tuple(notes), called=called)


def _name_policies(runs: Sequence[_Run]) -> list[str]:
    """Name the configurations of runs of ours by their runs: those with a name, and of different policies in a part."""
    places = _distinct_names([run.path for run in runs], {run.name for run in runs})
    place_of = {id(run): place for run, place in zip(runs, places, strict=True)}
    policies: dict[str, dict[str, list[_Run]]] = {}  # of each part
    ways: dict[str, set[str]] = {}  # of all runs of one name together
    for run in runs:
        ways.setdefault(run.name, set()).update(row["way"] for row in run.rows)
        for part in run.parts if run.policy else ():
            policies.setdefault(part, {}).setdefault(_key(run.policy), []).append(run)
    for run in runs:
        alone = bool(run.name) and len(ways[run.name]) == 1
        label = dict.fromkeys(run.parts, run.name)
        for part in run.parts if run.policy and not run.name else ():
            if len(policies[part]) > 1:
                alike = [place_of[id(one)] for one in policies[part][_key(run.policy)] if not one.name]
                label[part] = " + ".join(alike) if len(alike) < 3 else f"{alike[0]} + {len(alike) - 1} more"
        for row in run.rows:
            if of_part := label[row["part"]]:
                row["configuration"] = of_part if alone else f"{of_part}: {row['way']}"
    notes: list[str] = []
    unnamed = [run for run in runs if run.rows and not run.name]
    several = [run for of_part in policies.values() if len(of_part) > 1 for some in of_part.values() for run in some]
    if any(not run.name for run in several):
        settings = dict.fromkeys(name for run in several for name in run.policy)
        differ = [name for name in settings if len({_key(run.policy.get(name)) for run in several}) > 1]
        notes.append(f"configurations are named by their runs, which differ in {', '.join(differ)}")
    silent = [str(run.path) for run in unnamed if not run.policy]
    if silent and len(unnamed) > 1:
        notes.append(f"the model is not known: {', '.join(silent)}; configurations of one name count as one")
    return notes


def _without_copies(files: Sequence[tuple[Path, list[Json]]]) -> tuple[list[Json], list[str]]:
    """The rows of all files but those that hold what another one does, whose responses would count twice, and notes.

    Both halves of a response that counts twice look sure. Files of other names or policies are other configurations,
    and runs of ours with other settings, such as the seed, other responses, which may happen to be the same.
    """
    kept: list[Json] = []
    notes: list[str] = []
    seen: dict[tuple[int, str], list[tuple[Path, list[Json]]]] = {}
    for file, rows in files:
        settings = _key(sampled_with(file)) if any("way" in row for row in rows[:1]) else ""
        alike = seen.setdefault((len(rows), settings), [])
        first = next((path for path, others in alike if all(map(_says_the_same, rows, others))), None) if rows else None
        if first is None:
            alike.append((file, rows))
            kept += rows
        else:
            notes.append(f"skipped, because it is a copy of {first}: {file}")
    return kept, notes


def _repeated(rows: Sequence[Json]) -> list[str]:
    """Whether many rows of others' files say what an earlier one says, as copies within a file do."""
    told = [row for row in rows if not row.get("way") and row["tokens"] is not None]
    groups = [(row.get("part"), row["configuration"]) for row in told]
    cells = [(row["problem"], group) for row, group in zip(told, groups, strict=True)]
    cell, group = (np.array(list(map(hash, names)), np.int64) for names in (cells, groups))
    reward, cost = (np.array([row[name] for row in told], float) for name in ("reward", "tokens"))
    note = note_repeats(cell, group, reward, cost)
    return [note] if note else []


def _says_the_same(row: Json, other: Json) -> bool:
    return row | {"place": ""} == other | {"place": ""}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _distinct_names(paths: Sequence[Path], taken: set[str]) -> list[str]:
    """The folders' names, with those above them as far as it takes to distinguish them.

    Example:
        >>> _distinct_names([Path("/a/run"), Path("/b/run/responses.jsonl")], set())
        ['a/run', 'b/run']
    """
    folders = [path if path.is_dir() or not path.suffix else path.parent for path in map(Path.absolute, paths)]
    each = list(dict.fromkeys(folders))
    for depth in range(1, max((len(folder.parts) for folder in each), default=1)):
        names = {folder: "/".join(folder.parts[-depth:]) for folder in each}
        if len(set(names.values())) == len(each) and not set(names.values()) & taken:
            return [names[folder] for folder in folders]
    return list(map(str, folders))


def _split_tasks(runs: Sequence[_Run]) -> None:
    """Give runs of different tasks parts of their own: their problems are no alternatives, and may be numbered alike.

    A task's name does not decide (it may be in another folder): tasks that have a problem in common are one.
    """
    told = [run for run in runs if run.task and not any(run.parts)]
    if len({run.task for run in told}) < 2:
        return
    parts: list[tuple[list[_Run], set[tuple[str, str]]]] = []
    for run in told:
        asked = {(row["problem"], row["prompt"].strip()) for row in run.rows}
        alike = [one for one in parts if one[0][0].task == run.task or one[1] & asked]
        for one in alike:
            parts.remove(one)
        together = [each for one in alike for each in one[0]]
        parts.append(([*together, run], asked.union(*(one[1] for one in alike))))
    for of_part, _ in parts if len(parts) > 1 else ():
        for run in of_part:
            for row in run.rows:
                row["part"] = of_part[0].task


def _split_models(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Give each model a part of its own where a configuration of a harness's task is of several; says so."""
    models: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row.get("model"):
            models.setdefault((row["part"], row["configuration"]), set()).add(row["model"])
    mixed = {part for (part, _), of_configuration in models.items() if len(of_configuration) > 1}
    for row in rows:
        if row["part"] in mixed and row.get("model"):
            row["part"] = f"{row['part']}, {row['model']}"
    return [f"{part}: configurations are of several models, each of which has a part" for part in sorted(mixed)]


def _files(path: Path) -> list[tuple[str, str, Path]]:
    """(part or "", policy of a demo run or "", file) of everything that the path stands for."""
    if not path.exists():
        raise IbpoError(f"{path}: there is no such file or folder; give a run, or a file of responses")
    if path.is_file():
        return [("", "", path)]
    if (path / "responses.jsonl").is_file():
        return [("", "", path / "responses.jsonl")]
    if (calls := path / "calls.jsonl").is_file():
        raise IbpoError(
            f"{path}: is a run of ibpo eval that has not ended (it holds no responses.jsonl): see what the "
            f"run said, and continue it: {_command(calls)}"
        )
    demo = run_tables(path)
    if demo:  # EXPERIMENT/seedN/responses/POLICY__HOW.jsonl.gz
        return [(part_of(file, demo), _policy(file), file) for file in demo]
    return [("", "", path)]


def _command(calls: Path) -> str:
    """The command of an `ibpo eval`, as its first line says."""
    try:
        return str(json.loads(calls.read_text(encoding="utf-8").partition("\n")[0])["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its command again"


def _policy(file: Path) -> str:
    policy, _, how = _stem(file).rpartition("__")
    return f"{policy.replace('_', ' ')}, {how}"


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[0]


def _read_file(
    path: Path, name: str, options: ImportOptions, bad: list[str], *, is_policy: bool
) -> tuple[tuple[str, ...], list[Json]]:
    """How a file or folder was read, and its rows; `name` is that of a demo run's policy, else what the caller says."""
    columns, prices = dict(options.columns), options.prices
    source = Source(
        path=path,
        metric=options.metric,
        filter=options.filter,
        prices=prices,
        problem=columns.get("problem", ""),
        reward=columns.get("reward", ""),
    )
    if prices:
        source = replace(source, tokens=columns.get("cost", ""))
        columns["cost"] = MONEY

    def good() -> Iterator[Row]:
        for place, row in read_log_rows(source):
            if isinstance(row, LogError) and options.on_error == "skip":
                bad.append(str(row))
            elif isinstance(row, LogError):
                raise row
            else:
                yield place, row

    found = plain_rows(good(), columns, name, on_error=options.on_error, bad=bad, source=source)
    for row in found if is_policy else ():
        row["way"] = row["configuration"] = name
    if not found and not bad:
        raise IbpoError(f"{path}: holds no responses; remove it or name another")
    return tuple(source.closing_notes()) or ("one response a row",), found


def _check_same_problems(rows: Sequence[Mapping[str, Any]]) -> None:
    """Files of different versions of a data set number their problems alike; their hashes distinguish them.

    In our own tables prompts, which hold no response group's words; in others' files they may.
    """
    seen: dict[tuple[str, str, str], tuple[Any, str]] = {}
    for row in rows:
        asked = row["prompt"].strip() if row.get("way") else ""
        if row.get("hash") is None and not asked:
            continue
        what, said = ("prompt", asked) if row.get("hash") is None else ("hash", row["hash"])
        before, place = seen.setdefault((str(row.get("part") or ""), row["problem"], what), (said, row["place"]))
        if before != said:
            raise IbpoError(
                f"{row['place']}: problem {row['problem']} differs from the one at {place}; "
                "compare runs on the same version of the data"
            )


def _settle_levels(rows: Sequence[dict[str, Any]]) -> int:
    """A problem has one level, whatever the order of its rows: the one that most of them say. Says for how many.

    Rows that say none are no other level.
    """
    said: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        if row["level"]:
            said.setdefault((str(row.get("part") or ""), row["problem"]), Counter())[row["level"]] += 1
    level_of = {
        key: min(counts, key=lambda level, counts=counts: (-counts[level], natural(level)))
        for key, counts in said.items()
        if len(counts) > 1
    }
    for row in rows if level_of else ():
        if row["level"]:
            row["level"] = level_of.get((str(row.get("part") or ""), row["problem"]), row["level"])
    return len(level_of)


def _judge(rows: Sequence[dict[str, Any]], options: ImportOptions) -> list[str]:
    """Reward those that came without; says how many."""
    todo = [row for row in rows if row.get("reward") is None]
    if not todo:
        return []
    for row in todo:
        if row.get("gold") is None:
            raise IbpoError(f"{row['place']}: neither a reward nor a gold answer to judge by; add one of them")
    for row, reward in zip(todo, judge_rows(todo, options.judge), strict=True):
        row["reward"] = reward
    return [f"{len(todo)} responses judged here, by the {options.judge} judge"]


def judge_rows(rows: Sequence[Mapping[str, Any]], judge: JudgeName = "math") -> list[float]:
    """Rewards of rows with `gold`, and `answer` or `completion`: is the one equal to the other?"""
    candidates = [
        Candidate(
            problem=Problem(problem_id="", prompt=str(row.get("prompt") or ""), answer=gold_of(row["gold"]) or ""),
            completion=str(row.get("completion") or ""),
            predicted_answer=row["answer"] if "answer" in row else read_answer(str(row.get("completion") or "")),
        )
        for row in rows
    ]
    found: Judge = judge_for(judge)
    return [judgement.reward for judgement in found.judge(candidates)]


def _count(rows: Sequence[dict[str, Any]], options: ImportOptions) -> list[str]:
    todo = [row for row in rows if row.get("tokens") is None and row.get("completion")]
    if options.count_tokens is None or not todo:
        return []
    for row in todo:
        row["tokens"] = float(options.count_tokens(row["completion"]))
    return [f"tokens of {len(todo)} responses counted by the tokenizer given"]


def _cost_unit(rows: Sequence[dict[str, Any]]) -> str:
    known = [row for row in rows if row.get("tokens") is not None]
    money = [row for row in known if row.get("is_money")]
    if money and len(money) == len(known):
        return "money"
    for row in money:  # not tokens: another unit
        row["tokens"] = None
    if known:
        return "tokens"
    return "characters" if all(row.get("completion") for row in rows) else "responses"


def _drop_thinking_beyond(rows: Sequence[dict[str, Any]]) -> int:
    """Forget thinking tokens that are no part of the response's tokens; says how many."""
    beyond = [
        row
        for row in rows
        if row.get("thinking_tokens") is not None
        and row.get("tokens") is not None
        and row["thinking_tokens"] > row["tokens"]
    ]
    for row in beyond:
        row["thinking_tokens"] = None
    return len(beyond)


def plain_rows(
    rows: Iterable[Row],
    named: dict[str, str],
    configuration: str = "",
    *,
    on_error: OnError = "fail",
    bad: list[str] | None = None,
    source: Source | None = None,
) -> list[dict[str, Any]]:
    """Check and rename the columns of a file with one response a row.

    Args:
        rows: The place of each, and its columns.
        named: Field -> column, for those that the caller names, as in `ImportOptions.columns`; `by` is the column that
            splits the file into parts. A column may be a dotted name into a struct, the reward's `score/100`.
        configuration: Name of them all, except those of a table of ours; without it a column holds the name.
        on_error: At a bad row "fail", or "skip" it.
        bad: Takes what was wrong with the rows that were left out.
        source: Takes how many requests failed, which are no wrong answers.

    Returns:
        One dict per row: the fields of `Responses`, and `part`, `gold`, `place`; `way`, the configuration as a table of
        ours calls it. A row without reward has answer and gold, to be judged.

    Raises:
        IbpoError: names place, column and fix.

    Example:
        >>> plain_rows([("line 1", {"id": 7, "effort": "low", "correct": True, "tokens": 12})], {})[0]["reward"]
        1.0
    """
    found: list[dict[str, Any]] = []
    rows = iter(rows)
    peeked = list(islice(rows, NUM_PEEKED))
    if not peeked:
        return []
    # A column may be missing from the first row: the first rows together say which there are.
    together = {name: value for _, row in reversed(peeked) for name, value in row.items()}
    source = source or Source(path=Path())
    columns = _resolve(peeked, together, named, configuration, source)
    if "budget" in columns and not all(_may_be_share(lookup(row, columns["budget"])) for _, row in peeked):
        source.note(f"column {columns.pop('budget')!r} is not read: it holds no shares of the responses")
    by = columns.get("by", "")
    if (
        by.lower() == "model"
        and "by" not in named
        and all(row.get(by) in (None, row.get(columns.get("configuration", ""))) for _, row in peeked)
    ):
        del columns["by"]  # the models are what is compared
    numbers = [divided(columns[field])[0] for field in NUMBERS if field in columns]
    commas = Commas((row for _, row in peeked), numbers)
    # Where a harness's tasks are the parts, models are not distinguished yet.
    of_tasks = columns.get("by") == "harness_task" and not configuration
    model = find_alike(together, "model") if of_tasks else None
    for place, row in chain(peeked, rows):
        try:
            made = _row(place, row, columns, configuration, commas)
        except IbpoError as error:
            if says_error(row):
                source.left_out["failed requests"] += 1
            elif on_error == "fail":
                raise
            elif bad is not None:
                bad.append(str(error))
            continue
        if model is not None and model != columns["configuration"]:
            made["model"] = "" if row.get(model) is None else str(row[model])
        if says_error(row) and _is_without_answer(made, columns):
            source.left_out["failed requests"] += 1
        else:
            found.append(made)
    return found


def _is_without_answer(made: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    """Whether a row lacks what a judge takes, or its cost, where other rows have one."""
    no_text = not made["completion"]
    no_reward = made["reward"] is None and no_text and made["answer"] is None
    return no_reward or (made["tokens"] is None and ("tokens" in columns or ("completion" in columns and no_text)))


def _row(
    place: str, row: dict[str, Any], columns: dict[str, str], configuration: str, commas: Commas
) -> dict[str, Any]:
    fields = {field: row[column] if column in row else lookup(row, column) for field, column in columns.items()}
    for field in DIVIDED:
        if field in columns and columns[field] not in row:
            fields[field] = lookup(row, divided(columns[field])[0])
    # What Python's json writes for a cell of a table that is empty; as text it was a level, and an answer.
    fields = {field: None if isinstance(value, float) and value != value else value for field, value in fields.items()}
    made: dict[str, Any] = {"place": place, "part": _text(place, columns, fields, "by") if "by" in columns else ""}
    if is_own(row) and "configuration" in columns:
        made["way"] = made["configuration"] = _text(place, columns, fields, "configuration")
    else:
        made["configuration"] = configuration or _text(place, columns, fields, "configuration")
    made["problem"] = _text(place, columns, fields, "problem")
    for field, called in NUMBERS.items():
        column = columns.get(field, field)
        divide = field in DIVIDED and column not in row  # else it is called so
        made[field] = _number(place, column, fields.get(field), called, commas, divide=divide)
    if made["budget"] is not None:
        made["budget"] = _share(place, columns["budget"], fields["budget"], made["budget"])
    made["is_money"] = columns.get("tokens") == IN_MONEY
    made["truncated"] = _cut_off(place, columns.get("truncated", ""), fields.get("truncated"), commas)
    for field in ("response_group", "level", "domain"):
        value = fields.get(field)
        made[field] = "" if value is None else identifier_of(value).replace("\0", "")
    for field in ("prompt", "completion"):
        value = fields.get(field)
        made[field] = "" if value is None else str(value)
    for field in ("answer", "gold", "hash"):
        value = fields.get(field)
        made[field] = None if value is None or value == "" else str(value)
    if columns.get("answer") not in row and (text := row.get("answer_from") or (made["gold"] and made["completion"])):
        made["answer"] = read_answer(str(text))
    made["level"] = made["level"].removeprefix("Level ")
    if made["reward"] is None and made["gold"] is None:
        known = next((name for name in IDENTIFIERS if name in row), "")
        table = f", or put a table with {known} and reward into the log's folder and name that folder" if known else ""
        raise IbpoError(
            f"{place}: neither a reward ({' or '.join(COLUMNS['reward'])}) nor a gold answer to judge by "
            f"({' or '.join(COLUMNS['gold'])}); add one of them{table}"
        )
    return made


def _resolve(
    peeked: Sequence[Row], row: dict[str, Any], named: dict[str, str], configuration: str, source: Source
) -> dict[str, str]:
    """Field -> column, by the first rows, which `row` is together.

    Raises:
        MissingColumns: names all that no column was found for, as in every other command that reads a log.
    """
    columns: dict[str, str] = {}
    inside = [name for name in names_in([row]) if name not in row]
    for field, tried in (COLUMNS | {"by": ()}).items():
        called = CALLED.get(field, field)
        wanted = named.get(called)
        names = (wanted,) if wanted else tried
        there = [name for name in names if lookup(row, name) is not None or name in row]
        if not wanted and field in NESTED[1:]:  # a column of objects, as `config` may be, names nothing
            there = [name for name in there if not isinstance(lookup(row, name), dict)]
        column = next(iter(there), None)
        if column is None and wanted and field in DIVIDED and lookup(row, divided(wanted)[0]) is not None:
            column = wanted
        if column is None and not wanted:
            column = next((name for one in names if (name := find_alike(row, one))), None)
            if isinstance(row.get(column or ""), dict) and field in NESTED[1:]:
                column = None
        if column is None and not wanted and field in NESTED and not (field == "reward" and "gold" in row):
            words = [one for one in names if field != "tokens" or "token" in one]
            column = next((name for one in words for name in inside if name.endswith("." + one)), None)
        if column is not None:
            columns[field] = column
        elif wanted or (field in NEEDED and not (field == "configuration" and configuration)):
            _check_columns(peeked, row, named, configuration, source)
            raise IbpoError(
                f"{peeked[0][0]}: no column {wanted!r} for the {called.replace('_', ' ')}; the row's columns are "
                f"{', '.join(row) or 'none'}: name one with --columns {called}=COLUMN"
            )
    if not {"reward", "gold"} & set(columns) and not all(says_error(one) for _, one in peeked):
        _check_columns(peeked, row, named, configuration, source)
    if not configuration and columns.get("response_group") == columns["configuration"]:
        del columns["response_group"]  # it names the rows of the report; the share of each is 0 or 1
    if "by" not in columns and "harness_task" in row:
        columns["by"] = "harness_task"  # problems of different tasks may have the same number
    elif "by" not in columns and (model := find_alike(row, "model")) and columns.get("configuration") != model:
        columns["by"] = model  # response groups of different models are no alternatives to each other
    return columns


def _check_columns(
    peeked: Sequence[Row], row: Mapping[str, Any], named: Mapping[str, str], configuration: str, source: Source
) -> None:
    """Say all at once that a log lacks; a judge can do without rewards, and texts without costs."""
    can_do_without = {
        "response_group": configuration,
        "reward": set(COLUMNS["gold"]) & set(row),
        "cost": set(COMPLETIONS) & set(row),
    }
    names = LogColumns(
        problem=named.get("problem"),
        response_group=named.get("response_group"),
        reward=named.get("reward"),
        cost=named.get("cost"),
        by=named.get("by"),
    )
    try:
        names.resolve(source.path, [one for _, one in peeked], optional=[x for x, y in can_do_without.items() if y])
    except MissingColumns as error:
        more = ", or NAME=FILE, a name for all" if "no column for the response group" in str(error) else ""
        raise MissingColumns(f"{error}{more}", error.options, source.notes) from None


def _text(place: str, columns: dict[str, str], fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None or value == "" or value != value or isinstance(value, dict | list):
        raise IbpoError(f"{place}: column {columns[field]!r}: no {field.replace('_', ' ')}; fill it in or drop the row")
    text = identifier_of(value)
    if "\0" in text:
        raise IbpoError(f"{place}: column {columns[field]!r}: {text!r} holds a NUL character; take it out")
    return text


def _number(place: str, column: str, value: Any, called: str, commas: Commas, *, divide: bool = False) -> float | None:
    if value is None or value == "" or value != value or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return None
    name, divisor = divided(column) if divide else (column, 1.0)
    place = f"{place}, column {column!r}"
    decimal_comma = commas.are_decimal(place, name, value)
    return check_number(place, value, called, name, divisor, decimal_comma=decimal_comma)


def _share(place: str, column: str, value: Any, number: float) -> float:
    """A budget as a share: 0.5 and 50% are the same one."""
    share = number / 100 if str(value).strip().endswith("%") else number
    if share > 1:
        raise IbpoError(
            f"{place}, column {column!r}: {value!r} is not a share of the responses; write a number from 0 to 1, or 50%"
        )
    return share


def _may_be_share(value: Any) -> bool:
    """Whether a budget is a share, if perhaps in percent: not `low`, nor 8192 tokens."""
    if value is None or value != value or str(value).strip().lower() in NOTHING:
        return True
    try:
        return str(value).strip().endswith("%") or read_number(value) <= 100
    except (TypeError, ValueError, OverflowError):
        return False


def _cut_off(place: str, column: str, value: Any, commas: Commas) -> float | None:
    if column == "finish_reason":
        said = "" if value is None else str(value).strip()
        return None if said.lower() in NOTHING else float(as_finish_reason(said) == "length")
    return _number(place, column, value, "truncated", commas)


def gold_of(target: Any) -> str | None:
    r"""The answer in a target: after the last "####" (GSM8K), else what its last box holds, else all of it.

    Example:
        >>> gold_of("48 / 2 = 24\n#### 24"), gold_of(r"so $\boxed{7}$"), gold_of("8")
        ('24', '7', '8')
    """
    if target is None:
        return None
    text = str(target)
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return boxed(text) or text.strip()


def read_answer(text: str) -> str | None:
    """The answer in a response: its last box, else its last number; what is only thought is no answer.

    Example:
        >>> read_answer("<think>3 + 4 = 7</think>It is 7."), read_answer("<think>3 + 4 = 7")
        ('7', None)
    """
    answer = split_thought(text).answer
    return boxed(answer) or last_number(answer)
