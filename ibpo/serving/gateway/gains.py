"""What would each response group gain on this request? Asks the caller, a router, or the policy itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ibpo.errors import IbpoError
from ibpo.serving.gateway.demand import Demand
from ibpo.serving.gateway.probe import opening_probabilities, probe_body
from ibpo.serving.gateway.routers import Router, Scores
from ibpo.serving.gateway.settings import ModelSettings

GROUP_HEADER = "x-ibpo-response-group"
GAIN_HEADER = "x-ibpo-gain"
ROUTER_SECONDS = 5.0


Ask = Callable[[Demand, bytes], Awaitable[bytes]]
"""Sends a probe upstream in the demand's protocol; returns the answer's body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """Response group -> gain, and who said so."""

    by_group: Mapping[str, float]
    source: str
    """`caller`, `router`, `probe`, or `default`: the groups' own `gain`."""
    only: str = ""
    """The one response group that the caller wants: the standard one is everybody's right."""
    probe_tokens: int = 0
    tokens: Mapping[str, float] = field(default_factory=dict)
    """Response group -> predicted completion tokens, where a router says so."""


async def find_gains(
    demand: Demand,
    headers: Mapping[str, str],
    model: ModelSettings,
    *,
    router: Router | None,
    ask: Ask,
    on_failure: Callable[[str], None],
) -> Gains:
    """The gains by the first source of `model.choose` that has a say.

    Args:
        demand: The request.
        headers: The caller's.
        model: Its table.
        router: If there is one.
        ask: Sends a probe.
        on_failure: Told `router` or `probe` where one failed; the next source is asked then.

    Raises:
        IbpoError: A header of the caller that cannot be read.
    """
    defaults = {group.name: group.gain for group in model.response_group}
    if len(defaults) == 1:
        return Gains(by_group=defaults, source="default")
    for source in model.choose:
        if source == "caller":
            found = caller_gains(headers, model)
            if found is not None:
                return found
        elif source == "router" and router is not None:
            try:
                # Features or an embedding take their time: not in the event loop.
                async with asyncio.timeout(ROUTER_SECONDS):
                    said = await asyncio.to_thread(router.gain, demand.body)
                known, tokens = _known(said, defaults)
            except Exception:  # another's code: whatever it does, the request is answered
                on_failure("router")
                continue
            if known:
                return Gains(by_group=defaults | known, source="router", tokens=tokens)
        elif source == "probe":
            body = probe_body(demand, model)
            if body is None:
                continue
            try:
                async with asyncio.timeout(model.probe.seconds):
                    answer = await ask(demand, body)
                chances = opening_probabilities(answer, demand, model)
            except (TimeoutError, IbpoError):
                on_failure("probe")
                continue
            standard = model.response_group[0].name
            return Gains(by_group=defaults | chances | {standard: 0.0}, source="probe", probe_tokens=1)
    return Gains(by_group=defaults, source="default")


def caller_gains(headers: Mapping[str, str], model: ModelSettings) -> Gains | None:
    """What the caller's headers say: the response group that is wanted, or what the extended one would gain.

    The standard (first) response group is given to whoever asks for it. Any other competes with gain 1: it is had where
    budget and price allow, so no caller can break the budget.

    Raises:
        IbpoError: An unknown response group, or no number in [0, 1].

    Example:
        >>> groups = [{"name": "standard"}, {"name": "extended"}]
        >>> model = ModelSettings.model_validate({"name": "*", "response_group": groups})
        >>> caller_gains({"x-ibpo-gain": "0.3"}, model).by_group
        {'standard': 0.0, 'extended': 0.3}
    """
    names = [group.name for group in model.response_group]
    wanted = headers.get(GROUP_HEADER)
    if wanted is not None:
        if wanted not in names:
            raise IbpoError(f"header {GROUP_HEADER}: no such response group; name one of {', '.join(names)}")
        gains = {name: float(name == wanted) for name in names}
        return Gains(by_group=gains, source="caller", only=wanted if wanted == names[0] else "")
    said = headers.get(GAIN_HEADER)
    if said is None:
        return None
    gains = dict.fromkeys(names, 0.0)
    for part in said.split(","):
        name, found, number = part.strip().rpartition("=")
        if not found:
            name = names[1] if len(names) == 2 else ""
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in gains or not 0 <= value <= 1:
            example = "0.7" if len(names) == 2 else f"{names[1]}=0.2, {names[-1]}=0.7"
            raise IbpoError(f"header {GAIN_HEADER}: needs gains in [0, 1], e.g. {example}")
        gains[name] = value
    return Gains(by_group=gains, source="caller")


def _known(said: Scores, names: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Gains and tokens of the model's own response groups.

    Raises:
        ValueError: A number that is not finite, or tokens below 0.
    """
    gains = {name: float(said.gain[name]) for name in names if name in said.gain}
    tokens = {name: float(said.tokens[name]) for name in names if name in said.tokens}
    if not all(map(math.isfinite, [*gains.values(), *tokens.values()])) or min(tokens.values(), default=0.0) < 0:
        raise ValueError("a router's score is not finite")
    return gains, tokens
