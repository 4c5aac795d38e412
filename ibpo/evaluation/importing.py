"""Responses out of files that others made: plain rows, lm-evaluation-harness samples, lighteval details, our own runs.

Known versions: EleutherAI's lm-evaluation-harness 0.4.13 (`--log_samples`) writes
`OUTPUT/MODEL/samples_TASK_DATE.jsonl`, one row per document and filter: `doc_id`, `doc`, `target`, `arguments`, `resps`
(requests x repeats), `filtered_resps`, `filter`, `metrics` (their names), `doc_hash`, and each metric's value under its
name, without token counts. Hugging Face's lighteval 0.13.0 (`--save-details`) writes
`OUTPUT/details/MODEL/DATE/details_TASK_DATE.parquet`, one row per document: `doc` (query, choices, gold_index, id,
generation_size, ...), `model_response` (text, text_post_processed, output_tokens: a list per sample) and `metric`
(name -> value); the flat layout of older versions is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal

from ibpo.endpoint import as_finish_reason
from ibpo.errors import IbpoError
from ibpo.evaluation.responses import Responses
from ibpo.evaluation.run_facts import budget_of, part_of, run_tables
from ibpo.responses import boxed, last_number, split_thought
from ibpo.rewards import Candidate, Judge
from ibpo.tasks import JudgeName, Row, judge_for, local_rows
from ibpo.types import Problem

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
LM_EVAL_FILE = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT[\d.\-:]+\.jsonl(\.gz)?$")
LIGHTEVAL_FILE = re.compile(r"details_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.\-:]+\.parquet$")
OLD_LIGHTEVAL = {"full_prompt", "predictions", "cont_tokens"}
COLUMNS = {
    "problem": ("problem_id", "question_id", "problem", "id"),
    "configuration": ("configuration", "response_group", "effort", "group"),
    "response_group": ("response_group",),
    "reward": ("reward", "correct"),
    "tokens": ("tokens", "num_completion_tokens", "completion_tokens", "output_tokens", "cost"),
    "thinking_tokens": ("thinking_tokens", "reasoning_tokens"),
    "answer": ("answer", "predicted_answer"),
    "gold": ("gold", "target"),
    "level": ("level",),
    "domain": ("domain", "subject"),
    "truncated": ("truncated", "finish_reason"),
    "budget": ("budget",),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response_text", "response"),
}
"""Field -> the columns that are tried for it, the first that the first row has."""
COLD_START = ("cold start, standard", "cold start, extended")
"""In a demo run: what its policies were trained from, each response group forced."""
NEEDED = ("problem", "configuration")
OnError = Literal["fail", "skip"]
NUMBERS = ("reward", "tokens", "thinking_tokens", "budget")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """How files are read."""

    columns: Mapping[str, str] = dataclass_field(default_factory=dict[str, str])
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
class Imported:
    """All responses of a report."""

    parts: dict[str, Responses]
    """Task or model -> its responses; each part is a comparison of its own. "" where there is only one."""
    cost_unit: dict[str, str]
    """Part -> `"tokens"`, else `"characters"`, else `"responses"`, where nothing else is known."""
    notes: tuple[str, ...]
    """What a reader should know about how they were read."""


def import_responses(paths: Sequence[tuple[str, Path]], options: ImportOptions | None = None) -> Imported:
    """Read and bring together all files.

    Args:
        paths: (name of the configuration or "", file or folder). A folder stands for all files in it: of an `ibpo eval`
            run `responses.jsonl`, of a demo run every table in `responses/`, else every file of a known suffix.
        options: How to read them.

    Raises:
        IbpoError: for what cannot be read, names file, row, field and fix.
    """
    options = options or ImportOptions()
    rows: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    bad: list[str] = []
    for name, path in paths:
        for part, configuration, file in _files(name, path):
            kind, found = _read_file(file, configuration, options, bad)
            kinds[kind] = kinds.get(kind, 0) + 1
            more = ({"part": part} if part else {}) | ({} if (q := budget_of(_stem(file))) is None else {"budget": q})
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
    return Imported(parts=parts, cost_unit=units, notes=tuple(notes))


def _files(name: str, path: Path) -> list[tuple[str, str, Path]]:
    """(part or "", configuration or "", file) of everything that the path stands for."""
    if not path.exists():
        raise IbpoError(f"{path}: there is no such file or folder; give a run, or a file of responses")
    if path.is_file():
        return [("", name, path)]
    if (path / "responses.jsonl").is_file():
        return [("", name, path / "responses.jsonl")]
    demo = run_tables(path)
    if demo:  # EXPERIMENT/seedN/responses/POLICY__HOW.jsonl.gz
        return [(part_of(file, demo), _policy(file), file) for file in demo]
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise IbpoError(f"{path}: holds no {', '.join(SUFFIXES)}; name the file")
    return [("", name, file) for file in files]


def _policy(file: Path) -> str:
    policy, _, how = _stem(file).rpartition("__")
    return f"{policy.replace('_', ' ')}, {how}"


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[0]


def _read_file(path: Path, name: str, options: ImportOptions, bad: list[str]) -> tuple[str, list[dict[str, Any]]]:
    rows = list(local_rows(path))
    if not rows:
        raise IbpoError(f"{path}: holds no responses; remove it or name another")
    first = rows[0][1]
    if {"doc_id", "doc", "resps", "filtered_resps"} <= set(first):
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


def _judge(rows: Sequence[dict[str, Any]], options: ImportOptions) -> list[str]:
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


def _count(rows: Sequence[dict[str, Any]], options: ImportOptions) -> list[str]:
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


def plain_rows(
    rows: Iterable[Row],
    named: dict[str, str],
    configuration: str = "",
    *,
    on_error: OnError = "fail",
    bad: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Check and rename the columns of a file with one response a row.

    Args:
        rows: Where each stands, and its columns.
        named: Field -> column, for those that the caller names; `by` is the column that splits the file into parts.
        configuration: Name of them all; else a column holds it.
        on_error: At a bad row "fail", or "skip" it.
        bad: Takes what was wrong with the rows that were left out.

    Returns:
        One dict per row: the fields of `Responses`, and `part`, `gold`, `place`. A row without reward has answer and
        gold, to be judged.

    Raises:
        IbpoError: names place, column and fix.

    Example:
        >>> plain_rows([("line 1", {"id": 7, "effort": "low", "correct": True, "tokens": 12})], {})[0]["reward"]
        1.0
    """
    found: list[dict[str, Any]] = []
    columns: dict[str, str] = {}
    for place, row in rows:
        if not columns:
            columns = _resolve(place, row, named, configuration)
        try:
            found.append(_row(place, row, columns, configuration))
        except IbpoError as error:
            if on_error == "fail":
                raise
            if bad is not None:
                bad.append(str(error))
    return found


