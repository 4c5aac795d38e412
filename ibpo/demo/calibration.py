"""The calibrated policy of a demo run: a threshold on its choice, which leaves slack unspent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ibpo.serving import find_threshold

LAST = 0.2
"""Part of the training, at its end, whose prices tell whether the budget had slack."""
Choice = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.bool_]]
"""(probabilities on unlabelled prompts, on the test's prompts, budget) -> which of the latter to answer extended."""


def had_slack(policy_dir: Path) -> bool:
    """Whether the budget bought nothing at the end of the training: the median price of the last updates is 0."""
    path = policy_dir / "metrics.json"
    if not path.exists():
        return False
    price = [step["ibpo/price/extended"] for step in json.loads(path.read_text()) if "ibpo/price/extended" in step]
    last = price[-max(1, round(LAST * len(price))) :]
    return bool(last) and median(last) <= 0


def calibrated_choice(seed_dir: Path) -> Choice:
    """The calibrated choice of this seed's policies: with a floor of one half for those whose budget had slack."""

    def choose(calibration: NDArray[np.float64], test: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
        slack = had_slack(seed_dir / "policies" / f"ibpo-{budget:g}")
        return find_threshold(calibration, budget, floor=0.5 if slack else 0.0).choose(test)

    return choose
