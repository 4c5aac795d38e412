"""Which headers go on, and which are added?"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict

from ibpo.serving.gateway.desk import Ticket

OWN = "x-ibpo-"
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def upstream_headers(
    headers: Mapping[str, str], key: str | None, *, own_keys: bool, governed: bool
) -> CIMultiDict[str]:
    """The caller's headers as the upstream gets them.

    Left out: what belongs to one connection, the gateway's own (`x-ibpo-...`), the caller's key where it is the
    gateway's, and for governed requests `Accept-Encoding`: the usage is read off the answer.
    """
    kept = _end_to_end(headers)
    for name in ("Host", "Content-Length", "Expect"):
        kept.popall(name, None)
    if governed:
        kept.popall("Content-Encoding", None)
        kept["Accept-Encoding"] = "identity"
        kept["Content-Type"] = "application/json"
    if key is not None:
        kept["Authorization"] = f"Bearer {key}"
    elif own_keys:
        kept.popall("Authorization", None)
    return kept


def answer_headers(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The upstream's headers as the caller gets them; only the upstream's own framing is left out."""
    return _end_to_end(headers)


def budget_headers(response_group: str, ticket: Ticket | None) -> dict[str, str]:
    """What the gateway adds to each answer that a budget governs.

    Example:
        >>> ticket = Ticket(
        ...     request_id="a", response_group="long", price={"long": 0.25}, left={"long": 3.0}, within=True
        ... )
        >>> budget_headers("long", ticket)
        {'x-ibpo-response-group': 'long', 'x-ibpo-price': 'long=0.25', 'x-ibpo-budget-left': 'long=3'}
    """
    if ticket is None:
        return {f"{OWN}response-group": response_group}
    return {
        f"{OWN}response-group": response_group,
        f"{OWN}price": _numbers(ticket.price),
        f"{OWN}budget-left": _numbers(ticket.left),
    }


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in values.items())


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    named = {part.strip().lower() for part in headers.get("Connection", "").split(",")}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower not in HOP_BY_HOP and lower not in named and not lower.startswith(OWN):
            kept.add(name, value)
    return kept
