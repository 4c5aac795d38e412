"""Limits on money and calls that hold whatever happens: a call is reserved at its worst case before it is sent.

Every call has two lines in a journal, one before it is sent and one when it is over. A call without a second line was
in flight when the process was killed: it may have been answered, so it is charged in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ibpo.prices import Price, TokenUse
from ibpo.rollouts import Request
from ibpo.runs import Journal

TEMPLATE_TOKENS = 512
"""What a chat template may add to the messages: headers, a system message of its own."""
SLACK = 1e-9
"""Part of a limit by which it may be passed: sums of decimals round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What may be spent, calls of earlier runs in the same folder included."""

    money: float = math.inf
    calls: float = math.inf


class Spending:
    """What calls have cost, and what those in flight may cost.

    Args:
        journal: Journal of all calls in this folder.
        limits: Limits of all calls in this folder.
        prices: Response group -> its price; None: no money is counted.
        max_tokens: Most tokens of a completion.
        found: From a call's key to the tokens of its response, if it is stored.
    """

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        prices: Mapping[str, Price] | None,
        max_tokens: int,
        found: Callable[[str], TokenUse | None],
    ) -> None:
        self.limits, self.prices, self.max_tokens = limits, prices, max_tokens
        self.money, self.num_calls = 0.0, 0
        self.num_in_flight, self.num_unknown = 0, 0
        """Calls that were in flight at a kill, and calls that report no usage: both charged in full."""
        self._journal = journal
        self._open: dict[int, dict[str, Any]] = {}
        self._next = 0
        for row in journal.rows():
            self._read(row)
        for number, row in list(self._open.items()):
            use = found(row["key"])
            self.num_in_flight += use is None
            self.settle(number, use)

    def _read(self, row: dict[str, Any]) -> None:
        number = int(row["call"])
        self._next = max(self._next, number + 1)
        if "reserved" in row:
            self._open[number] = row
            return
        self._open.pop(number, None)
        self.money, self.num_calls = self.money + row["money"], self.num_calls + row["counts"]
        self.num_unknown += bool(row.get("unknown"))

    def worst_case(self, request: Request, asked: str) -> float:
        """The most that a call can cost; `asked` is all text of the prompt, of which a token has at least a byte."""
        if self.prices is None:
            return 0.0
        price = self.prices[request.response_group]
        num_prompt = len(asked.encode(errors="replace")) + TEMPLATE_TOKENS
        most_expensive = max(price.input, price.cached_input, price.cache_write)
        return (num_prompt * most_expensive + self.max_tokens * max(price.output, price.reasoning)) / 1e6

    def reserve(self, request: Request, asked: str) -> int | None:
        """A number for the call, which may be sent now; None where the limits leave no room for it."""
        most = self.worst_case(request, asked)
        held = sum(row["reserved"] for row in self._open.values())
        if self.money + held + most > self.limits.money * (1 + SLACK):
            return None
        if self.num_calls + len(self._open) + 1 > self.limits.calls:
            return None
        number, self._next = self._next, self._next + 1
        self._open[number] = {"call": number, "key": request.key, "reserved": most}
        self._journal.add(self._open[number])
        return number

    def settle(self, number: int, use: TokenUse | None, *, served: bool = True) -> None:
        """A call is over.

        Args:
            number: As `reserve` gave it.
            use: Its tokens; None: unknown, so it is charged in full.
            served: False where the server certainly did nothing for it: it costs nothing and does not count.
        """
        row = self._open[number]
        group = str(row["key"]).split("\t")[-2]
        if not served:
            money = 0.0
        elif use is None or self.prices is None:
            money = row["reserved"]
        else:
            money = self.prices[group].of(use)
        done = {"call": number, "money": money, "counts": int(served)}
        if served and use is None:
            done["unknown"] = True
        self._journal.add(done)
        self._read(done)

    def calls_left(self, money_per_call: float) -> float:
        """How many more calls of such a cost fit."""
        by_money = (self.limits.money - self.money) / money_per_call if money_per_call > 0 else math.inf
        return max(0.0, min(by_money, self.limits.calls - self.num_calls))

    @property
    def text(self) -> str:
        """What is spent, of what."""
        parts = []
        if self.prices is not None:
            of = f" of {self.limits.money:.4g}" if self.limits.money < math.inf else ""
            parts.append(f"money {self.money:.4g}{of}")
        of = f" of {self.limits.calls:.0f}" if self.limits.calls < math.inf else ""
        return ", ".join([*parts, f"{self.num_calls}{of} calls"])


def use_of(prompt: int | None, completion: int | None, thinking: int | None) -> TokenUse | None:
    """Tokens of a stored response; None where the server did not say. What was cached is not known: none is."""
    if prompt is None or completion is None:
        return None
    return TokenUse(input=prompt, output=completion, reasoning=min(thinking or 0, completion))
