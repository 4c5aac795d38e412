"""What an operator reads: states in words, failures, times, savings; the same in the JSON, the page and the metrics."""

import json
import math
import random
import re
import time

import numpy as np
import pytest

from ibpo.serving.gateway.savings import FEWEST, Comparison, Savings, describe_savings
from ibpo.serving.gateway.status import judge_average, judge_calendar
from ibpo.serving.gateway.telemetry import FAILURES, Latencies, Metrics, RequestRecord, failure_of
from tests.serving.world import HASHED, KEYS, SHARE, bulk, call, many

OPERATOR = {"Authorization": f"Bearer {KEYS['operator']}"}
PRICE = {"input": 1.0, "output": 10.0}


def shown(url, headers=None):
    status, _, body = call(f"{url}/budget.json", headers=headers)
    assert status == 200
    return json.loads(body, parse_constant=pytest.fail)


def metric(url, line, headers=None):
    """The value of a line of the metrics."""
    text = call(f"{url}/metrics", headers=headers)[2].decode()
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {line} in the metrics"
    return float(found[1])


def share(count, spent, *, mean=0.3, balance=None, overdraft=5.0, in_flight=0.0):
    row = {"name": "extended", "mean": mean, "is_share": True, "num_requests": count, "spent": spent}
    balance = mean * count - spent - in_flight if balance is None else balance
    return row | {"in_flight": in_flight, "overdraft": overdraft, "balance": balance}


@pytest.mark.parametrize(
    ("row", "state", "words", "following"),
    [
        (share(0, 0), "unknown", "No request yet", "first request"),
        (share(40, 10), "unknown", "not above the budget so far", "167 requests are needed"),
        (share(166, 49), "unknown", "not above", "167 requests"),
        (share(167, 50), "kept", "29.9 % of 167 requests, allowed 30.0 %.", ""),
        (share(1000, 300), "kept", "30.0 %", ""),
        (share(1000, 301), "within", "1 response above the budget, inside the allowed fluctuation of 5", "paid back"),
        (share(1000, 305), "within", "5 responses above", "paid back"),
        (share(1000, 306), "over", "6 responses above the budget, 1 beyond", "about 4 more requests"),
        (share(1000, 320), "over", "20 responses above the budget, 15 beyond", "about 50 more requests"),
        # Spent little in all, and far too much of late: unspent credit is lost beyond the burst.
        (share(1000, 200, balance=-12.0), "over", "recently 12 responses above the budget, 7 beyond", "24 more"),
        # Counted under 50 %, and held to 30 % now: the balance is fine, the average is not.
        (share(1000, 500, balance=0.0), "over", "200 responses above the budget, 195 beyond", "another budget"),
        (share(1000, 0, mean=0.0, overdraft=0.0), "kept", "0.0 %", ""),
        (share(1000, 1, mean=0.0, overdraft=0.0), "over", "1 response above", "pays nothing back"),
        (share(200, 10, in_flight=40), "unknown", "only expected", "ends will tell"),
    ],
)
def test_each_state_in_words(row, state, words, following):
    found = judge_average(row)
    assert found["state"] == state
    assert words in found["words"] and following in found["next"]
    above = max(row["spent"] + row["in_flight"] - row["mean"] * row["num_requests"], -row["balance"])
    assert found["over_by"] == pytest.approx(max(0.0, above - row["overdraft"]) if state == "over" else 0.0)


def test_what_happens_next_depends_on_the_cheapest_group():
    row = {"name": "tokens", "mean": 20.0, "is_share": False, "num_requests": 100, "spent": 2600.0}
    row |= {"in_flight": 0.0, "overdraft": 400.0, "balance": -600.0}
    assert "at least 10 more requests" in judge_average(row)["next"]  # 200 tokens at 20 each, at best
    assert "about 20 more requests" in judge_average(row, cheapest=10.0)["next"]
    assert "a budget of 20 cannot be kept. Raise the budget" in judge_average(row, cheapest=25.0)["next"]


def test_a_calendar_budget_that_runs_out_is_not_kept():
    from datetime import UTC

    row = {"period": "day", "budget": "money", "total": 10.0, "in_flight": 0.0, "num_requests": 50}
    row |= {"begins": 1.8e9 - 28800, "ends": 1.8e9 + 57600}

    def judge(spent, **more):
        return judge_calendar({**row, "spent": spent, **more}, 1.8e9, UTC)

    assert judge(3.0)["state"] == "kept" and "30 %), 33 % of the day gone" in judge(3.0)["words"]
    fast = judge(5.0)
    assert (fast["state"], fast["state_name"]) == ("within", "Running out")
    assert "used up at 16:00 (UTC); from then until 2027-01-16 00:00 (UTC)" in fast["next"]
    assert judge(10.0)["state_name"] == "Used up"
    over = judge(12.5)
    assert (over["state"], over["over_by"]) == ("over", 2.5) and "2.5 over" in over["words"]
    assert judge(0.1, num_requests=5)["state"] == "unknown"


