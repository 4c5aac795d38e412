"""What does an operator see of the traffic? One JSON line for each request, and Prometheus metrics.

Neither shows the text of a prompt or an answer, and labels come from the configuration and the keys only: no caller can
make new series.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter as Count
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ibpo.errors import IbpoError
from ibpo.serving.gateway.async_controller import Clock
from ibpo.serving.gateway.savings import Savings

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
FEWEST_LENGTHS = 50
WINDOW_SECONDS = 600.0
"""What the page shows of failures and times: the last ten minutes."""
BEAT_SECONDS = 5.0
SLOT_SECONDS = 10.0
BINS = 16
"""Bins of the times per factor of two: each is 4 % wide."""
MOST_SESSIONS = 10_000
LATENCIES = ("decide", "first_byte", "response")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
STATES = ("kept", "unknown", "within", "over")
"""States of a budget: see `ibpo.serving.gateway.status`."""
FAILURES = {
    "timeout": "no answer in time",
    "connect": "no connection to the upstream",
    "cut": "the upstream broke off or went silent",
    "upstream_429": "the upstream said 429: too many requests",
    "upstream_4xx": "the upstream refused the request (4xx)",
    "upstream_5xx": "the upstream failed (5xx)",
    "upstream_other": "the upstream gave no answer of its protocol",
    "error_in_answer": "an error inside an answer of status 200",
    "caller_left": "the caller left before the end",
    "refused": "the body could not be written for the response group",
}
"""Why a governed request had no whole answer."""
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
    fault: str = ""
    """Why there is no answer, a key of `FAILURES`, where the status alone does not say it."""
    decide_seconds: float = -1.0
    """Time to find the gains and to decide; negative: it was not decided."""
    first_byte_seconds: float = -1.0
    """From the body to the first byte of an answer; negative: there is none."""
    price: Mapping[str, float | None] | None = None
    """Budget -> gain that a unit of cost had to bring, None where none was enough; None: no store to ask."""
    balance: Mapping[str, float] | None = None
    """Budget -> what could still be spent after the decision; negative: overdrawn."""
    source: str = ""
    """Source of the gains."""
    gains: Mapping[str, float] = field(default_factory=dict)
    quota_left: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """`session`, `hour`, `day`, `month` -> budget -> what is left of that total."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What else the log line shows."""


def failure_of(record: RequestRecord) -> str:
    """Why a request had no whole answer, a key of `FAILURES`; "": it had one.

    Example:
        >>> failure_of(RequestRecord(request_id="a", tenant="", began=0.0, outcome="failed", status=503))
        'upstream_5xx'
    """
    if record.outcome in ("answered", "cached"):
        return ""
    if record.outcome == "disconnected":
        return "caller_left"
    if record.fault:
        return record.fault
    if record.outcome == "cut":
        return "timeout" if record.status == 504 else "cut"
    if record.status == 429:
        return "upstream_429"
    if record.status >= 400:
        return "upstream_5xx" if record.status >= 500 else "upstream_4xx"
    return "error_in_answer" if 200 <= record.status < 300 else "upstream_other"


class Latencies:
    """Times of the last ten minutes, by `LATENCIES`, in slots of ten seconds and bins that are 4 % wide.

    So quantiles are within 3 % of those of the times themselves, however many there are.

    Example:
        >>> latencies = Latencies()
        >>> for i in range(1, 201):
        ...     latencies.add((i / 1000, -1.0, -1.0), now=5.0)
        >>> found = latencies.quantiles(now=6.0)["decide"]
        >>> found["num"], round(found["p50"], 2), round(found["p99"], 2)
        (200, 0.1, 0.2)
        >>> latencies.quantiles(now=700.0)["decide"]["num"]
        0
    """

    def __init__(self) -> None:
        self._slots: deque[tuple[int, list[defaultdict[int, int]]]] = deque(maxlen=int(WINDOW_SECONDS / SLOT_SECONDS))
        self._number = -1
        self._bins: list[defaultdict[int, int]] = []

    def add(self, seconds: tuple[float, ...], now: float) -> None:
        """Take a request's times in; negative ones are none."""
        number = int(now / SLOT_SECONDS)
        if number != self._number:
            self._number, self._bins = number, [defaultdict(int) for _ in LATENCIES]
            self._slots.append((number, self._bins))
        for bins, value in zip(self._bins, seconds, strict=True):
            if value >= 0:
                bins[math.floor(BINS * math.log2(max(value, 1e-6)))] += 1

    def quantiles(self, now: float) -> dict[str, dict[str, float | None]]:
        """Per kind: how many, and `QUANTILES`; None where there are fewer than 1 / (1 - q) times."""
        oldest = int(now / SLOT_SECONDS) - int(WINDOW_SECONDS / SLOT_SECONDS)
        rows: dict[str, dict[str, float | None]] = {}
        for place, kind in enumerate(LATENCIES):
            merged: Count[int] = Count()
            for number, slot in self._slots:
                if number > oldest:
                    merged.update(slot[place])
            num, bins = merged.total(), sorted(merged)
            rows[kind] = {"num": num}
            for name, q in QUANTILES.items():
                rank, seen, found = math.ceil(q * num), 0, None
                if num * (1 - q) >= 1 - 1e-9:
                    for number in bins:
                        seen += merged[number]
                        if seen >= rank:
                            found = 2.0 ** ((number + 0.5) / BINS)
                            break
                rows[kind][name] = found
        return rows


