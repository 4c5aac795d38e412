"""What an operator reads of the budgets: each one's state in words, what happens next, and what the controller does.

The live page, `/budget.json` and the metrics say the same, as all of them take it from here. A budget is

    over      beyond its stated bound: by how much, and what happens next;
    within    above its mean, inside the fluctuations that are allowed;
    unknown   not above it, with too few requests to tell;
    kept      at most its mean, with enough requests to tell.

Enough are 100 requests, and so many that the allowed fluctuation is at most a tenth of what they may cost. The worst
state of all budgets, the calendar, the sessions and the ceilings of tenants and slices is the state of the gateway.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from ibpo.serving.gateway.quotas import Quotas
from ibpo.serving.gateway.savings import describe_savings, show_number
from ibpo.serving.gateway.telemetry import FAILURES, STATES, Metrics

LEAST_REQUESTS = 100
LEAST_PERIOD_REQUESTS = 30
"""In an hour, a day or a month before anything is said of its pace."""
NOISE = 0.1
"""Most that the allowed fluctuation may be of what the requests may cost, for a budget to be called kept."""
STATE_NAMES = {"over": "Over", "within": "Within bounds", "unknown": "Too early to tell", "kept": "Kept"}
SESSION_SECONDS = 3600.0
"""Sessions with a request in the last hour are judged."""
_EVEN = 1e-9
"""What sums of floats leave."""


def amount(value: float, name: str, *, is_share: bool = False) -> str:
    """A cost in words.

    Example:
        >>> amount(0.3, "extended", is_share=True), amount(12345.6, "tokens"), amount(0.00042, "money")
        ('30.0 %', '12,346 tokens', '0.00042 money')
    """
    return f"{100 * value:.1f} %" if is_share else f"{show_number(value)} {name}"


def judge_average(row: Mapping[str, Any], *, cheapest: float | None = None) -> dict[str, Any]:
    """State, words and what happens next of a budget on the mean cost per request.

    Args:
        row: `name`, `mean`, `is_share`, `num_requests`, `spent`, `in_flight`, `balance` and `overdraft`.
        cheapest: What a request costs by the cheapest response group; None: not known.

    Example:
        >>> row = {"name": "extended", "mean": 0.3, "is_share": True, "spent": 320.0, "in_flight": 0.0}
        >>> row |= {"num_requests": 1000, "balance": -20.0, "overdraft": 5.0}
        >>> found = judge_average(row)
        >>> found["state"], found["over_by"], found["words"].partition(": ")[2]
        ('over', 15.0, '20 responses above the budget, 15 beyond the allowed fluctuation of 5.')
    """
    name, is_share, mean, count = row["name"], row["is_share"], row["mean"], row["num_requests"]
    unit, overdraft = ("responses" if is_share else name), row["overdraft"] or 0.0
    cost, allowed = row["spent"] + row["in_flight"], mean * count
    tiny = _EVEN * (1.0 + abs(cost) + abs(allowed))
    above, owed = cost - allowed, -row["balance"]
    beyond = max(above, owed) - overdraft
    if not count:
        return _state("unknown", "No request yet.", "The first request begins the count.")
    said = (
        f"{amount(cost / count, name, is_share=is_share)} {'of' if is_share else 'a request over'} {count:,} requests"
    )
    said += f", allowed {amount(mean, name, is_share=is_share)}"
    room = f"the allowed fluctuation of {show_number(overdraft)}"
    if beyond > tiny:
        if owed - overdraft > tiny:
            what = f"{_cost(owed, unit)} above the budget, {show_number(beyond)} beyond {room}."
            if above < tiny:
                what = f"recently {what}"
            following = _repay(owed - overdraft, mean, unit, cheapest)
        else:
            what = f"{_cost(above, unit)} above the budget, {show_number(beyond)} beyond {room}."
            following = (
                "A part of it was counted under another budget, and is not paid back. New requests keep the budget; "
                "the average falls to it only slowly. Start with a new --state to begin anew."
            )
        return _state("over", f"{said}: {what}", following, beyond)
    if max(above, 0.0) > tiny:
        return _state(
            "within",
            f"{said}: {_cost(above, unit)} above the budget, inside {room}.",
            "This is expected of traffic that fluctuates, and is paid back by later requests.",
        )
    needed = max(LEAST_REQUESTS, math.ceil(overdraft / (NOISE * mean))) if mean else LEAST_REQUESTS
    if count < needed:
        return _state(
            "unknown",
            f"{said}: not above the budget so far.",
            f"{needed:,} requests are needed to tell whether it is kept.",
        )
    if row["in_flight"] > row["spent"]:
        return _state("unknown", f"{said}, most of it only expected of answers in flight.", "Their ends will tell.")
    return _state("kept", f"{said}.", "")


def _repay(beyond: float, mean: float, unit: str, cheapest: float | None) -> str:
    """What happens next where the balance is below its bound."""
    least = 0.0 if unit == "responses" else cheapest
    said = "Next: only the cheapest response group is given, except what tenants were promised,"
    if mean <= 0:
        return "Next: nothing that this budget counts is given. A budget of 0 pays nothing back."
    if least is not None and least >= mean:
        return (
            f"Next: only the cheapest response group is given, and it takes {show_number(least)} {unit} a request by "
            f"itself: a budget of {show_number(mean)} cannot be kept. Raise the budget, or lower max_tokens."
        )
    count = math.ceil(beyond / (mean - (least or 0.0)))
    about = "at least" if least is None else "about"
    return f"{said} until it is back inside its bound: {about} {count:,} more requests."


def judge_calendar(row: Mapping[str, Any], now: float, zone: tzinfo, *, since: float = 0.0) -> dict[str, Any]:
    """State, words and what happens next of a total of an hour, a day or a month.

    Args:
        row: `period`, `budget`, `total`, `spent`, `in_flight`, `num_requests`, `begins` and `ends`.
        now: Seconds since 1970.
        zone: The calendar's.
        since: When counting began, where that is later than the period.
    """
    name, total, cost = row["budget"], row["total"], row["spent"] + row["in_flight"]
    until = (
        f"until {_at(row['ends'], now, zone)} requests get the cheapest response group, whose cost goes on counting."
    )
    said = f"{amount(cost, name)} of {amount(total, name)} this {row['period']}"
    if cost > total + _EVEN * (1.0 + total):
        return _state("over", f"{said}: {show_number(cost - total)} over.", f"Next: {until}", cost - total)
    part = cost / total if total else 1.0
    said = f"{said} ({_percent(part)})"
    if part >= 1.0:
        return _state("within", f"{said}: used up.", f"Next: {until}", name="Used up")
    if row["num_requests"] < LEAST_PERIOD_REQUESTS:
        needed = f"{row['num_requests']} requests; {LEAST_PERIOD_REQUESTS} are needed to tell how it goes on."
        return _state("unknown", f"{said} so far.", needed)
    begins = max(row["begins"], since)
    spent_up = begins + (now - begins) / part if part else math.inf
    gone = (now - row["begins"]) / (row["ends"] - row["begins"])
    if spent_up < row["ends"]:
        at = _at(spent_up, now, zone)
        following = f"At this pace it is used up at {at}; from then {until}"
        return _state("within", f"{said}, {_percent(gone)} of the {row['period']} gone.", following, name="Running out")
    return _state("kept", f"{said}, {_percent(gone)} of the {row['period']} gone.", "")


def judge_sessions(metrics: Metrics, totals: Mapping[str, float], idle_seconds: float) -> dict[str, Any]:
    """The sessions of this process in the last hour, each as it was at its newest request.

    Args:
        metrics: Metrics of this process.
        totals: Totals of a session; callers may have lowered theirs.
        idle_seconds: After which a session is forgotten.
    """
    oldest = metrics.clock.monotonic() - min(SESSION_SECONDS, idle_seconds)
    rows = [row for row in metrics.sessions.values() if row[0] >= oldest]
    over = [
        left for _, _, left in rows if any(value < -_EVEN * (1.0 + totals.get(k, 0.0)) for k, value in left.items())
    ]
    num_used_up = sum(is_used_up for _, is_used_up, _ in rows)
    most = {name: max((-left.get(name, 0.0) for left in over), default=0.0) for name in totals}
    limits = " and ".join(amount(total, name) for name, total in totals.items() if total < math.inf)
    found: dict[str, Any] = {"num": len(rows), "num_used_up": num_used_up, "num_over": len(over), "over_by": most}
    said = f"{len(rows):,} sessions in the last hour, each with at most {limits}"
    cheapest = "get the cheapest response group, whose cost goes on counting"
    if over:
        worst = ", ".join(amount(value, name) for name, value in most.items() if value > 0)
        what = f"{said}: {len(over):,} over their total, by at most {worst}."
        return found | _state("over", what, f"Next: their requests {cheapest}.", max(most.values()))
    if num_used_up:
        what = f"{said}: {num_used_up:,} have no room left for every response group."
        return found | _state("within", what, f"Requests without room {cheapest}.", name="Some used up")
    if not rows:
        return found | _state(
            "unknown", f"No session in the last hour; each has at most {limits}.", "Callers name one: x-ibpo-session."
        )
    return found | _state("kept", f"{said}: all inside their totals.", "")


def judge_part(row: Mapping[str, Any], budgets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ceilings and promises of a tenant or a slice: one state for each budget that has one."""
    found: list[dict[str, Any]] = []
    for budget in budgets:
        name, is_share = budget["name"], budget["is_share"]
        ceiling, promise = row["at_most"][name], row["at_least"][name]
        if ceiling is not None:
            terms = {"name": name, "mean": ceiling, "is_share": is_share, "num_requests": row["num_requests"]}
            for key in ("spent", "in_flight", "balance", "overdraft"):
                terms[key] = row[key][name]
            found.append({"budget": name, "kind": "at_most", **judge_average(terms)})
        if promise:
            used, said = row["used"][name], f"promised {amount(promise, name, is_share=is_share)}"
            has = f"{said}, has {amount(used, name, is_share=is_share)}"
            unit = "responses" if is_share else name
            if used >= promise * (1 - _EVEN):
                state = _state("kept", f"{has}.", "")
            elif row["unmet"][name] > 1.0 + _EVEN:
                lacked = f"the whole budget had no room for {show_number(row['unmet'][name])} {unit} of it"
                following = "The budget of all comes before promises."
                state = _state("within", f"{has}: {lacked}.", following, name="Less than promised")
            else:
                said = f"{has}: it asked for no more, or little of it gained anything."
                state = _state("unknown", said, "", name="Not asked for")
            found.append({"budget": name, "kind": "at_least", **state})
    return found


