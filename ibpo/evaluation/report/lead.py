"""The first sentences of a page, made from its numbers alone: a gain, a loss, or no conclusion, and was a budget kept?

A gain is claimed only where its 95 % interval lies above 0, a loss where it lies below; everything else is "no
conclusion", with the reason and, where that can be computed, how many problems would tell. The terminal, the Markdown,
the HTML and the JSON of a page hold the same sentences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ibpo.budget import cost_text
from ibpo.evaluation.methods import mean_over_seeds
from ibpo.evaluation.report.tables import above_random_mix, merit_of, points

Json = dict[str, Any]
Estimate = Mapping[str, Any]
GAIN, LOSS, NONE = "gain", "loss", "no conclusion"
WORDS = {GAIN: "a gain", LOSS: "a loss", NONE: NONE}
FEW = 6
"""Fewer problems claim nothing: even if all go one way, chance does that too once in 16 times or more often."""
MOST_MORE = 20
"""A difference that so many times the problems would not tell from 0 is too close to it to say how many would."""
POWER = (1.96 + 0.84) / 1.96
"""Half widths of a 95 % interval that a difference must measure to be distinguished from 0 in four of five."""
MIX = "a random mix of the same cost"
POLICIES = {"sampled": "the trained policy", "calibrated": "the calibrated policy"}


def verdict_of(one: Estimate | None) -> str:
    """What a difference with its 95 % interval says.

    Example:
        >>> [verdict_of({"value": v, "low": v - 1, "high": v + 1}) for v in (2, 1, 0, -2)], verdict_of(None)
        (['gain', 'no conclusion', 'no conclusion', 'loss'], 'no conclusion')
    """
    if one is not None and (one.get("num_problems") or FEW) < FEW:
        return NONE
    low, high = (None, None) if one is None else (one["low"], one["high"])
    if low is not None and low > 0:
        return GAIN
    return LOSS if high is not None and high < 0 else NONE


def interval_text(one: Estimate) -> str:
    """An interval in points, in brackets: 95 %: −4.5 to +0.3; or that there is none."""
    if one["low"] is None or one["high"] is None:
        return "(no interval)"
    return f"(95 %: {points(one['low'])} to {points(one['high'])})"


def problems_needed(one: Estimate, num_problems: int) -> int | None:
    """With how many problems a difference as large as this one would be distinguished from 0 in four of five.

    None where nobody can say: it has no interval, or is so close to 0 that more than 20 times as many would be needed.

    Example:
        >>> problems_needed({"value": 0.02, "low": -0.01, "high": 0.05}, 100)
        460
        >>> problems_needed({"value": 0.001, "low": -0.03, "high": 0.03}, 100) is None
        True
    """
    if one["low"] is None or one["high"] is None or not one["value"]:
        return None
    times = (POWER * (one["high"] - one["low"]) / 2 / one["value"]) ** 2
    if times > MOST_MORE:
        return None
    digits = 1 - math.floor(math.log10(times * num_problems))  # two digits: it is an estimate
    return int(math.ceil(round(times * num_problems * 10**digits, 6)) / 10**digits)


def more_text(one: Estimate, num_problems: int, *, per_seed: bool = False) -> str:
    """Why there is no conclusion, and what would give one, as sentences."""
    if num_problems < FEW:
        return f"Too few problems for any conclusion: {num_problems}; at least {FEW} are needed."
    if one["low"] is None or one["high"] is None:
        return "Without an interval nobody can tell that from chance."
    needed, each = problems_needed(one, num_problems), " per seed" if per_seed else ""
    if needed is None:
        return (
            f"That may be chance, and is too close to 0 to say how many more problems than {num_problems:,} would tell."
        )
    return (
        f"That may be chance: if the difference is as large as it looks, some {needed:,} problems{each} in place of "
        f"{num_problems:,} would show it, 4 times in 5."
    )


def over_seeds(seeds: Sequence[Estimate]) -> Json | None:
    """The mean of estimates on independent problems, with its 95 % interval; None where one of them is missing.

    Each end lies as far off as the root of the sum of squares of the seeds' own says: the interval is over problems,
    of just these trainings.

    Example:
        >>> found = over_seeds([{"value": v, "low": v - 0.4, "high": v + 0.3} for v in (0.1, 0.3, 0.1, 0.3)])
        >>> {key: round(value, 3) for key, value in found.items()}
        {'value': 0.2, 'low': 0.0, 'high': 0.35}
    """
    if not seeds or any(one["value"] is None for one in seeds):
        return None
    value, found = sum(one["value"] for one in seeds) / len(seeds), {}
    for end in ("low", "high"):
        known = all(one[end] is not None for one in seeds)
        reach = math.sqrt(sum((one[end] - one["value"]) ** 2 for one in seeds)) / len(seeds) if known else 0.0
        found[end] = (value - reach if end == "low" else value + reach) if known else None
    known = [one["num_problems"] for one in seeds if one.get("num_problems")]
    return {"value": value, **found, **({"num_problems": sum(known)} if known else {})}


def rate_text(value: float) -> str:
    """A rate in a sentence."""
    return f"{value:.1%}"


def budget_text(who: str, budget: float, share: Estimate, *, binds: bool | None = None) -> str:
    """Whether a policy kept its budget, by how much it missed it, and whether that may be chance, as a sentence.

    Args:
        who: The policy.
        budget: The largest share of extended responses.
        share: What it used, with its interval.
        binds: Whether extended responses gain on more problems than the budget allows; None: not known.
    """
    value, low, high = share["value"], share["low"], share["high"]
    allowed = f"{rate_text(budget)} allowed"
    if low is None or high is None:  # of one problem there is no interval
        return f"Whether {who} kept its budget is not known: {rate_text(value)} on one problem, {allowed}."
    said = f"{rate_text(value)} of its responses extended (95 %: {rate_text(low)} to {rate_text(high)}), {allowed}"
    if low > budget:
        over = f"{points(value - budget)} points too many, more than chance explains"
        return f"{_start(who)} did not keep its budget: {over}; {said}."
    if value > budget * (1 + 1e-9):  # a mean of thirds rounds
        over = f"{points(value - budget)} points too many, which may be chance"
        return f"Whether {who} kept its budget is not known: {over}; {said}."
    slack = ""
    if high < budget - 0.01:
        slack = f" It left {points(budget - value).removeprefix('+')} points unused"
        slack += "." if binds is None else (
            ", although extended responses gain something on more problems than it allows." if binds else
            ": the budget has slack, since extended responses gain something on fewer problems than it allows."
        )  # fmt: skip
    return f"{_start(who)} kept its budget: {said}.{slack}"


def gain_text(who: str, gain: Estimate | None, over: str, *, why: str = "") -> str:
    """A gain, a loss or no conclusion, begun as a sentence and without its full stop."""
    if gain is None or gain["value"] is None:
        return f"No conclusion on {who}: {why}"
    if verdict_of(gain) == GAIN:
        return f"{_start(who)} gains {points(gain['value'])} points {interval_text(gain)} over {over}"
    if verdict_of(gain) == LOSS:
        return f"{_start(who)} loses: {points(gain['value'])} points {interval_text(gain)} against {over}"
    return f"No conclusion on {who}: {points(gain['value'])} points {interval_text(gain)} against {over}"


def lead_of_methods(name: str, rows: Sequence[Json], merits: Sequence[Json]) -> Json:
    """What the trained policy gains over a random mix of the same cost, at the middle budget first.

    Args:
        name: The experiment.
        rows: `ibpo.evaluation.methods.Methods.rows`, of all seeds of the experiment.
        merits: Its figures of merit, of all seeds.

    Returns:
        `verdict` ("gain", "loss" or "no conclusion"), `text`, the `gain` with its interval in parts of 1, `budget`,
        `share`, and `by_budget`, the verdicts of every budget and variant.
    """
    own = [row for row in mean_over_seeds(rows) if row["experiment"] == name]
    accuracy = {(row["method"], row["budget"]): row["accuracy"] for row in own}
    ends = [
        f"{word} {rate_text(accuracy[method, None])}"
        for word, method in (("Always extended", "extended only"), ("never", "standard only"))
        if (method, None) in accuracy
    ]
    bounds = ", ".join(ends) if len(ends) == 2 else ""
    by_budget = [_of_policy(own, rows, same) for same in _by_policy(merits)]
    if not by_budget:
        text = (
            f"{name.capitalize()}: no conclusion: no policy was trained to keep a budget.{f' {bounds}.' * bool(bounds)}"
        )
        return {"verdict": NONE, "text": text, "gain": None, "budget": None, "share": None, "by_budget": []}
    budgets = sorted({one["budget"] for one in by_budget})
    middle = budgets[len(budgets) // 2]
    main = next(
        one for variant in POLICIES for one in by_budget if (one["budget"], one["variant"]) == (middle, variant)
    )
    who, num_seeds = POLICIES[main["variant"]], main["num_seeds"]
    said = gain_text(f"{who} at a budget of {middle:.0%}", main["gain"], MIX, why=main["why"])
    sentences = [f"{said}."]
    if main["verdict"] == NONE and main["gain"] is not None and own:
        sentences.append(more_text(main["gain"], own[0]["num_problems"], per_seed=num_seeds > 1))
    if (right := accuracy.get((f"IBPO {main['variant']}", middle))) is not None:
        num = f"{own[0]['num_problems']:,} unseen problems{' per seed' * (num_seeds > 1)}"
        beside = f"; {bounds[0].lower()}{bounds[1:]}" if bounds else ""
        sentences.append(f"It is right on {rate_text(right)} of {num}{beside}.")
        bounds = ""
    if num_seeds > 1 and main["seeds"]:
        ends = f"{points(min(main['seeds']))} to {points(max(main['seeds']))}"
        sentences.append(f"The mean of {num_seeds} trainings, which got {ends}.")
    elif num_seeds == 1 and main["verdict"] != NONE:
        sentences.append("This is one training: another seed may give another number.")
    if main["share"] is not None:
        broken = main["share"]["low"] is not None and main["share"]["low"] > middle
        kept = budget_text(who if broken else "it", middle, main["share"], binds=main["binds"])
        sentences.insert(0 if broken else len(sentences), kept)
    others = [one for one in by_budget if one["variant"] == main["variant"] and one is not main]
    if others:
        each = [
            f"{one['budget']:.0%}: {WORDS[one['verdict']]}"
            + (f" ({points(one['gain']['value'])} points)" if one["gain"] is not None else "")
            for one in others
        ]
        sentences.append(f"At the other budgets: {', '.join(each)}.")
    text = f"{name.capitalize()}: {' '.join(sentences)}{f' {bounds}.' * bool(bounds)}"
    return {key: main[key] for key in ("verdict", "gain", "budget", "share")} | {"text": text, "by_budget": by_budget}


def _by_policy(merits: Sequence[Json]) -> list[list[Json]]:
    found: dict[tuple[float, str], list[Json]] = {}
    for one in merits:
        if one["variant"] in POLICIES:
            found.setdefault((one["budget"], one["variant"]), []).append(one)
    return list(found.values())


def _of_policy(own: Sequence[Json], rows: Sequence[Json], seeds: Sequence[Json]) -> Json:
    """One budget and variant: the verdict, the gain and the share, over its seeds."""
    first = seeds[0]
    each = [merit_of(one, "above_random_mix") for one in seeds]
    if own:
        each = [one | {"num_problems": own[0]["num_problems"]} for one in each]
    gain, why = over_seeds(each), ""
    if gain is None:
        why = next((r for one in seeds if (r := one.get("reasons", {}).get("above_random_mix"))), "")
        row = next(
            (r for r in own if (r["method"], r["budget"]) == (f"IBPO {first['variant']}", first["budget"])), None
        )
        if not why and row is not None and (value := above_random_mix(row, rows)) is not None:
            gain = {"value": value, "low": None, "high": None}
        why = why or "there is no random mix of its cost to compare with"
    binds = {one.get("binds") for one in seeds}
    return {
        "budget": first["budget"],
        "variant": first["variant"],
        "verdict": verdict_of(gain),
        "gain": gain,
        "why": why,
        "share": over_seeds([merit_of(one, "share") for one in seeds]),
        "binds": binds.pop() if len(binds) == 1 else None,
        "num_seeds": len(seeds),
        "seeds": [one["value"] for one in each if one["value"] is not None],
    }


def lead_of_comparison(part: Json, choice: Json) -> Json:
    """What a report says first: own choices, choosing per problem, and the most accurate against the standard one.

    Args:
        part: As from `compare`, with `cost_unit`.
        choice: What choosing per problem at half of today's cost gains: `verdict`, `text`, `gain` (None: not known).

    Returns:
        `verdict` and `gain` of the first claim, and the `text` of all.
    """
    rows = part["configurations"]
    silent = _without_answers(rows)
    sentences = [f"No conclusion from {name}: none of its responses gives an answer." for name in silent]
    policies = [_own_choice(row, part) for row in _choosing(rows) if row["name"] not in silent]
    budgets = {row["name"]: row for row in part["budget_kept"]}
    policies.sort(key=lambda one: one["name"] not in budgets)
    for one in policies[:1]:
        sentences.append(one["text"])
    others = policies[1:]
    if others:
        told = ", ".join(
            f"{sum(one['verdict'] == word for one in others)} {word}"
            for word in (GAIN, LOSS, NONE)
            if any(one["verdict"] == word for one in others)
        )
        sentences.append(f"{len(others)} other configurations that choose by themselves: {told}.")
    shown = [row for row in part["budget_kept"] if row["name"] == (policies[0]["name"] if policies else None)]
    shown = shown or part["budget_kept"][:1]
    for row in shown:
        first = row["share"]["low"] is not None and row["share"]["low"] > row["budget"]
        text = budget_text(row["name"], row["budget"], row["share"])
        sentences.insert(0 if first else len(sentences), text)
    broken = [r["name"] for r in part["budget_kept"] if r not in shown and (r["share"]["low"] or 0) > r["budget"]]
    sentences += [f"{', '.join(broken)} did not keep the budget either."] if broken and shown else []
    if not policies:
        sentences.append(choice["text"])
    if best := _best_text(part, silent):
        sentences.append(best)
    main = policies[0] if policies else choice
    return {"verdict": main["verdict"], "gain": main["gain"], "text": " ".join(sentences)}


def _without_answers(rows: Sequence[Json]) -> list[str]:
    """Configurations that are never right since no answer of theirs was read, where those of others were."""
    every = [row["numbers"]["overall"]["all"] for row in rows]
    found = []
    for row, numbers in zip(rows, every, strict=True):
        unanswered = numbers.get("unanswered")
        none = any("unanswered" in other for other in every) if unanswered is None else unanswered["value"] == 1
        if none and numbers["pass@1"]["value"] == 0:
            found.append(row["name"])
    return found


def _choosing(rows: Iterable[Json]) -> list[Json]:
    """The configurations that choose by themselves: some of their responses are extended, not all."""
    shares = ((row, row["numbers"]["overall"]["all"].get("extended_share")) for row in rows)
    return [row for row, share in shares if share is not None and 0 < share["value"] < 1]


def _own_choice(row: Json, part: Json) -> Json:
    gain = row["above_random_mix"]
    why = "it takes a random mix of two configurations to compare with"
    if len(part["reference"]) == 2:
        why = f"no random mix of {part['reference'][0]} and {part['reference'][1]} has its cost"
    text = gain_text(row["name"], gain, f"{MIX} of {' and '.join(part['reference'])}", why=why) + "."
    if gain is not None and verdict_of(gain) == NONE:
        text += f" {more_text(gain, part['num_problems'])}"
    return {"name": row["name"], "verdict": verdict_of(gain), "gain": gain, "text": text}


def _best_text(part: Json, silent: Sequence[str]) -> str:
    """The configuration that is right most often, against the standard one, on the same problems."""
    rows = part["configurations"]
    standard = next(row for row in rows if row["name"] == part["standard"])
    others = [row for row in rows if row is not standard and row["name"] not in silent and row["difference"]]
    right = rate_text(_accuracy(standard))
    if standard["name"] in silent:
        return ""
    if not others:
        one = standard["numbers"]["overall"]["all"]["pass@1"]
        ends = "" if one["low"] is None else f" (95 %: {rate_text(one['low'])} to {rate_text(one['high'])})"
        return f"{standard['name']} is right on {right}{ends}."
    best = max(others, key=_accuracy)
    times = best["relative_cost"]["value"]
    cost = f"{cost_text(best['cost']['value'])} {part['cost_unit']}"  # beside what costs nothing
    cost = cost if times is None else f"{_times(times)} times the cost"
    both = f"{standard['name']} is right on {right}, {best['name']} on {rate_text(_accuracy(best))} at {cost}"
    change = f"{points(best['difference']['value'])} points {interval_text(best['difference'])}"
    picked = f" ({best['name']} is picked as the best of {len(others)}, which flatters it.)" if len(others) > 1 else ""
    verdict = verdict_of(best["difference"])
    if verdict == GAIN:
        return f"{both}: a gain of {change}.{picked}"
    if verdict == LOSS:
        return f"{both}: a loss, {change}.{f' (It is the best of {len(others)}.)' if len(others) > 1 else ''}"
    more = more_text(best["difference"], part["num_problems"])
    return f"No conclusion between {standard['name']} and {best['name']}: {both}, {change}.{picked} {more}"


def _times(ratio: float) -> str:
    """A ratio of costs: 1.01, 14.7, 995,878."""
    digits = 0 if ratio >= 100 else 1 if abs(ratio - 1) > 0.05 else 3
    return f"{ratio:,.{digits}f}"


def _accuracy(row: Json) -> float:
    return row["numbers"]["overall"]["all"]["pass@1"]["value"]


def _start(text: str) -> str:
    """Begun as a sentence, where it is words of ours: names of configurations stay as they are written."""
    return text[0].upper() + text[1:] if text.startswith(("the ", "it")) and not text.startswith("it ") else text
