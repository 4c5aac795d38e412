"""Read a log of scored responses: one row per response, as JSON lines, CSV or Parquet.

Every format is read in blocks of columns, so that a log larger than memory can be worked through block by block
(`LogReader.blocks`), and a smaller one is the concatenation of its blocks (`read_log`). Letters: R responses.
"""

# pyarrow ships no types, and a log holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibpo.data.adapters import COSTS, IDENTIFIERS, read_log_rows
from ibpo.data.fields import find_alike, lookup, read_number, read_object
from ibpo.data.files import NUM_PEEKED, LogError, Source, kind_of, pyarrow_for
from ibpo.data.money import MONEY
from ibpo.prices import Prices

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
OnError = Literal["fail", "skip"]
JudgeRows = Callable[[Sequence[Mapping[str, Any]]], Sequence[float]]
"""Rows with `gold` and `answer` or `completion` -> their rewards."""

GUESSES = {
    "problem": ("problem_id", "question_id", "id", "doc_id", "sample_id", "example_id", "prompt_id", "task_id",
                "problem", "custom_id", "question", "prompt", "input"),
    "response_group": ("response_group", "effort", "reasoning_effort", "group", "configuration", "mode", "variant",
                       "arm", "model"),
    "reward": ("reward", "correct", "is_correct", "score", "accuracy", "acc", "passed"),
    "cost": COSTS,
}  # fmt: skip
"""Column names that are tried, in order, for a field that the caller does not name."""
LARGEST = 1e200
"""Costs beyond it are refused: sums of them would overflow."""
BLOCK = 1_000_000
"""Rows of Parquet read at a time; text is gathered to a tenth of it."""
MAX_SHOWN = 30
"""Columns that a message lists."""
DIVIDED = re.compile(r"(?P<column>.+?)\s*/\s*(?P<by>\d+(\.\d+)?)")
"""`score/100`: a column and what its numbers are divided by."""
LIKE_REWARD = re.compile(r"(?i)reward|score|correct|accura|grade|rating|quality|pass|right|match")
OF_PROMPT = re.compile(r"(?i)prompt|input|cache")
WORDS = {1.0: ("true", "yes", "y", "t", "pass", "passed", "correct", "right", "c"),
         0.0: ("false", "no", "n", "f", "fail", "failed", "incorrect", "wrong", "i")}  # fmt: skip
TRUTH = {word: value for value, words in WORDS.items() for word in words}
"""What a reward may be called."""


