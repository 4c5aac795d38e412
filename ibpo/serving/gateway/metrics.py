"""What does a scraper see? Prometheus metrics of one gateway process, on a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Labels come from the configuration and the keys only: no caller can make new series."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ibpo_requests",
            "Governed requests by tenant, response group and outcome (answered, failed, cut, left).",
            ["tenant", "response_group", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "ibpo_completion_tokens",
            "Completion tokens by tenant and response group; counted: usage, or estimated.",
            ["tenant", "response_group", "counted"],
            registry=registry,
        )
        self.gains = Counter("ibpo_gains", "Who said what a request gains.", ["source"], registry=registry)
        self.refused = Counter("ibpo_refused", "Requests refused by the gateway.", ["reason"], registry=registry)
        self.passed = Counter("ibpo_passed", "Requests passed on without a budget.", ["status"], registry=registry)
        self.faults = Counter("ibpo_upstream_faults", "Attempts that failed upstream.", ["kind"], registry=registry)
        self.failures = Counter(
            "ibpo_failures", "Things that went wrong here: book, router, probe, internal.", ["what"], registry=registry
        )
        self.unbudgeted = Counter(
            "ibpo_unbudgeted", "Requests answered by the standard group: no book was at hand.", registry=registry
        )
        self.in_flight = Gauge("ibpo_in_flight", "Requests under way.", registry=registry)
        self.decide_seconds = Histogram(
            "ibpo_decide_seconds", "Time to find the gains and to decide.", buckets=SECONDS, registry=registry
        )
        self.first_byte_seconds = Histogram(
            "ibpo_first_byte_seconds",
            "From the request's body to the answer's first byte.",
            ["response_group"],
            buckets=SECONDS,
            registry=registry,
        )
        self.budget = Gauge(
            "ibpo_budget",
            "Per budget: mean allowed, used per request, spent, under_way, left, largest_overdraft, price.",
            ["budget", "value"],
            registry=registry,
        )
        self.tenant = Gauge(
            "ibpo_tenant_used", "Mean cost per request of a tenant.", ["tenant", "budget"], registry=registry
        )
        self.over = Gauge("ibpo_over", "Requests that no response group had room for.", registry=registry)
        self.drifts = Gauge("ibpo_drifts", "How often the traffic has changed: the alarm.", registry=registry)

    def render(self, snapshot: Mapping[str, Any]) -> bytes:
        """The text format, with the budgets as in `Desk.snapshot`."""
        for row in snapshot["budgets"]:
            for name in ("mean", "used", "spent", "under_way", "left", "largest_overdraft", "price", "num_requests"):
                self.budget.labels(row["name"], name).set(row[name])
        for row in snapshot["tenants"]:
            for name, used in row["used"].items():
                self.tenant.labels(row["name"], name).set(used)
        self.over.set(snapshot["num_over"])
        self.drifts.set(snapshot["num_drifts"])
        return generate_latest(self.registry)
