"""Trained policies compared with every other way to spend the same: rows and figures of merit of demo and baselines.

A run's folder holds one table of responses for each policy and way (`responses/POLICY__HOW.jsonl.gz`, HOW the response
group that was forced, or `sampled` where the policy chose), and the probability with which it opens an extended
response (`choices/POLICY__SPLIT.jsonl.gz`). Letters: P problems, S responses per problem, L levels, K votes, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpo.evaluation.comparison import (
    NUM_DRAWS,
    PerProblem,
    Problems,
    Reference,
    VoteCurve,
    areas,
    by_number,
    find_problems,
    mix,
    per_problem,
    plain,
    vote_curve,
)
from ibpo.evaluation.metrics import estimate_gain_ratio, oracle_by_level
from ibpo.evaluation.responses import Responses, read_table
from ibpo.evaluation.statistics import (
    ROUNDING,
    Estimate,
    FloatArray,
    bootstrap,
    estimate_mean,
    number_problems,
    paired_difference,
    rank_correlation,
)
from ibpo.tasks import local_rows

MAX_VOTES = 12
SHOWN_VOTES = (2, 4, 8)
"""Votes of a trained policy that get a row; its curve has them all, and one vote is the policy forced standard."""
CURVES = ("IBPO sampled", "IBPO calibrated", "oracle by level")
"""Methods whose points at several budgets make a curve with an area under it."""
MIN_GAIN = 0.03
"""A level where extended responses gain less than this is trivial or hopeless: budget spent there is wasted."""
MODELS = {"cold_start": "cold start", "pretrained": "pretrained"}
"""Untrained models whose votes are yardsticks, and their names in rows."""
Json = dict[str, Any]
Choose = Callable[[FloatArray, FloatArray, float], NDArray[np.bool_]]
"""(p_extended `[C]` on unlabelled calibration prompts, p_extended `[P]` on the test prompts, share) -> extended `[P]`.

The rule that holds the budget while answering; `ibpo.serving.find_threshold` is the shipped one.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Methods:
    """What `compare_methods` found: the first three hold plain values only, ready for JSON (None: no such number)."""

    rows: list[Json]
    """One per method and budget: `experiment, method, budget, seed, num_problems, accuracy, stderr, extended_share,
    share_by_level, accuracy_by_level, mean_tokens, relative_cost, truncated_share`."""
    areas: list[Json]
    """One per curve of several points: `name`, the relative costs `low` and `high` between which it was measured, its
    `area` and the random mix's between the same, `mix`, each with an interval."""
    merits: list[Json]
    """One per budget and variant ("sampled", "calibrated"); `figures_of_merit` explains them."""
    results: list[PerProblem] = field(default_factory=list[PerProblem])
    """What each row was made of, in the rows' order; arrays, not for JSON."""
    yardsticks: Yardsticks | None = None
    """What every row can be held against."""


class Yardsticks:
    """The cold start's forced responses and the votes of untrained models, that every row is held against."""

    def __init__(
        self,
        standard: Responses,
        extended: Responses,
        problems: Problems,
        votes: Mapping[str, VoteCurve],
        *,
        seed: int = 0,
        num_draws: int = NUM_DRAWS,
    ) -> None:
        """Halve the responses of both; `votes` has the curves of the models in `MODELS` that were sampled."""
        self.problems, self.votes, self.seed, self.num_draws = problems, votes, seed, num_draws
        self.standard, self.extended = (per_problem(one, problems) for one in (standard, extended))
        self.reference = Reference(standard, extended, problems.problem_id, num_draws=num_draws)


def load_run(
    directory: Path, policy: str = ""
) -> tuple[dict[tuple[str, str], Responses], dict[tuple[str, str], dict[str, float]]]:
    """The tables of one experiment and seed.

    Args:
        directory: Its folder.
        policy: Only this one's tables; "": all.

    Returns:
        (policy, how) -> its responses, sorted by problem and number; (policy, split) -> problem -> p_extended.
    """
    return (
        {
            _two_names(path): read_table(path, " ".join(_two_names(path)))
            for path in table_files(directory, "responses", policy)
        },
        {
            _two_names(path): {str(row["problem_id"]): float(row["p_extended"]) for _, row in local_rows(path)}
            for path in table_files(directory, "choices", policy)
        },
    )


