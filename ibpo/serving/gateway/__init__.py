"""An OpenAI-compatible gateway that holds a budget on live traffic. Needs the extra `ibpo[serve]`.

Read `decision.py` first: the life of one request. Around it: `server` (the process and its paths), `openai_request` and
`usage` (OpenAI's protocol, in and out), `gains` (what extended reasoning is worth), `async_controller` (the budget),
`proxy` (the bytes), `settings` (files and keys) and `telemetry` (log and metrics).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibpo.serving.gateway.gains import ROUTER_SECONDS, FittedRouter, GainPredictor, PredictedGains
    from ibpo.serving.gateway.server import Service, serve
    from ibpo.serving.gateway.settings import (
        GROUPS_BY,
        Keys,
        Settings,
        build_settings,
        keys_from_environment,
        new_key,
        read_keys,
        read_settings,
    )
    from ibpo.serving.gateway.telemetry import open_log

_HOME = {
    **dict.fromkeys(("ROUTER_SECONDS", "FittedRouter", "GainPredictor", "PredictedGains"), "gains"),
    **dict.fromkeys(("Service", "serve"), "server"),
    **dict.fromkeys(("GROUPS_BY", "Keys", "Settings", "build_settings", "keys_from_environment"), "settings"),
    **dict.fromkeys(("new_key", "read_keys", "read_settings"), "settings"),
    "open_log": "telemetry",
}
__all__ = [
    "GROUPS_BY",
    "ROUTER_SECONDS",
    "FittedRouter",
    "GainPredictor",
    "Keys",
    "PredictedGains",
    "Service",
    "Settings",
    "build_settings",
    "keys_from_environment",
    "new_key",
    "open_log",
    "read_keys",
    "read_settings",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
