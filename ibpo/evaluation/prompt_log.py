"""The prompts of a log, to be asked again: their problems, what was answered to them, and in which order to take them.

`ibpo collect` asks a log's prompts in other response groups. A log here holds prompts; responses, rewards and gold
answers as far as it has them.
"""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ibpo.data import (
    BARE,
    Commas,
    LogColumns,
    LogError,
    MissingColumns,
    Row,
    Source,
    divided,
    find_alike,
    first_of,
    is_own,
    lookup,
    own_group,
    parse_cell,
    read_field,
    read_log_rows,
    read_text,
    says_error,
)
from ibpo.endpoint import as_finish_reason
from ibpo.errors import IbpoError
from ibpo.evaluation.importing import gold_of
from ibpo.types import Problem, Prompt

MESSAGES = ("messages", "request.messages", "request.body.messages", "body.messages", "request_body.messages",
            "proxy_server_request.messages", "proxy_server_request.body.messages", "input.messages",
            "input")  # fmt: skip
"""Where a log keeps all messages of a request."""
PROMPTS = ("prompt", "question", "problem", "input", "query")
LIKE_PROMPT = re.compile(
    r"(?i)prompt(?!.*(token|id$))|question(?!.*id$)|query(?!.*id$)|instruction|user.*(text|message)"
)
"""A column that is proposed for the prompt."""
GOLD = ("gold", "target", "reference", "gold_answer", "correct_answer", "ground_truth", "expected", "expected_answer")
COMPLETIONS = ("completion", "response_text", "response", "output", "output_text", "text")
EMPTY = (None, "", "{}", "[]", {}, [])
"""What a table holds where there is nothing: LiteLLM's `messages` are `{}` where a request is stored elsewhere."""
ROLES = ("system", "developer", "user", "assistant")
OPTIONAL = ("problem", "response_group", "reward", "cost")
NUM_QUARTILES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """A response that the log holds already."""

    response_group: str
    """As the log says; "" where it does not."""
    model: str
    completion: str | None
    reward: float | None
    tokens: float | None
    finish_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLog:
    """The problems of a log, and the responses that are there."""

    problems: list[Problem]
    """`info["show"]` holds the values of the columns that were asked for, `info["columns"]` these with their names."""
    logged: dict[str, list[Logged]]
    """Problem id -> its responses."""
    notes: tuple[str, ...]