def table_files(directory: Path, kind: str, policy: str = "") -> list[Path]:
    """The files of a run's `responses` or `choices`, Parquet files of older runs among them; of one policy, or all."""
    found = (path for end in ("jsonl.gz", "parquet") for path in (directory / kind).glob(f"*__*.{end}"))
    return sorted(path for path in found if not policy or _two_names(path)[0] == policy)


def _two_names(path: Path) -> tuple[str, str]:
    policy, how = path.name.partition(".jsonl")[0].removesuffix(".parquet").rsplit("__", 1)
    return policy, how


def compare_methods(
    directory: Path,
    experiment: str,
    seed: int,
    choose: Choose,
    levels: Sequence[str] = (),
    *,
    num_draws: int = NUM_DRAWS,
    budgets: Sequence[float] = (),
) -> Methods:
    """Compare all policies whose responses are in `directory`; what was not sampled is left out.

    Costs are relative to the mean tokens of a standard response of the cold start.

    Args:
        directory: The folder of one experiment and seed, with `responses/` and `choices/`.
        experiment: Its name, for the rows.
        seed: Its seed, for the rows and the draws.
        choose: The rule that calibrates a trained policy's choice.
        levels: Names of the levels, easiest first.
        num_draws: Bootstrap draws for the intervals of the figures of merit.
        budgets: Budgets to show random mix and oracle at, besides those of the policies that are there.

    Raises:
        ValueError: the forced responses of the cold start are missing, or policies answered different problems.
    """
    responses, choices = load_run(Path(directory))
    missing = [how for how in ("standard", "extended") if ("cold_start", how) not in responses]
    if missing:
        raise ValueError(f"{directory}: no responses/cold_start__{missing[0]}.jsonl.gz to compare with")
    problems = find_problems(responses["cold_start", "standard"], levels)
    found: dict[tuple[str, str], PerProblem] = {}
    for (policy, how), table in responses.items():
        try:
            found[policy, how] = per_problem(table, problems)
        except ValueError as error:
            raise ValueError(f"{directory}: {policy}__{how}: {error}") from None
    standard, extended = found["cold_start", "standard"], found["cold_start", "extended"]
    trained_for = {float(policy.removeprefix("ibpo-")) for policy, _ in found if policy.startswith("ibpo-")}
    budgets = sorted({*budgets, *trained_for})
    base_tokens = float(standard.tokens.mean())
    rows: list[Json] = []
    results: list[PerProblem] = []
    curves: dict[str, list[PerProblem]] = {"random mix": [standard, extended]}

    def add(method: str, budget: float | None, result: PerProblem) -> None:
        row = {"experiment": experiment, "method": method, "budget": budget, "seed": seed}
        if budget is not None and method in CURVES:
            curves.setdefault(method, []).append(result)
        rows.append(row | numbers(result, problems, base_tokens))
        results.append(result)

    add("standard only", None, standard)
    add("extended only", None, extended)
    for budget in budgets:
        add("random mix", budget, mix(standard, extended, np.full(len(problems.level), budget)))

    def votes_of(policy: str) -> tuple[VoteCurve, list[PerProblem]]:
        """The curve of maj@1, maj@2, ... of a policy's standard responses, and its points."""
        own, single = responses[policy, "standard"], found[policy, "standard"]
        largest = int(np.bincount(number_problems(own.problem)[1]).min())
        curve = vote_curve(own, problems.problem_id, single.tokens, range(1, min(MAX_VOTES, largest) + 1))
        points = zip(curve.accuracy, curve.cost, strict=True)
        return curve, [replace(single, accuracy=accuracy, tokens=cost) for accuracy, cost in points]

    votes: dict[str, VoteCurve] = {}
    for policy, name in MODELS.items():
        if (policy, "standard") in found and responses[policy, "standard"].has_votes:
            votes[policy], curve = votes_of(policy)
            curves[f"self-consistency ({name})"] = curve
            for k, result in enumerate(curve, start=1):
                add(f"self-consistency ({name}) maj@{k}", None, result)
    # A policy that was moved from budget to budget is one policy within its responses: its votes and forced responses
    # stand once, without a budget.
    policies = {f"ibpo-{budget:g}": budget for budget in budgets}
    first = next(iter(policies), "")
    is_one = len(policies) > 1 and all(_writes_as(responses, policy, first) for policy in policies)
    trained: list[tuple[str, float | None, str]] = [("IBPO", budget, policy) for policy, budget in policies.items()]
    trained = [*([("IBPO", None, first)] if is_one else trained), ("RAFT", None, "raft")]
    for name, budget, policy in trained:
        if (policy, "standard") not in found or not responses[policy, "standard"].has_votes:
            continue
        _, curve = votes_of(policy)
        curves[f"self-consistency ({name}{'' if budget is None else f', {budget:.0%}'})"] = curve
        for k in SHOWN_VOTES:
            if k <= len(curve):
                add(f"self-consistency ({name}) maj@{k}", budget, curve[k - 1])
    if ("raft", "sampled") in found:
        add("RAFT without budget", None, found["raft", "sampled"])

    forced = responses["cold_start", "standard"], responses["cold_start", "extended"]
    yardsticks = Yardsticks(*forced, problems, votes, seed=seed, num_draws=num_draws)
    merits: list[Json] = []
    own_reference = None
    for policy, budget in policies.items():
        own = found.get((policy, "standard")), found.get((policy, "extended"))
        if not own[0] or not own[1]:
            own_reference = None
        elif own_reference is None or not is_one:
            both = responses[policy, "standard"], responses[policy, "extended"]
            own_reference = Reference(*both, problems.problem_id, num_draws=num_draws)
        variants = {"sampled": found.get((policy, "sampled"))}
        if (policy, "calibration") in choices and (policy, "test") in choices and own[0] and own[1]:
            p_test = _in_order(choices[policy, "test"], problems, f"{directory}: {policy}__test")
            chosen = choose(np.array([*choices[policy, "calibration"].values()]), p_test, budget)
            variants["calibrated"] = mix(own[0], own[1], np.asarray(chosen, float))
        for variant, result in variants.items():
            if result is not None:
                add(f"IBPO {variant}", budget, result)
                head = {"experiment": experiment, "seed": seed, "budget": budget, "variant": variant}
                merits.append(head | figures_of_merit(result, budget, yardsticks, own, own_reference))
    reward0, reward1 = (by_number(one, "reward") for one in forced)
    for budget in budgets if min(reward0.shape[1], reward1.shape[1]) > 1 else ():
        accuracy, share = level_oracle_held_out(reward0, reward1, problems, budget, seed=seed)
        add("oracle by level", budget, replace(mix(standard, extended, share), accuracy=accuracy))
    for how in ("standard", "extended"):
        for name, budget, policy in trained:
            if (policy, how) in found:
                add(f"{name} forced {how}", budget, found[policy, how])
    head = {"experiment": experiment, "seed": seed}
    under = [head | row for row in areas_of(curves, base_tokens, seed)]
    return Methods(rows=rows, merits=merits, areas=under, results=results, yardsticks=yardsticks)


