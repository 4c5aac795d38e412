"""What each call of `ibpo eval` on a folder took: a run that was killed and rerun keeps the bill of all its calls."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibpo.endpoint import Bill, Endpoint
from ibpo.errors import IbpoError
from ibpo.rollouts import RolloutStore

Json = dict[str, Any]


class Calls:
    """`RUN/calls.jsonl`: a line when a call begins to sample, another when it ends; a killed call has no second line.

    What a killed call sampled stands in the store, which keeps the order of arrival: its tokens are counted there, so
    that its bill lacks only retries and what was under way.
    """

    def __init__(self, path: Path, store: RolloutStore) -> None:
        self.path, self.store = path, store
        self._begun = time.time()

    def begin(self, command: str, engine: Mapping[str, Any], price: tuple[float, float]) -> None:
        """Write down who samples, before anything is sampled."""
        self._append({"command": command, "engine": dict(engine), "begun": self._begun, "price_per_million": price,
                      "num_kept": len(self.store)})  # fmt: skip

    def end(self, num_new: int, endpoint: Endpoint | None) -> None:
        """Write down what the call took, also where it stopped at an error."""
        bill = {name: getattr(endpoint.bill, name) for name in endpoint.bill.__dataclass_fields__} if endpoint else None
        self._append({"num_new": num_new, "seconds": time.time() - self._begun, "bill": bill})

    def all(self) -> list[Json]:
        """Every call with what it took; `ended` tells whether it said so itself.

        Raises:
            IbpoError: for a line that is no call.
        """
        calls: list[Json] = []
        for number, line in enumerate(self._lines(), start=1):
            try:
                row = json.loads(line)
                if "command" in row:
                    calls.append(row | {"ended": False})
                else:
                    calls[-1] |= row | {"ended": True}
            except (json.JSONDecodeError, IndexError, TypeError):
                raise IbpoError(f"{self.path} line {number}: is no call; remove the line") from None
        begins = [call["num_kept"] for call in calls] + [len(self.store)]
        stored = list(self.store.rows()) if any(not call["ended"] for call in calls) else []
        for call, first, end in zip(calls, begins, begins[1:], strict=False):
            if not call["ended"]:
                kept = stored[first:end]
                used = [(row["num_prompt_tokens"], row["num_completion_tokens"]) for row in kept]
                tokens = [sum(filter(None, column)) for column in zip(*used, strict=True)] or [0, 0]
                cost = sum(n * price for n, price in zip(tokens, call["price_per_million"], strict=True)) / 1e6
                call |= {"num_new": len(kept), "seconds": None, "bill": {
                    "num_requests": len(kept), "num_unmetered": sum(None in pair for pair in used),
                    "prompt_tokens": tokens[0], "completion_tokens": tokens[1], "cost": cost}}  # fmt: skip
        return calls

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return self.path.read_text(encoding="utf-8").splitlines()

    def _append(self, row: Json) -> None:
        line = json.dumps(row) + "\n"
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a kill can leave half a line
            if whole != text:
                self.path.write_text(whole, encoding="utf-8")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise IbpoError(
                f"{self.path}: cannot be written: {error.strerror}; make room and run the same again"
            ) from None


def total_bill(calls: list[Json]) -> Json | None:
    """The bills of all calls in one; None where nothing is paid for. What was not told is unknown, not free.

    Example:
        >>> total_bill([{"bill": {"cost": 1.0}}, {"bill": {"cost": 2.0, "num_retries": 3}}])["cost"]
        3.0
    """
    bills = [call["bill"] for call in calls if call.get("bill") is not None]
    if not bills:
        return None
    total = {name: sum(bill.get(name, 0) for bill in bills) for name in Bill.__dataclass_fields__}
    return total | {"cost": None} if total["num_unmetered"] else total
