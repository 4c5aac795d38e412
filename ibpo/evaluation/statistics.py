r"""Numbers with their uncertainty: every 95 % interval of the project is made here.

Responses to one problem are not independent, so every interval counts problems, not responses. All are intervals of the
average over problems like those evaluated, each problem weighing the same however often it was answered. Their coverage
is measured in docs/explanation/evaluation.md. Letters: N responses, P problems, L levels, D bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibpo.allocation import number_texts

FloatArray = NDArray[np.float64]
NAN = float("nan")
HUGE = 1e100
NOISE = 0.02
"""Differences of rates below this are ties for `rank_correlation`."""
ROUNDING = 1e-12
"""A standard error of no more than this part of the values is what rounding leaves where nothing varies."""
UNSEEN = 3
"""Problems of a kind of which none was seen that there may yet be: the upper 95 % limit of their expected number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, its standard error clustered by problem, and its 95 % interval; nan where it does not exist."""

    value: float
    stderr: float
    low: float
    high: float
    num_problems: int
    """Problems that contribute."""


NOTHING = Estimate(value=NAN, stderr=NAN, low=NAN, high=NAN, num_problems=0)
"""An estimate that does not exist."""


def estimate_mean(
    value: ArrayLike, problem: ArrayLike, where: ArrayLike | None = None, *, positive: bool = False
) -> Estimate:
    r"""Mean of some responses' values, each problem weighing the same.

    With n_p the responses of problem p, t_p = 1/n_p sum of the values that count, r_p the share of those that count,

        mean = sum_p t_p / sum_p r_p,     stderr = sqrt( P/(P-1) sum_p (t_p - mean r_p)^2 ) / sum_p r_p

    (the linearised ratio; without `where`, r_p = 1 and it is the standard error of the problems' means). The interval
    is Student's t with one degree of freedom less than problems that contribute; for positive quantities, which lean
    to the right, on the logarithm.

    Args:
        value: `[N]` a value of each response, e.g. tokens.
        problem: `[N]` problem ids.
        where: `[N]` the responses that count, e.g. the right ones; None: all.
        positive: The quantity is positive (tokens, seconds, money).

    Example:
        >>> found = estimate_mean([10, 30, 20, 20], ["p", "p", "q", "q"], where=[1, 0, 1, 1])
        >>> round(found.value, 3), found.num_problems
        (16.667, 2)
    """
    value_N, total_P, part_P = _per_problem(value, problem, where)
    if not len(value_N) or part_P.sum() <= 0:
        return NOTHING
    mean, stderr, num = _ratio(total_P, part_P)
    reach = _student(num) * stderr
    if positive and mean > 0:
        low, high = mean * math.exp(-reach / mean), mean * math.exp(reach / mean)
    else:
        low, high = mean - reach, mean + reach
    return Estimate(value=mean, stderr=stderr, low=low, high=high, num_problems=num)


def estimate_rate(value: ArrayLike, problem: ArrayLike, where: ArrayLike | None = None) -> Estimate:
    r"""Mean of values in [0, 1], e.g. rewards or pass@k by problem, with an interval that stays inside [0, 1].

    Value and standard error as for `estimate_mean`. The interval is Wilson's with the number of independent responses
    that the standard error speaks of, n = mean (1 - mean) / stderr^2, and Student's t in place of 1.96 (Korn and
    Graubard 1998 do so for surveys); where all values are 0, or all 1, n is the number of problems.

    Example:
        >>> found = estimate_rate([1, 1, 1, 1], ["p", "p", "q", "q"])
        >>> found.value, round(found.low, 2), round(found.high, 2)
        (1.0, 0.01, 1.0)
    """
    value_N, total_P, part_P = _per_problem(value, problem, where)
    if not len(value_N) or part_P.sum() <= 0:
        return NOTHING
    mean, stderr, num = _ratio(total_P, part_P)
    low, high = rate_interval(mean, stderr, num)
    return Estimate(value=mean, stderr=stderr, low=low, high=high, num_problems=num)


def estimate_bounded(value: ArrayLike, problem: ArrayLike, low: float, high: float) -> Estimate:
    r"""Mean of values in [low, high], e.g. a difference of two rates in [-1, 1]: `estimate_mean`'s, cut at the ends.

    Few problems that all agree do not look certain: their interval is that of as many fair coins. Where few differ, it
    allows for those that were not seen, as `paired_difference` does.

    Example:
        >>> found = estimate_bounded([0.0, 0.0, 0.0, 0.0], ["a", "b", "c", "d"], -1, 1)
        >>> found.value, -1 < found.low < 0 < found.high < 1
        (0.0, True)
    """
    found = estimate_mean(value, problem)
    ends = found.low, found.high
    if found.stderr <= ROUNDING:
        width = high - low
        coins = wilson((found.value - low) / width, found.num_problems, _student(found.num_problems))
        ends = low + width * coins[0], low + width * coins[1]
    elif found.num_problems > 1:
        _, total_P, part_P = _per_problem(value, problem, None)
        wider = _widened(found, unseen_square(total_P[part_P > 0]))  # part_P is 1 where anything counts
        ends = wider.low, wider.high
    return replace(found, low=max(ends[0], low), high=min(ends[1], high))


def rate_interval(rate: float, stderr: float, num_problems: int) -> tuple[float, float]:
    """The interval of `estimate_rate` from what a table keeps of a rate: its value, standard error and problems.

    Example:
        >>> low, high = rate_interval(0.5, 0.05, 100)
        >>> round(low, 3), round(high, 3)
        (0.403, 0.597)
    """
    return wilson(rate, _effective(rate, stderr, num_problems), _student(num_problems))


def estimate_quantile(
    value: ArrayLike, problem: ArrayLike, quantile: float, where: ArrayLike | None = None
) -> Estimate:
    r"""A quantile of the responses' values, e.g. the 95th percentile of tokens, each problem weighing the same.

    Woodruff's interval (1952): the share of responses at or below the quantile has a standard error clustered by
    problem; the responses at `quantile` -+ t stderr of that share are the ends. The standard error of the quantile is
    half of the interval's width over Student's t.

    Args:
        value: `[N]` e.g. tokens.
        problem: `[N]` problem ids.
        quantile: In (0, 1).
        where: `[N]` the responses that count; None: all.

    Example:
        >>> estimate_quantile([1, 2, 3, 4, 100], ["a", "b", "c", "d", "e"], 0.5).value
        3.0
    """
    value_N, p_N, weight_N = _weights(value, problem, where)
    keep = weight_N > 0
    if not keep.any():
        return NOTHING
    order = np.argsort(value_N[keep], kind="stable")
    sorted_N = value_N[keep][order]
    reached_N = np.cumsum(weight_N[keep][order])
    reached_N /= reached_N[-1]

    def at(share: float) -> float:
        return float(sorted_N[min(int(np.searchsorted(reached_N, share - 1e-12)), len(sorted_N) - 1)])

    found = at(quantile)
    below_N = (value_N <= found).astype(float)
    total_P, part_P = (np.bincount(p_N, x).astype(float) for x in (weight_N * below_N, weight_N))
    _, stderr, num = _ratio(total_P, part_P)
    student = _student(num)
    # Around the true quantile, not around an observed share: no Wilson here. Where nothing varies between the problems
    # (all residuals are zero) the share of independent problems has the standard error of a coin.
    reach = student * (stderr if stderr > ROUNDING else math.sqrt(quantile * (1 - quantile) / num))
    ends = (at(max(quantile - reach, 0.0)), at(min(quantile + reach, 1.0))) if num > 1 else (NAN, NAN)
    return Estimate(
        value=found, stderr=(ends[1] - ends[0]) / (2 * student), low=ends[0], high=ends[1], num_problems=num
    )


def paired_difference(value: ArrayLike, baseline: ArrayLike) -> Estimate:
    r"""Mean difference of two policies on the same problems: closed form.

    With d_p = value_p - baseline_p, mean d, stderr = std(d, ddof 1) / sqrt(P), Student's t. Pairing takes out what the
    problems have in common: it is smaller than the error of the difference of two independent evaluations wherever
    both policies find the same problems hard.

    Where few problems differ, that error says little: it is 0 where none happened to. So the interval, not the standard
    error, allows for three of the P problems (the upper 95 % limit where none was seen) that may differ as those do
    that differ: its half width is t sqrt(stderr^2 + 3 u / P^2), inside [-1, 1], with u of `unseen_square`. Where many
    problems differ u is 0. Adding problems that differ is what Bonett and Price (2012) do for right and wrong alone.

    Args:
        value: `[P]` e.g. pass@1 by problem, in [0, 1].
        baseline: `[P]` the same of the other policy, problems in the same order; nan where one has none.

    Example:
        >>> found = paired_difference([1.0, 0.5, 1.0], [0.5, 0.5, 0.5])
        >>> round(found.value, 3), round(found.stderr, 3)
        (0.333, 0.167)
        >>> same = paired_difference(np.ones(100), np.ones(100))
        >>> same.value, same.stderr, round(same.low, 3), round(same.high, 3)
        (0.0, 0.0, -0.034, 0.034)
    """
    difference_P = _differences(value, baseline)
    found = estimate_mean(difference_P, np.arange(len(difference_P)))
    return with_unseen(found, difference_P)


def that_differ(difference_P: ArrayLike) -> tuple[float, float]:
    r"""How many problems differ from most, and by how much, squared, each counting by what it adds to the variance.

    With r_p the deviations from the median, (sum r_p^2)^2 / sum r_p^4 and sum r_p^4 / sum r_p^2. Where none differs
    nobody knows by how much: by 1 then, a right answer in place of a wrong one.

    Args:
        difference_P: `[P]` differences of two rates, one for each problem.

    Example:
        >>> that_differ([0.5, 0.5] + [0.0] * 28), that_differ(np.zeros(30))
        ((2.0, 0.25), (0.0, 1.0))
    """
    value_P = np.asarray(difference_P, float)
    square_P = (value_P - np.median(value_P)) ** 2
    total, of_squares = float(square_P.sum()), float(square_P @ square_P)
    return (total**2 / of_squares, of_squares / total) if total > len(value_P) * ROUNDING**2 else (0.0, 1.0)


def unseen_square(difference_P: ArrayLike) -> float:
    r"""How much a problem that was not seen may differ from most, squared, where few of those that were seen do.

    For `n` problems that differ by the square `s` (`that_differ`), s (1 - 3 n / P), at least 0: for few of them s, and
    nothing where differences are spread as a normal law's or less (n = P / 3), which their variance tells.

    Args:
        difference_P: `[P]` differences of two rates, one for each problem.

    Example:
        >>> few, many = [1.0] + [0.0] * 29, [1.0, 0.0] * 15
        >>> round(unseen_square(few), 3), unseen_square(many), unseen_square(np.zeros(30))
        (0.9, 0.0, 1.0)
    """
    number, square = that_differ(difference_P)
    return square * max(1 - 3 * number / len(np.asarray(difference_P)), 0.0)


def with_unseen(found: Estimate, difference_P: FloatArray) -> Estimate:
    """The mean of differences of two rates, its interval with what problems add that were not seen.

    Args:
        found: The mean, and an interval by the problems seen.
        difference_P: `[P]` the differences whose mean it is (of another statistic: linearised).
    """
    if found.num_problems < 2:
        return found
    wider = _widened(found, unseen_square(difference_P))
    return replace(wider, low=max(wider.low, -1.0), high=min(wider.high, 1.0)) if wider.low == wider.low else wider


def _widened(found: Estimate, unseen: float) -> Estimate:
    """Both ends farther off, as if the variance were larger by that of `UNSEEN` problems."""
    if not unseen:
        return found
    more = UNSEEN * unseen * (_student(found.num_problems) / found.num_problems) ** 2
    low, high = (math.sqrt(end**2 + more) for end in (found.value - found.low, found.high - found.value))
    return replace(found, low=found.value - low, high=found.value + high)


def _differences(value: ArrayLike, baseline: ArrayLike) -> FloatArray:
    """Differences of the problems that both have."""
    difference_P = np.asarray(value, float) - np.asarray(baseline, float)
    return difference_P[~np.isnan(difference_P)]


def ratio_of_means(value: ArrayLike, baseline: ArrayLike) -> Estimate:
    r"""Ratio of two means over the same problems, e.g. cost relative to one standard response: closed form.

    With x_p, y_p and R = sum x / sum y, stderr = std(x_p - R y_p, ddof 1) / (sqrt(P) mean y); interval on the
    logarithm, by Student's t.

    Example:
        >>> ratio_of_means([20, 40], [10, 20]).value
        2.0
    """
    value_P, baseline_P = np.asarray(value, float), np.asarray(baseline, float)
    both = ~(np.isnan(value_P) | np.isnan(baseline_P))
    value_P, baseline_P = value_P[both], baseline_P[both]
    if not len(value_P) or baseline_P.sum() <= 0:
        return NOTHING
    ratio, stderr, num = _ratio(value_P, baseline_P)
    reach = _student(num) * stderr / ratio if ratio > 0 else 0.0
    return Estimate(
        value=ratio, stderr=stderr, low=ratio * math.exp(-reach), high=ratio * math.exp(reach), num_problems=num
    )


def bootstrap(
    statistic: Callable[[FloatArray], FloatArray], num_problems: int, *, num_draws: int = 1000, seed: int = 0
) -> Estimate:
    """Interval of any statistic of the problems, by drawing problems with replacement.

    The percentiles are those of Hesterberg's expanded interval (2015), which makes up for the plain percentile
    interval's narrowness with few problems: the level is that of sqrt(P/(P-1)) t in place of 1.96.

    Args:
        statistic: `[D, P]` weights of the problems, each row of sum 1 -> `[D]` values, nan where one does not exist.
        num_problems: P.
        num_draws: D.
        seed: Seed of the draws.

    Returns:
        The statistic at equal weights; nan interval where more than one draw in twenty has none. Where all draws are
        alike it has no width, and says nothing: it is shown nowhere, and `with_unseen` widens that of a difference.

    Example:
        >>> value_P = np.arange(100.0)
        >>> found = bootstrap(lambda weight: weight @ value_P, 100)
        >>> round(found.value, 6), 5 < found.value - found.low < 7
        (49.5, True)
    """
    equal = np.full((1, num_problems), 1 / max(num_problems, 1))
    if num_problems < 2:
        value = float(statistic(equal)[0]) if num_problems else NAN
        return Estimate(value=value, stderr=NAN, low=NAN, high=NAN, num_problems=num_problems)
    drawn_D = np.asarray(statistic(draw_weights(num_problems, num_draws, seed)), float)
    return estimate_from_draws(float(statistic(equal)[0]), drawn_D, num_problems)


def estimate_from_draws(value: float, drawn: ArrayLike, num_problems: int) -> Estimate:
    """What `bootstrap` makes of a number and of its values over draws of the problems.

    Args:
        value: The number itself.
        drawn: `[D]`, one for each draw; nan where a draw has none.
        num_problems: P, which says how far the percentiles are expanded.

    Example:
        >>> found = estimate_from_draws(0.0, np.linspace(-1, 1, 2001), 10_000)
        >>> round(found.low, 2), round(found.high, 2)
        (-0.95, 0.95)
    """
    drawn_D = np.asarray(drawn, float)
    num_draws = len(drawn_D)
    drawn_D = drawn_D[~np.isnan(drawn_D)]
    if len(drawn_D) < max(2, 0.95 * num_draws) or math.isnan(value):
        return Estimate(value=value, stderr=NAN, low=NAN, high=NAN, num_problems=num_problems)
    tail = 100 * _expanded_tail(num_problems)
    stderr = float(drawn_D.std(ddof=1)) if np.isfinite(drawn_D).all() else NAN
    ends = np.percentile(np.clip(drawn_D, -HUGE, HUGE), [tail, 100 - tail])  # between infinities there is no number
    if ends[1] - ends[0] <= ROUNDING * max(abs(value), float(np.abs(ends).max())):
        return Estimate(value=value, stderr=0.0, low=value, high=value, num_problems=num_problems)
    low, high = (float(end) if abs(end) < HUGE / 1e3 else math.copysign(math.inf, end) for end in ends)
    return Estimate(value=value, stderr=stderr, low=low, high=high, num_problems=num_problems)


@lru_cache(maxsize=2)
def draw_weights(num_problems: int, num_draws: int, seed: int) -> FloatArray:
    """`[D, P]` weights of problems drawn with replacement, each row of sum 1; read-only, the last two are kept.

    Example:
        >>> draw_weights(4, 2, 0).sum(1).tolist()
        [1.0, 1.0]
    """
    equal_P = np.full(num_problems, 1 / num_problems)
    weight_DP = np.random.default_rng(seed).multinomial(num_problems, equal_P, num_draws) / num_problems
    weight_DP.setflags(write=False)
    return weight_DP


def bootstrap_difference(value: ArrayLike, baseline: ArrayLike, *, seed: int = 0) -> Estimate:
    """`paired_difference`, its interval from problems drawn with replacement, and from those that were not seen."""
    difference_P = _differences(value, baseline)
    found = bootstrap(lambda weight_DP: weight_DP @ difference_P, len(difference_P), seed=seed)
    return with_unseen(found, difference_P)


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two rates by level, blind to noise around zero.

    Both are first rounded to multiples of 0.02 (`NOISE`), so that e.g. gains of 0.003 and -0.004 are a tie, not an
    order; equal values share the average of their ranks. Where one side has no order left, rho is nan.

    Args:
        x: `[L]` e.g. share of extended responses by level.
        y: `[L]` e.g. gain by level.

    Returns:
        rho in [-1, 1], or nan.

    Example:
        >>> round(rank_correlation([0.001, 0.9, 0.5, 0.0], [0.0, 0.8, 0.4, 0.004]), 6)
        1.0
    """
    from scipy.stats import rankdata  # most of the command line's start-up, were it imported above

    ranks = [rankdata(np.round(np.asarray(value, float) / NOISE)) for value in (x, y)]
    a, b = (rank - rank.mean() for rank in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else NAN


def wilson(rate: float, num: float, student: float) -> tuple[float, float]:
    """Wilson's interval of a rate seen in `num` independent responses, `student` standard errors wide.

    Example:
        >>> [round(x, 3) for x in wilson(0.0, 16, 1.96)]
        [0.0, 0.194]
    """
    if math.isnan(student):
        return NAN, NAN
    square = student**2
    centre = (rate + square / (2 * num)) / (1 + square / num)
    half = student * math.sqrt(max(rate * (1 - rate) / num + square / (4 * num * num), 0.0)) / (1 + square / num)
    # At the ends exactly: rounding must not put a rate outside its own interval.
    return (max(centre - half, 0.0) if rate > 0 else 0.0), (min(centre + half, 1.0) if rate < 1 else 1.0)


def problem_means(value: ArrayLike, problem: ArrayLike, order: ArrayLike) -> FloatArray:
    """Mean value of each problem's responses, in the order given; nan for a problem without any.

    Args:
        value: `[N]` finite.
        problem: `[N]` problem ids.
        order: `[P]` distinct problem ids.

    Example:
        >>> problem_means([1, 0, 1], ["b", "b", "a"], ["a", "b", "c"]).tolist()
        [1.0, 0.5, nan]
    """
    names, p_N = number_problems(problem)
    mean_P = np.bincount(p_N, np.asarray(value, float)) / np.bincount(p_N)
    at = dict(zip(map(str, names.tolist()), mean_P.tolist(), strict=True))
    return np.array([at.get(str(name), NAN) for name in np.asarray(order).tolist()])


def number_problems(problem: ArrayLike) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct problem ids in order, and `[N]` which of them each response has.

    Whole numbers stay numbers, anything else is text.

    Example:
        >>> names, p_N = number_problems(["q2", "q1", "q2"])
        >>> names.tolist(), p_N.tolist()
        (['q1', 'q2'], [1, 0, 1])
    """
    ids = np.asarray(problem)
    if ids.dtype.kind in "iu":
        return np.unique(ids, return_inverse=True)
    names, p_N = number_texts(list(map(str, ids.tolist())))
    return np.array(names, dtype=np.str_), p_N


def _per_problem(
    value: ArrayLike, problem: ArrayLike, where: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    value_N, p_N, weight_N = _weights(value, problem, where)
    if not len(value_N):
        return value_N, np.zeros(0), np.zeros(0)
    total_P: FloatArray = np.bincount(p_N, np.where(weight_N > 0, weight_N * value_N, 0.0)).astype(float)
    return value_N, total_P, np.bincount(p_N, weight_N).astype(float)


def _weights(
    value: ArrayLike, problem: ArrayLike, where: ArrayLike | None
) -> tuple[FloatArray, NDArray[np.intp], FloatArray]:
    """Values, problem codes, and each response's weight: 1/n_p where it counts, else 0; nan values never count."""
    value_N = np.asarray(value, float)
    _, p_N = number_problems(problem)
    if not len(value_N):
        return value_N, p_N, np.zeros(0)
    known_N = ~np.isnan(value_N)
    count_P = np.bincount(p_N, known_N)
    weight_N = known_N / np.maximum(count_P[p_N], 1)
    if where is not None:
        weight_N = weight_N * np.asarray(where, float)
    return value_N, p_N, weight_N


def _ratio(total_P: FloatArray, part_P: FloatArray) -> tuple[float, float, int]:
    """The ratio sum t / sum r, its linearised standard error, and how many problems contribute."""
    num_problems, num = len(total_P), int((part_P > 0).sum())
    ratio = float(total_P.sum() / part_P.sum())
    residual_P = total_P - ratio * part_P
    if num < 2:
        return ratio, NAN, num
    stderr = math.sqrt(num_problems / (num_problems - 1) * float(residual_P @ residual_P)) / float(part_P.sum())
    return ratio, 0.0 if stderr <= ROUNDING * float(np.abs(total_P).max()) else stderr, num


def student_quantile(freedom: int, level: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit  # a tenth of what importing scipy.stats costs

    return float(stdtrit(freedom, level))


def _student(num_problems: int) -> float:
    """The 97.5 % quantile of Student's t with one degree of freedom less than problems."""
    return student_quantile(num_problems - 1, 0.975) if num_problems > 1 else NAN


def _expanded_tail(num_problems: int) -> float:
    """What a percentile interval cuts off at either end: the normal tail beyond sqrt(P / (P - 1)) t."""
    from scipy.special import ndtr

    return float(ndtr(-math.sqrt(num_problems / (num_problems - 1)) * _student(num_problems)))


def _effective(rate: float, stderr: float, num_problems: int) -> float:
    """How many independent responses would leave this standard error; of responses all alike, that of the problems.

    A rate of 0 or 1 with a standard error is one that was extrapolated, and cut off there: no number leaves that.
    """
    return max(rate * (1 - rate) / stderr**2, 1.0) if stderr > ROUNDING and 0 < rate < 1 else float(num_problems)
