"""A router that goes on learning while it serves, from the reward of the one answer that each request got.

Letters: G response groups, F features.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ibpo.errors import IbpoError
from ibpo.routing.features import FloatArray
from ibpo.routing.router import MOST_NUMBER

_VERSION = 2
_REMEMBERED = 16_384
"""Requests whose outcome may still come; older ones are forgotten."""
_RECENT = 64
"""Outcomes of a response group that are kept, to begin again with after a sudden change."""
_ALLOWANCE, _LIMIT, _CLIP = 0.5, 10.0, 2.5
"""For the cumulative sums, in standard deviations: a shift of one is noticed after about 20 outcomes, and a false alarm
comes once in some 40,000 (for normal residuals: (exp(2 k h) - 2 k h - 1) / 2 k^2 with k = .5 and h = 10). Rewards of 0
and 1 lean to one side, and their cumulative sums with them: up to 5 in 40,000 at the rates tried (docs/log.md)."""
_LEAST_SPREAD = 0.01
"""Part of the largest reward: rewards that never differ have no spread of their own, and rounding is no change."""
_FEWEST = 16
"""Outcomes before anything is called a change, at the start and after a change."""
_ALARM_RIDGE = 0.1
_MEAN_MEMORY = 256
"""Outcomes over which the mean and the variance of residuals are taken."""
_COST_MEMORY = 64
"""Outcomes over which the ratio of actual to expected cost is averaged."""


class OnlineScores(NamedTuple):
    """What one request is expected to gain and cost, per response group `[G]`."""

    gain: list[float]
    """Expected reward above that of the first response group, whose entry is 0."""
    cost: list[float]
    """Expected cost, at least 0."""


class OnlineRouter:
    r"""Ridge regression of the reward on features of the request, per response group, that forgets.

    With x `[F]` the features of a request, m_g(x) what is expected without anything learned here (a fitted router's
    prediction, or a constant), and y the reward that response group g got,

        A_g <- k A_g + x x',     b_g <- k b_g + (y - m_g(x)) x,     k = (1 - 1 / memory)^(outcomes since, of any group),

        reward_g(x) = m_g(x) + x . (A_g + ridge I)^-1 b_g.

    So what has been learned fades with time, also for a response group that is not asked any more, and what remains is
    m_g: a group that was bad once is tried again. Only the answer's own reward is needed ("bandit feedback"); it may
    come late, or never. Expected costs are multiplied by the ratio of actual to expected cost, over some 64 outcomes of
    the response group.

    **Sudden changes** (a model is replaced and says nothing): per response group two cumulative sums of the
    standardised residuals e, S <- max(0, S + e - 1/2) upwards and the same downwards; above 10 the group has changed,
    what was learned of it is dropped, and it begins again with the outcomes since that sum was last 0 (`cautions`).
    Residuals are beyond what is known when the outcome comes, however late that is, and beyond their own mean over some
    256 outcomes: a group that is rarely asked leans on m_g, whose error is no change.

    Args:
        groups: Response groups, from the cheapest to the most expensive.
        num_features: F; the first feature should be 1.
        memory: Outcomes after which what was learned has faded to 1/e.
        ridge: How many outcomes m_g is worth.

    Raises:
        IbpoError: No response group, two of one name, or a number that is out of range.

    Example:
        >>> router = OnlineRouter(["short", "long"], num_features=1)
        >>> for i in range(200):
        ...     _ = router.predict(str(i), [1.0], reward=[0.5, 0.5], cost=[1.0, 10.0])
        ...     _ = router.learn(str(i), "long" if i % 2 else "short", reward=0.9 if i % 2 else 0.4)
        >>> scores = router.predict("200", [1.0], reward=[0.5, 0.5], cost=[1.0, 10.0])
        >>> round(scores.gain[1], 1)
        0.5
    """

    def __init__(
        self, groups: Sequence[str], num_features: int, *, memory: float = 1000.0, ridge: float = 10.0
    ) -> None:
        if isinstance(groups, str) or not groups or len(set(groups)) < len(groups):
            raise IbpoError("an online router needs a list of response groups of different names")
        memory, ridge = _as_float(memory), _as_float(ridge)
        if num_features < 1 or not 1 < memory < math.inf or not 0 < ridge < math.inf:
            raise IbpoError(
                f"an online router needs num_features >= 1, memory > 1 and ridge > 0, all finite; they are "
                f"{num_features}, {memory!r} and {ridge!r}"
            )
        self.num_features, self.memory, self.ridge = num_features, memory, ridge
        self.num_outcomes = 0
        """Rewards learned from."""
        self._groups: dict[str, _Learned] = {}
        self._requests: OrderedDict[str, _Asked] = OrderedDict()  # that wait for their reward
        self._unpaid: OrderedDict[str, tuple[float, ...]] = OrderedDict()  # for their cost: what it was expected to be
        for group in groups:
            self.add_group(group)

    @property
    def groups(self) -> tuple[str, ...]:
        """The response groups, in the order of `predict`'s lists."""
        return tuple(self._groups)

    def add_group(self, group: str) -> None:
        """A response group that is new, e.g. a model that is added while others serve: it is at the end of `groups`."""
        if group in self._groups:
            raise IbpoError(f"response group {group!r} is known already; give a new one another name")
        self._groups[group] = _Learned(self.num_features)

    def predict(
        self, request_id: str, features: Sequence[float] | FloatArray, *, reward: Sequence[float], cost: Sequence[float]
    ) -> OnlineScores:
        """Expected gains and costs of a request; it is remembered until its outcome comes.

        Args:
            request_id: As for `learn`.
            features: `[F]` x.
            reward: `[G]` m_g(x): what to expect where nothing is learned.
            cost: `[G]` the same of the cost.

        Raises:
            IbpoError: A wrong length, or a number that is not finite or above 1e100: its square is no float.
        """
        x = np.asarray(features if isinstance(features, np.ndarray) else list(map(_as_float, features)), float)
        if x.shape != (self.num_features,) or not (np.abs(x) <= MOST_NUMBER).all():
            raise IbpoError(
                f"request {request_id!r}: needs {self.num_features} finite features, {MOST_NUMBER:g} at most in size"
            )
        before, costs = list(map(_as_float, reward)), list(map(_as_float, cost))
        if not len(before) == len(costs) == len(self._groups) or not all(map(_is_usable, [*before, *costs])):
            raise IbpoError(
                f"request {request_id!r}: needs a finite reward and cost, {MOST_NUMBER:g} at most in size, for each of "
                f"{self.groups}"
            )
        expected: list[float] = []
        for known, group in zip(before, self._groups.values(), strict=True):
            expected.append(known + float(x @ group.weights(self.num_outcomes, self.memory, self.ridge)))
        ratios = [group.cost_ratio for group in self._groups.values()]
        costs = [max(0.0, value) for value in costs]
        self._requests[request_id] = _Asked(x, tuple(before))
        self._unpaid[request_id] = tuple(costs)
        for waiting in (self._requests, self._unpaid):
            while len(waiting) > _REMEMBERED:
                waiting.popitem(last=False)
        return OnlineScores(
            [value - expected[0] for value in expected],
            [value * ratio for value, ratio in zip(costs, ratios, strict=True)],
        )

    def learn(
        self, request_id: str, response_group: str, *, reward: float | None = None, cost: float | None = None
    ) -> bool:
        """The outcome of a request, or a part of it: what its answer was worth, and what it cost.

        Args:
            request_id: As given to `predict`.
            response_group: The one that answered.
            reward: In any unit, the same always; None: not known (yet).
            cost: At least 0; None: not known (yet).

        Returns:
            False if nothing was learned: the request is not known (any more), or this was reported before. Reward and
            cost may come in any order, and neither is learned twice.

        Raises:
            IbpoError: An unknown response group, a number that is not finite or above 1e100, or a cost below 0.
        """
        if response_group not in self._groups:
            raise IbpoError(f"request {request_id!r}: no response group {response_group!r}; known: {self.groups}")
        for name, value in (("reward", reward), ("cost", cost)):
            if value is not None and not _is_usable(known := _as_float(value)):
                raise IbpoError(
                    f"request {request_id!r}: {name} is {known!r}; it must be a finite number, {MOST_NUMBER:g} at most "
                    "in size"
                )
        if cost is not None and cost < 0:
            raise IbpoError(f"request {request_id!r}: cost is {cost!r}; it must be at least 0")
        place, group = self.groups.index(response_group), self._groups[response_group]
        asked, expected = self._requests.get(request_id), self._unpaid.get(request_id, ())
        # A response group that was added since is beyond what was expected.
        if reward is not None and (asked is None or place >= len(asked.before)):
            reward = None
        if cost is not None and place >= len(expected):
            cost = None
        if cost is not None:
            del self._unpaid[request_id]
            group.learn_cost(float(cost), expected[place])
        if reward is not None and asked is not None:
            del self._requests[request_id]
            self.num_outcomes += 1
            group.learn(
                asked.x,
                float(reward) - asked.before[place],
                abs(float(reward)),
                self.num_outcomes,
                self.memory,
                self.ridge,
            )
        return cost is not None or reward is not None

    def before(self, request_id: str, response_group: str) -> float | None:
        """m_g(x) of a request whose outcome may still come; None: it is not known, or the group came after it."""
        asked, place = self._requests.get(request_id), self.groups.index(response_group)
        return asked.before[place] if asked is not None and place < len(asked.before) else None

    def cautions(self) -> list[str]:
        """A sentence for each response group that has changed suddenly, the last change of each."""
        return [
            f"response group {name!r} has become {'better' if group.last_change > 0 else 'worse'} by "
            f"{abs(group.last_change):.3g} at once (change number {group.num_changes}): it is learned again"
            for name, group in self._groups.items()
            if group.num_changes
        ]

    def state_dict(self) -> dict[str, Any]:
        """What has been learned, for JSON; requests that wait for their outcome are not kept."""
        return {
            "version": _VERSION,
            "num_features": self.num_features,
            "num_outcomes": self.num_outcomes,
            "groups": {name: group.state() for name, group in self._groups.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, by the names of the response groups.

        A group that it does not know begins again; what it knows besides, added since, comes after those given here.

        Raises:
            IbpoError: A state of something else, or of other features.
        """
        try:
            if state["version"] != _VERSION or state["num_features"] != self.num_features:
                raise IbpoError(
                    f"state: of version {state['version']!r} with {state['num_features']!r} features, not "
                    f"{self.num_features}; start again without it"
                )
            groups = {name: _Learned.from_state(self.num_features, row) for name, row in state["groups"].items()}
            num_outcomes = int(state["num_outcomes"])
            if any(group.at > num_outcomes for group in groups.values()):
                raise ValueError(f"a group has learned after the last of {num_outcomes} outcomes")
        except IbpoError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IbpoError(f"state: not one of OnlineRouter.state_dict: {error!r}; start again without it") from None
        self.num_outcomes = num_outcomes
        self._groups = {name: groups.pop(name, group) for name, group in self._groups.items()} | groups
        self._requests.clear()
        self._unpaid.clear()


def _as_float(value: float) -> float:
    """A number as a float: infinite where it is whole and larger than any of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_usable(value: float) -> bool:
    return abs(value) <= MOST_NUMBER


def _solved(gram: FloatArray, moment: FloatArray) -> FloatArray:
    """Weights `[F]` of a regression; the shortest where features are so large that the ridge is lost in rounding."""
    try:
        return np.asarray(np.linalg.solve(gram, moment), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(gram, moment)[0], np.float64)


class _Asked(NamedTuple):
    """A request that waits for its reward."""

    x: FloatArray
    before: tuple[float, ...]
    """`[G]` m_g(x)."""


class _Learned:
    """What is known of one response group."""

    def __init__(self, num_features: int) -> None:
        self.gram: FloatArray = np.zeros((num_features, num_features))  # A
        self.moment: FloatArray = np.zeros(num_features)  # b
        self.at = 0  # outcomes, of any group, when both were last changed
        self.num, self.mean, self.variance = 0, 0.0, 0.0  # outcomes since the last change, of their residuals
        self.largest = 0.0  # reward
        self.up, self.down, self.since_up, self.since_down = (
            0.0,
            0.0,
            0,
            0,
        )  # cumulative sums, outcomes since each was 0
        self.recent: deque[tuple[FloatArray, float, int]] = deque(maxlen=_RECENT)  # x, target, when
        self.num_changes, self.last_change = 0, 0.0
        self.paid, self.asked, self.num_costs = 0.0, 0.0, 0.0  # weighted sums of actual and expected costs, and of 1
        self._weights: FloatArray | None = None
        self._solved_at = 0

    @property
    def cost_ratio(self) -> float:
        """By what to multiply an expected cost; it is worth one outcome that it is right."""
        if not self.asked > 0:
            return 1.0
        unit = self.asked / self.num_costs
        return min(MOST_NUMBER, (self.paid + unit) / (self.asked + unit))

    def weights(self, now: int, memory: float, ridge: float) -> FloatArray:
        """(A + ridge I)^-1 b, as of now; solved again after each change, and where it has faded by a hundredth."""
        known = self._weights
        if known is None or now - self._solved_at > memory / 100:
            known = self._solve(now, memory, ridge)
            self._weights, self._solved_at = known, now
        return known

    def _solve(self, now: int, memory: float, ridge: float) -> FloatArray:
        kept = (1 - 1 / memory) ** (now - self.at)
        gram = kept * self.gram
        gram.flat[:: len(gram) + 1] += ridge
        return _solved(gram, kept * self.moment)

    def learn(self, x: FloatArray, target: float, size: float, now: int, memory: float, ridge: float) -> None:
        """One outcome: `target` beyond m_g(x), `size` of the reward itself."""
        # Beyond a fit that leans little on m_g: while the one that is used still comes away from it, nothing changes.
        residual = target - float(x @ self._solve(now, memory, _ALARM_RIDGE * ridge)) - self.mean
        self._take(x, target, (1 - 1 / memory) ** (now - self.at))
        self.at = now
        self.recent.append((x, target, now))
        self.num += 1
        self.largest = max(self.largest, size)
        part = max(2 / (self.num + 1), 1 / _MEAN_MEMORY)
        spread = max(math.sqrt(self.variance), _LEAST_SPREAD * self.largest)
        # Not clipped: where an answer is nearly always right, the rare wrong one is most of the variance.
        self.variance = (1 - part) * (self.variance + part * residual * residual)
        self.mean += part * residual
        if self.num <= max(_FEWEST, 4 * ridge) or spread == 0:  # before that m_g's own error is still being learned
            return
        off = min(_CLIP, max(-_CLIP, residual / spread))
        self.up, self.down = max(0.0, self.up + off - _ALLOWANCE), max(0.0, self.down - off - _ALLOWANCE)
        self.since_up = self.since_up + 1 if self.up else 0
        self.since_down = self.since_down + 1 if self.down else 0
        if max(self.up, self.down) > _LIMIT:
            self._begin_anew(min(_RECENT, self.since_up if self.up > self.down else self.since_down), memory, ridge)

    def learn_cost(self, actual: float, expected: float) -> None:
        """What an answer cost."""
        kept = 1 - 1 / _COST_MEMORY
        self.num_costs = kept * self.num_costs + 1
        self.paid, self.asked = kept * self.paid + actual, kept * self.asked + expected

    def _take(self, x: FloatArray, target: float, kept: float) -> None:
        self.gram *= kept
        self.moment *= kept
        self.gram += np.outer(x, x)
        self.moment += target * x
        self._weights = None

    def _begin_anew(self, num: int, memory: float, ridge: float) -> None:
        """Drop what was learned, except the last `num` outcomes."""
        rows = list(self.recent)[-num:]
        # Beside what the outcomes before these said, which are almost all of A and b; these have faded in them, too.
        older, moment = self.gram.copy(), self.moment.copy()
        for x, target, when in rows:
            kept = (1 - 1 / memory) ** (self.at - when)
            older -= kept * np.outer(x, x)
            moment -= kept * target * x
        older.flat[:: len(older) + 1] += ridge
        weights = _solved(older, moment)
        self.gram[:], self.moment[:] = 0.0, 0.0
        for x, target, _ in rows:
            self._take(x, target, 1.0)
        self.recent.clear()
        self.recent.extend(rows)
        self.last_change = float(np.mean([target - x @ weights for x, target, _ in rows]))
        self.num_changes += 1
        self.num, self.mean = 0, 0.0
        self.up = self.down = 0.0
        self.since_up = self.since_down = 0

    def state(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "gram": self.gram.tolist(),
            "moment": self.moment.tolist(),
            "recent": [[x.tolist(), target, when] for x, target, when in self.recent],
            **{name: getattr(self, name) for name in (*self._COUNTS, *self._NUMBERS)},
        }

    _COUNTS = ("at", "num", "since_up", "since_down", "num_changes")
    _NUMBERS = ("mean", "variance", "largest", "up", "down", "last_change", "paid", "asked", "num_costs")
    _SIGNED = ("mean", "last_change")

    @classmethod
    def from_state(cls, num_features: int, state: Mapping[str, Any]) -> _Learned:
        """The inverse of `state`."""
        learned = cls(num_features)
        learned.gram, learned.moment = np.array(state["gram"], float), np.array(state["moment"], float)
        if learned.gram.shape != (num_features, num_features) or learned.moment.shape != (num_features,):
            raise ValueError("arrays of another size")
        learned.recent.extend((np.array(x, float), float(target), int(when)) for x, target, when in state["recent"])
        if any(x.shape != (num_features,) for x, _, _ in learned.recent):
            raise ValueError("outcomes of another size")
        for names, kind in ((cls._COUNTS, int), (cls._NUMBERS, float)):
            for name in names:
                setattr(learned, name, kind(state[name]))
        least = [getattr(learned, name) for name in (*cls._COUNTS, *cls._NUMBERS) if name not in cls._SIGNED]
        others = [learned.mean, learned.last_change, *learned.moment, *learned.gram.ravel()]
        others += [value for x, target, _ in learned.recent for value in (*x, target)]
        if not all(map(math.isfinite, [*least, *others])) or min(least) < 0:
            raise ValueError("a number that is not finite, or is below 0")
        if learned.asked > 0 and not learned.num_costs > 0:
            raise ValueError("costs of no outcome")
        return learned
