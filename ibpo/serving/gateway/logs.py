"""One JSON object a line for each request: who, what, how long, at what cost; no text of prompts or answers."""

from __future__ import annotations

import json
import sys
import time
from typing import IO, Any


class RequestLog:
    """Writes lines; a full disk or a closed pipe must not stop the traffic.

    Args:
        file: Where to; None: nowhere.

    Example:
        >>> RequestLog(sys.stdout).write("started", time=0, port=8080)
        {"event": "started", "time": 0, "port": 8080}
    """

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; `time` is seconds since 1970 unless given."""
        if self._file is None:
            return
        row = {"event": event, "time": round(time.time(), 3), **fields}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            if self._file is not sys.stderr:
                print("error: the log cannot be written; requests go on without it", file=sys.stderr)
            self._file = None
