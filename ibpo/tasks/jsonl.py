"""The user's own problems: one JSON object a line, plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ibpo.config import DataConfig
from ibpo.errors import IbpoError
from ibpo.types import Problem


def load_problems(
    path: Path,
    *,
    problem: str = "question",
    answer: str = "answer",
    answer_after: str = "",
    problem_id: str = "",
    level: str = "",
    limit: int | None = None,
) -> list[Problem]:
    """Read problems with answers.

    Args:
        path: JSON lines; gzipped if the name ends in `.gz`. Blank lines are passed over.
        problem: field with the problem's text.
        answer: field with its answer, text or a number.
        answer_after: the answer follows the last occurrence of this marker in that field; "": it is the whole field.
        problem_id: field with a unique id; "": the line number.
        level: field with the difficulty; "": none.
        limit: read this many problems at most.

    Raises:
        IbpoError: names file, line, field and mend.
    """
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for number, row in read_jsonl(path):
        place = f"{path} line {number}"
        gold = _text(row, answer, place, "data.answer")
        if answer_after:
            _, found, gold = gold.rpartition(answer_after)
            if not found:
                raise IbpoError(
                    f"{place}: field {answer!r} holds no {answer_after!r}, which the answer should follow; "
                    "mend the row or data.answer_after"
                )
        if not gold.strip():
            raise IbpoError(f"{place}: field {answer!r}: the answer is empty; mend or remove the row")
        text = _text(row, problem, place, "data.problem")
        if not text.strip():
            raise IbpoError(f"{place}: field {problem!r}: the problem is empty; mend or remove the row")
        key = _text(row, problem_id, place, "data.id") if problem_id else str(number)
        if key in line_of:
            raise IbpoError(
                f"{place}: field {problem_id!r}: id {key!r} stands in line {line_of[key]} already; ids must be unique"
            )
        line_of[key] = number
        grade = _text(row, level, place, "data.level") if level else ""
        problems.append(Problem(problem_id=key, prompt=text, answer=gold.strip(), level=grade))
        if len(problems) == limit:
            break
    if not problems:
        raise IbpoError(f"{path}: holds no problems; give a file with one JSON object a line")
    return problems


def read_problems(data: DataConfig) -> tuple[list[Problem], list[Problem]]:
    """The problems of a recipe's `[data]`: those to train on, and those held out; see `load_problems`, `hold_out`."""
    problems = load_problems(
        Path(data.path).expanduser(),
        problem=data.problem,
        answer=data.answer,
        answer_after=data.answer_after,
        problem_id=data.id,
        level=data.level,
        limit=data.limit,
    )
    return hold_out(problems, data.holdout)


def hold_out(problems: Sequence[Problem], num_problems: int) -> tuple[list[Problem], list[Problem]]:
    """Split off problems for evaluation: (training, held out).

    A hash of the id decides, so the same problems are held out whatever the seed. Problems whose text is also a
    held-out problem's are left out of training.

    Example:
        >>> rows = [Problem(problem_id=str(i), prompt=f"{i} + 1 =", answer=str(i + 1)) for i in range(5)]
        >>> [len(part) for part in hold_out(rows, 2)]
        [3, 2]
    """
    order = sorted(problems, key=lambda p: hashlib.blake2b(p.problem_id.encode(), digest_size=8).digest())
    held_out = order[:num_problems]
    ids, texts = {p.problem_id for p in held_out}, {str(p.prompt) for p in held_out}
    training = [p for p in problems if p.problem_id not in ids and str(p.prompt) not in texts]
    return training, held_out


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line; blank ones are passed over.

    Raises:
        IbpoError: names file, line and mend.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise IbpoError(
                        f"{path} line {number}: is not JSON: {error.msg} at column {error.colno}; "
                        "the file needs one JSON object a line"
                    ) from None
                if not isinstance(row, dict):
                    raise IbpoError(f"{path} line {number}: is not a JSON object; write {{...}} on each line")
                yield number, row
    except FileNotFoundError:
        raise IbpoError(f"{path}: there is no such file; give the problems with --set data.path=FILE") from None
    except UnicodeDecodeError:
        raise IbpoError(f"{path} line {number + 1}: is not UTF-8 text; save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise IbpoError(f"{path}: is not a whole gzip file; copy it again") from None
    except OSError as error:
        raise IbpoError(
            f"{path}: cannot be read: {error.strerror}; give the problems with --set data.path=FILE"
        ) from None


def _text(row: dict[str, Any], field: str, place: str, key: str) -> str:
    if field not in row:
        known = ", ".join(map(str, row)) or "none"
        raise IbpoError(f"{place}: no field {field!r}; the row's fields are {known}: name one with {key}")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise IbpoError(f"{place}: field {field!r} holds {json.dumps(value)[:40]}; text or a number is needed")
    return str(value)
