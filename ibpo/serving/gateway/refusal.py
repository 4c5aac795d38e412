"""How does the gateway say no? In the shape of OpenAI's errors, so that clients understand it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web


class Refusal(Exception):
    """A request that the gateway answers itself.

    Args:
        status: HTTP status.
        code: A short name for programs.
        message: One line for people; never the caller's own text.
        headers: Added to the answer.
        close: Close the connection after it: what it still sends is of no use.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.close = status, code, message, headers or {}, close

    def response(self) -> web.Response:
        """The answer."""
        kind = "invalid_request_error" if self.status < 500 else "gateway_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = json.dumps({"error": error}).encode()
        response = web.Response(
            status=self.status, body=body, content_type="application/json", headers={**self.headers}
        )
        if self.close:
            response.force_close()
        return response
