"""Costs as whole numbers: each row in a unit of its own, less the least cost of each problem.

A float is read as the decimal that it prints: 0.1 is 1/10. Two facts make comparisons exact without slowing down what
is usual. Only differences within a problem matter, as every problem gets one response: with least_kp the smallest cost
of problem p,

    sum_r cost_kr weight_r <= high_k
    <=>  sum_r (cost_kr - least_kp) / unit_k weight_r <= (high_k - least_k) / unit_k,

where least_k = sum_p least_kp. And a sum of whole numbers below 2^53 is exact in floats. So dollars of six decimals are
counted in millionths, and tokens of 1e12 that differ by 7 become 0 to 7. What still does not fit into floats is kept as
Python's whole numbers next to them, and only the search (`ibpo.allocation.search`) and the last check look there.

Numbers of more than 15 digits, as a division or a logarithm leaves them, mean no decimal: sums of these are compared
within 1e-12 relative. Letters: C candidates, P problems, K budgets.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ibpo.allocation.passes import shift_costs
from ibpo.allocation.problem import AllocationProblem, Bounds
from ibpo.allocation.segments import FloatArray, ObjectArray, exact_sum, slices_of, sum_whole
from ibpo.errors import IbpoError

MOST_PLACES = 15
MOST_DIGITS = 15
"""Any decimal with this many digits becomes a float that differs from its neighbours'."""
MOST_BITS = 1000
"""The size of a sum in units, 300 digits, which floats still come close to."""
LARGEST = 2**52
UNITS = 2**6 * 3**2 * 5**3 * 7 * 11 * 13
"""A multiple of 1 to 16, and of 20, 24, 25, 32, 40, 50, 64, 100 and 1,000."""
TOLERANCE = Fraction(1, 10**12)
"""How far a sum of costs that are no decimals may miss its bound, relative to it."""


def decimal_places(values: FloatArray) -> int | None:
    """The fewest places after the point that all values have; None where some are no decimals or too long for floats.

    Example:
        >>> decimal_places(np.array([2.0, 0.25])), decimal_places(np.array([0.1 + 0.2]))
        (2, None)
    """
    largest = max((float(np.abs(values[rows]).max()) for rows in slices_of(len(values))), default=0.0)
    for places in range(MOST_PLACES + 1):
        if largest * 10.0**places > LARGEST:
            return None
        few = slice(0, 64)  # most rows show here that they have more places
        if all(_has_places(values[rows], places) for rows in (few, *slices_of(len(values)))):
            return places
    return None


def utility_unit(values: FloatArray) -> tuple[Fraction, bool] | None:
    """The largest unit that all values are multiples of, and whether to the last bit; None where none is found.

    Infinite values do not count. Means of 1 to 16 (and of some more, `UNITS`) rewards of 0 and 1, and decimals, have
    one: thirds, too, though floats only come close to them, within 2^-50 of their size.

    Example:
        >>> (
        ...     utility_unit(np.array([0.25, 1.5])),
        ...     utility_unit(np.array([1 / 3, 1.0])),
        ...     utility_unit(np.array([0.1**0.5])),
        ... )
        ((Fraction(1, 4), True), (Fraction(1, 3), False), None)
    """
    common = 0
    for rows in (slice(0, 64), *slices_of(len(values))):  # most that have none show it at once
        times = values[rows][np.isfinite(values[rows])] * UNITS
        whole = np.rint(times)
        if not (np.abs(times) < LARGEST).all() or (np.abs(times - whole) > 2.0**-51 * np.abs(times)).any():
            return None
        common = math.gcd(common, int(np.gcd.reduce(np.abs(whole).astype(np.int64), initial=0)))
    unit = Fraction(common or UNITS, UNITS)
    is_exact = unit.denominator & (unit.denominator - 1) == 0  # then this product is exact, and infinity whole
    return unit, is_exact and all(_is_whole(values[rows] * float(unit.denominator)) for rows in slices_of(len(values)))


def _has_places(values: FloatArray, places: int) -> bool:
    if not places:
        return _is_whole(values)
    return bool((np.rint(values * 10.0**places) / 10.0**places == values).all())