def _row(place: str, row: dict[str, Any], columns: dict[str, str], configuration: str) -> dict[str, Any]:
    fields = {field: row.get(column) for field, column in columns.items()}
    made: dict[str, Any] = {"place": place, "part": _text(place, columns, fields, "by") if "by" in columns else ""}
    made["configuration"] = configuration or _text(place, columns, fields, "configuration")
    made["problem"] = _text(place, columns, fields, "problem")
    for field in NUMBERS:
        made[field] = _number(place, columns.get(field, field), fields.get(field))
    made["truncated"] = _cut_off(place, columns.get("truncated", ""), fields.get("truncated"))
    for field in ("response_group", "level", "domain", "prompt", "completion"):
        value = fields.get(field)
        made[field] = "" if value is None else str(value)
    for field in ("answer", "gold"):
        value = fields.get(field)
        made[field] = None if value is None or value == "" else str(value)
    made["level"] = made["level"].removeprefix("Level ")
    if made["reward"] is None and made["gold"] is None:
        raise IbpoError(
            f"{place}: neither a reward ({' or '.join(COLUMNS['reward'])}) nor a gold answer to judge by "
            f"({' or '.join(COLUMNS['gold'])}); add one of them"
        )
    return made


def _resolve(place: str, row: dict[str, Any], named: dict[str, str], configuration: str) -> dict[str, str]:
    columns = {}
    for field, tried in (COLUMNS | {"by": ()}).items():
        wanted = named.get(field)
        names = (wanted,) if wanted else tried
        column = next((name for name in names if name in row), None)
        if column is not None:
            columns[field] = column
        elif wanted or (field in NEEDED and not (field == "configuration" and configuration)):
            option = "--by" if field == "by" else f"--columns {field}=COLUMN"
            more = ", or NAME=FILE, a name for all" if field == "configuration" else ""
            raise IbpoError(
                f"{place}: no column {' or '.join(map(repr, names))} for the {field.replace('_', ' ')}; "
                f"the row's columns are {', '.join(row) or 'none'}: name one with {option}{more}"
            )
    if not configuration and columns.get("response_group") == columns["configuration"]:
        del columns["response_group"]  # it names the rows of the report; the share of each is 0 or 1
    if "by" not in columns and "model" in row and columns.get("configuration") != "model":
        columns["by"] = "model"  # response groups of different models are no alternatives to each other
    return columns