def describe(
    snapshot: Mapping[str, Any],
    metrics: Metrics,
    *,
    scope: Mapping[str, Any],
    quotas: Quotas | None = None,
    sessions: tuple[Mapping[str, float], float] | None = None,
    is_priced: bool = False,
    fair_share: float = 0.0,
) -> dict[str, Any]:
    """Everything that the page shows beside the numbers of `AsyncController.snapshot`.

    Args:
        snapshot: Snapshot of the controller; it is not changed.
        metrics: Metrics of this process.
        scope: `is_shared`, `by_lease`, `process`, `pid`, `began`.
        quotas: The calendar's.
        sessions: The totals of a session, and after how many seconds one is idle.
        is_priced: Whether models have prices.
        fair_share: The policy's.
    """
    now, found = snapshot["time"], dict(snapshot)
    window, recent, totals = metrics.recent()
    cheapest = _cheapest(metrics)
    found["budgets"] = [
        {**row, **judge_average(row, cheapest=cheapest if row["name"] == "tokens" else None)}
        for row in snapshot["budgets"]
    ]
    states = [_named("average", row["name"], row["name"], row) for row in found["budgets"]]
    if quotas is not None:
        since = 0.0 if scope["is_shared"] else scope["began"]
        found["calendar"] = [
            {**row, **judge_calendar(row, now, quotas.zone, since=since)} for row in snapshot["calendar"]
        ]
        states += [
            _named("calendar", f"{row['period']}.{row['budget']}", f"{row['budget']} of this {row['period']}", row)
            for row in found["calendar"]
        ]
    found["sessions"] = None
    if sessions is not None:
        found["sessions"] = judge_sessions(metrics, *sessions)
        states.append(_named("session", "session", "sessions", found["sessions"]))
    mixes = _mixes(metrics)
    for kind in ("tenant", "slice"):
        rows: list[dict[str, Any]] = []
        for row in snapshot[f"{kind}s"]:
            judged = judge_part(row, snapshot["budgets"])
            here = {"response_groups": mixes.get(row["name"], {})} if kind == "tenant" else {}
            rows.append({**row, "states": judged, **_parts(row, snapshot), **here})
            states += [
                _named(kind, f"{row['name']}.{one['budget']}", f"{kind} {row['name']}, {one['budget']}", one)
                for one in judged
                if one["kind"] == "at_most"
            ]
        found[f"{kind}s"] = rows
    found |= {
        "scope": {**scope, "words": _scope(scope)},
        "states": states,
        "status": _worst(states, metrics.num_uncounted),
        "fair_share": fair_share,
        "window_seconds": window,
        "failures": _failures(window, recent, totals, metrics),
        "latency": {"window_seconds": min(window, 600.0), **metrics.latencies.quantiles(time.perf_counter())},
        "savings": describe_savings(metrics.savings, is_priced=is_priced, has_usage=metrics.savings.num_answers > 0),
        "response_groups": _groups(snapshot, metrics, recent["requests"]),
        "gain_sources": dict(recent["gains"]),
        "controller": _explain(found, recent["gains"]),
        "alarms": _alarms(snapshot, now),
    }
    return found


