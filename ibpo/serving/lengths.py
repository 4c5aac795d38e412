"""How long will an answer be, by how long its prompt is and what earlier answers took? A mean, and a quantile.

Learned while serving, of each response group: from the answers in the order in which they *began*, each only when all
before it have ended, for those that end first are the short ones. One that takes very long is waited for no longer, and
learned from when it ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ibpo.errors import IbpoError
from ibpo.serving.controller import show

_SHORTEST, _LONGEST, _PER_VARIANCE = 256.0, 4096.0, 400.0
"""Answers of a group over which its mean is taken, about: 400 squared coefficients of variation, within these. Then the
mean has a standard error of some 5 %, and follows the traffic as soon as that allows."""
_MEMORY = 512
"""Answers of a group over which the quantile is taken."""
_BIN_MEMORY = 64
"""The same of the answers to prompts of one size."""
_ERROR_MEMORY = 2048
"""Answers over which both predictions are compared."""
_GATE = 0.99
"""By what the squared error has to be smaller with the size."""
_FEWEST = 31.0
"""Weight of a group's answers, which fade a little, before they are believed: some 32."""
_PRIOR = 16.0
"""As many answers as what is known beforehand of a size counts for."""
_PER_OCTAVE = 3
_QUANTILES_PER_OCTAVE = 4
_WIDEST = 6 * _QUANTILES_PER_OCTAVE
_MOST_FOLLOWED = 16_384
_MOST_SIZE = 1e100
"""No length and no size is larger: squares of larger ones are no floats."""
_MOST_WAIT = 1024
"""Later answers of its group after which one that has not ended is waited for no longer."""


class Length(NamedTuple):
    """What is expected of one answer, in tokens."""

    mean: float
    most: float
    """Exceeded by one answer in twenty."""


