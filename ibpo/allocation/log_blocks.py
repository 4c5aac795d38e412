"""A log in blocks of arrays, for one that is larger than memory."""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.given import FloatArray
from ibpo.allocation.log_file import LogColumns, LogError, OnError, parsed_rows
from ibpo.allocation.runs import IntArray

BLOCK = 1_000_000
"""Rows of Parquet read at a time; text is read by rows and gathered to a tenth of it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Texts:
    """Texts of few kinds: `names[code[r]]` is the text of row r."""

    code: NDArray[Any]
    names: list[str]

    @classmethod
    def from_list(cls, texts: list[str]) -> "Texts":
        """Number the texts in order of first appearance."""
        number = {name: n for n, name in enumerate(dict.fromkeys(texts))}
        return cls(code=np.fromiter(map(number.__getitem__, texts), np.int64, len(texts)), names=list(number))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """Good rows: problem ids (whole numbers or texts), response groups, `by` and `show` columns, rewards, costs."""

    problem: IntArray | list[str]
    response_group: Texts
    reward: FloatArray
    cost: FloatArray
    part: Texts
    shown: Texts | None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.reward)

    def by_part(self) -> Iterator[tuple[str, "Block"]]:
        """One block for each part of the log among its rows."""
        for code, name in enumerate(self.part.names):
            here = self.part.code == code
            if here.all():
                yield name, self
            elif here.any():
                yield name, self.rows(np.flatnonzero(here))

    def rows(self, keep: IntArray) -> "Block":
        """Only these rows."""

        def some(texts: Texts) -> Texts:
            return Texts(code=texts.code[keep], names=texts.names)

        problem = self.problem
        return Block(
            problem=problem[keep] if isinstance(problem, np.ndarray) else [problem[r] for r in keep.tolist()],
            response_group=some(self.response_group),
            reward=self.reward[keep],
            cost=self.cost[keep],
            part=some(self.part),
            shown=None if self.shown is None else some(self.shown),
        )


def blocks(
    path: Path, names: LogColumns, on_error: OnError, bad: list[str], columns: dict[str, str]
) -> Iterator[Block]:
    """The log in blocks; `columns` is filled with field -> column.

    Parquet columns of numbers are read as such; anything else goes by rows, checked one by one.
    """
    if path.name.endswith(".parquet") and path.is_file():
        yield from _parquet_blocks(path, names, on_error, bad, columns)
        return
    rows: list[dict[str, Any]] = []
    for found, row in parsed_rows(path, names, on_error, bad):
        columns.update(found)
        rows.append(row)
        if len(rows) == BLOCK // 10:
            yield _from_rows(rows)
            rows = []
    if rows:
        yield _from_rows(rows)


def _from_rows(rows: list[dict[str, Any]]) -> Block:
    return Block(
        problem=[row["problem"] for row in rows],
        response_group=Texts.from_list([row["response_group"] for row in rows]),
        reward=np.array([row["reward"] for row in rows]),
        cost=np.array([row["cost"] for row in rows]),
        part=Texts.from_list([row.get("by", "") for row in rows]),
        shown=Texts.from_list([row["show"] for row in rows]) if "show" in rows[0] else None,
    )


def _parquet_blocks(
    path: Path, names: LogColumns, on_error: OnError, bad: list[str], columns: dict[str, str]
) -> Iterator[Block]:
    try:
        from pyarrow import ArrowException, parquet, types
        from pyarrow import compute as _compute
    except ImportError:
        raise LogError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or give a .jsonl file") from None
    pc: Any = _compute  # its functions are made at import; no stub knows them
    models: set[str] = set()
    try:
        with parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            columns.update(names.resolve(path, dict.fromkeys(present)))
            wanted = [columns[field] for field in ("problem", "response_group", "reward", "cost")]
            wanted += [columns[field] for field in ("by", "show") if field in columns]
            look = "model" in present and "by" not in columns and columns["response_group"] != "model"
            before = 0
            for batch in file.iter_batches(BLOCK, columns=list(dict.fromkeys([*wanted, *["model"] * look]))):
                column = {name: batch.column(batch.schema.get_field_index(name)) for name in wanted}
                for field in ("reward", "cost"):
                    kind = column[columns[field]].type
                    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                        raise LogError(f"{path}, column {columns[field]!r}: {kind}, not numbers; store it as numbers")
                reward, cost = (
                    pc.fill_null(pc.cast(column[columns[x]], "float64"), np.nan).to_numpy(zero_copy_only=False)
                    for x in ("reward", "cost")
                )
                good = np.isfinite(reward) & np.isfinite(cost) & (cost >= 0)
                for field in {"problem", "response_group", "by", "show"} & set(columns):
                    good &= pc.is_valid(column[columns[field]]).to_numpy(zero_copy_only=False)
                keep = slice(None)
                if not good.all():
                    keep = np.flatnonzero(good)
                    for r in np.flatnonzero(~good).tolist():
                        message = f"{path}, row {before + r + 1}: a field is missing, not finite, or a negative cost"
                        if on_error == "fail":
                            raise LogError(f"{message}; mend the row, or leave such rows out with --on-error skip")
                        bad.append(message)
                before += len(batch)
                if look:
                    models |= set(pc.unique(batch.column(batch.schema.get_field_index("model"))).to_pylist()) - {None}

                def texts(field: str, column: dict[str, Any] = column, keep: Any = keep) -> Texts:
                    found = pc.cast(column[columns[field]], "string").dictionary_encode()
                    code = pc.fill_null(found.indices, 0).to_numpy(zero_copy_only=False)
                    return Texts(code=code[keep], names=[str(x) for x in found.dictionary.to_pylist()])

                ids: Any = column[columns["problem"]]
                ids = ids if isinstance(keep, slice) else ids.filter(good)
                whole = types.is_integer(ids.type)
                yield Block(
                    problem=ids.to_numpy(zero_copy_only=False).astype(np.int64)
                    if whole
                    else pc.cast(ids, "string").to_pylist(),
                    response_group=texts("response_group"),
                    reward=reward[keep],
                    cost=cost[keep],
                    part=texts("by") if "by" in columns else Texts(code=np.zeros(int(good.sum()), np.int8), names=[""]),
                    shown=texts("show") if "show" in columns else None,
                )
    except (ArrowException, OSError) as error:
        raise LogError(f"{path}: cannot be read as Parquet: {error}") from None
    if len(models) > 1:
        raise LogError(f"{path}: column 'model' holds {len(models)} models; give --by model, an allocation for each")
