"""A sum that does not depend on the order of its terms."""

import math

import numpy as np
from numpy.typing import NDArray

from ibpo.allocation.runs import slices_of


def exact_sum(values: NDArray[np.float64]) -> float:
    """The exact sum, rounded once, as `math.fsum` gives it, but at numpy's speed.

    Block by block; each round takes from every number of a block its leading bits on a common grid, so coarse that no
    addition rounds, until nothing is left (Demmel and Nguyen, "Fast reproducible floating-point summation", 2013, run
    to exhaustion). The sums of all rounds of all blocks go to `math.fsum`.

    Example:
        >>> exact_sum(np.array([1e16, 1.0, -1e16] * 1000))
        1000.0
    """
    if len(values) < 1000:
        return math.fsum(values.tolist()) + 0.0  # never -0.0
    parts: list[float] = []
    for rows in slices_of(len(values)):
        _split(values[rows], parts)
    return math.fsum(parts) + 0.0


def _split(rest: NDArray[np.float64], parts: list[float]) -> None:
    """Append numbers whose exact sum is that of the block."""
    carry = math.frexp(len(rest))[1] + 1
    while True:
        largest = max(float(rest.max()), -float(rest.min()))
        if largest == 0.0:
            return
        exponent = math.frexp(largest)[1] + carry
        if exponent > 1020:
            parts += rest.tolist()
            return
        grid = math.ldexp(1.5, exponent)
        leading = (rest + grid) - grid
        parts.append(float(leading.sum()))
        rest = rest - leading
