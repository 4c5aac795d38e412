"""Whose log is it? Files and folders of the tools that people use, as rows of one shape: one per response.

`read_log_rows` recognises a log by its first rows and hands on every row with what an allocation asks, under the
names of our own logs, besides what was there: `problem_id`, `response_group`, `model`, `reward` (or `answer` and `gold`
to judge by), `tokens` (of the whole completion, thoughts included), `thinking_tokens`, `finish_reason`, `prompt`,
`completion`, `level`, `domain`. What the log does not say stays away. Rows that nothing recognises are
handed on as they are.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ibpo.data import harness_logs, server_logs
from ibpo.data.fields import PROBLEM_NAMES, USAGES, Json, find_alike, first_of, identifier_of, read_usage
from ibpo.data.files import (
    LINES,
    NUM_PEEKED,
    UNREADABLE,
    LogError,
    RawRow,
    Row,
    Source,
    data_files,
    document_rows,
    kind_of,
    open_bytes,
    open_text,
    partition_of,
    read_document,
    read_rows,
    unreadable,
)
from ibpo.data.money import priced_rows

IDENTIFIERS = ("custom_id", "request_id", "trace_id", "traceId", "response_id", "problem_id", "question_id", "id")
"""Columns by which tables are joined, the first that both have."""
COSTS = ("tokens", "num_completion_tokens", "completion_tokens", "output_tokens", "cost", "cost_usd")
"""Columns that are taken for the cost, in this order."""
GROUPS = ("response_group", "effort", "reasoning_effort", "group", "configuration", "config", "mode", "variant", "arm",
          "model")  # fmt: skip
"""Columns that are taken for the response group, in this order."""
REWARDS = ("reward", "correct", "is_correct", "score", "gold", "target")
"""Columns for which a table next to a log is joined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A tool's log: how it is recognised, and how its rows are written as ours."""

    name: str
    looks_like: Callable[[Json], bool]
    """Whether one of its first good rows is of this kind."""
    convert: Callable[[Iterator[Row], Source, Path], Iterator[Row]]
    """Good rows of one file -> ours, each with `effort`, `configuration` or `model`."""
    efforts: str
    """Where the effort is recorded, in words."""
    named_by_file: bool = False
    """Whether a run may be named by the name of its file."""
    counts_thoughts: bool = True
    """Whether its tokens are of the whole completion."""


Opened = tuple[Path, Known | None, Iterator[RawRow]]
"""A file, whose log it is (None: no tool's), and its rows."""


UNNAMED = "rows that say neither what was asked nor which problem it is; a table with problem_id can say it"


def grouped(rows: Iterator[RawRow], source: Source, known: Known) -> Iterator[RawRow]:
    """Name problem and response group of converted rows.

    The response group is the column of that name where any of the first rows has one, else the effort, else the run's
    `configuration`, else the model.
    Rows without `problem_id` are of one problem if they ask the same.
    """
    first = len(source.notes)
    peeked = list(islice(rows, NUM_PEEKED))
    good = [row for _, row in peeked if not isinstance(row, LogError)]
    keys = ("response_group", "effort", "configuration", "model")
    key = next((key for key in keys if any(row.get(key) for row in good)), "")
    group = {"effort": known.efforts, "configuration": "run", "": "not in it"}.get(key, key)
    has_id = all(first_of(row, *PROBLEM_NAMES) is not None for row in good)
    tokens = "tokens of the completion" + ", thoughts included" * known.counts_thoughts
    tokens = tokens if any("tokens" in row for row in good) else "not in it"
    problem = "its identifier" if has_id else "requests with the same prompt"
    said = f"read as {known.name}: problem = {problem}, response group = {group}, cost = {tokens}"
    source.notes.insert(first, said)  # above what was noted while the first rows went by
    names: dict[str, str] = {}
    taken: set[str] = set()
    seen: set[int] = set()
    for place, row in chain(peeked, rows):
        if isinstance(row, LogError):
            yield place, row
            continue
        made = {name: value for name, value in row.items() if name not in ("configuration", "user_turns")}
        identifier = first_of(row, *PROBLEM_NAMES, *([source.problem] if source.problem else ()))
        if identifier is None:
            prompt = str(row.get("user_turns") or row.get("prompt") or "")
            if not prompt:
                source.left_out[UNNAMED] += 1
                continue
            if prompt not in names:
                own = str(made.get("request_id") or "")
                # Some servers draw the identifiers of requests out of a thousand.
                names[prompt] = f"prompt {len(names) + 1}" if not own or own in taken else own
                taken.add(names[prompt])
            identifier = names[prompt]
        made["problem_id"] = identifier
        if key:
            made["response_group"] = str(row.get(key) or f"no {key} given")
        if made.get("request_id") and "custom_id" not in row:  # which a batch gives, and the next may give again
            told = [made.get(x) for x in ("request_id", "problem_id", "response_group", "tokens", "completion")]
            # As text: the same export as CSV has texts where JSON has numbers, or nothing.
            if (copy := hash(tuple(str(x or "").removesuffix(".0") for x in told))) in seen:
                source.left_out["requests that an earlier row holds too, by identifier, tokens and text"] += 1
                continue
            seen.add(copy)
        yield place, made


