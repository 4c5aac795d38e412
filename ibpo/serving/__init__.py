"""Keep the budget while answering.

`controller` decides which response group each request gets (the rule and the theorem), `stores` holds its accounts,
`gateway` puts it in front of a server, `simulation` runs it on a request trace, and `calibration` is the rule for
those who need no controller: a threshold on the policy's own choice. Everything that other rooms use is named here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibpo.serving.calibration import (
        Calibration,
        Threshold,
        check_scores,
        find_threshold,
        is_calibration,
        load_calibration,
        save_calibration,
    )
    from ibpo.serving.controller import (
        AccountStore,
        BudgetPolicy,
        Candidate,
        Controller,
        MemoryStore,
        Reservation,
        ServingPolicy,
        TenantPolicy,
        parse_budget_policies,
        read_policy,
    )
    from ibpo.serving.simulation import (
        Requests,
        Simulation,
        Trace,
        read_trace,
        recorded_requests,
        repeat_trace,
        simulate,
        summarise,
        synthetic_requests,
        with_caps,
        with_exact_estimates,
    )
    from ibpo.serving.stores import RedisStore, SqliteStore

_HOME = {
    **dict.fromkeys(("Calibration", "Threshold", "check_scores", "find_threshold"), "calibration"),
    "is_calibration": "calibration",
    **dict.fromkeys(("load_calibration", "save_calibration"), "calibration"),
    **dict.fromkeys(("AccountStore", "MemoryStore", "Reservation", "Candidate", "Controller"), "controller"),
    **dict.fromkeys(("BudgetPolicy", "ServingPolicy", "TenantPolicy"), "controller"),
    **dict.fromkeys(("parse_budget_policies", "read_policy"), "controller"),
    **dict.fromkeys(("Requests", "Simulation", "Trace", "simulate", "summarise"), "simulation"),
    **dict.fromkeys(("read_trace", "recorded_requests", "repeat_trace", "synthetic_requests"), "simulation"),
    **dict.fromkeys(("with_caps", "with_exact_estimates"), "simulation"),
    **dict.fromkeys(("RedisStore", "SqliteStore"), "stores"),
}
__all__ = [
    "AccountStore",
    "BudgetPolicy",
    "Calibration",
    "Candidate",
    "Controller",
    "MemoryStore",
    "RedisStore",
    "Requests",
    "Reservation",
    "ServingPolicy",
    "Simulation",
    "SqliteStore",
    "TenantPolicy",
    "Threshold",
    "Trace",
    "check_scores",
    "find_threshold",
    "is_calibration",
    "load_calibration",
    "parse_budget_policies",
    "read_policy",
    "read_trace",
    "recorded_requests",
    "repeat_trace",
    "save_calibration",
    "simulate",
    "summarise",
    "synthetic_requests",
    "with_caps",
    "with_exact_estimates",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ibpo.serving.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ibpo.serving' has no attribute {name!r}")