def _writes_as(responses: Mapping[tuple[str, str], Responses], policy: str, other: str) -> bool:
    """Whether two policies' forced responses are the same."""
    return all(
        (name, how) in responses
        and np.array_equal(responses[policy, how].completion, responses[other, how].completion)
        and np.array_equal(responses[policy, how].reward, responses[other, how].reward)
        for how in ("standard", "extended")
        for name in (policy, other)
    )


def numbers(result: PerProblem, problems: Problems, base_tokens: float) -> Json:
    """The numbers of a row of `Methods.rows`; costs are relative to `base_tokens`."""
    accuracy = estimate_mean(result.accuracy, problems.problem_id)
    by_level = {"share": problems.by_level(result.share), "accuracy": problems.by_level(result.accuracy)}
    return {
        "num_problems": len(problems.level),
        "accuracy": accuracy.value,
        "stderr": accuracy.stderr,
        "extended_share": float(result.share.mean()),
        **{f"{name}_by_level": dict(zip(problems.levels, x.tolist(), strict=True)) for name, x in by_level.items()},
        "mean_tokens": float(result.tokens.mean()),
        "relative_cost": float(result.tokens.mean()) / base_tokens,
        "truncated_share": plain(float(result.truncated.mean())),
    }


def areas_of(curves: Mapping[str, Sequence[PerProblem]], base_tokens: float, seed: int) -> list[Json]:
    """Areas under curves: name -> the points' results; `"random mix"` must be standard only and extended only.

    Between the costs of standard only and extended only; a curve has the part that it reaches.
    """
    points = {
        name: (np.array([r.tokens for r in results]) / base_tokens, np.array([r.accuracy for r in results]))
        for name, results in curves.items()
    }
    low, high = sorted(float(cost_P.mean()) for cost_P in points["random mix"][0])
    return [
        plain(row) for row in areas(points, low, high, mix="random mix", seed=seed) if not np.isnan(row["area"].value)
    ]


