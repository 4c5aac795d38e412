"""Outcomes come back: what answers were worth, and what the gateway learns from it.

An answer's header `x-ibpo-request-id` names it; whoever judges it posts `{"request_id": ..., "reward": ...}` to
`/outcomes`, at once or days later, or never. For every model with `learn = true` an `ibpo.routing.OnlineRouter`
corrects the gains and lengths that the router, the probe or the settings predict; what a caller says of its own request
stays.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ibpo.errors import IbpoError
from ibpo.routing import OnlineRouter
from ibpo.serving.gateway.gains import Gains
from ibpo.serving.gateway.settings import DEFAULT_TOKENS, ModelSettings, Settings

OUTCOMES = "/outcomes"
_REMEMBERED = 16_384


class Learner:
    """Learns from outcomes, for each model that asks for it.

    The features of a request are what is predicted of it without learning: 1, the gains, and the logarithms of the
    lengths. So a prediction that is always wrong by a constant or a factor is put right after some tens of outcomes.
    Gains are differences, outcomes are not: of each outcome the level is taken, the fading mean over all response
    groups of what it is beyond the gain that was predicted. Otherwise what is learned of the standard group alone,
    which is asked most, would be counted against the others.

    Args:
        settings: Whose models with `learn` are learned of.
    """

    def __init__(self, settings: Settings) -> None:
        self._routers = {
            model.name: OnlineRouter([g.name for g in model.response_group], 2 * len(model.response_group))
            for model in settings.model
            if model.learn
        }
        self._open: OrderedDict[str, tuple[str, str, str]] = OrderedDict()  # id -> model, tenant, response group
        self._levels: dict[str, tuple[float, float]] = {}  # model -> weight, weighted sum

    def correct(self, request_id: str, model: ModelSettings, gains: Gains) -> Gains:
        """The gains with what has been learned; unchanged where the model does not learn, or the caller said them."""
        router = self._routers.get(model.name)
        if router is None or gains.source == "caller":
            return gains
        names = [group.name for group in model.response_group]
        gain = [float(gains.by_group.get(name, 0.0)) for name in names]
        tokens = [
            float(gains.tokens.get(group.name, DEFAULT_TOKENS if group.tokens is None else group.tokens))
            for group in model.response_group
        ]
        features = [1.0, *gain[1:], *(math.log1p(length) / 10 for length in tokens)]
        found = router.predict(request_id, features, reward=gain, cost=tokens)
        # Where nothing predicts lengths, `ibpo.serving.lengths` knows them better, and how much they vary.
        lengths = {name: cost for name, cost in zip(names, found.cost, strict=True) if name in gains.tokens}
        return replace(gains, by_group=dict(zip(names, found.gain, strict=True)), tokens=lengths)

    def decided(self, request_id: str, model: ModelSettings, tenant: str, response_group: str) -> None:
        """What a request got; only then may its outcome come."""
        if model.name in self._routers:
            self._open[request_id] = (model.name, tenant, response_group)
            if len(self._open) > _REMEMBERED:
                self._open.popitem(last=False)

    def ended(self, request_id: str, model: ModelSettings, response_group: str, tokens: float) -> None:
        """How long each answer to a request was; its outcome may have come before."""
        router = self._routers.get(model.name)
        if router is not None:
            router.learn(request_id, response_group, cost=tokens)

    def outcome(self, request_id: str, tenant: str, reward: float) -> bool:
        """What an answer was worth.

        Returns:
            False if the request is not known (any more), is another tenant's, or its outcome has come before.
        """
        found = self._open.get(request_id)
        if found is None or found[1] != tenant:
            return False
        del self._open[request_id]
        model, _, group = found
        router, (weight, total) = self._routers[model], self._levels.get(model, (0.0, 0.0))
        if (gain := router.before(request_id, group)) is None:  # the caller said its gains
            return False
        kept = 1 - 1 / router.memory
        self._levels[model] = weight, total = kept * weight + 1, kept * total + reward - gain
        return router.learn(request_id, group, reward=reward - total / weight)

    def cautions(self) -> list[str]:
        """Response groups that have changed suddenly."""
        return [f"model {name!r}: {text}" for name, router in self._routers.items() for text in router.cautions()]

    def state_dict(self) -> dict[str, Any]:
        """What has been learned, for JSON."""
        return {
            name: {**router.state_dict(), "level": self._levels.get(name, (0.0, 0.0))}
            for name, router in self._routers.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        A model that is new, or whose response groups are others or in another order, begins again: the features of its
        requests were others.

        Raises:
            IbpoError: A state of something else.
        """
        for name, router in self._routers.items():
            try:
                saved = state.get(name)
                if saved is None or tuple(saved.get("groups", ())) != router.groups or "level" not in saved:
                    continue
                weight, total = map(float, saved["level"])
            except (TypeError, ValueError, AttributeError) as error:
                raise IbpoError(f"state: not one of Learner.state_dict: {error!r}; start again without it") from None
            router.load_state(saved)
            self._levels[name] = weight, total


def read_outcome(data: bytes) -> tuple[str, float]:
    """Request id and reward of an outcome.

    Raises:
        IbpoError: Something else.

    Example:
        >>> read_outcome(b'{"request_id": "8c1f", "reward": 0.5}')
        ('8c1f', 0.5)
    """
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        row = None
    name, reward = (row.get("request_id"), row.get("reward")) if isinstance(row, dict) else (None, None)
    if not isinstance(name, str) or isinstance(reward, bool) or not isinstance(reward, int | float):
        raise IbpoError('an outcome is {"request_id": "...", "reward": 0.7}: the answer\'s x-ibpo-request-id')
    if not 0 <= reward <= 1:
        raise IbpoError("reward: must be in [0, 1]")
    return name, float(reward)
