"""Small pictures of results, for notebooks: one piece of HTML with a drawing and a table, and nothing from outside.

No script, no font and no address of another place; every name is escaped, and the size does not depend on how many
responses there are. Colours follow the reader's theme: Jupyter's, VS Code's, Colab's or a documentation page's where
these say which it is, else the system's (`prefers-color-scheme`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 14.0, 12.0, 40.0
MOST_LETTERS = 60
"""Most letters of a name."""
MOST_ROWS = 12
"""Most rows of a table."""
MOST_POINTS = 160
"""Most points of a curve: more would draw no other line."""

_NAMES = ("ink", "faint", "line", "paper", "accent", "other")


def _colours(*values: str) -> str:
    return ";".join(f"--ibpo-{name}:#{value}" for name, value in zip(_NAMES, values, strict=True))


_LIGHT = _colours("1f2329", "6b7178", "d4d7da", "fefefd", "0a62a6", "b0500c")
_DARK = _colours("e4e6e8", "a3a9af", "454b52", "1b1e22", "6cb6f5", "f0a060")
_SAY_LIGHT = (
    "html[data-theme=light]",
    "html[theme=light]",
    "[data-md-color-scheme=default]",
    "body[data-jp-theme-light=true]",
    "body.vscode-light",
)
_SAY_DARK = (
    "html[data-theme=dark]",
    "html[theme=dark]",
    "[data-md-color-scheme=slate]",
    "body[data-jp-theme-light=false]",
    "body.vscode-dark",
    "body.vscode-high-contrast:not(.vscode-high-contrast-light)",
)
STYLE = (
    f".ibpo-result{{{_LIGHT};color:var(--ibpo-ink);background:var(--jp-layout-color0,var(--ibpo-paper));"
    "font:13px/1.45 system-ui,sans-serif;max-width:52rem;padding:.5rem .75rem;box-sizing:border-box}"
    f"@media (prefers-color-scheme:dark){{.ibpo-result{{{_DARK}}}}}"
    f"{','.join(f'{page} .ibpo-result' for page in _SAY_LIGHT)}{{{_LIGHT}}}"
    f"{','.join(f'{page} .ibpo-result' for page in _SAY_DARK)}{{{_DARK}}}"
    ".ibpo-result .ibpo-name{font-weight:600}.ibpo-result .ibpo-note{color:var(--ibpo-faint)}"
    ".ibpo-result p{margin:.15rem 0;overflow-wrap:anywhere}"
    ".ibpo-result svg{display:block;width:100%;max-width:30rem;height:auto;margin:.4rem 0}"
    ".ibpo-result svg text{fill:var(--ibpo-ink);font:12px system-ui,sans-serif}"
    ".ibpo-result svg .ibpo-at{paint-order:stroke;stroke:var(--jp-layout-color0,var(--ibpo-paper));stroke-width:4px}"
    ".ibpo-result div{overflow-x:auto}"
    ".ibpo-result table{border-collapse:collapse;margin:.3rem 0;font-size:13px;border:0;color:inherit}"
    ".ibpo-result :is(th,td){padding:.15rem .6rem;text-align:right;border:0;border-bottom:1px solid var(--ibpo-line);"
    "background:none;font-weight:400;font-variant-numeric:tabular-nums;white-space:nowrap}"
    ".ibpo-result :is(th,td):first-child{text-align:left;padding-left:0;white-space:normal;overflow-wrap:anywhere;"
    "min-width:5.5rem;max-width:16rem}"
    ".ibpo-result thead th{color:var(--ibpo-faint);white-space:normal;vertical-align:bottom}"
)


def number_text(value: float | None) -> str:
    """A number as people read it, with four digits at most where it is not whole.

    Example:
        >>> [number_text(value) for value in (12345.6, 0.25, 41.53, 3.0, 0.00012, -7.5, float("inf"), None)]
        ['12,346', '0.25', '41.53', '3', '0.00012', '−7.5', 'no limit', '']
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "no limit" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) >= 1e9 or abs(value) < 1e-4:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def short(name: str, most: int = MOST_LETTERS) -> str:
    r"""A name of at most so many letters, what cannot be printed written out.

    Example:
        >>> short("a" * 70, 6), short("two\nlines")
        ('aaaaa…', 'two\\nlines')
    """
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point of a chart, with its name and 95 % interval."""

    x: float
    y: float
    name: str = ""
    low: float | None = None
    high: float | None = None
    is_other: bool = False
    """In the second colour."""


def show(name: str, lead: str, drawing: str, rows: str, note: str = "") -> str:
    """A result as one piece of HTML.

    Args:
        name: What it is.
        lead: One sentence.
        drawing: Picture from `chart` or `bars`; "": none.
        rows: Rows from `table`; "": none.
        note: Below everything.
    """
    below = f'<p class="ibpo-note">{escape(note)}</p>' if note else ""
    return (
        f'<div class="ibpo-result"><style>{STYLE}</style><p><span class="ibpo-name">{escape(name)}</span> '
        f"{escape(lead)}</p>{drawing}{rows}{below}</div>"
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; beyond `MOST_ROWS` it says how many rows there are more."""
    shown = [*body] if len(body) <= MOST_ROWS else [*body[: MOST_ROWS - 1]]
    cells = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'
        for first, *others in shown
    )
    if len(shown) < len(body):
        cells += f'<tr><th scope="row" colspan="{len(head)}">and {len(body) - len(shown):,} more</th></tr>'
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return f"<div><table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div>"


