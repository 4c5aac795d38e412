"""The one page of every evaluation: HTML, Markdown, figures and JSON; needs jinja2 and matplotlib."""

from ibpo.evaluation.report.figures import plot_frontier, plot_share_by_level
from ibpo.evaluation.report.lead import gain_text, lead_of_methods, verdict_of
from ibpo.evaluation.report.page import (
    PageData,
    answer_of,
    comparison_part,
    conclude,
    methods_part,
    pick_examples,
    write_page,
)
from ibpo.evaluation.report.tables import first_methods, percent, points

__all__ = [
    "PageData",
    "answer_of",
    "comparison_part",
    "conclude",
    "first_methods",
    "gain_text",
    "lead_of_methods",
    "methods_part",
    "percent",
    "pick_examples",
    "plot_frontier",
    "plot_share_by_level",
    "points",
    "verdict_of",
    "write_page",
]