def read_prompt_log(
    path: Path,
    columns: Mapping[str, str],
    *,
    show: Sequence[str] = (),
    tests: bool = False,
    on_error: str = "fail",
    join: Sequence[Path] = (),
) -> PromptLog:
    """Read a log's prompts.

    Args:
        path: As for `ibpo.data.read_log`.
        columns: Field -> column, for those that the caller names: `prompt`, `answer` (the gold one), `completion`, and
            those of `LogColumns`.
        show: Columns by which prompts are grouped, e.g. a level or a domain.
        tests: Whether the gold answers are tests of a program.
        on_error: At a bad row "fail", or "skip" it.
        join: Tables whose columns are added to the rows with the same identifier.

    Raises:
        IbpoError: With file, line, field and fix; for a log without prompts.
    """
    source = Source(path=path, problem=columns.get("problem", ""), reward=columns.get("reward", ""))
    bad: list[str] = []
    rows: list[Row] = []
    for place, row in read_log_rows(source, join=join):
        if not isinstance(row, LogError):
            # NaN is what Python's json writes for an empty cell of a table: no gold answer, and no level.
            empty = [name for name, value in row.items() if isinstance(value, float) and value != value]
            rows.append((place, row | dict.fromkeys(empty) if empty else row))
        elif on_error == "fail":
            raise row
        else:
            bad.append(str(row))
    some = [row for _, row in rows[:1000]]
    if not some:
        left_out = "".join(f" ({count} left out: {why})" for why, count in source.left_out.items())
        first = f"; {len(bad)} bad rows are left out, the first: {bad[0]}" if bad else ""
        raise IbpoError(f"{path}: no rows{left_out}; a log needs one row per prompt or response{first}")
    own = LogColumns(
        problem=columns.get("problem"),
        response_group=columns.get("response_group"),
        reward=columns.get("reward"),
        cost=columns.get("cost"),
    )
    found = own.resolve(path, some, optional=OPTIONAL)
    if own.response_group is None and found.get("response_group", "").lower() == "model":
        del found["response_group"]  # which answered, not how it was asked
    found |= _own_columns(path, some, columns, [*show])
    commas = Commas(some, [divided(found[field])[0] for field in ("reward", "cost") if field in found])
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    logged: dict[str, list[Logged]] = {}
    for place, row in rows:
        try:
            problem = _problem(place, row, found, show, tests=tests)
            if problem is None:
                source.left_out["requests with images, tools or no text"] += 1
                continue
            before = problems.setdefault(problem.problem_id, problem)
            if before.prompt != problem.prompt or before.answer != problem.answer:
                raise LogError(
                    f"{place}: problem {problem.problem_id} has another prompt or answer than at "
                    f"{places[problem.problem_id]}; give each its own id, or name the column of the ids with --columns "
                    "problem=COLUMN"
                )
            places.setdefault(problem.problem_id, place)
            response = _logged(place, row, found, commas)
        except LogError as error:
            if on_error == "fail":
                raise
            bad.append(str(error))
            continue
        if response is not None and is_own(row) and own_group(row) not in (row["response_group"], BARE):
            source.left_out["responses of several turns"] += 1  # none of the group behind which they go on
        elif response is not None:
            logged.setdefault(problem.problem_id, []).append(response)
    if not problems:
        raise IbpoError(f"{path}: no prompt can be asked again; the log needs texts or messages of requests")
    notes = source.closing_notes() + ([f"{len(bad)} bad rows left out, the first: {bad[0]}"] if bad else [])
    said = [f"{field} = {found[field]}" for field in ("prompt", "answer", "reward", "cost") if field in found]
    notes.append(f"{len(problems)} prompts" + (f" ({', '.join(said)})" if said else ""))
    return PromptLog(problems=list(problems.values()), logged=logged, notes=tuple(notes))