def text_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal.

    Example:
        >>> print(text_table(["budget", "value"], [["10", "0.5"], ["100", "0.75"]]))
          budget  value
          10        0.5
          100      0.75
    """
    shown = [*body] if len(body) <= MOST_ROWS else [*body[: MOST_ROWS - 1]]
    widths = [max(len(row[i]) for row in (head, *shown)) for i in range(len(head))]
    lines = [
        "  "
        + "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *shown)
    ]
    if len(shown) < len(body):
        lines.append(f"  and {len(body) - len(shown):,} more")
    return "\n".join(line.rstrip() for line in lines)


def chart(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    what: str,
    is_dashed: bool = False,
) -> str:
    """Curves and marks over two axes.

    Args:
        curves: Values of x and y of each.
        marks: Points on top, with names where these do not lie on each other.
        x_label: Below the axis.
        y_label: Above the axis.
        what: In words, for who cannot see it.
        is_dashed: Whether the curves are drawn as guides, thin and dashed.
    """
    xs = [x for curve in curves for x in curve[0]] + [mark.x for mark in marks]
    ys = [y for curve in curves for y in curve[1]] + [
        y for m in marks for y in (m.y, m.y if m.low is None else m.low, m.y if m.high is None else m.high)
    ]
    (x0, x1), (y0, y1) = _span(xs), _span(ys)
    top = TOP + 16

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - top)

    parts = [f'<text x="4" y="{TOP:g}">{escape(short(y_label))}</text>']
    parts.append(f'<text x="{WIDTH - RIGHT:g}" y="{HEIGHT - 4:g}" text-anchor="end">{escape(short(x_label))}</text>')
    for tick in ticks(y0, y1):
        y = at(x0, tick)[1]
        parts.append(_line([(LEFT, y), (WIDTH - RIGHT, y)], "--ibpo-line", 1))
        parts.append(f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{number_text(tick)}</text>')
    for tick in ticks(x0, x1):
        x = at(tick, y0)[0]
        parts.append(_line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4)], "--ibpo-faint", 1))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17:g}" text-anchor="middle">{number_text(tick)}</text>')
    for x, y in curves:
        points = [at(*point) for point in zip(x, y, strict=True)]
        colour, width = ("--ibpo-faint", 1.5) if is_dashed else ("--ibpo-accent", 2)
        parts.append(_line(points, colour, width, dashed=is_dashed))
    # Names lie neither on each other nor on a mark.
    taken = [(x - 4, x + 4, y + 4) for x, y in (at(mark.x, mark.y) for mark in marks)]
    for mark in marks:
        colour = "--ibpo-other" if mark.is_other else "--ibpo-accent"
        x, y = at(mark.x, mark.y)
        if mark.low is not None and mark.high is not None:
            parts.append(_line([(x, at(mark.x, mark.low)[1]), (x, at(mark.x, mark.high)[1])], colour, 1.2))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:var({colour})"/>')
        if mark.name:
            parts.append(_label(short(mark.name, 28), x, y, taken))
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(what, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def bars(parts: Sequence[tuple[str, float, float, str]], *, what: str) -> str:
    """One bar per row, filled up to a part of its length.

    Args:
        parts: Name, filled part in [0, 1], where a lower limit stands (0: there is none), and the text behind it.
        what: In words, for who cannot see it.
    """
    shown, left, room = parts[:MOST_ROWS], 110.0, 190.0
    lines: list[str] = []
    for i, (name, part, least, text) in enumerate(shown):
        y = 24.0 * i + 4
        lines.append(f'<text x="0" y="{y + 12:g}">{escape(short(name, 17))}</text>')
        lines.append(
            f'<rect x="{left:g}" y="{y:g}" width="{room:g}" height="15" rx="2" style="fill:var(--ibpo-line)"/>'
        )
        filled = room * min(max(part, 0.0), 1.0)
        lines.append(
            f'<rect x="{left:g}" y="{y:g}" width="{filled:.1f}" height="15" rx="2" style="fill:var(--ibpo-accent)"/>'
        )
        if 0 < least <= 1:
            x = left + room * least
            lines.append(_line([(x, y - 2), (x, y + 17)], "--ibpo-other", 2))
        lines.append(f'<text x="{left + room + 8:g}" y="{y + 12:g}">{escape(short(text, 28))}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {24 * len(shown) + 4:g}" role="img" aria-label="{escape(what, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(lines)}</svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two ends: 1, 2 or 5 times a power of ten apart.

    Example:
        >>> ticks(0, 1), ticks(37, 212), ticks(0.61, 0.69)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [50.0, 100.0, 150.0, 200.0], [0.62, 0.64, 0.66, 0.68])
    """
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: a little beyond the values."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return (low - room if low < 0 or low > room else 0.0), high + room


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, *, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="{width:g}"{dash} '
        f'style="stroke:var({colour})"/>'
    )


def _label(name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """A name beside a point, where no other stands; else none: the table has it."""
    width = 6.6 * len(name)
    for dx, dy, side in ((8, 16, 1), (8, -8, 1), (-8, 16, -1), (-8, -8, -1)):
        left = x + dx if side > 0 else x + dx - width
        low = y + dy
        if left < LEFT or left + width > WIDTH or low < TOP + 8 or low > HEIGHT - BOTTOM:
            continue
        if all(abs(low - other) > 13 or left > end or left + width < begin for begin, end, other in taken):
            taken.append((left, left + width, low))
            return f'<text class="ibpo-at" x="{left:.1f}" y="{low:.1f}">{escape(name)}</text>'
    return ""