def test_states_of_real_requests(world):
    """From nothing to over, and the same in the JSON, the page and the metrics."""
    upstream = world.upstream()
    plan = {"budget": {**SHARE["budget"], "tokens": {"mean": 8, "overdraft": 400}}}
    _, url, _ = world.gateway(upstream.url, plan=plan)
    first = shown(url)
    assert {row["state"] for row in first["states"]} == {first["status"]["state"]} == {"unknown"}
    bulk(world, url, [{}] * 20)
    assert shown(url)["status"]["state"] == "within"  # above 8 tokens by less than 400
    bulk(world, url, [{"x-ibpo-gain": "0"}] * 280)
    now = shown(url)
    states = {row["budget"]: row for row in now["states"]}
    spent = {row["name"]: row["spent"] for row in now["budgets"]}
    assert states["extended"]["state"] == "kept" and states["tokens"]["state"] == "over"
    assert now["status"]["state"] == "over" and now["status"]["words"] == "Over budget: tokens."
    assert states["tokens"]["over_by"] == pytest.approx(spent["tokens"] - 300 * 8 - 400)
    assert "takes 10 tokens a request by itself: a budget of 8 cannot be kept" in states["tokens"]["next"]
    assert metric(url, 'ibpo_budget_state{budget="tokens",scope="average",state="over"}') == 1
    assert metric(url, 'ibpo_budget_state{budget="tokens",scope="average",state="kept"}') == 0
    excess = metric(url, 'ibpo_budget_excess{budget="tokens",scope="average"}')
    assert excess == pytest.approx(states["tokens"]["over_by"])
    page = call(f"{url}/")[2].decode()
    assert states["tokens"]["words"] in page and "Over budget: tokens." in page


def test_a_share_that_binds_is_kept_or_within_and_never_over(world):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    for _ in range(4):
        bulk(world, url, [{"x-ibpo-gain": str((37 * i % 100) / 100)} for i in range(100)])
        now = shown(url)
        (row,) = now["budgets"]
        above = row["spent"] - 0.3 * row["num_requests"]
        assert row["state"] == ("within" if above > 1e-6 else "kept" if row["num_requests"] >= 167 else "unknown")
        assert now["status"]["state"] == row["state"]


def test_failures_by_reason(world):
    faults = ["500", "429", "404", "drop", "hang", "malformed", None]
    upstream = world.upstream()
    upstream.fault_of = lambda number: faults[number] if number < len(faults) else None
    limits = {"first_byte_seconds": 0.5, "retries": 0}
    _, url, _ = world.gateway(upstream.url, upstream=limits, keys=HASHED)
    gold = {"Authorization": f"Bearer {KEYS['gold']}"}
    replies = bulk(world, url, [gold] * 7 + [{"Authorization": "Bearer wrong"}] * 2)
    assert [status for status, _, _ in replies] == [500, 429, 404, 502, 504, 200, 200, 401, 401]
    now = shown(url, OPERATOR)
    found = now["failures"]
    said = {row["reason"]: row["num"] for row in found["failed"]}
    assert said == {"upstream_5xx": 1, "upstream_429": 1, "upstream_4xx": 1, "cut": 1, "timeout": 1}
    assert (found["num_requests"], found["num_failed"]) == (7, 5)
    assert {row["words"] for row in found["failed"]} <= set(FAILURES.values())
    assert {row["reason"]: row["num"] for row in found["refused"]} == {"invalid_api_key": 2}
    assert metric(url, 'ibpo_failed_requests_total{reason="timeout"}', OPERATOR) == 1
    # Seven in less than a minute are seven a minute: no rate is made up.
    assert all(row["per_minute"] <= row["num"] + 1e-9 for row in found["failed"])
    assert found["failed"][0]["share"] == pytest.approx(1 / 7)


