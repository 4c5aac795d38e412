"""Force what the controller decides, so that every branch of your code can be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.serving import Candidate, Controller, Reservation

_forced: list[str | None] = []  # per block that runs, the innermost last; None: budgets are used up
_missed: dict[str, str] = {}  # a forced name that a request could not have -> why
_lock = threading.Lock()
_decide, _choose = Controller.decide, Controller._choose


def _decide_forced(
    self: Controller, candidates: Sequence[Candidate], *, request_id: str, now: float, **options: Any
) -> Reservation:
    name = _innermost()
    if name and candidates and self.store.get(request_id) is None:
        own = [candidate for candidate in candidates if candidate.response_group == name]
        if not own:
            names = [candidate.response_group for candidate in candidates]
            why = f"force({name!r}): request {request_id!r} can have {', '.join(names)} only; {nearest(name, names)}"
            with _lock:
                _missed.setdefault(name, why)
            raise IbpoError(why)
        candidates = own
    return _decide(self, candidates, request_id=request_id, now=now, **options)


def _choose_forced(
    self: Controller,
    utility: Sequence[float],
    estimates: Sequence[Sequence[float]],
    reserves: Sequence[Sequence[float]],
    *others: Any,
) -> tuple[int, bool, Sequence[int]]:
    if _innermost() is not None:
        return _choose(self, utility, estimates, reserves, *others)  # pyright: ignore[reportArgumentType]
    most = [max(column) or 1.0 for column in zip(*reserves, strict=True)]  # tokens and money are not added as they are

    def cost(place: int) -> tuple[float, float]:
        parts = (sum(x / size for x, size in zip(row[place], most, strict=True)) for row in (reserves, estimates))
        return next(parts), next(parts)

    return min(range(len(estimates)), key=cost), False, ()


def _innermost() -> str | None:
    with _lock:
        return _forced[-1] if _forced else ""


@contextmanager
def _forcing(name: str | None) -> Iterator[None]:
    """While the block runs every controller of this process, in any thread, decides so."""
    with _lock:
        _forced.append(name)
        Controller.decide = _decide_forced  # pyright: ignore[reportAttributeAccessIssue]
        Controller._choose = _choose_forced  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        with _lock:
            del _forced[len(_forced) - 1 - _forced[::-1].index(name)]
            if not _forced:
                Controller.decide, Controller._choose = _decide, _choose
            missed = _missed.pop(name, "") if name else ""
    # A gateway answers all the same where its controller fails, so that nobody would see the error.
    if missed:
        raise IbpoError(missed)


@contextmanager
def force(response_group: str) -> Iterator[None]:
    """While the block runs, every controller of this process chooses this response group, whatever it costs.

    That holds for controllers of your own, for `gateway`, and for the plug-in for LiteLLM in this process. The cost is
    booked as ever. Blocks may be nested: the innermost counts.

    Args:
        response_group: A request that cannot have it is an error, at the latest at the end of the block: it would test
            another branch than you think.

    Example:
        >>> from ibpo.serving import Candidate, Controller, ServingPolicy
        >>> half = {"budget": {"extended": {"mean": 0.5, "response_group": "long"}}}
        >>> controller = Controller(ServingPolicy.from_dict(half))
        >>> candidates = [Candidate(response_group="short", gain=1.0), Candidate(response_group="long", gain=0.0)]
        >>> with force("long"):
        ...     controller.decide(candidates, request_id="a", now=0.0).response_group
        'long'
        >>> controller.decide(candidates, request_id="b", now=0.0).response_group
        'short'
    """
    if not response_group:
        raise IbpoError("force: name a response group; `used_up` takes what costs least")
    with _forcing(response_group):
        yield


@contextmanager
def used_up() -> Iterator[None]:
    """While the block runs no budget has room: each controller takes what costs least, and `within` is False.

    Example:
        >>> from ibpo.serving import Candidate, Controller, ServingPolicy
        >>> controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 500, "overdraft": 9000}}}))
        >>> short = Candidate(response_group="short", gain=0.0, cost={"tokens": 50})
        >>> long = Candidate(response_group="long", gain=1.0, cost={"tokens": 800})
        >>> with used_up():
        ...     reservation = controller.decide([short, long], request_id="a", now=0.0)
        >>> reservation.response_group, reservation.within
        ('short', False)
    """
    with _forcing(None):
        yield