class Lengths:
    r"""Predicts the lengths of answers.

    With m_g the mean length of group g, over 256 to 4,096 answers, the more they differ the more, and b the size of the
    prompt (thirds of an octave),

        mean(g, b) = m_g r_gb,    r_gb = (n_gb R_gb + 16 r_b) / (n_gb + 16),    r_b = (n_b R_b + 16) / (n_b + 16),

    R being the mean of length / m_g over about the last 64 answers of that size, of the group and of all groups
    together, and n their number. So prompts of which nothing is known get their group's mean, and a group of which
    little is known leans on what sizes do to the others; before 32 answers of a group have ended it is the guess. Where
    the size has told nothing so far (mean(g, b) had not 1 % less squared error than m_g over about the last 2,048
    answers of the group), it is left out. The quantile is the mean times that of the ratio of actual to predicted
    length, from a histogram of quarter octaves.

    Example:
        >>> lengths = Lengths()
        >>> for i in range(100):
        ...     _ = lengths.begin(str(i), "long", size=100 if i % 2 else 10_000, guess=500.0)
        ...     lengths.end(str(i), 200.0 if i % 2 else 2000.0)
        >>> [round(lengths.expect("long", size, 500.0).mean, -2) for size in (100, 10_000, 10)]
        [300.0, 1900.0, 1100.0]
    """

    def __init__(self) -> None:
        self.num_believed = 0
        """Response groups of which enough is known to leave the guess."""
        self._means: dict[str, list[float]] = {}  # group -> weight, weighted sums of lengths, of squares
        self._bins: dict[str, list[float]] = {}  # size, or group and size -> weight, weighted sum of ratios
        self._errors: dict[str, list[float]] = {}  # group -> squared errors: of mean(g, b), and of m_g
        self._ratios: dict[str, list[float]] = {}  # group -> weights of actual / predicted, by quarter octaves
        self._begun: dict[str, deque[tuple[str, int]]] = {}
        self._number: dict[str, int] = {}
        self._open: dict[str, tuple[str, str, float, bool]] = {}  # id -> group, size, predicted, waited for no longer
        self._ended: dict[str, float | None] = {}

    def expect(self, group: str, size: float, guess: float) -> Length:
        """What is expected of an answer.

        Args:
            group: Any name of the response group; model and group, where there are several models.
            size: Size of the prompt, in any unit, always the same.
            guess: Tokens, before anything is known of the group.

        Raises:
            IbpoError: A number that is not finite, below 0 or above 1e100.
        """
        if not (0 <= size <= _MOST_SIZE and 0 <= guess <= _MOST_SIZE):
            raise IbpoError(
                f"lengths: the size of a prompt is {show(size)} and the guess {show(guess)}; both must be finite, from "
                f"0 to {_MOST_SIZE:g}"
            )
        mean, by_size = self._both(group, _bin(size), guess)
        errors = self._errors.get(group)
        if errors is None or errors[0] < _GATE * errors[1]:
            mean = by_size
        return Length(mean, mean * self._quantile(group))

    def _both(self, group: str, size_bin: str, guess: float) -> tuple[float, float]:
        """m_g, and mean(g, b)."""
        weight, total, _ = self._means.get(group, (0.0, 0.0, 0.0))
        if weight < _FEWEST:
            return guess, guess
        mean = total / weight
        alike = _shrink(self._bins.get(size_bin), 1.0)
        return mean, mean * _shrink(self._bins.get(f"{group} {size_bin}"), alike)

    def begin(self, request_id: str, group: str, *, size: float, guess: float) -> Length:
        """An answer begins; what is expected of it."""
        found = self.expect(group, size, guess)
        self._number[group] = self._number.get(group, 0) + 1
        begun = self._begun.setdefault(group, deque())
        if len(self._open) < _MOST_FOLLOWED and request_id not in self._open:
            begun.append((request_id, self._number[group]))
            self._open[request_id] = group, _bin(size), found.mean, False
        return found

    def given(self, request_id: str, so_far: float) -> float:
        """How long an answer in flight is expected to be in all, now that so much of it has come.

        Raises:
            IbpoError: A number that is not finite, below 0 or above 1e100.
        """
        _check_length(so_far)
        found = self._open.get(request_id)
        if found is None:
            return so_far
        group, _, predicted, _ = found
        if so_far <= 0 or predicted <= 0:
            return max(predicted, so_far)
        weights = self._ratios.get(group, ())
        edge = math.log2(so_far / predicted) * _QUANTILES_PER_OCTAVE + _WIDEST
        longer = [(w, 2.0 ** ((i - 0.5 - _WIDEST) / _QUANTILES_PER_OCTAVE)) for i, w in enumerate(weights) if i > edge]
        total = sum(w for w, _ in longer)
        if total < 1.0:  # longer than nearly all: a quarter more
            return max(predicted, 1.25 * so_far)
        return max(so_far, predicted * sum(w * ratio for w, ratio in longer) / total)

    def end(self, request_id: str, tokens: float | None) -> None:
        """An answer has ended; None: it is not known how long it was, and nothing is learned of it.

        Raises:
            IbpoError: A number that is not finite, below 0 or above 1e100; the answer has not ended then.
        """
        if tokens is not None:
            _check_length(tokens)
        if request_id not in self._open or request_id in self._ended:
            return
        self._ended[request_id] = tokens
        group, _, _, is_late = self._open[request_id]
        if is_late:
            self._close(request_id)
            return
        begun = self._begun[group]
        while begun:
            name, number = begun[0]
            if name in self._ended:
                self._close(name)
            elif self._number[group] - number > _MOST_WAIT:
                self._open[name] = (*self._open[name][:3], True)
            else:
                break
            begun.popleft()

    def _close(self, request_id: str) -> None:
        group, size_bin, predicted, _ = self._open.pop(request_id)
        actual = self._ended.pop(request_id)
        if actual is not None:
            self._learn(group, size_bin, predicted, actual)

    def _learn(self, group: str, size_bin: str, predicted: float, actual: float) -> None:
        if group in self._means:
            errors = self._errors.setdefault(group, [0.0, 0.0])
            for place, guess in enumerate(reversed(self._both(group, size_bin, actual))):
                errors[place] += (guess - actual) ** 2 - errors[place] / _ERROR_MEMORY
        mean = self._means.setdefault(group, [0.0, 0.0, 0.0])
        squared = mean[2] * mean[0] / max(mean[1], 1e-9) ** 2 - 1 if mean[0] >= _FEWEST else 1.0
        kept = 1 - 1 / min(_LONGEST, max(_SHORTEST, _PER_VARIANCE * squared))
        before = mean[0]
        mean[:] = mean[0] * kept + 1, mean[1] * kept + actual, mean[2] * kept + actual * actual
        if before < _FEWEST <= mean[0]:
            self.num_believed += 1
        ratio = actual / max(mean[1] / mean[0], 1e-9)
        for name in (size_bin, f"{group} {size_bin}"):
            row = self._bins.setdefault(name, [0.0, 0.0])
            row[0], row[1] = row[0] * (1 - 1 / _BIN_MEMORY) + 1, row[1] * (1 - 1 / _BIN_MEMORY) + ratio
        weights = self._ratios.setdefault(group, [0.0] * (2 * _WIDEST + 1))
        weights[:] = [weight * (1 - 1 / _MEMORY) for weight in weights]
        octaves = math.log2(max(actual, 1e-9) / max(predicted, 1e-9))
        weights[max(-_WIDEST, min(_WIDEST, math.ceil(octaves * _QUANTILES_PER_OCTAVE))) + _WIDEST] += 1

    def _quantile(self, group: str) -> float:
        """The factor that one answer in twenty exceeds; 2 before there are some."""
        weights = self._ratios.get(group)
        total = sum(weights) if weights else 0.0
        if weights is None or total < _PRIOR:
            return 2.0
        left = 0.95 * total
        for place, weight in enumerate(weights):
            if left <= weight:
                octaves = (place - 1 + left / weight - _WIDEST) / _QUANTILES_PER_OCTAVE if weight else 0.0
                return max(1.0, 2.0**octaves)
            left -= weight
        return 2.0 ** (_WIDEST / _QUANTILES_PER_OCTAVE)

    def state_dict(self) -> dict[str, Any]:
        """What has been learned, for JSON; what is in flight is forgotten."""
        return {"means": self._means, "bins": self._bins, "errors": self._errors, "ratios": self._ratios}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            IbpoError: A state of something else.
        """
        try:
            means, bins, errors, ratios = (
                {name: _read_row(row, size) for name, row in state[key].items()}
                for key, size in (("means", 3), ("bins", 2), ("errors", 2), ("ratios", 2 * _WIDEST + 1))
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IbpoError(f"state: not one of Lengths.state_dict: {error!r}; start again without it") from None
        self._means, self._bins, self._errors, self._ratios = means, bins, errors, ratios
        self.num_believed = sum(row[0] >= _FEWEST for row in means.values())


def _read_row(row: Sequence[float], size: int) -> list[float]:
    """So many numbers of a state.

    Raises:
        ValueError: They are not.
    """
    found = list(map(float, row))
    if len(found) != size or not all(0 <= value < math.inf for value in found):
        raise ValueError(f"{found} are not {size} finite numbers from 0 on")
    return found


def _check_length(tokens: float) -> None:
    if not 0 <= tokens <= _MOST_SIZE:
        raise IbpoError(
            f"lengths: the length of an answer is {show(tokens)}; it must be a finite number from 0 to {_MOST_SIZE:g}"
        )


def _bin(size: float) -> str:
    return str(round(_PER_OCTAVE * math.log2(max(1.0, size))))


def _shrink(row: list[float] | None, towards: float) -> float:
    """The mean ratio of a row, as far as it is known."""
    return towards if row is None else (row[1] + _PRIOR * towards) / (row[0] + _PRIOR)
