"""Read a log of scored responses: one row per response, as JSON lines, CSV or Parquet.

Every format is read in blocks of columns, so that a log larger than memory can be worked through block by block
(`LogReader.blocks`), and a smaller one is the concatenation of its blocks (`read_log`). Letters: R responses.
"""

# pyarrow ships no types, and a log holds anything.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibpo.data.adapters import IDENTIFIERS, plain_lines, read_log_rows, with_tokens
from ibpo.data.fields import Commas, find_alike, lookup, read_number, read_object, says_error
from ibpo.data.files import NUM_PEEKED, LogError, RawRow, Source, json_lines, kind_of, pyarrow_for
from ibpo.data.json_columns import is_small, kinds_of, pieces, read_columns
from ibpo.data.log_rows import FloatArray, Labels, LogRows, array_of, labels_of, note_repeats
from ibpo.data.money import MONEY
from ibpo.data.values import (
    COMPLETIONS,
    GUESSES,
    LARGEST,
    OWN_COLUMNS,
    TRUTH,
    completion_of,
    divided,
    is_own,
    own_group,
    read_field,
)
from ibpo.prices import Prices

OnError = Literal["fail", "skip"]
"""At a bad row: stop, or leave the row out and note it."""
JudgeRows = Callable[[Sequence[Mapping[str, Any]]], Sequence[float]]
"""Rows with `gold` and `answer` or `completion` -> their rewards."""

BLOCK = 1_000_000
"""Rows of Parquet read at a time; what is read row by row is gathered to a tenth of it."""
MAX_SHOWN = 16
"""Columns that a message lists."""
MAX_LOOKED_AT = 20_000
"""Rows that are looked through for another column of response groups."""
LIKE_REWARD = re.compile(r"(?i)reward|score|correct|accura|grade|rating|quality|pass|right|match")
OF_PROMPT = re.compile(r"(?i)prompt|input|cache")
OF_ANSWER = re.compile(r"(?i)(^|[._])(gold|gts|target|ground_?truth|answer|completion|output|pred|prediction)s?$")
"""Columns that hold an answer, no name."""
JUDGED_TOO = "responses that a harness scored together are judged here, answer against gold"
TRACE = ("GeneratedTokens", "Response tokens", "output_length")
"""Lengths of answers in the request traces that are published."""