KNOWN = (
    Known(name="OpenAI batch", looks_like=server_logs.is_batch, convert=server_logs.convert_batch,
          efforts="reasoning effort of the request"),
    Known(name="LiteLLM spend log", looks_like=server_logs.is_litellm, convert=server_logs.convert_litellm,
          efforts="reasoning effort of the request"),
    Known(name="Langfuse export", looks_like=server_logs.is_langfuse, convert=server_logs.convert_langfuse,
          efforts="reasoning effort of the model's parameters, else a tag"),
    Known(name="Helicone export", looks_like=server_logs.is_helicone, convert=server_logs.convert_helicone,
          efforts="reasoning effort of the request"),
    Known(name="OpenTelemetry spans", looks_like=server_logs.is_otel, convert=server_logs.convert_otel,
          efforts="the effort among the attributes"),
    Known(name="responses of OpenAI's API", looks_like=server_logs.is_pair, convert=server_logs.convert_pairs,
          efforts="reasoning effort"),
    Known(name="lm-evaluation-harness samples", looks_like=harness_logs.is_lm_eval,
          convert=harness_logs.convert_lm_eval, efforts="effort", named_by_file=True),
    Known(name="lighteval details", looks_like=harness_logs.is_lighteval, convert=harness_logs.convert_lighteval,
          efforts="effort", named_by_file=True),
    Known(name="Inspect log", looks_like=lambda row: "inspect" in row and "sample" in row,
          convert=harness_logs.convert_inspect, efforts="reasoning effort of the plan"),
    Known(name="HELM run", looks_like=lambda row: "helm" in row and "state" in row, convert=harness_logs.convert_helm,
          efforts="reasoning effort", counts_thoughts=False),
    Known(name="promptfoo results", looks_like=harness_logs.is_promptfoo, convert=harness_logs.convert_promptfoo,
          efforts="effort"),
    Known(name="verl rollouts", looks_like=harness_logs.is_verl, convert=harness_logs.convert_verl, efforts="effort"),
    Known(name="TRL completions", looks_like=harness_logs.is_trl, convert=harness_logs.convert_trl, efforts="effort"),
)  # fmt: skip
RESPONSES = "responses.jsonl"
"""What `ibpo eval` and `ibpo collect` write."""
SILENT = (
    "results_",
    "per_instance_stats",
    "run_spec",
    "scenario.json",
    "instances.json",
    "stats.json",
    "dataset_info",
    "state.json",
)
"""What the names of files begin with that tools write next to their answers."""