def _text(place: str, columns: dict[str, str], fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None or value == "" or isinstance(value, dict | list):
        raise IbpoError(f"{place}: column {columns[field]!r}: no {field.replace('_', ' ')}; fill it in or drop the row")
    return str(value)


def _number(place: str, column: str, value: Any) -> float | None:
    if value is None or value == "" or value != value:
        return None
    try:
        truth = {"true": 1.0, "false": 0.0}.get(str(value).strip().lower())
        number = float(value) if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise IbpoError(f"{place}: column {column!r}: {value!r} is no finite number of at least 0; fix or drop the row")
    if column in COLUMNS["reward"] and number > 1:
        raise IbpoError(f"{place}: column {column!r}: {value!r} is above 1; a reward is at most 1: divide by the top")
    return number


def _cut_off(place: str, column: str, value: Any) -> float | None:
    if column == "finish_reason":
        return None if value is None else float(as_finish_reason(str(value)) == "length")
    return _number(place, column, value)


def lm_eval_rows(path: Path, rows: Iterable[Row], *, metric: str = "", wanted_filter: str = "") -> list[dict[str, Any]]:
    """One dict per response; see `plain_rows`.

    A row with one response carries its metric as the reward. Where a document was answered repeatedly the metric is one
    number for all of them, so each response is judged by itself against the target.

    Args:
        path: The file; its folder names the configuration, its name the task.
        rows: Of the file.
        metric: Name of the metric that is the reward; "": the row's first.
        wanted_filter: Name of the filter whose answers count; "": the file's first.

    Raises:
        IbpoError: names place, field and fix.
    """
    found: list[dict[str, Any]] = []
    named = LM_EVAL_FILE.search(path.name)
    for place, row in rows:
        wanted_filter = wanted_filter or str(row.get("filter", ""))
        if str(row.get("filter", "")) != wanted_filter:
            continue
        texts, filtered = _texts(place, row)
        doc = row["doc"] if isinstance(row["doc"], dict) else {}
        level = str(doc.get("level", "") or "").removeprefix("Level ")
        for text, answer in zip(texts, filtered, strict=True):
            found.append(
                {
                    "place": place,
                    "part": named["task"] if named else "",
                    "configuration": path.parent.name or path.stem,
                    "problem": str(row["doc_id"]),
                    "hash": row.get("doc_hash"),
                    "reward": _metric(
                        place,
                        {str(name): row.get(name) for name in [*(row.get("metrics") or ()), *filter(None, [metric])]},
                        metric,
                    )
                    if len(texts) == 1
                    else None,
                    "answer": answer,
                    "gold": gold_of(row.get("target")),
                    "level": level.replace("?", ""),
                    "domain": str(doc.get("subject") or doc.get("type") or ""),
                    "prompt": _prompt(row, doc),
                    "completion": text,
                }
            )
    if not found:
        raise IbpoError(f"{path}: no row of filter {wanted_filter!r}; name another with --metric METRIC,FILTER")
    return found


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


def _texts(place: str, row: dict[str, Any]) -> tuple[list[str], list[str | None]]:
    """The responses of the row's one request, and what the filter left of each."""
    resps, filtered = row["resps"], row["filtered_resps"]
    texts = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise IbpoError(
            f"{place}: field 'resps': holds no generated text; a multiple-choice task compares likelihoods and has no "
            "cost: give a file of a task of type generate_until"
        )
    left = filtered[0] if isinstance(filtered, list) and filtered else None
    if isinstance(left, list) and len(left) == len(texts):
        return texts, [_answer(answer) for answer in left]
    if len(texts) == 1 and isinstance(left, str):
        return texts, [_answer(left)]
    return texts, [read_answer(text) for text in texts]


def _answer(text: Any) -> str | None:
    answer = str(text).strip()
    if answer in ("", "[invalid]"):  # what the harness's regex filter says where nothing matched
        return None
    return answer if len(answer) <= 200 else read_answer(answer)


def _prompt(row: dict[str, Any], doc: dict[str, Any]) -> str:
    for name in ("question", "problem", "query"):
        if isinstance(doc.get(name), str):
            return doc[name]
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0", {}).get("arg_0", "") if isinstance(arguments, dict) else ""
    return str(first)


def is_lighteval(path: Path, row: dict[str, Any]) -> bool:
    """Whether this is such a file, by its first row.

    Raises:
        IbpoError: for the layout of older versions.
    """
    if set(row) >= OLD_LIGHTEVAL:
        raise IbpoError(
            f"{path}: details in the layout of an older lighteval; run it again with a newer one (0.13 is known)"
        )
    return {"doc", "model_response", "metric"} <= set(row)


def lighteval_rows(path: Path, rows: Iterable[Row], *, metric: str = "") -> list[dict[str, Any]]:
    """One dict per response; see `plain_rows`.

    A document with one response carries its metric as the reward; of several each is judged by itself against the gold,
    because the metric (pass@k, maj@n) is one number for all of them.

    Args:
        path: The file; its folders name the configuration, its name the task.
        rows: Of the file.
        metric: Name of the metric that is the reward; "": the first whose values are in [0, 1].

    Raises:
        IbpoError: names place, field and fix.
    """
    found: list[dict[str, Any]] = []
    named = LIGHTEVAL_FILE.search(path.name)
    for number, (place, row) in enumerate(rows):
        doc, response = row["doc"], row["model_response"]
        texts = response.get("text_post_processed") or response.get("text") or []
        raw = response.get("text") or texts
        tokens = response.get("output_tokens") or []
        if not texts or not isinstance(texts[0], str):
            raise IbpoError(
                f"{place}: field 'model_response.text': holds no generated text; a multiple-choice task compares "
                "likelihoods and has no cost: give details of a generative task"
            )
        if tokens and not isinstance(tokens[0], list):
            tokens = [tokens]
        specific = doc.get("specific") or {}
        for i, text in enumerate(texts):
            spent = len(tokens[i]) if i < len(tokens) else None
            room = doc.get("generation_size")
            found.append(
                {
                    "place": place,
                    "part": str(doc.get("task_name") or (named["task"] if named else "")),
                    "configuration": _model(path),
                    "problem": str(doc.get("id") or number),
                    "hash": doc.get("query"),
                    "reward": _metric(place, row["metric"] if isinstance(row["metric"], dict) else {}, metric)
                    if len(texts) == 1
                    else None,
                    "answer": read_answer(text),
                    "gold": _gold(doc),
                    "tokens": spent or None,
                    "truncated": float(spent >= room) if spent and room else None,
                    "level": str(specific.get("level") or "").removeprefix("Level "),
                    "domain": str(specific.get("subject") or specific.get("type") or ""),
                    "prompt": str(doc.get("query") or ""),
                    "completion": raw[i] if i < len(raw) else text,
                }
            )
    return found


def _model(path: Path) -> str:
    """MODEL of `details/MODEL/DATE/details_....parquet`; it may have a slash."""
    parts = path.resolve().parts
    if "details" in parts[:-2]:
        at = len(parts) - 1 - parts[::-1].index("details")
        return "/".join(parts[at + 1 : -2]) or path.stem
    return path.stem


def _gold(doc: dict[str, Any]) -> str | None:
    choices, index = doc.get("choices") or [], doc.get("gold_index")
    index = index[0] if isinstance(index, list) and index else index
    return gold_of(choices[index]) if isinstance(index, int) and 0 <= index < len(choices) else None


def _metric(place: str, known: Mapping[str, Any], metric: str) -> float:
    """The value of the metric named, else of the first in [0, 1]."""
    for name in [metric] if metric else list(known):
        value = known.get(name)
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return float(value)
    listed = ", ".join(name for name, value in known.items() if value is not None) or "none"
    raise IbpoError(
        f"{place}: no metric {metric or 'in [0, 1]'}; the row's metrics are {listed}: name one with --metric"
    )