class MissingColumns(LogError):
    """Fields that no column was found for; `options` are what the same command lacks."""

    def __init__(self, message: str, options: Sequence[str]) -> None:
        super().__init__(message)
        self.options = tuple(options)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogColumns:
    """Which columns of a log hold what: as named, else guessed from the first row.

    Attributes:
        problem: The problem's id. These four are guessed by `GUESSES`.
        response_group: The response group.
        reward: The reward: a number from 0 to 1, or a word such as true, pass or Y; `score/100` divides.
        cost: The cost.
        by: What splits the log into parts with an allocation each; never guessed. Required where a column `model` holds
            several models and is not itself the response group.
        show: What the report tells apart, e.g. a level or a domain; never guessed.
        prices: What tokens cost: then the cost is money, and `cost` names the tokens of the completion.
    """

    problem: str | None = None
    response_group: str | None = None
    reward: str | None = None
    cost: str | None = None
    by: str | None = None
    show: str | None = None
    prices: Prices | None = None

    def resolve(self, path: Path, rows: Sequence[Mapping[str, Any]], *, optional: Iterable[str] = ()) -> dict[str, str]:
        """Field -> column, for the fields that the log has, by its first rows.

        Raises:
            MissingColumns: names all fields that lack a column, and what is there.
        """
        if self.prices is not None:
            return replace(self, cost=MONEY, prices=None).resolve(path, rows, optional=optional)
        present = names_in(rows)
        columns: dict[str, str] = {}
        missing: list[str] = []
        for field in (*GUESSES, "by", "show"):
            named = getattr(self, field)
            tried = GUESSES.get(field, ()) if named is None else (divided(named)[0] if named not in present else named,)
            column = next((name for name in tried if name in present or _has(rows, name)), None)
            if column is None and named is None:
                column = next((name for one in tried if (name := find_alike(present, one))), None)
            if column is None and named is None:  # inside a struct, as in `usage.completion_tokens`
                column = next((name for one in tried for name in present if name.endswith("." + one)), None)
            if column is not None:
                columns[field] = column if named is None else named
            elif named is not None or (field in GUESSES and field not in optional):
                missing.append(field)
        if missing:
            raise _missing(path, missing, columns, self, rows, present)
        return columns

    @property
    def guessed(self) -> tuple[str, ...]:
        """The fields that nobody named."""
        priced = ("cost",) if self.prices is not None else ()
        return tuple(field for field in GUESSES if getattr(self, field) is None and field not in priced)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """Texts of few kinds: `names[code[r]]` is the text of row r."""

    code: NDArray[Any]
    names: list[str]

    @classmethod
    def from_list(cls, texts: list[str]) -> "Labels":
        """Number the texts in order of first appearance."""
        number = {name: n for n, name in enumerate(dict.fromkeys(texts))}
        return cls(code=np.fromiter(map(number.__getitem__, texts), np.int64, len(texts)), names=list(number))

    def take(self, keep: IntArray) -> "Labels":
        """The labels of these rows."""
        return Labels(code=self.code[keep], names=self.names)

    def tolist(self) -> list[str]:
        """The text of each row."""
        return [self.names[code] for code in self.code.tolist()]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogRows:
    """Good rows of a log as columns.

    Attributes:
        problem: Problem ids, whole numbers or texts.
        response_group: Names of the response groups.
        reward: `[R]` finite.
        cost: `[R]` finite, at least 0, in the log's unit.
        part: Value of the `by` column; "" without one.
        shown: Value of the `show` column; None without one.
    """

    problem: IntArray | list[str]
    response_group: Labels
    reward: FloatArray
    cost: FloatArray
    part: Labels
    shown: Labels | None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.reward)

    def by_part(self) -> Iterator[tuple[str, "LogRows"]]:
        """The rows of each part of the log among these."""
        for code, name in enumerate(self.part.names):
            here = self.part.code == code
            if here.all():
                yield name, self
            elif here.any():
                yield name, self.take(np.flatnonzero(here))

    def take(self, keep: IntArray) -> "LogRows":
        """Only these rows."""
        problem = self.problem
        return LogRows(
            problem=problem[keep] if isinstance(problem, np.ndarray) else [problem[r] for r in keep.tolist()],
            response_group=self.response_group.take(keep),
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=self.part.take(keep),
            shown=None if self.shown is None else self.shown.take(keep),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Log:
    """The columns of a log in memory, one entry per response.

    Attributes:
        problem: Problem ids, as text.
        response_group: Names of the response groups, as text.
        reward: `[R]` finite.
        cost: `[R]` finite, at least 0, in the log's unit.
        part: Value of the `by` column, as text; "" without one. Each part is an allocation of its own.
        shown: Value of the `show` column, as text; "" without one.
        columns: The column that each field was read from.
        guessed: The fields whose column was guessed.
        bad_rows: What was wrong with the rows that were left out.
        notes: How the log was read.
    """

    problem: list[str]
    response_group: list[str]
    reward: FloatArray
    cost: FloatArray
    part: list[str]
    shown: list[str]
    columns: dict[str, str]
    guessed: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def parts(self) -> dict[str, "Log"]:
        """One log per value of the `by` column, in order of first appearance."""
        return {
            name: self.rows([i for i, part in enumerate(self.part) if part == name])
            for name in dict.fromkeys(self.part)
        }

    def one_part(self, name: str | None, path: Path) -> "Log":
        """The part of that name; None: the only one. `path` begins the error where there is none such."""
        parts, by = self.parts(), self.columns.get("by")
        if name is None and len(parts) > 1:
            raise LogError(f"{path}: column {by!r} holds {', '.join(parts)}; name one of them with --part {by}=VALUE")
        if name is not None and name not in parts:
            raise LogError(f"{path}: column {by!r} holds no {name!r} but {', '.join(parts)}")
        return parts[name] if name is not None else next(iter(parts.values()))

    def rows(self, keep: list[int]) -> "Log":
        """The log with only these rows."""
        return Log(
            problem=[self.problem[i] for i in keep],
            response_group=[self.response_group[i] for i in keep],
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=[self.part[i] for i in keep],
            shown=[self.shown[i] for i in keep],
            columns=self.columns,
            guessed=self.guessed,
        )


def read_log(
    path: str | Path,
    names: LogColumns | None = None,
    *,
    on_error: OnError = "fail",
    join: Sequence[Path] = (),
    judge: JudgeRows | None = None,
    progress: Callable[[int], None] | None = None,
) -> Log:
    """Read a log of scored responses into memory.

    Args:
        path: A file or folder, of one response a row or as a known tool wrote it (`ibpo.data.adapters`).
        names: Which columns hold what; None: all guessed.
        on_error: At a bad row "fail", or "skip" it: `Log.bad_rows` says which and why.
        join: Other tables, whose columns are added to the rows with the same identifier.
        judge: Rewards of rows that have a gold answer and no reward.
        progress: Called with the number of rows read, now and then.

    Returns:
        The log; `Log.guessed` says which columns nobody named.

    Raises:
        LogError: With file, line, field and fix.
    """
    names = names or LogColumns()
    reader = LogReader(path, names, on_error=on_error, join=join, judge=judge)
    blocks = list(reader.blocks(progress))

    def texts(of_block: Callable[[LogRows], list[str]]) -> list[str]:
        return [text for block in blocks for text in of_block(block)]

    return Log(
        problem=texts(lambda block: list(map(str, block.problem))),
        response_group=texts(lambda block: block.response_group.tolist()),
        reward=np.concatenate([block.reward for block in blocks]),
        cost=np.concatenate([block.cost for block in blocks]),
        part=texts(lambda block: block.part.tolist()),
        shown=texts(lambda block: [""] * len(block) if block.shown is None else block.shown.tolist()),
        columns=reader.columns,
        guessed=names.guessed,
        bad_rows=tuple(reader.bad_rows),
        notes=tuple(reader.notes),
    )


class LogReader:
    """One log, read as often as it is asked for.

    Args:
        path: As for `read_log`.
        names: Which columns hold what.
        on_error: At a bad row "fail", or "skip" it.
        join: Other tables, whose columns are added to the rows with the same identifier.
        judge: Rewards of rows that have a gold answer and no reward.
    """

    def __init__(
        self,
        path: str | Path,
        names: LogColumns,
        *,
        on_error: OnError = "fail",
        join: Sequence[Path] = (),
        judge: JudgeRows | None = None,
    ) -> None:
        self.path, self.names, self.on_error, self.join, self.judge = Path(path), names, on_error, join, judge
        self.columns: dict[str, str] = {}
        """Field -> column, once a pass has begun."""
        self.bad_rows: list[str] = []
        """What was wrong with the rows that the last pass left out."""
        self.notes: list[str] = []
        """How the last pass read the log, for whoever asked."""
        self._models: set[str] = set()
        self._tasks: set[str] = set()
        self._model = "model"
        """The column of that name, however it is written."""

    def blocks(self, progress: Callable[[int], None] | None = None) -> Iterator[LogRows]:
        """One pass over the log, in blocks.

        Args:
            progress: Called with the number of rows read after each block.

        Raises:
            LogError: With file, line, field and fix; a log without a good row; several models and no `by`.
        """
        self.columns, self.bad_rows, self.notes, self._models, self._tasks = {}, [], [], set(), set()
        num_rows = 0
        for block in self._parquet_blocks() if self._is_plain_parquet() else self._row_blocks():
            num_rows += len(block)
            if progress:
                progress(num_rows)
            if len(block):
                yield block
        if not num_rows:
            left_out = "".join(f" ({note})" for note in self.notes if "left out: " in note)
            raise LogError(
                f"{self.path}: no {'usable ' if self.bad_rows or left_out else ''}rows{left_out}; a log needs one row "
                "per response"
            )
        if len(self._tasks) > 1:
            raise LogError(
                f"{self.path}: holds {len(self._tasks)} tasks, {', '.join(sorted(self._tasks)[:3])}, whose problems "
                "may have the same number; give --by harness_task, an allocation for each, or name the files of one"
            )
        if len(self._models) > 1:
            raise LogError(
                f"{self.path}: column {self._model!r} holds {len(self._models)} models; give --by {self._model}, an "
                "allocation for each"
            )

    @property
    def _looks_at_models(self) -> bool:
        """Whether a column `model` would split the log without anybody having said so."""
        return self.names.by is None and self.columns["response_group"].lower() != "model"

    def _skip(self, error: LogError) -> None:
        """Stop at a bad row, or note it and go on."""
        if self.on_error == "fail":
            raise error
        self.bad_rows.append(str(error))

    def _row_blocks(self) -> Iterator[LogRows]:
        """Row by row: whatever is not plain Parquet."""
        source = Source(path=self.path, prices=self.names.prices, tokens=self.names.cost or "")
        stream = read_log_rows(source, join=self.join)
        peeked = list(islice(stream, NUM_PEEKED))
        good = [row for _, row in peeked if not isinstance(row, LogError)]
        if good:
            try:
                self.columns = self.names.resolve(self.path, good, optional=self._made_here(good))
            except MissingColumns as error:
                how = "".join(f" ({note})" for note in source.notes)
                raise MissingColumns(
                    str(error).replace(str(self.path), f"{self.path}{how}", 1), error.options
                ) from None
            self._note_dots(good)
        # Where the models are the response groups they do not split the log.
        model = (
            find_alike({name: 0 for row in good for name in row}, "model") if good and self._looks_at_models else None
        )
        rows: list[dict[str, Any]] = []
        for place, row in chain(peeked, stream):
            if isinstance(row, LogError):
                self._skip(row)
                continue
            if self.columns.get("response_group") == "response_group" and _opens_like_none(row):
                source.left_out["responses that open like no response group"] += 1
                continue
            try:
                rows.append(self._parsed(place, row))
            except LogError as error:
                if row.get("error") not in (None, "", False, {}, []):
                    source.left_out["failed requests"] += 1
                else:
                    self._skip(error)
                continue
            if model and row.get(model) not in (None, row.get("response_group")):
                self._models.add(str(row[model]))
                self._model = model
            if self.names.by is None and "harness_task" in row:
                self._tasks.add(str(row["harness_task"]))
            if len(rows) == max(1, BLOCK // 10):
                yield self._from_rows(rows)
                rows = []
        if rows:
            yield self._from_rows(rows)
        self.notes += source.closing_notes()

    def _note_dots(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Say how costs such as 1.234 are read, where all look as if the dot parted thousands."""
        name = divided(self.columns.get("cost", ""))[0]
        texts = [text.strip() for row in rows if isinstance(text := lookup(row, name), str)]
        dotted = [text for text in texts if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", text)]
        if dotted and all(text in dotted or re.fullmatch(r"\d{1,3}", text) for text in texts):
            self.notes.append(
                f"column {name!r}: {dotted[0]} is read as a number with decimals; where the dot parts thousands, write "
                "the costs without it"
            )

    def _made_here(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Fields that need no column: rewards that can be judged, costs that can be counted."""
        can_judge = self.judge is not None and any(row.get("gold") not in (None, "") for row in rows)
        can_count = all(isinstance(row.get("completion"), str) for row in rows)
        return ["reward"] * can_judge + ["cost"] * can_count

    def _parsed(self, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> checked value of one row."""
        made = {field: read_field(place, row, field, column) for field, column in self.columns.items()}
        if "cost" not in made:
            made["cost"] = float(len(row["completion"]))
        if "reward" not in made:
            made["judged"] = row
        return made

    def _from_rows(self, rows: list[dict[str, Any]]) -> LogRows:
        if "cost" not in self.columns:
            self.columns["cost"] = "characters"
            self.notes.append("the log holds no tokens: cost = characters of the completion")
        if "reward" not in self.columns and self.judge is not None:
            self.columns["reward"] = "judged"
            self.notes.append("rewards judged here, answer against gold")
        todo = [row for row in rows if "judged" in row]
        for row, reward in zip(
            todo, self.judge([row["judged"] for row in todo]) if todo and self.judge else (), strict=True
        ):
            row["reward"] = reward
        return LogRows(
            problem=[row["problem"] for row in rows],
            response_group=Labels.from_list([row["response_group"] for row in rows]),
            reward=np.array([row["reward"] for row in rows]),
            cost=np.array([row["cost"] for row in rows]),
            part=Labels.from_list([row.get("by", "") for row in rows]),
            shown=Labels.from_list([row["show"] for row in rows]) if "show" in rows[0] else None,
        )

    def _is_plain_parquet(self) -> bool:
        """Whether the log is one Parquet file whose columns are plain numbers and texts."""
        if kind_of(self.path) != "parquet" or not self.path.is_file() or self.join or self.names.prices:
            return False
        arrow = pyarrow_for(self.path)
        try:
            schema = arrow.parquet.read_schema(self.path)
        except (arrow.ArrowException, OSError) as error:
            raise LogError(f"{self.path}: cannot be read as Parquet: {error}") from None
        try:
            columns = self.names.resolve(self.path, [dict.fromkeys(schema.names, 0)])
        except MissingColumns:
            return False  # whose columns may be inside others; the rows say
        return all(
            schema.names.count(column) == 1
            and _is_plain(arrow.types, schema.field(column).type, numbers=field in ("reward", "cost"))
            for field, column in columns.items()
        )

    def _parquet_blocks(self) -> Iterator[LogRows]:
        """Column by column; a row that looks bad is looked at by itself, for the same words as in any other format."""
        arrow = pyarrow_for(self.path)
        try:
            with arrow.parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                self.columns = self.names.resolve(self.path, [dict.fromkeys(schema.names, 0)])
                model = find_alike(schema.names, "model")
                wanted = list(dict.fromkeys([*self.columns.values(), *([model] if model else [])]))
                first = 1
                for batch in file.iter_batches(BLOCK, columns=wanted):
                    yield self._from_batch(batch, first, arrow)
                    first += len(batch)
        except (arrow.ArrowException, OSError) as error:
            raise LogError(f"{self.path}: cannot be read as Parquet: {error}") from None

    def _from_batch(self, batch: Any, first: int, arrow: Any) -> LogRows:
        """The good rows of a batch; `first` is the number of its first row."""
        pc = arrow.compute
        column = {field: batch.column(name) for field, name in self.columns.items()}
        reward, cost = (
            pc.fill_null(pc.cast(column[field], "float64", safe=False), np.nan).to_numpy(zero_copy_only=False)
            for field in ("reward", "cost")
        )
        good = (reward >= 0) & (reward <= 1) & (cost >= 0) & (cost <= LARGEST)
        labels: dict[str, Labels] = {}
        # Beyond int64 ids are texts, and so all ids of such a column.
        whole_ids = arrow.types.is_integer(column["problem"].type) and not arrow.types.is_uint64(column["problem"].type)
        for field in {"problem", "response_group", "by", "show"} & set(column):
            if field == "problem" and whole_ids:
                good &= pc.is_valid(column[field]).to_numpy(zero_copy_only=False)
            else:
                labels[field], there = _labels(column[field], arrow)
                good &= there
        for r in np.flatnonzero(~good).tolist():
            try:
                row = {name: batch.column(name)[r].as_py() for name in batch.schema.names}
                self._parsed(f"{self.path}, line {first + r}", row)
                good[r] = True  # a text that only looks like nothing
            except LogError as error:
                self._skip(error)
        model = find_alike(batch.schema.names, "model") if self._looks_at_models else None
        if model:
            self._model = model
            models = pc.unique(batch.column(model).filter(good)).to_pylist()
            self._models |= {str(model) for model in models if model is not None}
        if whole_ids:
            problem = pc.fill_null(column["problem"], 0).to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            problem = labels["problem"].tolist()
        rows = LogRows(
            problem=problem,
            response_group=labels["response_group"],
            reward=reward,
            cost=cost,
            part=labels.get("by", Labels(code=np.zeros(len(batch), np.int8), names=[""])),
            shown=labels.get("show"),
        )
        return rows if good.all() else rows.take(np.flatnonzero(good))


def _is_plain(types: Any, kind: Any, *, numbers: bool) -> bool:
    """Whether a Parquet column can be read as an array: numbers, or for the other fields texts too."""
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return True
    if not numbers and types.is_dictionary(kind):
        return _is_plain(types, kind.value_type, numbers=False)
    return not numbers and (types.is_string(kind) or types.is_large_string(kind))


def _labels(column: Any, arrow: Any) -> tuple[Labels, NDArray[np.bool_]]:
    """The texts of a Parquet column, as Python writes its values, and which rows certainly have one."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    found = column.dictionary_encode()
    texts = [_text_of(value) for value in found.dictionary.to_pylist()] or [""]
    number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    names = list(number)
    code = arrow.compute.fill_null(found.indices, 0).to_numpy(zero_copy_only=False)
    code = np.array([number[text] for text in texts])[code] if len(names) < len(texts) else code
    there = arrow.compute.is_valid(column).to_numpy(zero_copy_only=False)
    return Labels(code=code, names=names), there & np.array([name not in ("", "nan") for name in names])[code]


def _opens_like_none(row: Mapping[str, Any]) -> bool:
    """Whether `ibpo eval` wrote this row of a policy that chose by itself, and opened like no response group."""
    return row.get("response_group") == "" and "configuration" in row and "finish_reason" in row


def read_field(place: str, row: Mapping[str, Any], field: str, column: str) -> Any:
    """The checked value of one field of one row: a number for `reward` and `cost`, else a text.

    Raises:
        LogError: with place, column and fix.
    """
    value = row.get(column)
    if field in ("reward", "cost"):  # most values need no second look
        if isinstance(value, int | float) and 0 <= value <= (1 if field == "reward" else LARGEST):
            return float(value)
    elif isinstance(value, str) and value and not (value[0].isspace() or value[-1].isspace()):
        return value
    place = f"{place}, column {column!r}"
    name, divisor = (column, 1.0) if column in row else divided(column)
    value = row[name] if name in row else lookup(row, name)
    if value is None or value in ("", [], {}) or value != value:
        fix = "fill it in or drop the row (--on-error skip)"
        if field in GUESSES:
            fix += f", or name another column with --columns {field}=COLUMN"
        raise LogError(f"{place}: no value; {fix}")
    if isinstance(value, list | Mapping) and field != "problem":  # which may be a list of messages
        kind = "a list" if isinstance(value, list) else "an object"
        raise LogError(f"{place}: is {kind}; the {field.replace('_', ' ')} must be a text or a number")
    if field in ("reward", "cost"):
        return check_number(place, value, field, name, divisor)
    return _text_of(value)


def _text_of(value: Any) -> str:
    return str(value).strip()


def divided(name: str) -> tuple[str, float]:
    """The column of `score/100`, and what its numbers are divided by.

    Example:
        >>> divided("score/100"), divided("a/b")
        (('score', 100.0), ('a/b', 1.0))
    """
    found = DIVIDED.fullmatch(name)
    return (found["column"], float(found["by"]) or 1.0) if found else (name, 1.0)


def check_number(place: str, value: Any, field: str, name: str, divisor: float = 1.0) -> float:
    """A number of a log as people write it, divided by `divisor`.

    Args:
        place: File, row and column, for the error.
        value: What is there.
        field: What it is: a `reward` may be a word, and is from 0 to 1; `truncated` may be a word; none is below 0.
        name: The column, for the advice.
        divisor: As `divided` reads it.

    Raises:
        LogError: It is none, or not such a one.

    Example:
        >>> check_number("row 1", "Y", "reward", "right"), check_number("row 1", "1,297", "cost", "tokens")
        (1.0, 1297.0)
    """
    truth = TRUTH.get(str(value).strip().lower()) if field in ("reward", "truncated") else None
    if field == "reward" and divisor == 1 and str(value).strip().endswith("%"):
        divisor = 100.0
    try:
        number = read_number(value) / divisor if truth is None else truth
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, list):
        raise LogError(f"{place}: a list of {len(value)}; write a row per response, or name one as {name}.0")
    if not math.isfinite(number):
        raise LogError(f"{place}: {value!r} is not a finite number; the {field} of every response must be one")
    if field == "reward" and not 0 <= number <= 1:
        raise LogError(
            f"{place}: {value!r} is not from 0 to 1, as a reward must be; divide it, for instance by "
            f"--columns reward={name}/{100 if number > 10 else 10}, or rescale it"
        )
    if number < 0:
        raise LogError(f"{place}: {value!r} is negative; the {field.replace('_', ' ')} must be at least 0")
    if number > LARGEST:
        raise LogError(f"{place}: {value!r} is above {LARGEST:g}; give it in a larger unit")
    return number


def names_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of rows in order of appearance; those of structs and of cells that hold JSON under dotted names."""
    found: dict[str, None] = {}

    def add(row: Mapping[str, Any], head: str, depth: int) -> None:
        for name, value in row.items():
            found.setdefault(head + str(name))
            inner = read_object(value) if isinstance(value, str | dict) and depth < 4 else {}
            if inner:
                add(inner, f"{head}{name}.", depth + 1)

    for row in rows:
        add(row, "", 0)
    return list(found)


def _has(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return "." in name and any(lookup(row, name) is not None for row in rows)


def _missing(
    path: Path,
    missing: list[str],
    columns: Mapping[str, str],
    names: LogColumns,
    rows: Sequence[Mapping[str, Any]],
    present: list[str],
) -> MissingColumns:
    """All that is missing at once, with what the command lacks: a column where one looks right."""
    said: list[str] = []
    pairs: list[str] = []
    options: list[str] = []
    taken = set(columns.values())
    for field in missing:
        named = getattr(names, field)
        tried = GUESSES.get(field, ())
        looked = f" (looked for {', '.join(tried[:4])}{', ...' * (len(tried) > 4)})"
        said.append(f"no column {named!r}" if named else f"no column for the {field.replace('_', ' ')}{looked}")
        guess = next((name for name in _candidates(field, rows, present) if name not in taken), "")
        identifier = next((name for name in IDENTIFIERS if name in present), "")
        if field == "reward" and not (guess or named) and identifier:
            said[-1] += f", and no gold answer to judge by: join a table with {identifier} and reward"
            options.append("REWARDS.csv")
        elif field in GUESSES:
            pairs.append(f"{field}={guess or 'COLUMN'}")
            taken.add(guess)
        else:
            options += [f"--{field}", "COLUMN"]
    options = [*(["--columns", ",".join(pairs)] if pairs else []), *options]
    shown = sorted(present, key=lambda name: name.count("."))
    there = ", ".join(map(repr, shown[:MAX_SHOWN])) + (", ..." if len(present) > MAX_SHOWN else "") or "none"
    it = "it" if len(missing) == 1 else "them"
    return MissingColumns(f"{path}: {'; '.join(said)}; there are {there}: name {it} with {' '.join(options)}", options)


def _candidates(field: str, rows: Sequence[Mapping[str, Any]], present: list[str]) -> list[str]:
    """The columns whose values look like the field's: rewards within [0, 1], groups of few names, repeated ids."""
    found: list[str] = []
    if field == "cost":  # what was asked is no cost of the answer
        present = sorted(present, key=lambda name: bool(OF_PROMPT.search(name)))
    for name in present:
        values = [x for x in (lookup(row, name) for row in rows) if isinstance(x, str | int | float) and x != ""]
        if len(values) < max(2, len(rows) // 2):
            continue
        kinds = {str(x) for x in values}
        try:
            numbers = [
                TRUTH[str(x).strip().lower()] if str(x).strip().lower() in TRUTH else read_number(x) for x in values
            ]
        except ValueError:
            numbers = []
        whole = all(isinstance(x, int) or str(x).isdigit() for x in values)
        fits = {
            "reward": bool(numbers)
            and 0 <= min(numbers) < max(numbers) <= 1
            and (set(numbers) == {0, 1} or bool(LIKE_REWARD.search(name))),
            "cost": bool(numbers) and min(numbers) >= 0 and max(numbers) > 1,
            "response_group": not numbers
            and max(map(len, kinds)) <= 40
            and 2 <= len(kinds) <= max(2, min(20, len(values) // 2)),
            "problem": (not numbers or whole) and 1 < len(kinds) < len(values),
        }
        if fits.get(field):
            found.append(name)
    return found
