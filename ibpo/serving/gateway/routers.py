"""What does a router say of a request? The seam between the gateway and whatever predicts gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from ibpo.errors import IbpoError
from ibpo.serving import router as fitting


class Scores(NamedTuple):
    """Of one request; response groups that are left out keep what the configuration says."""

    gain: Mapping[str, float]
    """Response group -> predicted gain."""
    tokens: Mapping[str, float] = {}
    """Response group -> predicted completion tokens."""


class Router(Protocol):
    """What predicts gains. Called from threads, several requests at a time; an error costs nobody the answer."""

    def gain(self, request: Mapping[str, Any]) -> Scores:
        """Predict.

        Args:
            request: The JSON body of a chat or completion request, as the caller wrote it.
        """
        ...


class FittedRouter:
    """A router of `ibpo route fit` on live requests.

    Args:
        fitted: Its costs are taken as completion tokens if their column's name says tokens.
    """

    def __init__(self, fitted: fitting.Router) -> None:
        self._fitted = fitted
        self._tells_tokens = "token" in fitted.cost_name
        self.groups = fitted.groups
        """The response groups that it knows."""

    def gain(self, request: Mapping[str, Any]) -> Scores:
        """See `Router`."""
        prompt = request["messages"] if "messages" in request else request["prompt"]
        scores = self._fitted.scores([prompt])
        gain = dict(zip(self._fitted.groups, map(float, scores.gain[0]), strict=True))
        if not self._tells_tokens:
            return Scores(gain)
        return Scores(gain, dict(zip(self._fitted.groups, map(float, scores.cost[0]), strict=True)))


def serving_router(fitted: fitting.Router, where: str) -> FittedRouter:
    """A router of `ibpo route fit` for a gateway; one that looks at embeddings brings the endpoint that makes them.

    Raises:
        IbpoError: One that needs more than a request says.
    """
    if fitted.number_names:
        names = ", ".join(fitted.number_names)
        raise IbpoError(f"{where}: needs the numbers {names} beside each prompt, which requests lack; fit it without")
    if fitted.embedding and fitted.embed is None:
        raise IbpoError(f"{where}: needs embeddings; give the endpoint that makes them to ibpo.serving.router.load")
    return FittedRouter(fitted)
