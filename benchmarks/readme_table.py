"""The README's tables out of a run: `python benchmarks/readme_table.py runs/both`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ibpo.evaluation import mean_over_seeds

VOTES = tuple(f"self-consistency ({model}) maj@{votes}" for model in ("cold start", "pretrained") for votes in (3, 5))
METHODS = (
    "standard only",
    "extended only",
    "random mix",
    *VOTES,
    "RAFT without budget",
    "IBPO sampled",
    "IBPO calibrated",
)


def main(run_dir: Path) -> None:
    """Print the table of methods and the table of figures of merit, means over seeds, as Markdown."""
    rows = mean_over_seeds(json.loads((run_dir / "results.json").read_text()))
    merits = json.loads((run_dir / "merits.json").read_text())["over_seeds"]
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == experiment]
        print(f"\n**{experiment}**, {own[0]['num_problems']:,} unseen problems, seeds: {own[0]['num_seeds']}\n")
        print("| method | q+ | accuracy | extended share | cost |\n|---|---|---|---|---|")
        for method in (*METHODS, "oracle by level"):
            for row in own:
                if row["method"] == method:
                    print(_line(row))
        print(
            "\n| IBPO | q+ | share - q+, pp | budget | oracle share | of its own | rank corr. "
            "| gain / self-consistency | forced - cold start, pp |\n|---|---|---|---|---|---|---|---|---|"
        )
        for merit in merits:
            if merit["experiment"] == experiment:
                print(_merit(merit))


def _line(row: dict[str, Any]) -> str:
    budget = "" if row["budget"] is None else f"{row['budget']:.0%}"
    accuracy = f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f}"
    return f"| {row['method']} | {budget} | {accuracy} | {row['extended_share']:.1%} | {row['relative_cost']:.2f} x |"


def _merit(merit: dict[str, Any]) -> str:
    def mean(key: str, form: str = "{:.2f}") -> str:
        value = merit.get(key)
        return "" if value is None else form.format(value["mean"])

    erosion = merit.get("erosion") or {}
    eroded = " / ".join(
        ""
        if not erosion.get(how)
        else f"{100 * erosion[how]['difference']['mean']:+.1f} ± {100 * erosion[how]['stderr']['mean']:.1f}"
        for how in ("standard", "extended")
    )
    error = merit["share_error"]
    errors = f"{100 * error['mean']:+.1f} ({100 * error['min']:+.1f} to {100 * error['max']:+.1f})"
    ratio = f"{mean('gain_ratio_cold_start')} / {mean('gain_ratio_pretrained')}"
    binds = "binds" if merit["binds"]["mean"] == 1 else "slack"
    return (
        f"| {merit['variant']} | {merit['budget']:.0%} | {errors} | {binds} | {mean('oracle_share')} "
        f"| {mean('oracle_share_own')} | {mean('rank_correlation')} | {ratio} | {eroded} |"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
