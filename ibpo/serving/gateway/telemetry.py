"""What does an operator see of the traffic? One JSON line for each request, and Prometheus metrics.

Neither shows the text of a prompt or an answer, and labels come from the configuration and the keys only: no caller can
make new series.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ibpo.errors import IbpoError

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
FEWEST_LENGTHS = 50
BUDGET_VALUES = ("mean", "used", "spent", "in_flight", "balance", "largest_overdraft", "price", "num_requests")


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """What is known of a governed request so far."""

    request_id: str
    tenant: str
    began: float
    """By `time.perf_counter`."""
    response_group: str = ""
    outcome: str = "disconnected"
    """`answered`; `failed`: there was no answer; `cut`: the upstream broke off; `disconnected`: the caller did;
    `cached`: a proxy's cache had the answer, and nothing was generated."""
    status: int = 0
    """HTTP status of the answer; 0: none was sent."""
    tokens: float | None = None
    """Completion tokens; None: not known."""
    counted: str = "estimated"
    """`usage`: the tokens are the upstream's; `estimated`: by the text that came, if any did; `reserve`: all that the
    request allowed, as the upstream's usage was above that, and is not believed, or could not be read."""
    is_unread: bool = False
    """Whether there is an answer that is too long to be held back, so that its usage was not read."""
    expected_unseen: float | None = None
    """Tokens that are expected where the thinking may not be shown: what came then says little; None: it is shown."""
    retries: int = 0
    price: Mapping[str, float | None] | None = None
    """Budget -> gain that a unit of cost had to bring, None where none was enough; None: no store to ask."""
    balance: Mapping[str, float] | None = None
    """Budget -> what could still be spent after the decision; negative: overdrawn."""
    source: str = ""
    """Of the gains."""
    gains: Mapping[str, float] = field(default_factory=dict)
    quota_left: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """`session`, `hour`, `day`, `month` -> budget -> what is left of that total."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What else the log line shows."""


class GroupLengths:
    """Do a model's response groups take different numbers of tokens?

    Where not, the upstream may not know how they are set: a misspelt argument of a chat template is dropped without a
    word. The mean of a group is compared with the standard group's, once both have 50 answers and then whenever their
    number has doubled: it should be larger by 3 standard errors of the difference.

    Example:
        >>> lengths = GroupLengths()
        >>> said = [lengths.add("m", "standard", name, 500 + i % 7) for i in range(50) for name in ("standard", "long")]
        >>> [text.partition(":")[0] for text in said if text]
        ['response group long of model m takes no more tokens than standard (mean 502.9, 502.9 of 50 answers)']
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}  # model, group -> count, mean, sum of squared deviations
        self._due: dict[tuple[str, str], int] = {}

    def add(self, model: str, standard: str, group: str, tokens: float) -> str:
        """Take an answer in; returns a caution, or ""."""
        row = self._sums.setdefault((model, group), [0, 0.0, 0.0])
        row[0] += 1
        step = tokens - row[1]
        row[1] += step / row[0]
        row[2] += step * (tokens - row[1])
        base, due = self._sums.get((model, standard)), self._due.setdefault((model, group), FEWEST_LENGTHS)
        if group == standard or base is None or min(row[0], base[0]) < due:
            return ""
        self._due[model, group] = 2 * due
        error = math.sqrt(row[2] / row[0] ** 2 + base[2] / base[0] ** 2)
        if row[1] - base[1] > 3 * error:
            return ""
        return (
            f"response group {group} of model {model} takes no more tokens than {standard} (mean {row[1]:.1f}, "
            f"{base[1]:.1f} of {row[0]} answers): does the upstream know how it is set? See ibpo groups check"
        )


class RequestLog:
    """Writes lines; a full disk or a closed pipe must not stop the traffic, and where there is room again it goes on.

    Args:
        file: Where to; None: nowhere.

    Example:
        >>> RequestLog(sys.stdout).write("started", time=0, port=8080)
        {"event": "started", "time": 0, "port": 8080}
    """

    def __init__(self, file: IO[str] | _LogFile | None) -> None:
        self._file = file
        self._num_lost = 0

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; `time` is seconds since 1970 unless given."""
        if self._file is None:
            return
        row = {"event": event, "time": round(time.time(), 3), **fields}
        line = json.dumps(row) + "\n"
        if self._num_lost:  # of the line at which the disk was full a part may be there
            line = "\n" + json.dumps({"event": "log_gap", "time": row["time"], "lost": self._num_lost}) + "\n" + line
        try:
            self._file.write(line)
            self._file.flush()
            self._num_lost = 0
        except (OSError, ValueError) as error:
            self._num_lost += 1
            if self._num_lost == 1 and self._file is not sys.stderr:
                cause = getattr(error, "strerror", None) or error
                with suppress(OSError, ValueError):  # it may be on the same disk
                    print(f"error: the log cannot be written: {cause}; requests go on without it", file=sys.stderr)

    def write_request(self, record: RequestRecord) -> None:
        """The line of a request that has ended."""
        self.write(
            "request",
            request_id=record.request_id,
            tenant=record.tenant,
            response_group=record.response_group,
            outcome=record.outcome,
            status=record.status,
            tokens=record.tokens,
            counted=record.counted,
            retries=record.retries,
            seconds=round(time.perf_counter() - record.began, 4),
            price=None if record.price is None else dict(record.price),
            source=record.source,
            gains={name: round(gain, 6) for name, gain in record.gains.items()},
            **record.fields,
        )


