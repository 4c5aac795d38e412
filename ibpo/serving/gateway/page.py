"""The live page: one file, no library, nothing from elsewhere; and a snapshot in it for who has no JavaScript."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from ibpo.pictures import number_text

_PLACE = "<!--snapshot-->"
_MOST_ROWS = 50


class Page:
    """The page with its headers: only its own style and script may run, by their hashes."""

    def __init__(self) -> None:
        text = (files("ibpo.serving.gateway") / "page.html").read_text(encoding="utf-8")
        self._head, _, self._tail = text.partition(_PLACE)
        hashes = {tag: _hash(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("style", "script")}
        self.headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": (
                f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self'; "
                "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                "require-trusted-types-for 'script'"
            ),
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    def render(self, shown: Mapping[str, Any] | None, why: str = "") -> bytes:
        """The page with a snapshot of now, which only a browser without JavaScript shows.

        Args:
            shown: As `/budget.json` has it; None: it cannot be known.
            why: It cannot.
        """
        inside = f"<p><strong>{escape(why)}</strong></p>" if shown is None else _snapshot(shown)
        return (self._head + inside + self._tail).encode()


def _hash(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _snapshot(shown: Mapping[str, Any]) -> str:
    """The numbers as plain HTML."""
    when = datetime.fromtimestamp(shown["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    status = shown["status"]
    parts = [
        f"<p>Numbers of {when}; without JavaScript the page is loaded anew every ten seconds. {escape(_MORE)}</p>",
        f"<p><strong>{escape(status['words'])}</strong></p>",
        f"<p>{escape(shown['scope']['words'])} Open requests: {shown['num_open']}.</p>",
    ]
    rows = [[row["title"], row["state_name"], f"{row['words']} {row['next']}"] for row in shown["states"]]
    parts.append(_table("Budgets", ["budget", "state", "in words"], rows))
    failures = shown["failures"]
    rows = [[row["words"], row["num"], row["total"]] for row in [*failures["failed"], *failures["refused"]]]
    minutes = max(1, round(failures["window_seconds"] / 60))
    parts.append(_table("Failures", ["what", f"last {minutes} min", "since the start"], rows))
    rows = [
        [kind.replace("_", " "), *(_seconds(shown["latency"][kind][q]) for q in ("p50", "p95", "p99"))]
        for kind in ("decide", "first_byte", "response")
    ]
    parts.append(_table("Times, last 10 minutes", ["what", "p50", "p95", "p99"], rows))
    saved = " ".join(row["words"] for row in shown["savings"]["rows"])
    parts.append(f"<h2>Saved</h2><p>{escape(saved)} {escape(shown['savings']['assumes'])}</p>")
    rows = [
        [row["name"], row["num_requests"], *(f"{budget} {number_text(used)}" for budget, used in row["used"].items())]
        for row in shown["tenants"][:_MOST_ROWS]
    ]
    if rows:
        parts.append(_table("Tenants", ["tenant", "requests", *("used" for _ in rows[0][2:])], rows))
    said = "".join(f"<li>{escape(text)}</li>" for text in shown["controller"])
    return "".join([*parts, f"<h2>The controller now</h2><ul>{said}</ul>"])


_MORE = "The same numbers are at /budget.json and /metrics."


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    if not rows:
        return f"<h2>{escape(title)}</h2><p>None.</p>"
    return f"<h2>{escape(title)}</h2><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    text = escape(str(value))
    return f'<td class="words">{text}</td>' if isinstance(value, str) and len(value) > 40 else f"<td>{text}</td>"


def _seconds(value: float | None) -> str:
    """A time in words.

    Example:
        >>> _seconds(0.00042), _seconds(0.042), _seconds(4.2), _seconds(None)
        ('0.42 ms', '42 ms', '4.2 s', 'too few')
    """
    if value is None:
        return "too few"
    return f"{value:.2g} s" if value >= 1 else f"{1000 * value:.2g} ms"
