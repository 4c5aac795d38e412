"""A policy's choice on unlabelled prompts, kept as a quantile curve: the threshold for any budget, after training."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ibpo.errors import IbpoError
from ibpo.runs import write_text_atomic
from ibpo.serving.calibrate import Threshold, threshold

KIND = "ibpo.calibration"
VERSION = 1
MAX_SCORES = 2001
"""Scores kept: of more, every budget's threshold is still exact to 1/2000 of the prompts."""


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
    """Rising: all, or of more than 2001 that many quantiles with equal steps of the share."""
    num_prompts: int
    source: Mapping[str, Any]
    """Provenance: file, its SHA-256, column, model, package version."""
    floor: float = 0.0
    """Prompts whose score is not above this are never answered extended, whatever the budget."""

    @classmethod
    def from_scores(cls, scores: ArrayLike, source: Mapping[str, Any], floor: float = 0.0) -> Calibration:
        """Keep the curve.

        Args:
            scores: `[n]` probability of opening an extended response, or a router's gain.
            source: Provenance.
            floor: 0.5 for a policy whose budget had slack in training; see `ibpo.serving.calibrate.threshold`.

        Raises:
            IbpoError: No scores, or one that is not finite, or a floor outside [0, 1].
        """
        score_n = np.sort(np.asarray(scores, float).ravel())
        if not len(score_n):
            raise IbpoError("calibration: no prompts; it needs at least one")
        if not np.isfinite(score_n).all():
            raise IbpoError("calibration: a score is not finite; give probabilities or gains")
        if not 0 <= floor <= 1:
            raise IbpoError(f"calibration: the floor is {floor!r}; it must be in [0, 1]")
        kept = score_n
        if len(score_n) > MAX_SCORES:
            # The middle one of each of 2001 equal parts: none is invented.
            kept = score_n[((np.arange(MAX_SCORES) + 0.5) * len(score_n) / MAX_SCORES).astype(int)]
        return cls(scores=tuple(kept.tolist()), num_prompts=len(score_n), source=dict(source), floor=float(floor))

    def threshold(self, share: float) -> Threshold:
        """The threshold that answers this share of the prompts extended: see `ibpo.serving.calibrate.threshold`.

        Raises:
            IbpoError: A share outside [0, 1].
        """
        try:
            return threshold(self.scores, share, self.floor)
        except ValueError as error:
            raise IbpoError(f"calibration: {error}") from None

    def standard_error(self, share: float) -> float:
        """Of the share on unseen prompts from the same source: sqrt(share (1 - share) / n), of a quantile."""
        return math.sqrt(share * (1 - share) / self.num_prompts)

    def to_json(self) -> str:
        """One JSON object; numbers keep every bit."""
        row = {
            "kind": KIND,
            "version": VERSION,
            "num_prompts": self.num_prompts,
            "source": dict(self.source),
            "floor": self.floor,
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
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise IbpoError(f"{where}: not JSON: {error}; make it again with ibpo calibrate") from None
        if not isinstance(row, dict) or row.get("kind") != KIND:
            raise IbpoError(f"{where}: no calibration; make one with ibpo calibrate")
        if row.get("version") != VERSION:
            raise IbpoError(f"{where}: of version {row.get('version')!r}, this ibpo reads {VERSION}; make it again")
        scores, count, source = row.get("scores"), row.get("num_prompts"), row.get("source")
        good = isinstance(scores, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in scores)
        if not (good and scores and scores == sorted(scores)):
            raise IbpoError(f"{where}: field scores: needs rising numbers; make it again")
        if not isinstance(count, int) or count < len(scores) or not isinstance(source, dict):
            raise IbpoError(f"{where}: field num_prompts or source is damaged; make it again")
        floor = row.get("floor", 0.0)
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise IbpoError(f"{where}: field floor: needs a number in [0, 1]; make it again")
        return cls(scores=tuple(map(float, scores)), num_prompts=count, source=source, floor=float(floor))


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration; the file is whole or absent.

    Raises:
        IbpoError: The file cannot be written.
    """
    write_text_atomic(Path(path), calibration.to_json())


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


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if probable and not (number and 0 <= value <= 1):
            raise IbpoError(f"{place}: {value!r} is no probability; it must be a number in [0, 1]")
        if not number:
            raise IbpoError(f"{place}: {value!r} is no gain; it must be a finite number")
        checked.append(float(value))
    return checked
