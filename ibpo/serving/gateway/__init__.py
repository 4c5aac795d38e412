"""An OpenAI-compatible gateway that holds a budget on live traffic. Needs the extra `ibpo[serve]`.

Read `decision.py` first: the life of one request. Around it: `server` (the process and its paths), `openai_request` and
`usage` (OpenAI's protocol, in and out), `gains` (what extended reasoning is worth), `async_controller` (the budget),
`proxy` (the bytes), `settings` (files and keys) and `telemetry` (log and metrics).
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "FittedRouter": "gains",
    "GROUPS_BY": "settings",
    "Keys": "settings",
    "ROUTER_SECONDS": "gains",
    "Router": "gains",
    "Scores": "gains",
    "Service": "server",
    "Settings": "settings",
    "build_settings": "settings",
    "keys_from_environment": "settings",
    "new_key": "settings",
    "open_log": "telemetry",
    "read_keys": "settings",
    "read_settings": "settings",
    "serve": "server",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