class MissingColumns(LogError):
    """Fields that no column was found for; `options` are what the same command lacks, `notes` how the log was read."""

    def __init__(self, message: str, options: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options, self.notes = tuple(options), tuple(notes)


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
        show: What the report shows separately, e.g. a level or a domain; never guessed.
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
            if named is None:
                column = _guess(field, tried, present, rows)
            else:
                column = next((name for name in tried if name in present or _has(rows, name)), None)
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
        """The part of that name; None: the only one. Errors begin with `path`."""
        parts, by = self.parts(), self.columns.get("by")
        if name is None and len(parts) > 1:
            raise LogError(f"{path}: column {by!r} holds {', '.join(parts)}; name one of them with --part {by}=VALUE")
        if name is not None and name not in parts:
            there = ", ".join(parts)
            raise LogError(f"{path}: column {by!r} holds no {name!r} but {there}; name one with --part {by}=VALUE")
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
            notes=self.notes,
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

    reward = np.concatenate([block.reward for block in blocks])
    cost = np.concatenate([block.cost for block in blocks])
    group = np.concatenate([block.response_group.hashes() ^ 3 * block.part.hashes() for block in blocks])
    problem = np.concatenate(
        [block.problem if isinstance(block.problem, np.ndarray) else block.problem.hashes() for block in blocks]
    )
    if not reader.is_own and (note := note_repeats(problem ^ 5 * group, group, reward, cost)):
        reader.notes.append(note)

    return Log(
        problem=texts(
            lambda block: (
                list(map(str, block.problem)) if isinstance(block.problem, np.ndarray) else block.problem.tolist()
            )
        ),
        response_group=texts(lambda block: block.response_group.tolist()),
        reward=reward,
        cost=cost,
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
        self._models: dict[tuple[str, str], set[str]] = {}
        """Part and response group -> the models that answered in it."""
        self._tasks: dict[str, set[str]] = {}
        """Part -> the tasks of a harness in it."""
        self._model: str | None = None
        """The column of that name, however it is written, where nobody said whether it splits the log."""
        self.is_own = False
        """Whether the log is a table of ours, whose ways of answering are its response groups (`own_group`)."""
        self._commas: Commas | None = None
        """What commas part in the numbers of a log that is read row by row."""
        self._ways: dict[str, None] = {}
        """The ways of such a table that are more than a response group."""

    def blocks(self, progress: Callable[[int], None] | None = None) -> Iterator[LogRows]:
        """One pass over the log, in blocks.

        Args:
            progress: Called with the number of rows read after each block.

        Raises:
            LogError: With file, line, field and fix; a log without a good row; several models and no `by`.
        """
        self.columns, self.bad_rows, self.notes, self._models, self._tasks = {}, [], [], {}, {}
        self._model, self.is_own, self._ways, num_rows = None, False, {}, 0
        for block in self._parquet_blocks() if self._is_plain_parquet() else self._text_blocks():
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
        tasks = next((of_part for of_part in self._tasks.values() if len(of_part) > 1), set[str]())
        if tasks:
            split = _split_by("harness_task")
            fix = f"{split}, or name" if self.names.by is None else "name"
            raise LogError(
                f"{self.path}: holds {len(tasks)} tasks, {', '.join(sorted(tasks)[:3])}, whose problems may have the "
                f"same number; {fix} the files of one"
            )
        models = set[str]().union(*self._models.values())
        if any(len(of_group) > 1 for of_group in self._models.values()):
            fix = _split_by(str(self._model)) if self.names.by is None else "name the files of one"
            if len({group for _, group in self._models}) == 1:
                fix += f"; or --columns response_group={self._model}, to choose between them"
            raise LogError(f"{self.path}: column {self._model!r} holds {len(models)} models; {fix}")
        if len(models) > 1 and self.names.by is None:  # efforts that run on different models are alternatives
            said = ", ".join(
                f"{group} of {next(iter(of_group))}" for (_, group), of_group in sorted(self._models.items())
            )
            self.notes.append(f"every response group is of one model: {said}")

    @property
    def _looks_at_models(self) -> bool:
        """Whether a column `model` would split the log without anybody having said so."""
        return self.names.by is None and self.columns["response_group"].lower() != "model"

    def _skip(self, error: LogError) -> None:
        """Stop at a bad row, or note it and go on."""
        if self.on_error == "fail":
            raise error
        self.bad_rows.append(str(error))

    def _text_blocks(self) -> Iterator[LogRows]:
        """Whatever is not plain Parquet: row by row, or large files of plain JSON lines by columns."""
        names = self.names
        source = Source(
            path=self.path,
            prices=names.prices,
            tokens=names.cost or "",
            problem=names.problem or "",
            reward=names.reward or "",
        )
        stream = read_log_rows(source, join=self.join)
        peeked = list(islice(stream, NUM_PEEKED))
        good = [row for _, row in peeked if not isinstance(row, LogError)]
        if good:
            try:
                self.columns = self.names.resolve(self.path, good, optional=self._made_here(good))
            except MissingColumns as error:
                raise MissingColumns(str(error), error.options, source.notes) from None
            self.is_own = self._may_be_own and any(map(is_own, good))
            self._note_dots(good)
            self._commas = Commas(good, [divided(self.columns[x])[0] for x in ("reward", "cost") if x in self.columns])
            if self._looks_at_models:
                self._model = find_alike({name: 0 for row in good for name in row}, "model")
        kinds = self._column_kinds(source, good)
        if kinds is None:
            if self.names.by == "harness_task" and self.columns.get("response_group", "").lower() != "model":
                self._model = find_alike({name: 0 for row in good for name in row}, "model")  # of one task, too
            parsed = self._parsed_rows(chain(peeked, stream), source)
            while rows := list(islice(parsed, BLOCK // 10)):
                yield self._from_rows(rows)
        else:
            yield from self._json_blocks(source, kinds)
        if self._ways:
            self.notes.append(f"ways of answering that are response groups of their own: {'; '.join(self._ways)}")
        self.notes += source.closing_notes()

    @property
    def _may_be_own(self) -> bool:
        """Whether nobody named another column for the response groups than a table of ours has."""
        return self.names.response_group is None and self.columns.get("response_group") == "response_group"

    def _parsed_rows(self, raw: Iterable[RawRow], source: Source) -> Iterator[dict[str, Any]]:
        """Field -> checked value of each good row; the others are noted, or end the reading."""
        for place, row in raw:
            if isinstance(row, LogError):
                self._skip(row)
                continue
            if self.is_own and is_own(row) and (group := own_group(row)) != row["response_group"]:
                self._ways.setdefault(group)
                row = {**row, "response_group": group}
            if self.columns.get("response_group") == "response_group" and _opens_like_none(row):
                source.left_out["responses that open like no response group"] += 1
                continue
            try:
                made = self._parsed(place, row)
            except LogError as error:
                if says_error(row):
                    source.left_out["failed requests"] += 1
                else:
                    self._skip(error)
                continue
            # Where the models are the response groups they do not split the log.
            if self._model and row.get(self._model) not in (None, row.get("response_group")):
                self._models.setdefault((made.get("by", ""), made["response_group"]), set()).add(str(row[self._model]))
            if "harness_task" in row:
                self._tasks.setdefault(made.get("by", ""), set()).add(str(row["harness_task"]))
            yield made

    def _column_kinds(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
        """Column -> type, where the log is a large file of plain JSON lines whose columns are plain; else None."""
        if self.join or self.names.prices or self.is_own or not {"reward", "cost"} <= set(self.columns):
            return None
        fields: dict[str, list[str]] = {}
        for field, column in self.columns.items():
            fields.setdefault(column, []).append(field)
        for column in (self._model, "response_group") if self._model else ():
            if any(column in row for row in rows):
                fields.setdefault(column or "", [])
        kinds = kinds_of(rows, fields)
        if kinds is None or (file := plain_lines(source)) is None or is_small(file):
            return None
        try:
            pyarrow_for(file)
        except LogError:
            return None
        return kinds

    def _json_blocks(self, source: Source, kinds: Mapping[str, str]) -> Iterator[LogRows]:
        """Column by column; pieces and rows that are not plain are read as any other rows are."""
        file = plain_lines(source)
        if file is None:
            raise LogError(f"{self.path}: was removed or replaced while it was read; run the command again")
        arrow, first = pyarrow_for(file), 1

        def raw_rows(lines: Iterable[str], number: int) -> Iterator[RawRow]:
            return with_tokens(json_lines(file, lines, number), source)

        for piece in pieces(file):
            batch = read_columns(piece, kinds, arrow)
            if batch is None:
                lines = list(io.StringIO(piece.decode(), newline=""))
                rows = list(self._parsed_rows(raw_rows(lines, first), source))
                if rows:
                    yield self._from_rows(rows)
                first += len(lines)
                continue

            def again(wanted: Sequence[int], piece: bytes = piece, first: int = first) -> Iterator[RawRow]:
                lines = piece.split(b"\n")
                return chain.from_iterable(raw_rows([lines[r].decode()], first + r) for r in wanted)

            yield self._from_batch(batch, arrow, again, source)
            first += len(batch)

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
        answered = [row for row in rows if not says_error(row)]
        has_gold = any(row.get("gold") not in (None, "") for row in answered)
        can_judge = self.judge is not None and has_gold and any(map(_has_answer, answered))
        can_count = bool(answered) and all(completion_of(row) is not None for row in answered)
        return ["reward"] * can_judge + ["cost"] * can_count

    def _parsed(self, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> checked value of one row."""
        columns = self.columns
        if self.judge is not None and "harness_task" in row and columns.get("reward", "reward") == "reward":
            # One task in a folder may have a metric for each response, another one for all of a document's.
            if "reward" in row:
                columns = {**columns, "reward": "reward"}
            elif _is_scored_together(row):
                columns = {field: column for field, column in columns.items() if field != "reward"}
        made = {field: read_field(place, row, field, column, self._commas) for field, column in columns.items()}
        completion = completion_of(row)
        if "cost" not in made:
            if completion is None:
                raise LogError(
                    f"{place}: no completion, whose characters are the cost here; fill it in or drop the row "
                    "(--on-error skip), or name a column with the cost with --columns cost=COLUMN"
                )
            made["cost"] = float(len(completion))
        if "reward" not in made:
            if row.get("gold") in (None, ""):
                raise LogError(
                    f"{place}: neither a reward nor a gold answer to judge by; fill one in or drop the row (--on-error "
                    "skip)"
                )
            if not completion and says_error(row):
                raise LogError(f"{place}: no answer to judge, but an error")  # which is left out as a failed request
            made["judged"] = row if "completion" in row else {**row, "completion": completion}
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
        if todo and self.columns["reward"] != "judged" and JUDGED_TOO not in self.notes:
            self.notes.append(JUDGED_TOO)
        return LogRows(
            problem=Labels.from_list([row["problem"] for row in rows]),
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
            raise LogError(f"{self.path}: cannot be read as Parquet: {error}; copy it again") from None
        if len(set(schema.names)) < len(schema.names):
            return False  # which the reader of rows refuses
        try:
            columns = self.names.resolve(self.path, [dict.fromkeys(schema.names, 0)])
        except MissingColumns:
            return False  # whose columns may be inside others; the rows say
        if self.names.response_group is None and set(OWN_COLUMNS) <= set(schema.names):
            return False  # a table of ours, whose ways the rows say together
        return all(_is_plain(arrow.types, schema.field(column).type, field) for field, column in columns.items())

    def _parquet_blocks(self) -> Iterator[LogRows]:
        """Column by column; a row that looks bad is looked at by itself, for the same words as in any other format."""
        arrow, source = pyarrow_for(self.path), Source(path=self.path)
        try:
            with arrow.parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                self.columns = self.names.resolve(self.path, [dict.fromkeys(names, 0)])
                self._model = find_alike(names, "model") if self._looks_at_models else None
                beside = ("error", *((self._model, "response_group") if self._model else ()))
                wanted = list(dict.fromkeys([*self.columns.values(), *(name for name in beside if name in names)]))
                first = 1
                for batch in file.iter_batches(BLOCK, columns=wanted):

                    def again(rows: Sequence[int], batch: Any = batch, first: int = first) -> Iterator[RawRow]:
                        for r in rows:
                            row = {name: batch.column(name)[r].as_py() for name in wanted}
                            yield f"{self.path}, line {first + r}", row

                    # Beyond int64 ids are texts, and so all ids of such a column.
                    ids, types = batch.column(self.columns["problem"]).type, arrow.types
                    whole = types.is_integer(ids) and not types.is_uint64(ids)
                    yield self._from_batch(batch, arrow, again, source, whole_ids=whole)
                    first += len(batch)
            self.notes += source.closing_notes()
        except (arrow.ArrowException, OSError) as error:
            raise LogError(f"{self.path}: cannot be read as Parquet: {error}; copy it again") from None

    def _from_batch(
        self,
        batch: Any,
        arrow: Any,
        again: Callable[[Sequence[int]], Iterator[RawRow]],
        source: Source,
        *,
        whole_ids: bool = False,
    ) -> LogRows:
        """The good rows of a batch.

        Args:
            batch: The columns.
            arrow: The module pyarrow.
            again: Gives rows by number, to be looked at by themselves.
            source: What is read.
            whole_ids: Whether the problems stay whole numbers.
        """
        column = {field: batch.column(name) for field, name in self.columns.items()}
        reward, cost = (array_of(column[field], "float64", np.nan, arrow) for field in ("reward", "cost"))
        good = (reward >= 0) & (reward <= 1) & (cost >= 0) & (cost <= LARGEST)
        labels: dict[str, Labels] = {}
        for field in {"problem", "response_group", "by", "show"} & set(column):
            if field == "problem" and whole_ids:
                good &= array_of(column[field].is_valid(), "uint8", 0, arrow) == 1
            else:
                labels[field], there = labels_of(column[field], arrow)
                good &= there
        bad = np.flatnonzero(~good).tolist()
        if bad:
            reward, cost = reward.copy(), cost.copy()
        for r, raw in zip(bad, again(bad), strict=True):
            for made in self._parsed_rows([raw], source):  # one that only looked bad
                good[r], reward[r], cost[r] = True, made["reward"], made["cost"]
        if self._model:
            own = batch.column("response_group") if "response_group" in batch.schema.names else None
            self._see_models(batch.column(self._model), labels["response_group"], own, good, arrow)
        rows = LogRows(
            problem=array_of(column["problem"], "int64", 0, arrow) if whole_ids else labels["problem"],
            response_group=labels["response_group"],
            reward=reward,
            cost=cost,
            part=labels.get("by", Labels(code=np.zeros(len(batch), np.int8), names=[""])),
            shown=labels.get("show"),
        )
        return rows if good.all() else rows.take(np.flatnonzero(good))

    def _see_models(self, models: Any, group: Labels, own: Any | None, good: NDArray[np.bool_], arrow: Any) -> None:
        """Note the models of good rows but of those whose response group, `own`, is the model: they split nothing."""
        of_row, _ = labels_of(models, arrow)
        there = good & (array_of(models.is_valid(), "uint8", 0, arrow) == 1)
        if own is not None:
            groups, _ = labels_of(own, arrow)
            place = {name: n for n, name in enumerate(groups.names)}
            alike = np.array([place.get(name, -2) for name in of_row.names])
            there &= alike[of_row.code] != groups.code
        pairs = np.unique(group.code[there].astype(np.int64) * len(of_row.names) + of_row.code[there])
        for pair in pairs.tolist():
            name, model = divmod(pair, len(of_row.names))
            self._models.setdefault(("", group.names[name]), set()).add(of_row.names[model])


def _is_plain(types: Any, kind: Any, field: str) -> bool:
    """Whether a Parquet column can be read as an array: numbers, or for fields other than reward and cost texts too."""
    if types.is_integer(kind) or types.is_floating(kind) or (types.is_boolean(kind) and field != "cost"):
        return True
    if field in ("reward", "cost"):
        return False
    if types.is_dictionary(kind):
        return _is_plain(types, kind.value_type, field)
    return types.is_string(kind) or types.is_large_string(kind)


def _is_scored_together(row: Mapping[str, Any]) -> bool:
    """Whether a harness's metric is one for all responses to a document, so that each is judged here."""
    return "reward" not in row and ("resps" in row or "model_response" in row)


def _has_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row says what was answered, so that it can be judged."""
    return row.get("answer") is not None or completion_of(row) is not None


def _split_by(column: str) -> str:
    """How a log of several models or tasks is taken apart."""
    return f"give --by {column}, an allocation for each (to a router or a simulation: --part {column}=VALUE)"


def _opens_like_none(row: Mapping[str, Any]) -> bool:
    """Whether `ibpo eval` wrote this row of a policy that chose by itself, and opened like no response group."""
    return is_own(row) and row["response_group"] == ""


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


def _guess(field: str, tried: Iterable[str], present: list[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column that nobody named, by the names that are tried; one of objects, as of `config`, only if need be."""
    plain = [name for name in present if field == "problem" or not _holds_objects(rows, name)]
    for names in (plain, present):
        column = next((name for name in tried if name in names), None)
        column = column or next((name for one in tried if (name := find_alike(names, one))), None)
        # Inside a struct, as in `usage.completion_tokens`.
        column = column or next((name for one in tried for name in names if name.endswith("." + one)), None)
        if column is not None:
            return column
    return None


def _holds_objects(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(isinstance(lookup(row, name), Mapping) for row in rows)


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
    trace = next((name for one in TRACE if (name := find_alike(present, one))), None)
    if trace and {"problem", "reward"} <= set(missing):
        raise LogError(
            f"{path}: a trace of requests (column {trace!r}), without answers to choose between: ibpo simulate reads it"
        )
    taken, problem = set(columns.values()), columns.get("problem", "")
    for field in missing:
        named = getattr(names, field)
        tried = GUESSES.get(field, ())
        looked = f" (looked for {', '.join(tried[:4])}{', ...' * (len(tried) > 4)})"
        said.append(f"no column {named!r}" if named else f"no column for the {field.replace('_', ' ')}{looked}")
        fitting = [name for name in _candidates(field, rows, present) if name not in taken]
        if field == "problem" and "response_group" in missing:  # there are more problems than ways of answering them
            ways = _candidates("response_group", rows, present)
            fitting = [
                name
                for name in fitting
                if any(_num_kinds(rows, one) < _num_kinds(rows, name) and _differs(rows, name, one) for one in ways)
            ] or fitting
        if field == "response_group":  # what a problem has but one of names no way of answering it
            fitting = [name for name in fitting if _differs(rows, problem, name)]
        guess = next(iter(fitting), "")
        problem = guess if field == "problem" else problem
        identifier = next((name for name in IDENTIFIERS if name in present), "")
        if field == "reward" and not (guess or named) and identifier:
            has_gold = any(row.get("gold") not in (None, "") for row in rows)
            lacks = f"{' or '.join(COMPLETIONS)} to hold against gold" if has_gold else "gold answer to judge by"
            said[-1] += f", and no {lacks}: join a table with {identifier} and reward"
            options.append("REWARDS.csv")
        elif field in GUESSES:
            pairs.append(f"{field}={guess or 'COLUMN'}")
            taken.add(guess)
        else:
            options += [f"--{field}", "COLUMN"]
    options = [*(["--columns", ",".join(pairs)] if pairs else []), *options]
    shown = sorted(present, key=lambda name: name.count("."))
    there = ", ".join(map(repr, shown[:MAX_SHOWN])) + (", ..." if len(present) > MAX_SHOWN else "") or "none"
    if len(wide := _groups_in(present)) > 1:
        said.append(f"a row holds the answers of {', '.join(wide)}: write a row for each, with its response group")
        return MissingColumns(f"{path}: {'; '.join(said)}; there are {there}", ())
    if "response_group" in missing and path.is_dir() and any(one.is_dir() for one in path.iterdir()):
        said.append("a folder's name may say the response group: effort=low/ for low/")
    it = "it" if len(missing) == 1 else "them"
    return MissingColumns(f"{path}: {'; '.join(said)}; there are {there}: name {it} with {' '.join(options)}", options)


def other_groups(path: Path, columns: Mapping[str, str], join: Sequence[Path] = ()) -> list[str]:
    """Columns besides those taken that could name response groups: they differ within problems. The first differs most.

    Args:
        path: As for `read_log`.
        columns: Field -> column.
        join: Tables whose columns are added to the rows.
    """
    of_problem: dict[str, list[Mapping[str, Any]]] = {}
    for _, row in islice(read_log_rows(Source(path=path), join=join), MAX_LOOKED_AT):
        problem = None if isinstance(row, LogError) else lookup(row, columns["problem"])
        if problem is not None and (len(of_problem) < NUM_PEEKED or str(problem) in of_problem):
            of_problem.setdefault(str(problem), []).append(row)  # pyright: ignore[reportArgumentType]
    rows = list(chain.from_iterable(of_problem.values()))
    taken = {divided(name)[0] for name in columns.values()} | {"trace_id", "finish_reason"}
    found = {
        name: sum(len({str(lookup(row, name)) for row in of_one}) > 1 for of_one in of_problem.values())
        for name in _candidates("response_group", rows, names_in(rows))
        if name not in taken
    }
    return sorted((name for name in found if found[name]), key=lambda name: -found[name])


def _num_kinds(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return len({str(lookup(row, name)) for row in rows})


def _differs(rows: Sequence[Mapping[str, Any]], problem: str, name: str) -> bool:
    """Whether a column differs within a problem, or no problem has two of these rows.

    Example:
        >>> rows = [{"q": q, "text": f"{q}?", "mode": mode} for q in ("a", "b") for mode in ("low", "high")]
        >>> _differs(rows, "q", "text"), _differs(rows, "q", "mode"), _differs(rows[::2], "q", "text")
        (False, True, True)
    """
    pairs = [(str(lookup(row, problem)), str(lookup(row, name))) for row in rows]
    problems = {of_problem for of_problem, _ in pairs}
    return len(problems) in (len(pairs), 1) or len(set(pairs)) > len(problems)


def _groups_in(present: list[str]) -> list[str]:
    """Response groups that have their own columns, or objects: `low_correct`, `low_tokens`, `high.correct`, ...

    Example:
        >>> _groups_in(["id", "low_correct", "low_tokens", "high_correct", "high_tokens"])
        ['low', 'high']
    """
    found: dict[str, set[str]] = {}
    for name in present:
        for field in ("reward", "cost"):
            for last in GUESSES[field]:
                if name.endswith((f"_{last}", f".{last}")):
                    found.setdefault(name[: -len(last) - 1], set()).add(field)
    return [group for group, fields in found.items() if len(fields) == 2]


def _candidates(field: str, rows: Sequence[Mapping[str, Any]], present: list[str]) -> list[str]:
    """The columns whose values look like the field's: rewards within [0, 1], groups of few names, repeated ids."""
    found: list[str] = []
    if field == "cost":  # what was asked is no cost of the answer
        present = sorted(present, key=lambda name: bool(OF_PROMPT.search(name)))
    for name in present:
        if field in ("response_group", "problem") and OF_ANSWER.search(name):
            continue
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
