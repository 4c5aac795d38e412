"""Run a request trace through the controller, faster than it came: does the budget hold, and what does that cost?"""

from ibpo.serving.simulation.simulate import Requests, Simulation, check_feasible, find_unbounded, simulate
from ibpo.serving.simulation.summary import average_windows, find_reachable, summarise
from ibpo.serving.simulation.traffic import (
    UNITS,
    Trace,
    read_trace,
    recorded_requests,
    repeat_trace,
    synthetic_requests,
    with_caps,
    with_exact_estimates,
)

__all__ = [
    "UNITS",
    "Requests",
    "Simulation",
    "Trace",
    "average_windows",
    "check_feasible",
    "find_reachable",
    "find_unbounded",
    "read_trace",
    "recorded_requests",
    "repeat_trace",
    "simulate",
    "summarise",
    "synthetic_requests",
    "with_caps",
    "with_exact_estimates",
]