def test_a_caller_that_leaves_and_an_upstream_that_is_not_there(world):
    upstream = world.upstream()
    _, url, _ = world.gateway("http://127.0.0.1:9/v1", upstream={"retries": 0})
    assert bulk(world, url, [{}])[0][0] == 502
    assert [row["reason"] for row in shown(url)["failures"]["failed"]] == ["connect"]
    upstream.held = True
    gateway, url, _ = world.gateway(upstream.url)
    with pytest.raises(TimeoutError):
        world.run(_leave(url))
    world.wait_until(lambda: gateway.metrics.reasons["caller_left"] == 1)
    upstream.held = False
    assert [row["words"] for row in shown(url)["failures"]["failed"]] == ["the caller left before the end"]
    assert shown(url)["num_open"] == 0


async def _leave(url):
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        await session.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": []})


def test_times_are_those_of_the_requests(world):
    upstream = world.upstream()
    upstream.pause = 0.2
    gateway, url, _ = world.gateway(upstream.url)
    bulk(world, url, [{}] * 4, stream=True)
    world.wait_until(lambda: sum(gateway.metrics.groups.values()) == 4)
    times = shown(url)["latency"]
    assert [times[kind]["num"] for kind in ("decide", "first_byte", "response")] == [4, 4, 4]
    assert times["decide"]["p50"] < times["first_byte"]["p50"] < times["response"]["p50"]
    assert times["first_byte"]["p50"] >= 0.2 * 0.97
    assert times["response"]["p95"] is None and times["response"]["p99"] is None  # of four there is none
    assert metric(url, 'ibpo_response_seconds_count{response_group="extended"}') == 4


@pytest.mark.parametrize("num", [100, 1000, 20_000])
def test_quantiles_are_within_three_percent(num):
    values = np.random.default_rng(0).lognormal(-3.0, 1.5, num)
    latencies = Latencies()
    for i, value in enumerate(values):
        latencies.add((float(value), -1.0, -1.0), now=i * 590 / num)
    found = latencies.quantiles(now=595.0)["decide"]
    assert found["num"] == num
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert found[name] == pytest.approx(exact, rel=0.03)
    later = latencies.quantiles(now=595.0 + 300)["decide"]["num"]
    assert later == pytest.approx(num / 2, rel=0.03)  # ten minutes, and no more


def test_a_window_forgets_and_totals_do_not():
    metrics = Metrics()
    for _ in range(3):
        metrics.count(RequestRecord(request_id="a", tenant="", began=time.perf_counter(), outcome="failed", status=500))
    _, recent, totals = metrics.recent()
    assert recent["reasons"] == totals["reasons"] == {"upstream_5xx": 3}
    metrics._began -= 3600  # as if all of that had been an hour ago
    metrics._past.append((time.monotonic() - 590, metrics.totals()))
    window, recent, totals = metrics.recent()
    assert 580 < window < 610 and not recent["reasons"] and totals["reasons"] == {"upstream_5xx": 3}


def test_every_way_to_fail_has_words():
    for outcome in ("failed", "cut", "disconnected"):
        for status in (0, 200, 302, 400, 404, 429, 500, 502, 504):
            record = RequestRecord(request_id="a", tenant="", began=0.0, outcome=outcome, status=status)
            assert failure_of(record) in FAILURES
    assert failure_of(RequestRecord(request_id="a", tenant="", began=0.0, outcome="answered", status=200)) == ""


def test_savings_are_what_the_other_answers_would_have_cost():
    """The truth is drawn, so that it is known: the interval has to hold it in 19 of 20 worlds."""
    hits = 0
    for seed in range(100):
        draw, savings, truth = random.Random(seed), Savings(), 0.0
        for number in range(400):
            expected = draw.uniform(50, 500)
            long = expected * 1.3 + draw.gauss(0, 40)  # longer than expected by a factor that nobody knows
            if number % 4 == 0:
                savings.add("m", "long", Comparison("long", expected), long)
            else:
                short = draw.uniform(10, 30)
                savings.add("m", "short", Comparison("long", expected), short)
                truth += long - short
        saving = savings.of_tokens()
        assert saving is not None and saving.num_requests == 300
        hits += saving.low <= truth <= saving.high
    assert 88 <= hits <= 100


