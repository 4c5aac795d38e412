"""A sum that does not depend on the order of its terms."""

import math

import numpy as np
from numpy.typing import NDArray


def exact_sum(values: NDArray[np.float64]) -> float:
    """The exact sum, rounded once, as `math.fsum` gives it, but at numpy's speed.

    Each round takes from every number its leading bits on a common grid, so coarse that no addition rounds, until
    nothing is left (Demmel and Nguyen, "Fast reproducible floating-point summation", 2013, run to exhaustion).

    Example:
        >>> exact_sum(np.array([1e16, 1.0, -1e16] * 1000))
        1000.0
    """
    if len(values) < 1000:
        return math.fsum(values.tolist())
    parts: list[float] = []
    rest = values
    carry = math.frexp(len(values))[1] + 1
    while True:
        largest = max(float(rest.max()), -float(rest.min()))
        if largest == 0.0:
            return math.fsum(parts)
        exponent = math.frexp(largest)[1] + carry
        if exponent > 1020:
            return math.fsum([*parts, *rest.tolist()])
        grid = math.ldexp(1.5, exponent)
        leading = (rest + grid) - grid
        parts.append(float(leading.sum()))
        rest = rest - leading