def read_log_rows(source: Source, *, join: Sequence[Path] = ()) -> Iterator[RawRow]:
    """The rows of a log, whoever wrote it.

    Args:
        source: What to read: a file or a folder; its notes say how it was read, once the rows have gone by.
        join: Tables whose columns are added to the rows with the same identifier.

    Raises:
        LogError: for a file that is not there, cannot be read as a whole, or is of another kind.
    """
    path = source.path
    if path.is_dir() and (path / RESPONSES).is_file():  # a run of ours, whose other files are no log
        source.note(f"read {RESPONSES} of {path.name}")
        path = path / RESPONSES
    files = data_files(path) if path.is_dir() else [path]
    files = [file for file in files if file == path or not file.name.startswith(SILENT)]
    heads: dict[Path, Json] = {}
    opened = [(file, *_first(file, path, heads)) for file in files]
    tools = list(dict.fromkeys(tool.name for _, tool, _ in opened if tool))
    if len(tools) > 1:
        raise LogError(f"{path}: holds logs of several tools, {', '.join(tools)}; name the folder or file of one")
    tool = next((tool for _, tool, _ in opened if tool), None)
    if tool is None or not tool.named_by_file:
        opened = list(_unlike(opened, source))
    if len(opened) > 1:  # opened again in their turn: a folder may hold more files than can be open at once
        opened = [(file, tool, _opened(file, path)) for file, tool, _ in opened]
    if tool is None:
        tables = _reward_tables({file: heads[file] for file, _, _ in opened})
        opened, join = [one for one in opened if one[0] not in tables], [*tables, *join]
        rows = with_tokens(chain.from_iterable(rows for _, _, rows in opened), source)
    else:
        others = [file for file, of_file, _ in opened if of_file is None]
        tables = [file for file in others if _has_rewards(file, path)]
        join = [*tables, *join]
        if passed := [file.name for file in others if file not in tables]:
            source.note(f"skipped, because it is not {tool.name}: {', '.join(passed[:5])}{', ...' * (len(passed) > 5)}")
        source.num_folders = len({file.parent for file, of_file, _ in opened if of_file})
        ours = (_converted(tool, rows, source, file) for file, of_file, rows in opened if of_file)
        rows = chain.from_iterable(ours)
    for table in join:
        rows = _joined(rows, table, source)
    if tool is not None:  # a table may say problem and response group, too
        rows = grouped(rows, source, tool)
    yield from rows if source.prices is None else priced_rows(rows, source, source.prices)


def _unlike(opened: Sequence[Opened], source: Source) -> Iterator[Opened]:
    """All files but copies of another one in their folder, packed or not, whose responses would count twice.

    In other folders the same bytes may be something else: what a folder is called can be the effort or the model.
    """
    sizes = Counter((file.parent, file.stat().st_size) for file, _, _ in opened)
    names = Counter(map(_unpacked, (file for file, _, _ in opened)))
    seen: dict[tuple[Path, bytes], Path] = {}
    for file in opened:
        path = file[0]
        if sizes[path.parent, path.stat().st_size] > 1 or names[_unpacked(path)] > 1:
            content = path.parent, _digest(path)
            if (first := seen.setdefault(content, path)) != path:
                source.note(f"skipped, because it is a copy of {first.name}: {path.name}")
                continue
        yield file


def _unpacked(path: Path) -> Path:
    """The path without `.gz` or `.zst`."""
    return path.with_name(re.sub(r"(?i)\.(gz|zst)$", "", path.name))


def _digest(path: Path) -> bytes:
    """Hash of what the file holds, unpacked; of the bytes of a damaged file, which its reader refuses."""
    found = sha256()
    try:
        with open_bytes(path) as file:
            while piece := file.read(2**20):
                found.update(piece)
    except UNREADABLE:
        return sha256(path.read_bytes()).digest()
    return found.digest()


def with_tokens(rows: Iterator[RawRow], source: Source) -> Iterator[RawRow]:
    """Rows of no tool's log that hold a server's account of tokens get the column `tokens`, thoughts included."""
    for place, row in rows:
        name = "" if isinstance(row, LogError) else next((name for name in USAGES if name in row), "")
        if name and not isinstance(row, LogError) and not any(find_alike(row, cost) for cost in COSTS):
            made = read_usage(row[name])
            if "tokens" in made:
                source.note(f"tokens = tokens of the completion in {name}, thoughts included")
                row = {**row, **made}
        yield place, row


