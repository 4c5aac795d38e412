"""One JSON object a line, plain or gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError


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
        raise IbpoError(f"{path}: there is no such file; name another") from None
    except UnicodeDecodeError:
        raise IbpoError(f"{path} line {number + 1}: is not UTF-8 text; save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise IbpoError(f"{path}: is not a whole gzip file; copy it again") from None
    except OSError as error:
        raise IbpoError(f"{path}: cannot be read: {error.strerror}; name another") from None
