"""What the report shows of one experiment: its figures as inline SVG with alternative texts, its tables as texts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
from markupsafe import Markup, escape

from ibpo.evaluation import frontier
from ibpo.evaluation.methods import Json as Row
from ibpo.evaluation.methods import mean_over_seeds, summarise
from ibpo.evaluation.run_facts import share_in_training

Merit = Mapping[str, Any]
MERITS = {
    "oracle_share": "oracle share",
    "oracle_share_own": "by its own responses",
    "gain_ratio_cold_start": "gain ratio, cold start",
    "gain_ratio_pretrained": "gain ratio, pretrained",
    "rank_correlation": "rank correlation",
    "waste": "wasted",
    "waste_level_share": "a blind draw wastes",
    "erosion_standard": "erosion, standard",
    "erosion_extended": "erosion, extended",
    "retained": "retained",
}
"""Figure of merit -> its name on the page."""
NO_BREAK = "\N{NO-BREAK SPACE}"


def percent(value: float | None) -> str:
    """0.625 -> "62.5 %"; None -> a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of rates in percentage points: 0.0123 -> "+1.2"."""
    return (
        "–" if value is None else f"{100 * value:+.1f}".replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")
    )


def plain(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


FILTERS: dict[str, Callable[[float | None], str]] = {"percent": percent, "points": points, "plain": plain}


def experiment_part(
    key: str,
    name: str,
    title: str,
    rows: Sequence[Row],
    merits: Sequence[Merit],
    steps: Sequence[Mapping[str, Any]],
    areas: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Figures and table cells of one experiment, for the template.

    Args:
        key: Unique in the page, for ids.
        name: The experiment.
        title: Its title.
        rows: Its rows, of all seeds.
        merits: Its figures of merit, of all seeds.
        steps: Its training steps; may be empty.
        areas: Its areas under accuracy against cost, of all seeds; may be empty.

    Returns:
        Values under the names that the template uses.
    """
    merged: list[Row] = [{**row, "above_mix": above_random_mix(row, rows)} for row in mean_over_seeds(rows)]
    titles = {name: title}
    trained = _in_training(steps)
    shares = [(name, q, share) for q, found in trained.items() for share in found]

    def figure(suffix: str, draw: Callable[[IO[bytes]], None], alt: str) -> Markup:
        return inline_svg(f"{key}{suffix}", draw, alt)

    spoken_steps = "Extended share and price of the budget at each training step, one line per policy."
    return {
        "key": key,
        "title": title,
        "rows": merged,
        "num_seeds": max(row["num_seeds"] for row in merged),
        "merits": [_merit_cells(one, merits) | _trained(trained, one["budget"]) for one in summarise([merits])],
        "areas": area_cells(areas),
        "frontier": figure("f", lambda out: frontier.plot_frontier(rows, out, titles), _spoken_frontier(merged)),
        "shares": figure("s", lambda out: frontier.plot_share_by_level(rows, out, titles), _spoken_shares(merged)),
        "kept": figure("k", lambda out: frontier.plot_budget_kept(rows, out, titles, shares), _spoken_kept(merged)),
        "training": figure("t", lambda out: frontier.plot_training(steps, out), spoken_steps) if steps else None,
    }


def _in_training(steps: Sequence[Mapping[str, Any]]) -> dict[float, list[float]]:
    """Budget -> the share of each seed's policy over the last tenth of its steps."""
    found: dict[float, list[float]] = {}
    for budget, seed in sorted({(step["budget"], step["seed"]) for step in steps}):
        own = [step for step in steps if (step["budget"], step["seed"]) == (budget, seed)]
        share = share_in_training([{**step, "configuration": ""} for step in own], "")
        found.setdefault(budget, []).extend([] if share is None else [share])
    return found


def _trained(shares: Mapping[float, Sequence[float]], budget: float) -> dict[str, str]:
    own = shares.get(budget)
    if not own:
        return {"in_training": "–"}
    ends = f"({percent(min(own))} to {percent(max(own))})".replace(" ", NO_BREAK) if len(own) > 1 else ""
    return {"in_training": f"{percent(float(np.mean(own)))} {ends}".strip()}


def inline_svg(key: str, draw: Callable[[IO[bytes]], None], alt: str) -> Markup:
    """An SVG element that follows the page's light or dark theme and has an alternative text.

    Args:
        key: Put before every id, so that several figures can stand in one page.
        draw: Writes the SVG file.
        alt: What it shows, in words.
    """
    buffer = io.BytesIO()
    draw(buffer)
    svg = buffer.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{key}-", svg)
    svg = svg.replace(frontier.INK, "var(--ink)").replace(frontier.PAPER, "var(--paper)")
    head = re.compile(
        r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"|<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"'
    )
    svg = head.sub(lambda m: "<svg " + " ".join(g for g in m.groups() if g), svg, count=1)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))