def _own_columns(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], show: Sequence[str]
) -> dict[str, str]:
    """The columns of prompts, gold answers and completions."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found: dict[str, str] = {}
    completion = columns.get("completion") or _first(names, rows, COMPLETIONS)
    # Beside a response, `answer` is what the response answers.
    gold = GOLD if completion else (*GOLD, "answer", "solution")
    for field, tried in (("prompt", (*MESSAGES[:-1], *PROMPTS)), ("answer", gold), ("completion", COMPLETIONS)):
        named = columns.get(field)
        column = _first(names, rows, (named,) if named else tried)
        if column is not None:
            found[field] = column
        elif named:
            raise _no_column(path, f"--columns {field}={named}", names)
    if "prompt" not in found:
        likely = next((name for name in names if LIKE_PROMPT.search(name) and _first(names, rows, (name,))), "COLUMN")
        options = ["--columns", f"prompt={likely}"]
        raise MissingColumns(
            f"{path}: no column for the prompt (looked for {', '.join(PROMPTS)}, and messages); there are "
            f"{', '.join(map(repr, names[:30]))}: name it with {' '.join(options)}",
            options,
        )
    for column in show:
        if _first(names, rows, (column,)) is None:
            raise _no_column(path, f"--show {column}", names)
    return found


def _no_column(path: Path, what: str, names: Sequence[str]) -> LogError:
    return LogError(f"{path}: {what}: there is no such column; there are {', '.join(map(repr, names[:30]))}")


def _first(names: Sequence[str], rows: Sequence[Mapping[str, Any]], tried: Iterable[str]) -> str | None:
    for one in tried:
        alike = find_alike(names, one)
        if alike is not None and any(row.get(alike) not in EMPTY for row in rows):
            return alike
        if "." in one and any(lookup(row, one) not in EMPTY for row in rows):
            return one
    return None


def _problem(
    place: str, row: Mapping[str, Any], columns: Mapping[str, str], show: Sequence[str], *, tests: bool
) -> Problem | None:
    prompt = read_asked(lookup(row, columns["prompt"]))
    if prompt is None:
        return None
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    column = columns.get("problem", columns["prompt"])
    value = lookup(row, column)
    if value in (None, "") or column == columns["prompt"] or len(str(value)) > 80 or "\n" in str(value):
        identifier = f"prompt {hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
    else:
        identifier = read_field(place, row, "problem", column)
    answer = lookup(row, columns["answer"]) if "answer" in columns else None
    gold = "" if answer is None else str(answer) if tests else gold_of(answer) or ""
    shown = {name: str(value) if (value := lookup(row, name)) is not None else "" for name in show}
    info: dict[str, Any] = {"show": tuple(shown.values()), "columns": shown}
    level, domain = (str(first_of(row, name) or "") for name in ("level", "domain"))
    more: dict[str, Any] = {"tests": str(answer)} if tests and answer else {}
    return Problem(
        problem_id=identifier, prompt=prompt, answer=gold, level=level, info=info | {"domain": domain} | more
    )


def read_asked(value: Any) -> Prompt | None:
    """What a cell says was asked: text, or messages without the answer behind them; None for what is neither.

    Example:
        >>> read_asked('[{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]')
        [{'role': 'user', 'content': '1 + 1 ='}]
    """
    if isinstance(value, str) and value[:1] in "[{":
        parsed = parse_cell(value)
        value = parsed if _is_chat(parsed) or isinstance(parsed, dict) else value
    if isinstance(value, dict):
        value = first_of(value, "messages", "input", "prompt")
    if _is_chat(value):
        return _messages(value)
    return value.strip() or None if isinstance(value, str) else None


def _is_chat(value: Any) -> bool:
    value = parse_cell(value) if isinstance(value, str) and value[:1] == "[" else value
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def _messages(value: Any) -> Prompt | None:
    """Messages of texts, without the answer behind them; None where they hold more than text."""
    value = parse_cell(value) if isinstance(value, str) else value
    made: list[dict[str, str]] = []
    for message in value:
        role, content = str(message["role"]), message.get("content")
        parts = content if isinstance(content, list) else []
        more = any(isinstance(part, dict) and part.get("type") not in (None, "text", "input_text") for part in parts)
        if role not in ROLES or more or message.get("tool_calls"):
            return None
        made.append({"role": role, "content": read_text(content)})
    while made and made[-1]["role"] == "assistant":
        made.pop()
    return made if made and made[-1]["content"].strip() else None


def _logged(place: str, row: Mapping[str, Any], columns: Mapping[str, str], commas: Commas) -> Logged | None:
    """The response of a row, if it has one that says something."""
    text = lookup(row, columns["completion"]) if "completion" in columns else None
    completion = read_text(text) if isinstance(text, str | list) else None
    if says_error(row) and not completion:  # a failed request, which is no wrong answer
        return None
    values: dict[str, Any] = {}
    for field in ("reward", "cost"):
        there = field in columns and lookup(row, columns[field].partition("/")[0].strip()) not in (None, "")
        known = there or columns.get(field) in row
        values[field] = read_field(place, row, field, columns[field], commas) if known else None
    if completion is None and values["reward"] is None:
        return None
    ended = first_of(row, "finish_reason", "stop_reason")
    group = lookup(row, columns["response_group"]) if "response_group" in columns else None
    return Logged(
        response_group="" if group is None else str(group).strip(),
        model=str(first_of(row, "model") or ""),
        completion=completion,
        reward=values["reward"],
        tokens=values["cost"],
        finish_reason="stop" if ended is None else as_finish_reason(str(ended)),
    )


def stratified_order(log: PromptLog, seed: int) -> list[Problem]:
    """The problems in an order of which every beginning is a stratified sample of the log, in proportion.

    Strata are what is known before anything is asked: the values of the columns to show, the logged reward (right,
    partly, wrong, unknown) and the quarter of the prompt's length. Within a stratum the order is by a hash of seed and
    id; the i-th of its m problems is at (i + u) / m of the whole, with a u of the stratum's own.

    Example:
        >>> problems = [
        ...     Problem(problem_id=str(i), prompt="x", answer="", info={"show": (str(i % 2),)}) for i in range(8)
        ... ]
        >>> order = stratified_order(PromptLog(problems=problems, logged={}, notes=()), seed=0)
        >>> [sorted(p.info["show"][0] for p in order[i : i + 2]) for i in (0, 2, 4, 6)]
        [['0', '1'], ['0', '1'], ['0', '1'], ['0', '1']]
    """
    lengths = np.array([len(str(problem.prompt)) for problem in log.problems])
    edges = np.quantile(lengths, np.arange(1, NUM_QUARTILES) / NUM_QUARTILES)
    strata: dict[tuple[Any, ...], list[Problem]] = {}
    for problem, quarter in zip(log.problems, np.searchsorted(edges, lengths, side="left").tolist(), strict=True):
        rewards = [x.reward for x in log.logged.get(problem.problem_id, []) if x.reward is not None]
        mean = sum(rewards) / len(rewards) if rewards else None
        known = "unknown" if mean is None else "right" if mean == 1 else "wrong" if mean == 0 else "partly"
        strata.setdefault((*problem.info["show"], known, quarter), []).append(problem)
    placed: list[tuple[float, str, Problem]] = []
    for stratum, members in strata.items():
        start = _uniform(seed, json.dumps(stratum))
        members.sort(key=lambda problem: _uniform(seed, problem.problem_id))
        placed += [((i + start) / len(members), p.problem_id, p) for i, p in enumerate(members)]
    return [problem for _, _, problem in sorted(placed, key=lambda one: one[:2])]


def _uniform(seed: int, text: str) -> float:
    digest = hashlib.blake2b(f"{seed}\t{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def match_logged(
    log: PromptLog, groups: Sequence[str], *, model: str, asked_with: str | None, by_model: bool
) -> tuple[dict[str, list[Logged]], list[str]]:
    """Which logged responses count as responses of the groups that will be asked, and what to say about it.

    Args:
        log: The log.
        groups: Names of the response groups.
        model: Who is asked now.
        asked_with: The response group that the log's responses were asked with; None: as the log says; "none": leave
            them out.
        by_model: Whether the groups are models.

    Returns:
        Problem id -> its responses, each with one of the groups.
    """
    if asked_with == "none":
        return {}, ["the log's responses are left out, as asked"]
    counted: dict[str, list[Logged]] = {}
    why: Counter[str] = Counter()
    for problem, responses in log.logged.items():
        for one in responses:
            said = asked_with or (one.model if by_model else one.response_group)
            name = next((group for group in groups if group.casefold() == said.casefold()), None)
            if not by_model and one.model and not _same_model(one.model, model):
                why[f"they are of another model, not {model}"] += 1
            elif name is None:
                silent = f"the log does not say how they were asked (--logged {groups[0]} says so)"
                why[f"asked with {said!r}, which is not one of {', '.join(groups)}" if said else silent] += 1
            elif one.tokens is None:
                why["the log does not say how many tokens they have"] += 1
            else:
                counted.setdefault(problem, []).append(replace(one, response_group=name))
    number = sum(map(len, counted.values()))
    named = Counter(one.response_group for responses in counted.values() for one in responses)
    share = ", ".join(f"{count} of {name}" for name, count in named.most_common())
    notes = [f"{number} responses of the log count as answers already: {share}"] if number else []
    return counted, notes + [f"{count} responses of the log do not count: {text}" for text, count in why.most_common(3)]


def _same_model(logged: str, asked: str) -> bool:
    """Whether two names are of one model, a provider before it or a date behind it aside."""
    one, other = (name.rpartition("/")[2].casefold() for name in (logged, asked))
    return one == other or one.startswith(f"{other}-20") or other.startswith(f"{one}-20")