class GroupLengths:
    """Do a model's response groups take different numbers of tokens?

    Where not, the upstream may not know how they are set: a misspelt argument of a chat template is silently
    dropped. A group's mean is compared with the standard group's, once both have 50 answers and then whenever their
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
    """Prometheus metrics of one gateway process, in a registry of their own, and what the page shows of them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = time if clock is None else clock
        self.registry = CollectorRegistry()
        self.latencies, self.savings = Latencies(), Savings()
        self.began, self._began = self.clock.time(), time.monotonic()
        self.groups: Count[tuple[str, str, str]] = Count()
        """Governed requests that have ended, by tenant, response group and outcome."""
        self.reasons: Count[str] = Count()
        """Those without a whole answer, by `failure_of`."""
        self.sessions: dict[str, tuple[float, bool, Mapping[str, float]]] = {}
        """Session -> when its newest request came, whether it had no room for every group, and what was left of it."""
        self._lengths: dict[str, list[float]] = {}  # response group -> tokens of its answers, and how many they are
        self.num_uncounted = 0
        """Requests of `unbudgeted`."""
        self._past: deque[tuple[float, dict[str, Count[str]]]] = deque(maxlen=int(WINDOW_SECONDS / BEAT_SECONDS) + 1)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

        who, of_budget = ("tenant", "response_group"), ("scope", "budget", "state")
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
        self.failed = counter(
            "ibpo_failed_requests", f"Governed requests without a whole answer: {', '.join(FAILURES)}.", "reason"
        )
        self.start_time = gauge("ibpo_start_time_seconds", "When this process began, in seconds since 1970.")
        self.start_time.set(self.began)
        self.in_flight = gauge("ibpo_in_flight", "Requests in flight.")
        self.budget_state = gauge(
            "ibpo_budget_state", f"1 for the state of each budget, 0 for the others: {', '.join(STATES)}.", *of_budget
        )
        self.budget_excess = gauge(
            "ibpo_budget_excess",
            "Cost beyond the stated bound of a budget, in its own unit; 0: inside its bound.",
            "scope",
            "budget",
        )
        self.saved = gauge(
            "ibpo_saved",
            "Estimated saving against the most expensive response group since the start, and the ends of its 95 % "
            "interval (estimate, low, high), in the unit: tokens, money. Missing while too little is known.",
            "unit",
            "value",
        )
        self.tenant_requests = gauge("ibpo_tenant_requests", "Requests of a tenant, in flight included.", "tenant")
        self.tenant_spent = gauge(
            "ibpo_tenant_spent", "What a tenant's requests have cost, in the budget's unit.", "tenant", "budget"
        )
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
        self.response_seconds = histogram(
            "ibpo_response_seconds", "From the request's body to the end of a whole answer.", "response_group"
        )

        # Labels come from the configuration and the keys, so that they are few: each series is looked up once.
        self._gains_of, self._requests_of = cache(self.gains.labels), cache(self.requests.labels)
        self._tokens_of, self._first_byte_of = cache(self.tokens.labels), cache(self.first_byte_seconds.labels)
        self._response_of = cache(self.response_seconds.labels)

    def count_decision(self, record: RequestRecord, asked: float) -> None:
        """Count a request that has been decided; `asked` is when, by `time.perf_counter`."""
        self._gains_of(record.source).inc()
        record.decide_seconds = time.perf_counter() - asked
        self.decide_seconds.observe(record.decide_seconds)

    def count_first_byte(self, record: RequestRecord) -> None:
        """Count a request whose answer has begun."""
        record.first_byte_seconds = time.perf_counter() - record.began
        self._first_byte_of(record.response_group).observe(record.first_byte_seconds)

    def count_first(self, tenant: str, response_group: str, tokens: float, is_reported: bool) -> None:
        """Count first answers that another answer comes on top of."""
        self._tokens_of(tenant or "-", response_group, "usage" if is_reported else "estimated").inc(tokens)

    def count_session(self, account: str, left: Mapping[str, float], is_used_up: bool) -> None:
        """Note how a session stands at its newest request; the newest 10,000 sessions are remembered."""
        self.sessions.pop(account, None)
        self.sessions[account] = self.clock.monotonic(), is_used_up, left
        if len(self.sessions) > MOST_SESSIONS:
            del self.sessions[next(iter(self.sessions))]

    def count(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        tenant, group = record.tenant or "-", record.response_group
        self._requests_of(tenant, group, record.outcome).inc()
        if record.tokens is not None:
            self._tokens_of(tenant, group, record.counted).inc(record.tokens)
        self.groups[tenant, group, record.outcome] += 1
        if record.tokens is not None and record.outcome == "answered":
            row = self._lengths.setdefault(group, [0.0, 0])
            row[0] += record.tokens
            row[1] += 1
        reason, now = failure_of(record), time.perf_counter()
        seconds = now - record.began
        if reason:
            self.reasons[reason] += 1
            self.failed.labels(reason).inc()
        if record.outcome == "answered":
            self._response_of(group).observe(seconds)
        else:
            seconds = -1.0
        self.latencies.add((record.decide_seconds, record.first_byte_seconds, seconds), now)

    def count_uncounted(self) -> None:
        """Count a request that no budget counts, as the store could not be used."""
        self.num_uncounted += 1
        self.unbudgeted.inc()

    def lengths_by_group(self) -> dict[str, tuple[float, int]]:
        """Response group -> completion tokens of its whole answers, and how many they are."""
        return {group: (row[0], int(row[1])) for group, row in self._lengths.items()}

    def totals(self) -> dict[str, Count[str]]:
        """What this process has counted since it began, by kind and label."""
        requests: Count[str] = Count()
        for (_, group, _), number in self.groups.items():
            requests[group] += number
        return {
            "requests": requests,
            "reasons": self.reasons.copy(),
            "refused": _values(self.refused, "reason"),
            "attempts": _values(self.faults, "kind"),
            "gateway": _values(self.failures, "what"),
            "gains": _values(self.gains, "source"),
        }

    def beat(self) -> None:
        """Every five seconds: remember the totals, so that the last ten minutes can be shown by themselves."""
        self._past.append((time.monotonic(), self.totals()))

    def recent(self) -> tuple[float, dict[str, Count[str]], dict[str, Count[str]]]:
        """The window's seconds, what happened in it, and the totals since this process began."""
        now, totals = time.monotonic(), self.totals()
        since, before = self._began, None
        for when, row in self._past:
            if now - when <= WINDOW_SECONDS + BEAT_SECONDS:
                if now - self._began > WINDOW_SECONDS:
                    since, before = when, row
                break
        if before is None:
            return now - since, totals, totals
        return now - since, {kind: row - before[kind] for kind, row in totals.items()}, totals

    def render(self, snapshot: Mapping[str, Any] | None) -> bytes:
        """The text format, with the budgets as in `AsyncController.snapshot`; None: what the process itself counts."""
        for gauge in (
            *(self.budget, self.calendar, self.tenant, self.tenant_requests, self.tenant_spent),
            *(self.budget_state, self.budget_excess, self.saved),
        ):
            gauge.clear()
        for unit, saving in (("tokens", self.savings.of_tokens()), ("money", self.savings.of_money())):
            if saving is not None:
                for name, value in (("estimate", saving.amount), ("low", saving.low), ("high", saving.high)):
                    self.saved.labels(unit, name).set(value)
        if snapshot is None:
            return generate_latest(self.registry)
        for row in snapshot["budgets"]:
            for name in BUDGET_VALUES:
                self.budget.labels(row["name"], name).set(math.inf if row[name] is None else row[name])
        for row in snapshot["calendar"]:
            for name in ("total", "spent", "in_flight"):
                self.calendar.labels(row["period"], row["budget"], name).set(row[name])
        for row in snapshot["tenants"]:
            self.tenant_requests.labels(row["name"]).set(row["num_requests"])
            for name, used in row["used"].items():
                self.tenant.labels(row["name"], name).set(used)
                self.tenant_spent.labels(row["name"], name).set(row["spent"][name])
        for row in snapshot.get("states", ()):
            for state in STATES:
                self.budget_state.labels(row["scope"], row["budget"], state).set(state == row["state"])
            self.budget_excess.labels(row["scope"], row["budget"]).set(row["over_by"])
        self.over.set(snapshot["num_over"])
        self.drifts.set(snapshot["num_drifts"])
        return generate_latest(self.registry)


def _values(counter: Counter, label: str) -> Count[str]:
    """What a counter of one label counts."""
    found: Count[str] = Count()
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                found[sample.labels[label]] = int(sample.value)
    return found