def above_random_mix(row: Row, rows: Sequence[Row]) -> float | None:
    """Accuracy of a method less that of a random mix of standard only and extended only at the same mean tokens.

    None where the mix has no such cost. `rows` are of one experiment; means over its seeds.
    """
    ends = [[r for r in rows if r["method"] == method] for method in ("standard only", "extended only")]
    if not all(ends):
        return None
    cost, accuracy = ([float(np.mean([r[key] for r in end])) for end in ends] for key in ("relative_cost", "accuracy"))
    if not cost[0] <= row["relative_cost"] <= cost[1] or cost[0] == cost[1]:
        return None
    part = (row["relative_cost"] - cost[0]) / (cost[1] - cost[0])
    return row["accuracy"] - (1 - part) * accuracy[0] - part * accuracy[1]


def area_cells(areas: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One line of the table of areas per curve: texts, with the spread over seeds, or one seed's 95 % interval."""
    lines = []
    for name in dict.fromkeys(row["name"] for row in areas):
        own = [row for row in areas if row["name"] == name]
        low, high = (float(np.mean([row[end] for row in own])) for end in ("low", "high"))
        texts = {key: _spread([row[key] for row in own if row[key] is not None]) for key in ("area", "mix")}
        lines.append({"name": name, "costs": f"{low:.2f} to {high:.2f} ×"} | texts)
    return lines


def _spread(estimates: Sequence[Mapping[str, float]]) -> str:
    if not estimates:
        return "–"
    values = [one["value"] for one in estimates]
    low, high = (estimates[0]["low"], estimates[0]["high"]) if len(values) == 1 else (min(values), max(values))
    return percent(float(np.mean(values))) + f" ({percent(low)} to {percent(high)})".replace(" ", NO_BREAK)


def _merit_cells(summary: Merit, merits: Sequence[Merit]) -> dict[str, Any]:
    """One line of the tables of merits: texts, with the spread over seeds, or one seed's 95 % interval."""
    seeds = [m for m in merits if (m["budget"], m["variant"]) == (summary["budget"], summary["variant"])]

    def mean(name: str) -> float | None:
        return summary[name]["mean"] if summary.get(name) else None

    def spread(name: str, show: Callable[[float | None], str]) -> str:
        if not summary.get(name):
            return "–"
        low, high = summary[name]["min"], summary[name]["max"]
        text = show(summary[name]["mean"])
        if len(seeds) == 1:
            if not seeds[0].get(f"{name}_interval"):
                return text
            low, high = seeds[0][f"{name}_interval"]
            if high is None:
                return f"{text} " + f"(at least {show(low)})".replace(" ", NO_BREAK)
        return text if low == high else f"{text} " + f"({show(low)} to {show(high)})".replace(" ", NO_BREAK)

    erosion = {}
    for name in ("standard", "extended"):
        found = summary["erosion"].get(name) if summary.get("erosion") else None
        stderr = "" if not found or not found["stderr"] else f"{NO_BREAK}±{NO_BREAK}{100 * found['stderr']['mean']:.1f}"
        erosion[name] = "–" if not found else points(found["difference"]["mean"]) + stderr
    times = {True: "yes", False: "no"}
    binds = {one["binds"] for one in seeds}
    return {
        "budget": summary["budget"],
        "variant": summary["variant"],
        "share": spread("share", percent),
        "share_error": spread("share_error", points),
        "binds": times[binds.pop()] if len(binds) == 1 else "for some seeds",
        "oracle_share": spread("oracle_share", plain),
        "oracle_share_own": spread("oracle_share_own", plain),
        "gain_ratio_cold_start": spread("gain_ratio_cold_start", plain),
        "gain_ratio_pretrained": spread("gain_ratio_pretrained", plain),
        "rank_correlation": spread("rank_correlation", plain),
        "waste": spread("waste", percent),
        "waste_level_share": percent(mean("waste_level_share")),
        "erosion_standard": erosion["standard"],
        "erosion_extended": erosion["extended"],
        "retained": spread("retained", percent),
        "reasons": sorted(f"{name.replace('_', ' ')}: {why}" for name, why in summary["reasons"].items()),
    }


def _spoken_name(row: Row) -> str:
    return row["method"] if row["budget"] is None else f"{row['method']} at {row['budget']:.0%}"


def _spoken_frontier(rows: Sequence[Row]) -> str:
    told = (
        "standard only",
        "extended only",
        "RAFT without budget",
        "IBPO sampled",
        "IBPO calibrated",
        "oracle by level",
    )
    texts = [
        f"{_spoken_name(row)}: {percent(row['accuracy'])} at {row['relative_cost']:.2f} times the cost"
        for row in rows
        if row["method"] in told
    ]
    return "Accuracy against cost. " + "; ".join(texts) + "."


def _spoken_shares(rows: Sequence[Row]) -> str:
    texts = []
    for row in rows:
        if row["method"] in ("IBPO sampled", "IBPO calibrated"):
            shares = ", ".join(f"{level} {percent(share)}" for level, share in row["share_by_level"].items())
            texts.append(f"{_spoken_name(row)}: {shares}")
    return "Extended share by level. " + "; ".join(texts) + "."


def _spoken_kept(rows: Sequence[Row]) -> str:
    texts = [
        f"{_spoken_name(row)}: {points(row['extended_share'] - row['budget'])} points"
        for row in rows
        if row["method"] in ("IBPO sampled", "IBPO calibrated")
    ]
    return "Share on unseen problems minus the budget. " + "; ".join(texts) + "."