def plain_lines(source: Source) -> Path | None:
    """The file of JSON lines that the log is, where no tool wrote it and its folder holds nothing else; else None."""
    path = source.path
    if path.is_dir() and (path / RESPONSES).is_file():
        path = path / RESPONSES
    if not path.is_file() or kind_of(path) not in LINES or _first(path, path, {})[0] is not None:
        return None
    return path


def _has_rewards(file: Path, root: Path) -> bool:
    """Whether a table next to a tool's log holds rewards or gold answers under an identifier."""
    heads: dict[Path, Json] = {}
    _first(file, root, heads)
    return _has(heads[file], IDENTIFIERS) and _has(heads[file], REWARDS)


def _reward_tables(heads: dict[Path, Json]) -> list[Path]:
    """The tables of rewards or gold answers next to the files of a log of no tool, which has none of its own.

    Args:
        heads: The first row of each file.
    """
    rewards = [file for file, row in heads.items() if _has(row, REWARDS)]
    tables = [file for file in rewards if _has(heads[file], IDENTIFIERS) and not _has(heads[file], (*COSTS, *GROUPS))]
    return tables if len(tables) == len(rewards) < len(heads) else []


def _has(row: Json, names: Sequence[str]) -> bool:
    return any(find_alike(row, name) for name in names)


def _first(file: Path, root: Path, heads: dict[Path, Json]) -> tuple[Known | None, Iterator[RawRow]]:
    """Whose log the file is, and its rows; `heads` takes the first good one.

    The first one of them that says so says it: a request that failed has no answer by which it would be known.
    """
    rows = _opened(file, root)
    peeked: list[RawRow] = []
    tool: Known | None = None
    for place, row in islice(rows, NUM_PEEKED):
        peeked.append((place, row))
        if not isinstance(row, LogError):
            heads.setdefault(file, row)
            tool = _recognise(file, row)
        if tool is not None:
            break
    heads.setdefault(file, {})
    return tool, chain(peeked, rows)


def _opened(file: Path, root: Path) -> Iterator[RawRow]:
    """The rows of one file; documents of several parts are taken apart; names of folders add their columns."""
    if file.suffix == ".eval":
        rows = harness_logs.inspect_rows(file)
    elif kind_of(file) == "json" and file.is_file():
        rows = _document(file)
    else:
        rows = read_rows(file)
    columns = partition_of(file, root) if root.is_dir() else {}
    for place, row in _well_formed(rows, file):
        yield place, (row if isinstance(row, LogError) else {**row, **columns}) if columns else row


MISSHAPEN = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)
"""What reading a value raises that is of another kind than the tool writes. `LogError` is one too."""


