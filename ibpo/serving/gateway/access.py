"""Who may ask the gateway, for what, and how many at once? The same for every door: HTTP, and Envoy's calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote

from ibpo.serving.gateway.openai_request import PATHS, Api, Refusal, is_anthropics
from ibpo.serving.gateway.settings import OPERATOR, Keys, LimitSettings


class Access:
    """The tenants' keys, and the places for requests in flight.

    Args:
        keys: The tenants' keys; None: nobody needs one, and nobody is a tenant.
        limits: Limits of the gateway's settings.
    """

    def __init__(self, keys: Keys | None, limits: LimitSettings) -> None:
        self.keys, self.limits = keys, limits
        self.draining = False
        """Whether the process is about to end: those in flight come to their end, no more begin."""
        self.num_in_flight = 0
        self._by_tenant: Counter[str] = Counter()

    def tenant_of(self, headers: Mapping[str, str], path: str, *, method: str = "POST") -> str:
        """The tenant whose key the headers hold; "" where there are no keys.

        Raises:
            Refusal: A wrong key, or none.
        """
        if self.keys is None:
            return ""
        said = headers.get("Authorization", "")
        if not said and is_anthropics(path, headers):
            said = f"Bearer {headers.get('x-api-key', '')}"
        tenant = self.keys.tenant_of(said)
        if tenant is None:
            browser = method == "GET" and "text/html" in headers.get("Accept", "")
            how = {"WWW-Authenticate": 'Basic realm="ibpo"' if browser else "Bearer"}
            raise Refusal(401, "invalid_api_key", "the API key is missing or wrong", how, close=True)
        return tenant

    @contextmanager
    def in_flight(self, tenant: str) -> Iterator[None]:
        """Hold one of the places as long as the block runs.

        Raises:
            Refusal: There is none, the key is the operator's, or the process is about to end.
        """
        if tenant == OPERATOR and self.keys is not None:
            raise Refusal(403, "operator_key", "the operator's key opens /budget and /metrics only; use a tenant's key")
        if self.draining:
            raise Refusal(
                503, "draining", "the gateway is shutting down; ask another", {"Retry-After": "1"}, close=True
            )
        if self.num_in_flight >= self.limits.max_in_flight:
            raise Refusal(503, "busy", "too many requests are in flight; try again", {"Retry-After": "1"})
        if self.keys is not None and self._by_tenant[tenant] >= self.limits.max_in_flight_per_tenant:
            raise Refusal(429, "too_many", "too many requests of yours are in flight; wait", {"Retry-After": "1"})
        self.num_in_flight += 1
        self._by_tenant[tenant] += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]


def governed_api(path: str, method: str, content_type: str, encoding: str) -> Api | None:
    """Which governed API a request is for; None: for none.

    Args:
        path: A path from `plain_path`.
        method: The request's.
        content_type: Without its parameters, in small letters.
        encoding: `Content-Encoding`; "": there is none.

    Raises:
        Refusal: It is for one of them, in a way that is not taken.
    """
    api = PATHS.get(path)
    if api is None:
        return None
    if method != "POST":
        raise Refusal(405, "method", "use POST", {"Allow": "POST"})
    if content_type != "application/json":
        # Pages of other sites can make a browser post anything else.
        raise Refusal(415, "content_type", "send Content-Type: application/json", close=True)
    if encoding.lower() not in ("", "identity"):
        raise Refusal(415, "encoding", "compressed bodies are not taken; send it plain", close=True)
    return api


def plain_path(raw: str) -> str:
    """The path without its parameters, by which it is decided who answers.

    Raises:
        Refusal: A path that could mean one thing here and another upstream.

    Example:
        >>> plain_path("/v1/models?limit=3")
        '/v1/models'
    """
    path = raw.partition("?")[0].partition("#")[0]
    if path in PATHS:
        return path
    plain = unquote(path)
    odd = plain != path and any(mark in plain for mark in "/\\%?#") and plain.count("/") != path.count("/")
    dots = any(part.partition(";")[0] in (".", "..") for part in plain.split("/"))  # `..;` is `..` to some servers
    if odd or dots or "//" in plain or "\\" in plain:
        raise Refusal(400, "bad_path", "the path is ambiguous; write it plainly")
    if not plain.startswith("/") or any(ord(mark) < 32 for mark in plain):
        raise Refusal(400, "bad_path", "the path must begin with /")
    if plain != path and (plain.rstrip("/") in PATHS or plain.startswith("/v1/")):
        raise Refusal(400, "bad_path", "the path is ambiguous; write it without %")
    if plain.rstrip("/") in PATHS and plain not in PATHS:
        raise Refusal(404, "bad_path", "write the path without the / at its end")
    return plain


def too_large(most: int) -> Refusal:
    """A body above the limit."""
    return Refusal(413, "too_large", f"the body is larger than {most} bytes; send less", close=True)