def open_log(path: Path | None) -> RequestLog:
    """The log: on standard output, or appended to a file.

    Raises:
        IbpoError: The file cannot be written.
    """
    if path is None:
        return RequestLog(sys.stdout)
    try:
        return RequestLog(_LogFile(path))
    except OSError as error:
        raise IbpoError(f"{path}: cannot be written: {error.strerror}; name another file") from None


class _LogFile:
    """A file that holds nothing back: what could not be written does not pile up, and a line cut short is an error."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[self._file.write(data) :]

    def flush(self) -> None:
        """Nothing is held back."""


class Metrics:
    """Prometheus metrics of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

        who = ("tenant", "response_group")
        outcomes = "answered, failed, cut, disconnected, cached"
        self.requests = counter("ibpo_requests", f"Governed requests by outcome: {outcomes}.", *who, "outcome")
        self.tokens = counter(
            "ibpo_completion_tokens", "Completion tokens; counted: usage, estimated, reserve.", *who, "counted"
        )
        self.gains = counter("ibpo_gains", "Source of each request's gains.", "source")
        self.refused = counter("ibpo_refused", "Requests refused by the gateway.", "reason")
        self.passed = counter("ibpo_passed", "Requests passed on without a budget.", "status")
        self.faults = counter("ibpo_upstream_faults", "Attempts that failed upstream.", "kind")
        self.failures = counter(
            "ibpo_failures",
            "Failures: store, router, probe, usage, thinking, misplaced, encoding, group, internal.",
            "what",
        )
        self.unbudgeted = counter(
            "ibpo_unbudgeted", "Requests given the standard group as the store could not be used."
        )
        self.in_flight = gauge("ibpo_in_flight", "Requests in flight.")
        self.budget = gauge("ibpo_budget", f"Per budget: {', '.join(BUDGET_VALUES)}.", "budget", "value")
        self.calendar = gauge(
            "ibpo_calendar", "Per period of the calendar: total, spent, in_flight.", "period", "budget", "value"
        )
        self.tenant = gauge("ibpo_tenant_used", "Mean cost per request of a tenant.", "tenant", "budget")
        self.over = gauge("ibpo_over", "Requests that no response group had room for.")
        self.drifts = gauge("ibpo_drifts", "How often the traffic has changed: the alarm.")
        self.decide_seconds = histogram("ibpo_decide_seconds", "Time to find the gains and to decide.")
        self.first_byte_seconds = histogram(
            "ibpo_first_byte_seconds", "From the request's body to the answer's first byte.", "response_group"
        )

        # Labels come from the configuration and the keys, so that they are few: each series is looked up once.
        self._gains_of, self._requests_of = cache(self.gains.labels), cache(self.requests.labels)
        self._tokens_of, self._first_byte_of = cache(self.tokens.labels), cache(self.first_byte_seconds.labels)

    def count_decision(self, record: RequestRecord, asked: float) -> None:
        """Count a request that has been decided; `asked` is when, by `time.perf_counter`."""
        self._gains_of(record.source).inc()
        self.decide_seconds.observe(time.perf_counter() - asked)

    def count_first_byte(self, record: RequestRecord) -> None:
        """Count a request whose answer has begun."""
        self._first_byte_of(record.response_group).observe(time.perf_counter() - record.began)

    def count_first(self, tenant: str, response_group: str, tokens: float, is_reported: bool) -> None:
        """Count first answers that another answer comes on top of."""
        self._tokens_of(tenant or "-", response_group, "usage" if is_reported else "estimated").inc(tokens)

    def count(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        tenant = record.tenant or "-"
        self._requests_of(tenant, record.response_group, record.outcome).inc()
        if record.tokens is not None:
            self._tokens_of(tenant, record.response_group, record.counted).inc(record.tokens)

    def render(self, snapshot: Mapping[str, Any] | None) -> bytes:
        """The text format, with the budgets as in `AsyncController.snapshot`; None: what the process itself counts."""
        if snapshot is None:
            for gauge in (self.budget, self.calendar, self.tenant):
                gauge.clear()
            return generate_latest(self.registry)
        for row in snapshot["budgets"]:
            for name in BUDGET_VALUES:
                self.budget.labels(row["name"], name).set(math.inf if row[name] is None else row[name])
        for row in snapshot["calendar"]:
            for name in ("total", "spent", "in_flight"):
                self.calendar.labels(row["period"], row["budget"], name).set(row[name])
        for row in snapshot["tenants"]:
            for name, used in row["used"].items():
                self.tenant.labels(row["name"], name).set(used)
        self.over.set(snapshot["num_over"])
        self.drifts.set(snapshot["num_drifts"])
        return generate_latest(self.registry)
