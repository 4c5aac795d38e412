"""The complete table, a row for each method, strength and budget: in the terminal, and as Markdown to be copied."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from experiments.gains import spoken
from ibpo.evaluation.compare import Row, mean_over_seeds

NOTE = """Cost: mean tokens, as a multiple of one standard response of the cold start. Above mix: accuracy less that
of the random mix of standard only and extended only that costs the same, in points. Gain ratio: gain over one standard
response of the cold start, as a multiple of what its majority votes gain at that cost (dash: votes gain nothing there,
or were not measured there). Oracle share: of what the best choice by level gains over the random mix of that cost, the
part gained; the oracle knows the answers of these very problems. ±: one standard error over problems. In brackets: 95 %
intervals over problems, of one seed; numbers are means over seeds. Sampled in training: responses, both turns of a
dialogue; the candidates of its tuning are not counted."""


def terminal_table(rows: Sequence[Row]) -> Table:
    """Short enough for a screen; every curve whole is in the Markdown and on the page."""
    table = Table(title="Unseen problems, dearest last (every curve whole on the page)", title_justify="left")
    merged = mean_over_seeds(rows)
    several = len({row["experiment"] for row in merged}) > 1
    if several:
        table.add_column("experiment")
    table.add_column("method", overflow="fold")
    for name in ("budget", "accuracy", "extended", "cost", "above mix", "sampled"):
        table.add_column(name, justify="right", no_wrap=True)
    hidden = re.compile(r"forced|maj@[^4]|consensus|posterior 0\.(?!95)")
    for row in sorted(merged, key=lambda row: (row["experiment"], row["relative_cost"])):
        if hidden.search(row["method"]):
            continue
        above = row["above_random_mix"]
        table.add_row(
            *([row["experiment"]] if several else []),
            row["method"],
            "" if row["budget"] is None else f"{row['budget']:.0%}",
            f"{row['accuracy']:.1%} ± {100 * row['stderr']:.1f}",
            f"{row['extended_share']:.1%}",
            f"{row['relative_cost']:.2f}×",
            "–" if above is None else f"{round(100 * above['value'], 1) + 0.0:+.1f}",
            number(row["num_training_responses"]),
            style="bold" if row["method"] == "IBPO calibrated" else None,
        )
    return table


def markdown(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Every row of every experiment, the cheapest first, and what the columns mean."""
    merged = mean_over_seeds(rows)
    lines: list[str] = []
    for name, title in titles.items():
        own = sorted((row for row in merged if row["experiment"] == name), key=lambda row: row["relative_cost"])
        if not own:
            continue
        head = f"{own[0]['num_problems']:,} unseen problems, seeds: {max(row['num_seeds'] for row in own)}"
        lines += [f"## {title}", "", f"{head}, dearest last.", ""]
        lines += [
            "| method | q+ | accuracy, % | extended share | cost | above mix, pp | gain ratio | oracle share "
            "| updates | sampled in training |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(_line, own),
            "",
        ]
    return "\n".join([*lines, NOTE, ""])


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        row["method"],
        "" if row["budget"] is None else f"{row['budget']:.0%}",
        f"{100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f}",
        f"{row['extended_share']:.1%}",
        f"{row['relative_cost']:.2f} x",
        spoken(row["above_random_mix"], "{:+.1f}", 100),
        spoken(row.get("gain_ratio_cold_start")),
        spoken(row["oracle_share_tokens"]),
        "one epoch" if row["num_updates"] is None and row["num_training_responses"] else number(row["num_updates"]),
        number(row["num_training_responses"]),
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """A count, a mean over seeds; a dash where it is not known.

    Example:
        >>> number(24320.0), number(None)
        ('24,320', '–')
    """
    return "–" if value is None else f"{value:,.0f}"
