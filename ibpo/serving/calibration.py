"""Hold the budget on unseen prompts by a threshold on the policy's own choice, set on unlabelled prompts.

The policy's probability of an extended response, or a router's gain, is stored as a quantile curve: one policy, and the
threshold for any budget after training. A threshold cannot notice that traffic changes; `ibpo.serving.controller` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.errors import IbpoError
from ibpo.runs import read_document, write_text_atomic

KIND = "ibpo.calibration"
_VERSION = 1
MAX_SCORES = 2001
"""Scores stored: of more, every budget's threshold is still exact to 1/2000 of the prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Answer a prompt extended if the policy's probability of opening so lies above `value`."""

    value: float
    tie_share: float
    """The part of the prompts whose probability equals `value` that is answered extended too."""
    share: float
    """The budget that was asked for."""
    calibration_share: float
    """Share of the calibration prompts that this threshold answers extended: below `share` where the floor bites."""
    num_prompts: int
    """Number of calibration prompts."""

    def choose(self, p_extended: ArrayLike) -> NDArray[np.bool_]:
        """Which prompts to answer extended.

        Ties are split evenly in the order of the prompts: after j tied ones, floor(j tie_share) are extended.

        Args:
            p_extended: `[P]` probability of opening an extended response.

        Returns:
            `[P]` True where the prompt is answered extended.

        Example:
            >>> find_threshold([0.9, 0.9, 0.9, 0.9], share=0.5).choose([0.95, 0.9, 0.9, 0.1]).tolist()
            [True, False, True, False]
        """
        p_P = np.atleast_1d(np.asarray(p_extended, float))
        tied_P = p_P == self.value
        quota_P = np.floor(np.cumsum(tied_P) * self.tie_share + 1e-9)
        chosen_P = p_P > self.value
        chosen_P[tied_P] = np.diff(quota_P, prepend=0.0)[tied_P] > 0
        return chosen_P


def find_threshold(p_extended: ArrayLike, share: float, floor: float = 0.0, *, are_gains: bool = False) -> Threshold:
    r"""The (1 - share) quantile of the policy's probability of an extended response, over unlabelled prompts.

    Let m = floor(share n) and p_(1) >= ... >= p_(n) the sorted probabilities. The threshold lies halfway between p_(m)
    and p_(m+1), so exactly m calibration prompts are above it; an unseen prompt from the same source is above it with
    probability about share, whatever the policy is (the sampling error of a quantile: sqrt(share (1 - share) / n)).
    Halfway, because the expected share of unseen prompts above p_(m) itself is m / (n + 1), too few, and above p_(m+1)
    it is (m + 1) / (n + 1), too many. If p_(m) = p_(m+1), the tied prompts are split, `tie_share` of them extended.

    A budget is a bound, not a target: where it had slack in training (price 0), the policy's choice is what pays, not
    what it may spend, and a prompt that it would rather answer standard (p <= 1/2) gains nothing. `floor=0.5` leaves
    such prompts alone and the rest of the budget unspent. Where the budget was binding, the policy was denied what
    would have paid, and there must be no floor.

    Args:
        p_extended: `[n]` probabilities on the calibration prompts; or a router's gains, which may be negative.
        share: The budget q+ in [0, 1]: the largest share of extended responses.
        floor: Prompts whose probability is not above this are never answered extended; 0 for no floor, but of gains it
            leaves alone those that are not above 0.
        are_gains: Whether they are gains, which they are anyway where one is negative.

    Returns:
        The threshold; without a floor, on the calibration prompts its `choose` takes exactly m.

    Raises:
        IbpoError: No prompts, a score that is not finite, or a share or floor outside [0, 1].

    Example:
        >>> found = find_threshold([0.1, 0.8, 0.3, 0.6], share=0.5)
        >>> round(found.value, 3), found.calibration_share
        (0.45, 0.5)
        >>> found = find_threshold([0.1, 0.8, 0.3, 0.6], share=0.75, floor=0.5)
        >>> found.value, found.calibration_share
        (0.5, 0.5)
    """
    p_n = np.sort(np.asarray(p_extended, float).ravel())[::-1]
    if not len(p_n):
        raise IbpoError("calibration: no prompts; a threshold needs at least one")
    if not np.isfinite(p_n).all():
        raise IbpoError("calibration: a score is not finite; give probabilities or gains")
    for name, value in (("share", share), ("floor", floor)):
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise IbpoError(f"calibration: the {name} is {value!r}; it must be a number in [0, 1]")
    admitted = int(np.floor(share * len(p_n) + 1e-9))
    probable = p_n[-1] >= 0 and p_n[0] <= 1
    value, tie_share = (1.0 if probable else np.inf), 0.0  # no probability lies above 1
    if admitted == len(p_n):
        value, tie_share = (0.0 if probable else -np.inf), 1.0
    elif admitted > 0:
        above, below = p_n[admitted - 1], p_n[admitted]
        value = float((above + below) / 2)
        if above == below:
            tie_share = float((admitted - (p_n > value).sum()) / (p_n == value).sum())
        elif value >= above:  # neighbouring floats have no number between them
            value = float(below)
    if (floor > 0 or are_gains or p_n[-1] < 0) and value <= floor:
        value, tie_share, admitted = floor, 0.0, min(admitted, int((p_n > floor).sum()))
    return Threshold(
        value=value,
        tie_share=tie_share,
        share=float(share),
        calibration_share=admitted / len(p_n),
        num_prompts=len(p_n),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The scores of the calibration prompts, from the smallest up, and where they come from.

    Example:
        >>> calibration = Calibration.from_scores([0.1, 0.8, 0.3, 0.6], source={"file": "prompts.jsonl"})
        >>> [round(calibration.threshold(share).value, 2) for share in (0.25, 0.5)]
        [0.7, 0.45]
        >>> Calibration.from_json(calibration.to_json()) == calibration
        True
    """

    scores: tuple[float, ...]
    """Rising: all of them, or, where there are more than 2001, that many quantiles with equal steps of the share."""
    num_prompts: int
    source: Mapping[str, Any]
    """Provenance: file, its SHA-256, column, model, package version."""
    floor: float = 0.0
    """Prompts whose score is not above this are never answered extended, whatever the budget."""
    are_gains: bool = False
    """Whether the scores are gains, of which none at or below 0 is bought."""

    @classmethod
    def from_scores(
        cls, scores: ArrayLike, source: Mapping[str, Any], floor: float = 0.0, *, are_gains: bool = False
    ) -> Calibration:
        """Keep the curve.

        Args:
            scores: `[n]` probability of opening an extended response, or a router's gain.
            source: Provenance.
            floor: 0.5 for a policy whose budget had slack in training; see `find_threshold`.
            are_gains: See there.

        Raises:
            IbpoError: No scores, or one that is not finite, a probability above 1, or a floor outside [0, 1].
        """
        find_threshold(scores, 0.0, floor)  # which complains of what cannot be used
        given_n = np.asarray(scores, float).ravel()
        if not are_gains and given_n.min() >= 0 and given_n.max() > 1:  # a negative one says that they are gains
            place = int(np.flatnonzero(given_n > 1)[0])
            raise IbpoError(
                f"calibration: scores[{place}] is {given_n[place]:g}; a probability is in [0, 1]; of gains say "
                "are_gains=True"
            )
        score_n = np.sort(given_n)
        kept = score_n
        if len(score_n) > MAX_SCORES:
            # The middle score of each of 2001 equal parts: none is invented.
            kept = score_n[((np.arange(MAX_SCORES) + 0.5) * len(score_n) / MAX_SCORES).astype(int)]
        return cls(
            scores=tuple(kept.tolist()),
            num_prompts=len(score_n),
            source=dict(source),
            floor=float(floor),
            are_gains=are_gains,
        )

    def threshold(self, share: float) -> Threshold:
        """The threshold that answers this share of the prompts extended: see `find_threshold`."""
        found = find_threshold(self.scores, share, self.floor, are_gains=self.are_gains)
        return replace(found, num_prompts=self.num_prompts)  # of which the scores may be some

    def standard_error(self, share: float) -> float:
        """Standard error of the share on unseen prompts from the same source: sqrt(share (1 - share) / n)."""
        return math.sqrt(share * (1 - share) / self.num_prompts)

    def to_json(self) -> str:
        """One JSON object; numbers keep every bit."""
        row = {
            "kind": KIND,
            "version": _VERSION,
            "num_prompts": self.num_prompts,
            "source": dict(self.source),
            "floor": self.floor,
            "are_gains": self.are_gains,
            "scores": list(self.scores),
        }
        return json.dumps(row, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "calibration") -> Calibration:
        """The inverse of `to_json`.

        Args:
            text: The JSON.
            where: Names it in errors.

        Raises:
            IbpoError: Something else, or damaged.
        """
        row = read_document(text, where, KIND, _VERSION, "ibpo calibrate")
        scores, count, source = row.get("scores"), row.get("num_prompts"), row.get("source")
        good = isinstance(scores, list) and all(map(_is_finite, scores))
        if not (good and scores and scores == sorted(scores)):
            raise IbpoError(f"{where}: field scores: needs rising numbers; make it again")
        if not isinstance(count, int) or count < len(scores) or not isinstance(source, dict):
            raise IbpoError(f"{where}: field num_prompts or source is damaged; make it again")
        floor = row.get("floor", 0.0)
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise IbpoError(f"{where}: field floor: needs a number in [0, 1]; make it again")
        are_gains = row.get("are_gains", False)
        if not isinstance(are_gains, bool):
            raise IbpoError(f"{where}: field are_gains: needs true or false; make it again")
        scores = tuple(map(float, scores))
        return cls(scores=scores, num_prompts=count, source=source, floor=float(floor), are_gains=are_gains)


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration; the file is whole or absent.

    Raises:
        IbpoError: The file cannot be written.
    """
    write_text_atomic(Path(path), calibration.to_json())


def is_calibration(path: str | Path) -> bool:
    """Whether a file says that `ibpo calibrate` wrote it."""
    try:
        with open(path, "rb") as file:
            return KIND.encode() in file.read(200)
    except OSError:
        return False


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises:
        IbpoError: No such file, or no calibration.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IbpoError(f"{path}: cannot be read: {error}; make it with ibpo calibrate") from None
    return Calibration.from_json(text, str(path))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def check_scores(where: Sequence[str], scores: Sequence[Any], *, probable: bool = False) -> list[float]:
    """Scores as read from a file: probabilities, or a router's gains, which may be negative.

    Args:
        where: Names each row in errors.
        scores: As read.
        probable: Whether each has to be in [0, 1].

    Raises:
        IbpoError: Names the row.
    """
    checked = []
    for place, value in zip(where, scores, strict=True):
        if isinstance(value, dict):
            column = place.rpartition(" ")[2].strip("'")
            names = ", ".join(f"{column}.{name}" for name in value)
            raise IbpoError(f"{place}: holds several numbers; name one of {names}")
        number = _is_finite(value)
        if probable and not (number and 0 <= value <= 1):
            raise IbpoError(f"{place}: {value!r} is not a probability; it must be a number in [0, 1]")
        if not number:
            raise IbpoError(f"{place}: {value!r} is not a gain; it must be a finite number")
        checked.append(float(value))
    return checked