def in_units(instance: AllocationProblem) -> AllocationProblem:
    """The same problem with costs in units, and bounds to match."""
    cost = np.empty_like(instance.cost)
    exact: list[ObjectArray | None] = []
    parts: list[tuple[Fraction, Fraction, bool]] = []
    most: list[float] = []
    for k in range(len(instance.cost)):
        rest, unit, shift, whole, largest = _row(instance, k, cost[k])
        exact.append(rest)
        parts.append((unit, shift, whole))
        most.append(largest)
    units, shifts, wholes = zip(*parts, strict=True)
    bounds = instance.bounds

    def slack(k: int, bound: Fraction | None) -> Fraction:
        return Fraction(0) if wholes[k] or bound is None else bound * TOLERANCE

    low = [None if b is None else (b - slack(k, b) - shifts[k]) / units[k] for k, b in enumerate(bounds.low)]
    high = [(b + slack(k, b) - shifts[k]) / units[k] for k, b in enumerate(bounds.high)]
    return replace(
        instance,
        cost=cost,
        most=tuple(most),
        exact=tuple(exact),
        bounds=Bounds(low=tuple(low), high=tuple(high), whole=wholes, unit=units, shift=shifts, asked=bounds),
    )


def _is_whole(values: FloatArray) -> bool:
    return bool((values == np.rint(values)).all())


def _row(
    instance: AllocationProblem, k: int, out: FloatArray
) -> tuple[ObjectArray | None, Fraction, Fraction, bool, float]:
    """Writes row k in units.

    Returns:
        What floats do not hold of it, the unit, the sum of the least costs, whether whole, and the largest cost.
    """
    row, given, segments = instance.cost[k], instance.exact[k], instance.segments
    unit = Fraction(1)
    places: int | None = 0
    if given is None:
        places = 0 if instance.bounds.whole[k] else decimal_places(row)
        if places is None:
            given = _decimals(row)
        elif places:
            unit = Fraction(1, 10**places)
    if given is None:
        least, most = shift_costs(row if unit == 1 else np.rint(row * float(unit.denominator)), segments, out)
        if places is None:
            return None, unit, Fraction(exact_sum(least)), False, float(most.max())
        if float(most.sum()) < 2**53:
            return None, unit, sum_whole(least) * unit, True, float(most.max())
        given = np.array([Fraction(int(x)) for x in np.rint(row * float(unit.denominator)).tolist()], object) * unit
    # Numbers of any size: over their common denominator, less the least, over the largest common factor.
    scale = math.lcm(*{x.denominator for x in given.tolist()})
    whole: list[int] = [x.numerator * (scale // x.denominator) for x in given.tolist()]
    shift, largest = 0, 0
    for begin, end in zip(segments.start.tolist(), [*segments.start[1:].tolist(), len(whole)], strict=True):
        least_here = min(whole[begin:end])
        shift += least_here
        whole[begin:end] = [x - least_here for x in whole[begin:end]]
        largest += max(whole[begin:end])
    factor = math.gcd(*whole) or 1
    unit = Fraction(factor, scale)
    if (largest // factor).bit_length() > MOST_BITS:
        raise IbpoError(
            f"cost {k}: takes more than 300 digits to add up exactly; round all its numbers to the same decimal place"
        )
    if largest // factor < 2**53:
        out[:] = [x // factor for x in whole]
        return None, unit, Fraction(shift, scale), True, float(out.max())
    # Floats that come close, of a size that no product overflows.
    factor *= 2 ** max(0, (largest // factor).bit_length() - 300)
    rest = np.empty(len(whole), object)
    rest[:] = [Fraction(x, factor) for x in whole]
    out[:] = [float(x) for x in rest]
    return rest, Fraction(factor, scale), Fraction(shift, scale), True, float(out.max())


def _decimals(row: FloatArray) -> ObjectArray | None:
    """The numbers as the decimals that they print; None where one has too many digits for a decimal that was meant."""
    found = np.empty(len(row), object)
    for first, last in ((0, 64), (64, len(row))):
        for r, value in enumerate(row[first:last].tolist(), start=first):
            text = repr(value)
            digits = text.partition("e")[0].replace(".", "").strip("0")
            if len(digits) > MOST_DIGITS and not value.is_integer():
                return None
            found[r] = Fraction(text)
    return found