def test_no_saving_is_claimed_where_too_little_is_known():
    savings = Savings()
    for number in range(FEWEST + 5):
        savings.add("m", "short", Comparison("long", 100.0), 10.0)
        if number < FEWEST - 1:
            savings.add("m", "long", Comparison("long", 100.0), 100.0)
    (row,) = describe_savings(savings, is_priced=False, has_usage=True)["rows"]
    assert row["claim"] == "unknown" and "has 29 answers with reported usage, a claim needs 30" in row["words"]
    savings.add("m", "long", Comparison("long", 100.0), 100.0)
    (row,) = describe_savings(savings, is_priced=False, has_usage=True)["rows"]
    assert (row["claim"], row["amount"], row["compared"]) == ("saved", 90.0 * 35, 100.0 * 65)
    equal, draw = Savings(), random.Random(0)
    for _ in range(50):
        equal.add("m", "long", Comparison("long", 100.0), 100.0 + draw.gauss(0, 20))
        equal.add("m", "short", Comparison("long", 100.0), 100.0 + draw.gauss(0, 20))
    (row,) = describe_savings(equal, is_priced=False, has_usage=True)["rows"]
    assert row["claim"] == "none" and "includes 0" in row["words"]


def test_savings_of_real_requests_in_tokens_and_money(world):
    """An extended answer has 50 tokens, a standard one 10; a token of output costs 10 per million."""
    upstream = world.upstream()
    plan = {"budget": {"money": {"mean": 0.00025, "overdraft": 0.01}}}
    _, url, _ = world.gateway(upstream.url, plan=plan, model={"price": PRICE})
    bulk(world, url, [{"x-ibpo-gain": str((37 * i % 100) / 100)} for i in range(200)])
    now = shown(url)
    groups = {row["name"]: row["num_requests"] for row in now["response_groups"]}
    assert groups["extended"] >= FEWEST
    tokens, money = now["savings"]["rows"]
    assert tokens["amount"] == pytest.approx(40 * groups["standard"], rel=1e-6)
    assert tokens["compared"] == pytest.approx(50 * 200, rel=1e-6)
    assert money["amount"] == pytest.approx(40 * groups["standard"] * 10 / 1e6, rel=1e-6)
    assert money["compared"] == pytest.approx(200 * (50 * 10 + 5 * 1) / 1e6, rel=1e-6)
    assert money["claim"] == "saved" and "Nobody made those answers" in now["savings"]["assumes"]
    assert metric(url, 'ibpo_saved{unit="tokens",value="estimate"}') == pytest.approx(tokens["amount"])
    upstream.without_usage = True
    _, url, _ = world.gateway(upstream.url)
    bulk(world, url, [{}] * 20)
    (row,) = shown(url)["savings"]["rows"]
    assert row["claim"] == "unknown" and "no answer with reported usage yet" in row["words"]


def test_tenants_have_their_parts_and_their_own_ceilings(world):
    upstream = world.upstream()
    plan = {**SHARE, "tenant": {"gold": {"at_most": {"extended": 0.1}}, "quiet": {"at_least": {"extended": 0.2}}}}
    _, url, _ = world.gateway(upstream.url, plan=plan, keys=HASHED)
    rows = [{"Authorization": f"Bearer {KEYS[('gold', 'quiet')[i % 4 == 0]]}"} for i in range(240)]
    bulk(world, url, [{**row, "x-ibpo-gain": str((37 * i % 100) / 100)} for i, row in enumerate(rows)])
    now = shown(url, OPERATOR)
    gold, quiet = now["tenants"]
    assert gold["part_of_requests"] == 0.75 and quiet["part_of_requests"] == 0.25
    total = now["budgets"][0]["spent"]
    assert gold["part_of_spent"]["extended"] == pytest.approx(gold["spent"]["extended"] / total)
    assert gold["response_groups"]["extended"] == pytest.approx(gold["used"]["extended"])
    (ceiling,) = gold["states"]
    assert (ceiling["kind"], ceiling["state"]) in {("at_most", "kept"), ("at_most", "within"), ("at_most", "unknown")}
    assert "allowed 10.0 %" in ceiling["words"]
    (promise,) = quiet["states"]
    assert (promise["kind"], promise["state"]) == ("at_least", "kept") and "promised 20.0 %" in promise["words"]
    assert {row["title"] for row in now["states"]} == {"extended", "tenant gold, extended"}