def _in_order(p_extended: Mapping[str, float], problems: Problems, where: str) -> FloatArray:
    """`[P]` p_extended in the order of the problems."""
    try:
        return np.array([p_extended[problem_id] for problem_id in problems.problem_id.tolist()])
    except KeyError as error:
        raise ValueError(f"{where}: no choice for problem {error}") from None


def figures_of_merit(
    result: PerProblem,
    budget: float,
    yardsticks: Yardsticks,
    own: tuple[PerProblem | None, PerProblem | None] = (None, None),
    own_reference: Reference | None = None,
) -> Json:
    r"""Judge one policy that was trained inside a budget; a number that does not exist is None, `reasons` says why.

    With accuracy a and realised share s of the policy, budget q, and the cold start's forced responses,

    - `accuracy`, `share`, `share_error` = s - q, `relative_cost`.
    - `binds`: levels where extended gains more than 0.03 hold more than q of the problems, so the oracle wants it all.
    - `above_random_mix`, `oracle_share`: see `ibpo.evaluation.comparison.Reference`.
    - `oracle_share_own`: the same between the trained policy's own forced responses, so that allocation alone counts.
    - `gain_ratio_cold_start`, `gain_ratio_pretrained`: see `ibpo.evaluation.metrics.estimate_gain_ratio`.
    - `rank_correlation` of the share and the gain by level.
    - `waste`: part of the extended responses that went to levels with a gain below 0.03; `waste_level_share`: their
      part of the problems, what a blind draw would waste.
    - `erosion`: per response group, forced accuracy minus the cold start's: `difference`, paired `stderr`, `ratio`.
    - `retained` = a / accuracy of extended only.
    - `gain_by_level`: what extended buys at each level, by the cold start.

    Each but `binds`, `waste_level_share` and `erosion` (which has its standard error) has a 95 % interval under its
    name and `_interval`, of a bootstrap over problems that finds the levels where extended pays again in every draw; an
    end without bound is None.

    Args:
        result: What the policy did.
        budget: The share q that it should keep.
        yardsticks: The cold start's forced responses, and votes.
        own: The policy's own forced standard and extended responses, where they were sampled.
        own_reference: The same, where both were.

    Returns:
        The numbers above under these names.
    """
    standard, extended, problems = yardsticks.standard, yardsticks.extended, yardsticks.problems
    seed, num_draws = yardsticks.seed, yardsticks.num_draws
    level_P, num_levels = problems.level, len(problems.levels)
    reasons: dict[str, str] = {}
    out: Json = {}

    def by_level(weight_P: FloatArray, value_P: FloatArray) -> FloatArray:
        part_L = np.bincount(level_P, weight_P, num_levels)
        return np.bincount(level_P, weight_P * value_P, num_levels) / np.maximum(part_L, 1e-12)

    def gain(weight_P: FloatArray) -> FloatArray:
        return by_level(weight_P, extended.accuracy) - by_level(weight_P, standard.accuracy)

    def waste(weight_P: FloatArray) -> float:
        poor_P = (gain(weight_P) < MIN_GAIN)[level_P]
        spent = float(weight_P @ result.share)
        return float(weight_P @ (result.share * poor_P)) / spent if spent > 1e-9 else float("nan")

    def correlation(weight_P: FloatArray) -> float:
        there = np.bincount(level_P, weight_P, num_levels) > 0
        return rank_correlation(by_level(weight_P, result.share)[there], gain(weight_P)[there])

    def ratio(above_P: FloatArray, below_P: FloatArray, weight_DP: FloatArray) -> FloatArray:
        below_D = weight_DP @ below_P
        return np.divide(weight_DP @ above_P, below_D, out=np.full(len(below_D), np.nan), where=below_D > 1e-9)

    def drawn(statistic: Callable[[FloatArray], FloatArray]) -> Estimate:
        return bootstrap(statistic, len(level_P), num_draws=num_draws, seed=seed)

    def one_by_one(value: Callable[[FloatArray], float]) -> Estimate:
        return drawn(lambda weight_DP: np.array([value(weight_P) for weight_P in weight_DP]))

    def put(name: str, found: Estimate | None, why: str = "") -> None:
        there = found is not None and not np.isnan(found.value)
        out[name] = float(found.value) if found is not None and there else None
        out[f"{name}_interval"] = _ends(found) if found is not None and there else None
        if not there:
            reasons[name] = why

    equal_P = np.full(len(level_P), 1 / len(level_P))
    gain_L = gain(equal_P)
    put("accuracy", drawn(lambda weight_DP: weight_DP @ result.accuracy))
    put("share", drawn(lambda weight_DP: weight_DP @ result.share))
    out["share_error"] = out["share"] - budget
    out["share_error_interval"] = [end - budget for end in out["share_interval"] or () if end is not None] or None
    put("relative_cost", drawn(partial(ratio, result.tokens, standard.tokens)))
    out["binds"] = bool(problems.level_share[gain_L > MIN_GAIN].sum() > budget)
    above = yardsticks.reference.above_random_mix(result.accuracy, result.tokens, seed=seed)
    put("above_random_mix", above, "its mean cost is outside those of standard only and extended only")
    for name, reference in (("oracle_share", yardsticks.reference), ("oracle_share_own", own_reference)):
        if reference is None:
            put(name, None, "the policy's own forced responses were not sampled")
        else:
            share = reference.oracle_share(result.accuracy, result.tokens, seed=seed)
            put(name, share, reference.why_not(result.tokens))
    figures = {name: yardsticks.votes.get(name) for name in MODELS}
    for name, curve in figures.items():
        if curve is None:
            put(f"gain_ratio_{name}", None, "self-consistency was not sampled")
        else:
            found = estimate_gain_ratio(result.accuracy, result.tokens, curve.accuracy, curve.cost, seed=seed)
            put(f"gain_ratio_{name}", found, _why_no_ratio(float(result.tokens.mean()), curve))
    put("rank_correlation", one_by_one(correlation), "share or gain is the same at all levels")
    put("waste", one_by_one(waste), "no extended response")
    out["waste_level_share"] = float((gain_L < MIN_GAIN)[level_P].mean())
    pairs = {"standard": (own[0], standard), "extended": (own[1], extended)}
    out["erosion"] = {name: _paired(one, before) for name, (one, before) in pairs.items() if one is not None}
    put("retained", drawn(partial(ratio, result.accuracy, extended.accuracy)), "extended only is never right")
    out["gain_by_level"] = dict(zip(problems.levels, gain_L.tolist(), strict=True))
    out["reasons"] = reasons
    return out


