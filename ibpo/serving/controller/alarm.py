"""Has the traffic changed permanently? Speaks once per change. W requests, S figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_FEWEST = 128
_SIGMAS = 6.0
_PART = 0.5
_LENGTH = 512


class Alarm:
    """Compares the figures of the window with those of a reference: the window as it was when last it spoke.

    It speaks where a figure's mean has moved by more than 6 standard errors *and* by half of what it was (of its
    standard deviation, if that is larger): a change that is seen but small says nothing to anybody. Then it is silent
    for 512 requests, and the window is the new reference. So a jump is one alarm, and a slow ramp one for each half
    that it adds.
    """

    def __init__(self) -> None:
        self.num_drifts = 0
        self._reference: tuple[list[float], list[float], int] | None = None  # means, variances, requests
        self._silent = 0

    def watch(self, figures: FloatArray, num_new: int) -> None:
        """See the window.

        Args:
            figures: `[W, S]` of every request.
            num_new: How many of them are new.
        """
        size = len(figures)
        if self._silent > 0:
            self._silent -= num_new
            if self._silent > 0:
                return
            self._reference = None
        if size < (_FEWEST if self._reference is None else _FEWEST // 2):
            return
        mean, variance = moments(figures)
        if self._reference is not None:
            was, spread, length = self._reference
            gap = np.abs(mean - was)
            noise = _SIGMAS * np.sqrt(variance / size + np.array(spread) / length)
            if (gap > np.maximum(noise, _PART * np.maximum(np.abs(was), np.sqrt(spread)))).any():
                self.num_drifts += 1
                self._silent = _LENGTH
                return
            if length >= min(size, _LENGTH):
                return
        self._reference = mean.tolist(), variance.tolist(), size

    def expect_change(self) -> None:
        """What comes now differs because something has been learned: silent for 512 requests, then compared again."""
        self._silent, self._reference = _LENGTH, None

    def state(self) -> list[Any]:
        """Everything, for JSON."""
        return [self.num_drifts, self._silent, self._reference]

    @classmethod
    def from_state(cls, state: list[Any]) -> Alarm:
        """The inverse of `state`."""
        alarm = cls()
        alarm.num_drifts, alarm._silent, reference = state
        alarm._reference = None if reference is None else (reference[0], reference[1], reference[2])
        return alarm


def moments(figures: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance `[S]` of `[W, S]`: bit for bit numpy's, of one pass less."""
    mean = np.add.reduce(figures, axis=0) / len(figures)
    off = figures - mean
    off *= off
    return mean, np.add.reduce(off, axis=0) / len(figures)
