"""The one page of every evaluation: HTML, Markdown, figures and JSON; needs jinja2 and matplotlib."""

from ibpo.evaluation.report.figures import plot_frontier, plot_share_by_level
from ibpo.evaluation.report.page import (
    PageData,
    answer_of,
    comparison_part,
    first_words,
    methods_part,
    pick_examples,
    write_page,
)
from ibpo.evaluation.report.tables import percent, points

__all__ = [
    "PageData",
    "answer_of",
    "comparison_part",
    "first_words",
    "methods_part",
    "percent",
    "pick_examples",
    "plot_frontier",
    "plot_share_by_level",
    "points",
    "write_page",
]