def _state(state: str, words: str, following: str, over_by: float = 0.0, *, name: str = "") -> dict[str, Any]:
    title = name or STATE_NAMES[state]
    return {"state": state, "state_name": title, "words": words, "next": following, "over_by": over_by}


def _named(scope: str, budget: str, title: str, row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("state", "state_name", "words", "next", "over_by")
    return {"scope": scope, "budget": budget, "title": title, **{key: row[key] for key in keys}}


def _worst(states: Sequence[Mapping[str, Any]], num_uncounted: int) -> dict[str, Any]:
    """The state of the gateway: the worst of all."""
    worst = max((row["state"] for row in states), key=STATES.index, default="unknown")
    named = [row["title"] for row in states if row["state"] == worst]
    which = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    words = {
        "over": f"Over budget: {which}.",
        "within": f"No budget is beyond its bound; above its mean or running out: {which}.",
        "unknown": f"Too early to tell: {which}." if named else "No budget is counted yet.",
        "kept": "The budget is kept." if len(states) == 1 else f"All {len(states)} budgets are kept.",
    }[worst]
    if num_uncounted:
        if worst in ("kept", "unknown"):
            worst, words = "within", f"As far as requests are counted: {words[0].lower()}{words[1:]}"
        words += f" {num_uncounted:,} requests of this process are not counted, as the store could not be used."
    return {"state": worst, "state_name": STATE_NAMES[worst], "words": words}


def _parts(row: Mapping[str, Any], snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """A tenant's or a slice's parts of all requests, and of what all have cost."""
    count = max((budget["num_requests"] for budget in snapshot["budgets"]), default=0)
    count = count or sum(other["num_requests"] for other in snapshot["tenants"])
    spent = {
        budget["name"]: row["spent"][budget["name"]] / budget["spent"] if budget["spent"] else None
        for budget in snapshot["budgets"]
    }
    return {"part_of_requests": row["num_requests"] / count if count else None, "part_of_spent": spent}


def _mixes(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Tenant -> each response group's part of its requests that have ended in this process."""
    counts: dict[str, dict[str, int]] = {}
    for (tenant, group, _), number in sorted(metrics.groups.items()):
        row = counts.setdefault(tenant, {})
        row[group] = row.get(group, 0) + number
    return {tenant: {group: n / sum(row.values()) for group, n in row.items()} for tenant, row in counts.items()}


def _cheapest(metrics: Metrics) -> float | None:
    """Mean completion tokens of the response group with the shortest answers, of those with 30 answers here."""
    means = [sum_ / count for sum_, count in metrics.lengths_by_group().values() if count >= LEAST_PERIOD_REQUESTS]
    return min(means, default=None)


def _groups(snapshot: Mapping[str, Any], metrics: Metrics, recent: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each response group's part of the requests of this process, and what its budget wants."""
    wanted = {row["name"]: row["mean"] for row in snapshot["budgets"] if row["is_share"]}
    by_group: dict[str, int] = {}
    for (_, group, _), count in metrics.groups.items():
        by_group[group] = by_group.get(group, 0) + count
    all_recent, all_total, lengths = sum(recent.values()), sum(by_group.values()), metrics.lengths_by_group()
    rows: list[dict[str, Any]] = []
    for name in sorted(by_group.keys() | wanted.keys()):
        total, (tokens, answers) = by_group.get(name, 0), lengths.get(name, (0.0, 0))
        rows.append(
            {
                "name": name,
                "num_requests": total,
                "share": total / all_total if all_total else None,
                "recent_requests": recent.get(name, 0),
                "recent_share": recent.get(name, 0) / all_recent if all_recent else None,
                "wanted_at_most": wanted.get(name),
                "tokens_per_answer": tokens / answers if answers else None,
            }
        )
    return rows


def _failures(
    window: float, recent: Mapping[str, Mapping[str, int]], totals: Mapping[str, Mapping[str, int]], metrics: Metrics
) -> dict[str, Any]:
    """What went wrong in the window, with rates, and since this process began."""
    minutes, num = max(window, 60.0) / 60, sum(recent["requests"].values())

    def rows(kind: str, words: Mapping[str, str], left_out: str = "") -> list[dict[str, Any]]:
        return [
            {
                "reason": reason,
                "words": words.get(reason, reason.replace("_", " ")),
                "num": (count := recent[kind].get(reason, 0)),
                "per_minute": count / minutes,
                "total": total,
            }
            for reason, total in sorted(totals[kind].items(), key=lambda item: (-item[1], item[0]))
            if total and not (left_out and reason.startswith(left_out))
        ]

    failed = rows("reasons", FAILURES)
    for row in failed:
        row["share"] = row["num"] / num if num else None
    return {
        "window_seconds": window,
        "num_requests": num,
        "num_failed": sum(row["num"] for row in failed),
        "failed": failed,
        # Those of the upstream are among the failed requests.
        "refused": rows("refused", {}, "upstream_"),
        "attempts": rows("attempts", {"status": "an answer that was not taken, and asked for again"}),
        "gateway": rows("gateway", {}),
        "num_uncounted": metrics.num_uncounted,
    }


def _explain(found: Mapping[str, Any], gains: Mapping[str, int]) -> list[str]:
    """What the controller does now, and why."""
    said: list[str] = []
    for row in found["budgets"]:
        name, price, is_share = row["name"], row["price"], row["is_share"]
        what = f"an answer by {name}" if is_share else f"1 {name}"
        if price is None:
            text = f"{name}: no gain is enough at present; nothing that costs more than the cheapest is given."
        elif price <= 0:
            text = f"{name}: the price is 0: there is room for every answer that gains anything."
        elif is_share:
            text = f"{name}: the price is {price:.3g}: {what} has to gain at least that (gains are from 0 to 1)."
        else:
            cost, per = (price * 1000, "1,000 tokens") if name == "tokens" else (price, f"1 {name}")
            text = f"{name}: the price is {cost:.3g} for {per}: an answer has to gain that much for what it costs more."
        low, high = -(row["overdraft"] or 0.0), row["burst"] or 0.0
        middle, unit = (low + high) / 2, "responses" if is_share else name
        balance = row["balance"] - row["held"]
        if high > low and row["num_requests"]:
            if balance < middle - 0.05 * (high - low):
                text += f" It spends a little less than the budget now: the balance is {show_number(balance)} {unit}."
            elif balance > middle + 0.05 * (high - low):
                text += f" It may spend a little more than the budget: {show_number(balance)} {unit} are saved up."
        if row["held"] > _EVEN:
            text += f" {show_number(row['held'])} {unit} are kept for promises to tenants or slices."
        said.append(text)
    shares = {row["name"] for row in found["budgets"] if row["is_share"]}
    for group, ratios in sorted(found["corrections"].items()):
        for name, ratio in ratios.items():
            if name not in shares and abs(ratio - 1) >= 0.005:
                said.append(
                    f"Correction: answers by {group} cost {ratio:.2f} times the {name} that were expected, so that is "
                    "what the next ones are expected to cost."
                )
    count = sum(gains.values())
    if count:
        words = {"default": "the settings", "caller": "callers", "router": "the router", "probe": "the probe"}
        parts = [f"{words.get(source, source)} {_percent(number / count)}" for source, number in sorted(gains.items())]
        said.append(f"Gains came from {', '.join(parts)} of the requests.")
    return said


def _alarms(snapshot: Mapping[str, Any], now: float) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    age = now - snapshot["last_drift"]
    if snapshot["last_drift"] and age < 600:
        minutes = max(1, round(age / 60))
        rows.append(
            {
                "level": "warning",
                "words": f"Drift alarm: the traffic changed {minutes} min ago. Prices are being learned again; if this "
                "goes on, check the gains and the calibration.",
            }
        )
    if snapshot["num_over"]:
        words = (
            f"{snapshot['num_over']:,} requests found no response group inside all bounds and got the one that "
            "overdraws least."
        )
        rows.append({"level": "warning", "words": words})
    return rows + [{"level": "warning", "words": words} for words in snapshot["cautions"]]


def _scope(scope: Mapping[str, Any]) -> str:
    """Whose numbers these are."""
    process = f"process {scope['process']} (pid {scope['pid']})"
    if not scope["is_shared"]:
        return f"This {process} holds the whole budget, in memory. All numbers are its own, since it started."
    late = " Other processes report what they spend within a lease a few times a second." if scope["by_lease"] else ""
    return (
        "Budgets, calendar, tenants and slices are the whole budget, of all processes that share the state."
        f"{late} Sessions, failures, times, savings, response groups and the controller's price are those of this "
        f"{process}, since it started."
    )


def _cost(value: float, unit: str) -> str:
    """A cost with its unit; 1 response, 2 responses."""
    said = show_number(value)
    return f"{said} {'response' if (said, unit) == ('1', 'responses') else unit}"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _at(when: float, now: float, zone: tzinfo) -> str:
    """A time of the calendar's zone: its hour, and its day where that is not today."""
    then, today = datetime.fromtimestamp(when, zone), datetime.fromtimestamp(now, zone)
    form = "%H:%M" if then.date() == today.date() else "%Y-%m-%d %H:%M"
    return f"{then.strftime(form)} ({zone})"