def test_sessions_and_the_day_count_for_the_headline(world):
    """Sessions of 300 tokens: extended answers are withheld at their end, standard ones go on and exceed it."""
    upstream = world.upstream()
    tables = {"session": {"tokens": 900}, "calendar": {"day": {"tokens": 100_000}}}
    _, url, _ = world.gateway(upstream.url, plan={}, tables=tables)
    assert shown(url)["sessions"]["state"] == "unknown"
    bulk(world, url, [{"x-ibpo-session": "a"}] * 5)
    assert shown(url)["sessions"]["state"] == "kept"
    bulk(world, url, [{"x-ibpo-session": "a"}] * 20)
    now = shown(url)["sessions"]
    assert (now["state"], now["num"], now["num_used_up"], now["num_over"]) == ("within", 1, 1, 0)
    bulk(world, url, [{"x-ibpo-session": "a"}] * 60)
    now = shown(url)
    assert now["sessions"]["state"] == now["status"]["state"] == "over"
    assert now["status"]["words"] == "Over budget: sessions."
    assert now["sessions"]["over_by"] > 0 and "get the cheapest response group" in now["sessions"]["next"]
    (day,) = now["calendar"]
    assert day["begins"] <= now["time"] < day["ends"] and day["num_requests"] == 85


def test_whose_numbers_they_are(world, tmp_path):
    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    assert "holds the whole budget, in memory" in shown(url)["scope"]["words"]
    state = str(tmp_path / "budget.sqlite")
    _, one, _ = world.gateway(upstream.url, state=state, name="one")
    _, two, _ = world.gateway(upstream.url, state=state, name="two")
    bulk(world, one, [{}] * 6)
    bulk(world, two, [{}] * 4)
    rows = [shown(url) for url in (one, two)]
    assert [row["budgets"][0]["num_requests"] for row in rows] == [10, 10]  # the whole budget's
    assert [row["failures"]["num_requests"] for row in rows] == [6, 4]  # the process's own
    assert "of all processes that share the state" in rows[0]["scope"]["words"]
    assert "process two" in rows[1]["scope"]["words"]


def test_uncounted_requests_are_not_called_kept(world, tmp_path):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, state=str(tmp_path / "budget.sqlite"))
    bulk(world, url, [{"x-ibpo-gain": str((37 * i % 100) / 100)} for i in range(170)])
    gateway.metrics.count_uncounted()
    status = shown(url)["status"]
    assert status["state"] == "within" and "1 requests of this process are not counted" in status["words"]


def test_hostile_names_are_text_and_make_no_series(world):
    """Any text is a budget's name in the operator's file, and a model's name in a caller's request."""
    hostile = '</noscript><script>alert("x")</script> # HELP evil'
    upstream = world.upstream()
    plan = {"budget": {hostile: {"mean": 0.3, "response_group": "extended"}}}
    _, url, _ = world.gateway(upstream.url, plan=plan)
    for model in ("m", "<b>", 'a"} 1\nibpo_evil 1', "x" * 10_000, "‮evil"):
        body = {"model": model, "messages": [{"role": "user", "content": "a secret prompt"}]}
        assert call(f"{url}/v1/chat/completions", body)[0] == 200
    page, text = call(f"{url}/")[2].decode(), call(f"{url}/metrics")[2].decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert page.count("<script>") == 1
    assert not re.search(r"^(# HELP evil|ibpo_evil)", text, re.MULTILINE)
    for said in (page, text, json.dumps(shown(url))):
        assert "xxxxxxxxxx" not in said and "a secret prompt" not in said
    lines = [line for line in text.splitlines() if line.startswith("ibpo_requests_total")]
    assert sum(float(line.rpartition(" ")[2]) for line in lines) == 5 and len(lines) <= 2


def test_the_policy_of_the_page_allows_its_own_script_only(world):
    import base64
    import hashlib

    upstream = world.upstream()
    _, url, _ = world.gateway(upstream.url)
    _, headers, page = call(f"{url}/")
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for tag in ("style", "script"):
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", page.decode(), re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert not re.search(r"\son\w+=|\sstyle=|https?://(?!www\.w3\.org/2000/svg)", page.decode())


def test_metrics_follow_the_conventions(world):
    """Help and type for each; counters end in _total; times are in seconds."""
    upstream = world.upstream()
    upstream.fault_of = lambda number: "500" if number == 3 else None
    _, url, _ = world.gateway(upstream.url, model={"price": PRICE}, tables={"calendar": {"day": {"tokens": 1e6}}})
    many(world, url, 40)
    text = call(f"{url}/metrics")[2].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert kinds.keys() == helps.keys() and all(name.startswith("ibpo_") for name in kinds)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
    assert {name for name, kind in kinds.items() if kind == "histogram"} == {
        *("ibpo_decide_seconds", "ibpo_first_byte_seconds", "ibpo_response_seconds")
    }
    for line in text.splitlines():
        if not line.startswith("#"):
            assert not math.isnan(float(line.rpartition(" ")[2]))