def _well_formed(rows: Iterator[RawRow], file: Path) -> Iterator[RawRow]:
    """The rows of a file that a tool took apart; one of another shape is an error of one line."""
    place = str(file)
    try:
        for place, row in rows:
            yield place, row
    except LogError:
        raise
    except MISSHAPEN as error:
        raise LogError(f"{file}: what follows {place} is not as the tool writes it: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What is wrong with a row, as far as the exception knows."""
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else f"{str(error)[:200]}"


def _document(file: Path) -> Iterator[RawRow]:
    try:
        with open_text(file) as opened:
            document = read_document(file, opened.read())
    except UNREADABLE as error:
        raise unreadable(file, error) from None
    if harness_logs.is_inspect(document):
        return harness_logs.inspect_rows(file, document)
    if harness_logs.is_helm(document):
        return harness_logs.helm_rows(file, document)
    if harness_logs.is_promptfoo_export(document):
        return document_rows(file, document["results"]["results"])
    if server_logs.is_otlp(document):  # one batch, of whose lists none are rows
        return iter([(str(file), document)])
    return document_rows(file, document)


def _recognise(file: Path, row: Json) -> Known | None:
    try:
        return next((known for known in KNOWN if known.looks_like(row)), None)
    except LogError as error:
        raise LogError(f"{file}: {error}") from None


def _converted(tool: Known, rows: Iterator[RawRow], source: Source, file: Path) -> Iterator[RawRow]:
    """The file's good rows, converted; bad ones come between them as they are.

    Raises:
        LogError: for a row of which a field is missing, or is of another kind than the tool writes.
    """
    bad: list[RawRow] = []
    seen: deque[Row] = deque(maxlen=NUM_PEEKED + 1)  # as far as a converter looks ahead

    def good() -> Iterator[Row]:
        for place, row in rows:
            if isinstance(row, LogError):
                bad.append((place, row))
            else:
                seen.append((place, row))
                yield place, row

    try:
        for made in tool.convert(good(), source, file):
            while bad:
                yield bad.pop(0)
            yield made
    except LogError:
        raise
    except MISSHAPEN as error:
        place = next((place for place, row in seen if _fails(tool, place, row, file)), str(file))
        raise LogError(f"{place}: is not as {tool.name} are written: {_said(error)}; fix or drop the row") from None
    yield from bad


def _fails(tool: Known, place: str, row: Json, file: Path) -> bool:
    """Whether this row alone cannot be converted."""
    try:
        deque(tool.convert(iter([(place, row)]), Source(path=file.parent), file), maxlen=0)
    except MISSHAPEN:
        return True
    return False


def _joined(rows: Iterator[RawRow], table: Path, source: Source) -> Iterator[RawRow]:
    """The rows with the columns of the table's row of the same identifier; what is there already stays."""
    peeked = list(islice(rows, NUM_PEEKED))
    in_log = _columns_of(peeked)
    if not in_log:
        yield from chain(peeked, rows)
        return
    read = list(read_log_rows(Source(path=table)))
    others = [other for _, other in read if not isinstance(other, LogError)]
    yield from ((place, other) for place, other in read if isinstance(other, LogError))
    in_table = _columns_of(read)
    known = [(x, alike) for x in IDENTIFIERS if (alike := find_alike(in_log, x))]
    shared = [(x, y) for name, x in known if (y := find_alike(in_table, name))]
    if not shared:
        there = ", ".join(in_table) or "none"
        raise LogError(
            f"{table}: shares no identifier with {source.path}; its columns are {there}: call one "
            f"{' or '.join(dict.fromkeys(x for _, x in known)) or IDENTIFIERS[0]}"
        )
    twice = {x: _twice(others, y) for x, y in shared}
    # An identifier that is unique in the table, if there is one.
    name, of_table = next(((x, y) for x, y in shared if not twice[x]), shared[0])
    if twice[name]:
        raise LogError(
            f"{table}: several rows have the {of_table} {twice[name]!r} and differ; keep one of them, or add "
            f"an identifier that is unique ({', '.join(x for _, x in known)})"
        )
    beside = {identifier_of(other[of_table]): other for other in others if other.get(of_table) is not None}
    number, matched = 0, Counter[str]()
    for place, row in chain(peeked, rows):
        if isinstance(row, LogError):
            yield place, row
            continue
        key = identifier_of(row.get(name))
        found, number = beside.get(key), number + 1
        if found:
            matched[key] += 1
            # A column for rewards that somebody has made, and that is empty, is filled.
            row = {**found, **{x: value for x, value in row.items() if x not in found or not _is_empty(value)}}
        yield place, row
    most = max(matched.values(), default=0)
    source.note(
        f"joined {table.name} by {name}: {matched.total()} of {number} rows"
        + (f"; one of its rows was added to up to {most}" if most > 1 else "")
    )
    if not matched:
        raise LogError(f"{table}: no row has the {name} of a row of {source.path}; check how they are written")


def _columns_of(rows: Sequence[RawRow]) -> list[str]:
    """The columns that any of the first rows has."""
    return list({name: None for _, row in rows[:NUM_PEEKED] if not isinstance(row, LogError) for name in row})


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value


def _twice(rows: Sequence[Json], name: str) -> str:
    """The first identifier that two rows have which differ; "" without."""
    seen: dict[str, Json] = {}
    return next((key for row in rows if row.get(name) is not None
                 and seen.setdefault(key := identifier_of(row[name]), row) != row), "")  # fmt: skip