def _ends(estimate: Estimate) -> list[float | None] | None:
    """[low, high]; an end without bound is None, and so is an interval that does not exist."""
    ends = [estimate.low, estimate.high]
    return None if any(np.isnan(end) for end in ends) else [plain(end) for end in ends]


def _why_no_ratio(cost: float, curve: VoteCurve) -> str:
    cost_K = curve.cost.mean(1)
    if not cost_K.min() <= cost <= cost_K.max():
        low, high = cost_K.min() / cost_K[0], cost_K.max() / cost_K[0]
        measured = f"self-consistency was measured from {low:.2f} to {high:.2f}"
        return f"costs {cost / cost_K[0]:.2f} times one response; {measured}"
    return "self-consistency gains less than .001, or than its standard error, at this cost"


def _paired(own: PerProblem, before: PerProblem) -> dict[str, float | None]:
    found = paired_difference(own.accuracy, before.accuracy)
    ratio = found.value / found.stderr if found.stderr > ROUNDING else None
    return {"difference": found.value, "stderr": plain(found.stderr), "ratio": ratio}


def level_oracle_held_out(
    standard: FloatArray,
    extended: FloatArray,
    problems: Problems,
    budget: float,
    *,
    num_splits: int = 20,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """`oracle_by_level` without its optimism: one half of each problem's responses decides, the other half values.

    Both halves take both parts; averages over random halvings.

    Args:
        standard: `[P, S]` rewards of standard responses, S at least 2.
        extended: `[P, S']` rewards of extended responses, S' at least 2.
        problems: Their levels.
        budget: Largest share of problems answered extended.
        num_splits: Random halvings.
        seed: Seed of the halvings.

    Returns:
        `[P]` accuracy on responses without a say, and `[P]` share of extended answers.

    Raises:
        ValueError: for fewer than two responses.
    """
    if min(standard.shape[1], extended.shape[1]) < 2:
        raise ValueError("halving needs two responses of each response group to every problem")
    rng, num_problems = np.random.default_rng(seed), len(standard)
    accuracy_P, share_P = np.zeros((2, num_problems))
    for _ in range(num_splits):
        before, after = (halves(rewards, rng) for rewards in (standard, extended))
        for decide, value in ((0, 1), (1, 0)):
            gain_L = problems.by_level(after[decide] - before[decide])
            part_P = oracle_by_level(0 * gain_L, gain_L, problems.level_share, budget)[1][problems.level]
            share_P += part_P
            accuracy_P += (1 - part_P) * before[value] + part_P * after[value]
    return accuracy_P / (2 * num_splits), share_P / (2 * num_splits)


def halves(rewards_PS: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Means of a random half of each problem's rewards, and of the rest."""
    mixed = rng.permuted(rewards_PS, axis=1)
    half = mixed.shape[1] // 2
    return mixed[:, :half].mean(1), mixed[:, half:].mean(1)


def mean_over_seeds(rows: Iterable[Mapping[str, Any]]) -> list[Json]:
    """One row per experiment, method and budget: means over the seeds, `seed` None, and `num_seeds`.

    The stderr is the root mean square of the seeds' own, what one seed's problems leave open; it does not shrink with
    the number of seeds, and no more do the ends of intervals, which are the means of the seeds' own. What some seeds
    have no number for is the mean of the others. `accuracy_range` is the smallest and the largest accuracy of a seed.

    Example:
        >>> row = dict(experiment="e", method="m", budget=None, seed=0, accuracy=0.5, stderr=0.1)
        >>> mean_over_seeds([row, row | {"seed": 1, "accuracy": 0.7}])[0]["accuracy"]
        0.6
    """
    siblings: dict[tuple[str, str, float | None], list[Mapping[str, Any]]] = {}
    for row in rows:
        siblings.setdefault((row["experiment"], row["method"], row["budget"]), []).append(row)
    merged = []
    for same in siblings.values():
        row = dict(same[0])
        row |= {
            key: _over_seeds([r.get(key) for r in same]) for key in row if key not in ("budget", "seed", "num_problems")
        }
        row["stderr"] = float(np.sqrt(np.mean([r["stderr"] ** 2 for r in same])))
        row["accuracy_range"] = [min(r["accuracy"] for r in same), max(r["accuracy"] for r in same)]
        merged.append(row | {"seed": None, "num_seeds": len(same)})
    return merged


def _over_seeds(values: Sequence[Any]) -> Any:
    """Combine the seeds' numbers, or tables of them name by name; texts are the same for all."""
    known = [value for value in values if value is not None]
    if not known or isinstance(known[0], str):
        return known[0] if known else None
    if isinstance(known[0], dict):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _over_seeds([value.get(name) for value in known]) for name in names}
    return float(np.mean(known))


def summarise(merits: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Bring the figures of merit of several seeds together.

    Args:
        merits: One list of figures of merit per seed, as `Methods.merits`.

    Returns:
        One entry per experiment, budget and variant. Each number becomes `{"mean", "min", "max", "num_seeds"}` over
        the seeds where it exists, or None where it exists for none; true counts as 1. Intervals are left out, `reasons`
        are those of all seeds.

    Example:
        >>> seeds = [[{"experiment": "e", "budget": 0.5, "variant": "sampled", "share": s}] for s in (0.4, 0.6)]
        >>> summarise(seeds)[0]["share"]
        {'mean': 0.5, 'min': 0.4, 'max': 0.6, 'num_seeds': 2}
    """
    siblings: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in (merit for of_seed in merits for merit in of_seed):
        siblings.setdefault((one.get("experiment"), one.get("budget"), one.get("variant")), []).append(one)
    summaries = []
    for (experiment, budget, variant), same in siblings.items():
        head = {"experiment": experiment, "budget": budget, "variant": variant, "num_seeds": len(same)}
        reasons: dict[str, str] = {}
        for one in same:
            reasons |= one.get("reasons", {})
        bodies = [{k: v for k, v in one.items() if k not in ("seed", "reasons", *head)} for one in same]
        summaries.append(head | _merge(bodies) | {"reasons": reasons})
    return summaries


def _merge(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for body in bodies for key in body):
        values = [body[key] for body in bodies if body.get(key) is not None]
        if not values:
            merged[key] = None
        elif isinstance(values[0], Mapping):
            merged[key] = _merge([dict(value) for value in values])
        elif isinstance(values[0], (int, float)):
            low, high = float(min(values)), float(max(values))
            merged[key] = {"mean": float(np.mean(values)), "min": low, "max": high, "num_seeds": len(values)}
    return {key: value for key, value in merged.items() if not key.endswith("_interval")}
