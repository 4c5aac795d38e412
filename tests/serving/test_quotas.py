"""Totals beside the averages: in the controller, in every store, in a gateway, after a kill."""

import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.errors import IbpoError
from ibpo.serving.controller import QUOTA, BudgetPolicy, Candidate, Controller, MemoryStore, ServingPolicy
from ibpo.serving.gateway.quotas import period_end, period_name
from ibpo.serving.gateway.settings import build_policy, build_settings
from tests.serving.test_stores import open_store
from tests.serving.world import GROUPS, HASHED, KEYS, QUICK, bulk, call, groups_of

POLICY = ServingPolicy(
    budgets=(BudgetPolicy(name="tokens", mean=2000.0), BudgetPolicy(name="money", mean=math.inf)),
)
PRICE = {"input": 1.0, "cached_input": 0.1, "output": 10.0}
ZURICH = ZoneInfo("Europe/Zurich")


def candidates(gain, scale=1.0):
    return [
        Candidate(
            response_group="short",
            gain=0.0,
            cost={"tokens": 400.0 * scale, "money": 0.004 * scale},
            reserve={"tokens": 1000.0 * scale, "money": 0.01 * scale},
        ),
        Candidate(
            response_group="long",
            gain=gain,
            cost={"tokens": 5000.0 * scale, "money": 0.05 * scale},
            reserve={"tokens": 16000.0 * scale, "money": 0.16 * scale},
        ),
    ]


@pytest.mark.parametrize("more", [{}, {"tokens": 1e6}])
def test_what_is_cheapest_is_counted_in_what_is_used_up(more):
    """Tokens and money have no common unit: the group of a few tokens less and ten times the price was "cheapest"."""
    controller = Controller(
        ServingPolicy(budgets=tuple(BudgetPolicy(name=name, mean=math.inf) for name in ("tokens", "money")))
    )
    rows = [
        Candidate(response_group="flex", gain=0.0, cost={"tokens": 505.0, "money": 0.005}),
        Candidate(response_group="priority", gain=0.5, cost={"tokens": 490.0, "money": 0.05}),
    ]
    spent = {"flex": 0.0, "priority": 0.0}
    for number in range(100):
        found = controller.decide(rows, request_id=str(number), now=0.0, quotas={"day": {"money": 0.5}, "month": more})
        spent[found.response_group] += 0.005 if found.response_group == "flex" else 0.05
        controller.settle(str(number))
    assert spent["priority"] == pytest.approx(0.5) and spent["flex"] == pytest.approx(90 * 0.005)


def test_a_low_estimate_of_the_expensive_group_does_not_break_a_total():
    """Once not even the standard reserve fitted, the least estimate decided: that of a group seen once may be too low,
    and a used-up total paid for expensive answers without end."""
    controller = Controller(POLICY)
    rows = [
        Candidate(
            response_group="short",
            gain=0.0,
            cost={"tokens": 400.0, "money": 0.0087},
            reserve={"tokens": 4096.0, "money": 0.06},
        ),
        Candidate(
            response_group="long",
            gain=0.5,
            cost={"tokens": 300.0, "money": 0.0056},
            reserve={"tokens": 16384.0, "money": 0.183},
        ),
    ]
    spent = {"short": 0.0, "long": 0.0}
    for number in range(60):
        found = controller.decide(rows, request_id=str(number), now=0.0, quotas={"day": {"money": 0.2}})
        spent[found.response_group] += 0.0087 if found.response_group == "short" else 0.05
        controller.settle(str(number), {"tokens": 400.0, "money": 0.0087 if found.response_group == "short" else 0.05})
    assert 0 < spent["long"] <= 0.2 and spent["short"] > 0.2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_a_quota_is_never_exceeded_by_what_had_an_alternative(seed, session, day):
    """Accounts of the test's own: what is spent and reserved in a quota is within it when more than least is given."""
    chance = random.Random(seed)
    controller = Controller(POLICY)
    totals = {f"session {s}": {"money": session * (1 + s)} for s in range(3)} | {"day": {"money": day, "tokens": 4e5}}
    held, cheapest = ({name: {"money": 0.0, "tokens": 0.0} for name in totals} for _ in range(2))
    flying = {}
    for i in range(150):
        mine = {name: totals[name] for name in (f"session {chance.randrange(3)}", "day")}
        rows = candidates(chance.random(), chance.choice([0.5, 1.0, 2.0]))
        made = controller.decide(rows, request_id=str(i), now=float(i), quotas=mine, tenant=chance.choice(["", "a"]))
        row = next(row for row in rows if row.response_group == made.response_group)
        for name in mine:
            for unit in held[name]:
                (cheapest if row is rows[0] else held)[name][unit] += row.reserve[unit]
        flying[str(i)] = (mine, row, rows)
        for name, unit in ((n, u) for n in mine for u in mine[n]):
            if row is not rows[0]:
                assert held[name][unit] + cheapest[name][unit] <= mine[name][unit] * (1 + 1e-6) + 1e-6
        while flying and chance.random() < 0.6:
            key = chance.choice(list(flying))
            mine, row, rows = flying.pop(key)
            part = chance.random()
            actual = {unit: part * most for unit, most in row.reserve.items()}
            done = controller.settle(key, actual) if chance.random() < 0.9 else controller.cancel(key, actual)
            assert done
            for name in mine:
                for unit in held[name]:
                    (cheapest if row is rows[0] else held)[name][unit] += actual[unit] - row.reserve[unit]


def test_a_quota_with_room_changes_no_decision():
    with_one, without = Controller(POLICY), Controller(POLICY)
    chance = random.Random(0)
    for i in range(400):
        rows = candidates(chance.random())
        made = [
            with_one.decide(rows, request_id=str(i), now=0.0, quotas={"day": {"money": 1e9}}),
            without.decide(rows, request_id=str(i), now=0.0),
        ]
        assert made[0][:3] == made[1][:3]
        for controller in (with_one, without):
            controller.settle(str(i), {"tokens": 0.7 * made[0].estimate[0]})
    assert with_one.short_quotas == []
    assert made[0].quotas == ("day",)


def test_at_its_end_the_cheapest_is_given_and_the_budgets_go_on():
    controller = Controller(POLICY)
    for i in range(50):
        made = controller.decide(candidates(1.0), request_id=str(i), now=0.0, quotas={"run": {"money": 0.3}})
        controller.settle(str(i))
        assert made.within
    assert controller.short_quotas == ["run"]
    assert made.response_group == "short"
    spent = controller.store.buckets(QUOTA + "run")[1].spent
    assert spent == pytest.approx(3 * 0.05 + 47 * 0.004)  # a reserve of .16 has room at 0, .05 and .1 of .3
    other = controller.decide(candidates(1.0), request_id="other", now=0.0, quotas={"next": {"money": 0.3}})
    assert other.response_group == "long"
    assert controller.num_over == 0


def test_what_is_no_quota_is_refused_and_nothing_is_changed():
    controller = Controller(POLICY)
    for totals, said in (
        ({"euros": 1.0}, "no budget 'euros'"),
        ({"money": -1.0}, "at least 0"),
        ({"money": math.nan}, "at"),
    ):
        with pytest.raises(IbpoError, match=said):
            controller.decide(candidates(1.0), request_id="a", now=0.0, quotas={"run": totals})
    assert controller.store.buckets("total")[0].num_requests == 0


def test_the_mean_that_is_counted_only_bounds_nothing_and_has_no_price():
    controller = Controller(ServingPolicy(budgets=(BudgetPolicy(name="money", mean=math.inf),), fair_share=0.5))
    chance = random.Random(1)
    for i in range(200):
        made = controller.decide(candidates(0.01 + chance.random()), request_id=str(i), now=0.0, tenant="a")
        assert (made.response_group, made.price) == ("long", (0.0,))
        controller.settle(str(i), {"money": 0.03})
    again = Controller.from_state(controller.policy, json.loads(json.dumps(controller.state_dict())))
    assert again.store.buckets("total")[0].spent == pytest.approx(6.0)


def drive(controller, count=60):
    """So many decisions of two sessions and a day, most of them settled."""
    chance = random.Random(3)
    made = []
    for i in range(count):
        quotas = {f"session {i % 2}": {"money": 0.5}, "day": {"money": 1.2, "tokens": 1e9}}
        made.append(controller.decide(candidates(chance.random()), request_id=str(i), now=float(i), quotas=quotas))
        if i % 7 == 0:  # longer than expected
            controller.progress(str(i), {"tokens": 500.0}, {"money": 1.5 * made[i].estimate[1]})
        if i >= 4:
            controller.settle(str(i - 4), {"money": 0.8 * made[i - 4].estimate[1]})
    return made


def test_every_store_holds_quotas_as_memory_does(place):
    memory, store = MemoryStore(2), open_store(place[0], place[1], ["tokens", "money"])
    assert drive(Controller(POLICY, memory)) == drive(Controller(POLICY, store))
    with store:
        assert not [name for name in store.accounts() if name.startswith(QUOTA)]  # nobody reads them all
        for name in ("session 0", "session 1", "day"):
            with store.transaction():
                shared = [bucket.state() for bucket in store.buckets(QUOTA + name)]
            assert shared == [bucket.state() for bucket in memory.buckets(QUOTA + name)]
        # What was used last at 58 goes, what was used at 59 stays.
        forgotten = [Controller(POLICY, one).forget("session ", 59.0) for one in (memory, store)]
        assert forgotten == [1, 1]
        with store.transaction():
            assert [store.buckets(QUOTA + f"session {s}")[1].num_requests for s in range(2)] == [0, 30]
    assert list(MemoryStore.from_state(2, json.loads(json.dumps(memory.state()))).touched) == [
        "quota session 1",
        "quota day",
    ]


def test_nothing_waits_in_a_quota_that_loses_no_credit(place):
    """In a shared store, what responses had given back stayed there as waiting after a restart."""
    for _ in range(3):
        with open_store(place[0], place[1], ["tokens", "money"]) as store:
            controller = Controller(POLICY, store)
            controller.recover()
            for name in "ab":
                row = candidates(0.9)
                controller.decide(row, request_id=name, now=0.0, quotas={"day": {"money": 9.0}})
            controller.settle("b", {"money": 0.0})
            controller.cancel("a")
            with store.transaction():
                assert [(row.waiting, row.returned) for row in store.buckets(QUOTA + "day")] == [(0.0, 0.0)] * 2


KILLED = """
import os, signal, sys
from tests.serving.test_quotas import POLICY, drive
from tests.serving.test_stores import open_store
from ibpo.serving.controller import Controller
drive(Controller(POLICY, open_store(*sys.argv[1:], ["tokens", "money"])))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_quotas_survive_a_kill(place):
    """Four requests are in flight when the process is killed: reserved in their quotas, settled there at the end."""
    memory = MemoryStore(2)
    drive(Controller(POLICY, memory))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", KILLED, *place], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open_store(place[0], place[1], ["tokens", "money"]) as store:
        after = Controller(POLICY, store)
        after.recover()
        for name in ("session 0", "day"):
            with store.transaction():
                bucket, expected = store.buckets(QUOTA + name)[1], memory.buckets(QUOTA + name)[1]
            assert (bucket.spent, bucket.estimated) == (expected.spent, expected.estimated)
            assert bucket.estimated > 0
        assert len(after.expire(before=1e9)) == 4
        with store.transaction():
            day = store.buckets(QUOTA + "day")[1]
        assert day.estimated == pytest.approx(0.0, abs=1e-12)
        assert day.spent == pytest.approx(
            memory.buckets(QUOTA + "day")[1].spent + memory.buckets(QUOTA + "day")[1].estimated
        )


@pytest.mark.parametrize("period", ["hour", "day", "month"])
@pytest.mark.parametrize("zone", [UTC, ZURICH, ZoneInfo("Asia/Kathmandu"), ZoneInfo("Australia/Lord_Howe")])
def test_periods_follow_one_another_without_gap_or_overlap(period, zone):
    """A name until the end that is said, another from then on; over two years, with all clocks that are set."""
    chance = random.Random(0)
    for _ in range(300):
        now = chance.uniform(1.75e9, 1.82e9)
        name, end = period_name(period, now, zone), period_end(period, now, zone)
        assert end > now
        # Where clocks are set by half an hour, one hour has two names.
        assert period_name(period, end - 1e-3, zone) == name or (period, str(zone)) == ("hour", "Australia/Lord_Howe")
        assert period_name(period, end + 1e-3, zone) != name
        local = datetime.fromtimestamp(end, zone)
        assert (local.minute, local.second) == (0, 0)
        assert period == "hour" or local.hour == 0
        assert period != "month" or local.day == 1


def test_the_hour_that_comes_twice_has_two_accounts_and_a_long_day_one():
    begins = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()  # 02:30 in Zurich, which comes again
    names = [period_name("hour", begins + 3600 * i, ZURICH) for i in range(2)]
    assert names == ["hour 2026-10-25T02+0200", "hour 2026-10-25T02+0100"]
    midnight = datetime(2026, 10, 24, 22, 0, tzinfo=UTC).timestamp()
    assert period_end("day", midnight, ZURICH) - midnight == 25 * 3600


MONEY = {"session": {"money": 0.002}, "calendar": {"day": {"money": 1.0}, "month": {"tokens": 1e9}}}


def test_a_session_has_a_total_that_callers_can_lower(world):
    """An extended answer costs .0005, a standard one .0001: the run ends on standard answers, and others go on."""
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url, plan={}, tables=MONEY, model={"price": PRICE}, upstream=QUICK)
    one = {"x-ibpo-session": "run 17"}
    # The reserve of an extended answer is its cap of 400 tokens, .004, and more than the total: none is given.
    assert set(groups_of(bulk(world, url, [one] * 3))) == {"standard"}
    wide = {**MONEY, "session": {"money": 0.02}}
    gateway, url, rows = world.gateway(upstream.url, plan={}, tables=wide, model={"price": PRICE}, upstream=QUICK)
    replies = bulk(world, url, [one] * 60)
    groups = groups_of(replies)
    first = groups.index("standard")
    assert set(groups[:first]) == {"extended"} and set(groups[first:]) == {"standard"}
    left = [float(headers["x-ibpo-session-left"].removeprefix("money=")) for _, headers, _ in replies]
    assert left == sorted(left, reverse=True)
    assert "x-ibpo-used-up" not in replies[0][1] and replies[-1][1]["x-ibpo-used-up"] == "session"
    assert replies[0][1]["x-ibpo-calendar-left"].startswith("day money=0.99")
    # 0.02 less spent has no room for .004 and a prompt: some 31 answers of .000505.
    assert 28 <= first <= 32
    assert set(groups_of(bulk(world, url, [{"x-ibpo-session": "run 18"}] * 3))) == {"extended"}
    lower = {"x-ibpo-session": "run 19", "x-ibpo-session-budget": "money=0.001"}
    (_, headers, _), *_ = bulk(world, url, [lower])
    assert headers["x-ibpo-response-group"] == "standard"
    assert float(headers["x-ibpo-session-left"].removeprefix("money=")) < 0.001
    day = next(row for row in world.snapshot(gateway)["calendar"] if row["period"] == "day")
    assert day["spent"] == pytest.approx(sum(row["money"] for row in rows() if row["event"] == "request"))
    assert b'ibpo_calendar{budget="money",period="day",value="total"} 1.0' in call(f"{url}/metrics")[2]
    json.loads(call(f"{url}/budget.json")[2], parse_constant=pytest.fail)
    for asked, said in (("euros=3", "is not a total"), ("money=-1", "is not a total"), ("money", "is not a total")):
        status, _, body = call(
            f"{url}/v1/chat/completions", {"model": "m", "messages": []}, {**one, "x-ibpo-session-budget": asked}
        )
        assert status == 400 and said in body.decode()
    status, _, body = call(
        f"{url}/v1/chat/completions", {"model": "m", "messages": []}, {"x-ibpo-session-budget": "money=1"}
    )
    assert status == 400 and "needs x-ibpo-session" in body.decode()


def test_a_session_that_cannot_be_read_costs_no_probe(world):
    """It was refused after the upstream had been asked, and nobody was charged."""
    upstream = world.upstream()
    groups = [{**group, "opening": text} for group, text in zip(GROUPS, ("<answer>", "<think>"), strict=True)]
    more = {"groups": groups, "model": {"choose": ["probe"]}, "tables": {"session": {"tokens": 600}}}
    _, url, _ = world.gateway(upstream.url, plan={}, upstream=QUICK, **more)
    bad = {"x-ibpo-session": "a", "x-ibpo-session-budget": "tokens=-1"}
    assert [status for status, _, _ in bulk(world, url, [bad, {"x-ibpo-session": "a"}])] == [400, 200]
    assert upstream.num_probes == len(upstream.requests) == 1


def test_a_tenants_session_is_its_own(world):
    upstream = world.upstream()
    tables = {"session": {"tokens": 500}}
    _, url, _ = world.gateway(upstream.url, plan={}, tables=tables, keys=HASHED, upstream=QUICK)
    rows = [
        {"x-ibpo-session": "a", "Authorization": f"Bearer {KEYS[tenant]}"}
        for tenant in ("gold", "gold", "gold", "quiet")
    ]
    # 500 has room for a cap of 400 at 0, at 50 and at 100 expected; then for none.
    replies = bulk(world, url, [*rows[:3], rows[0], rows[3]])
    assert groups_of(replies) == ["extended"] * 3 + ["standard", "extended"]


def test_the_day_ends_in_standard_answers_and_a_new_one_begins_in_extended_ones(world, monkeypatch):
    """Across midnight in Zurich, with what is in flight booked in the day in which it was decided."""
    upstream = world.upstream()
    tables = {"calendar": {"time_zone": "Europe/Zurich", "day": {"tokens": 1000}}}
    gateway, url, _ = world.gateway(upstream.url, plan={}, tables=tables, upstream=QUICK)
    day = gateway.governor.quotas
    clock = {"now": datetime(2026, 11, 30, 22, 59, tzinfo=UTC).timestamp()}
    find, current = day.find, day.current
    monkeypatch.setattr(day, "find", lambda caller, tenant, now: find(caller, tenant, clock["now"]))
    monkeypatch.setattr(day, "current", lambda now: current(clock["now"]))
    groups = groups_of(bulk(world, url, [{}] * 20))
    assert groups == ["extended"] * groups.count("extended") + ["standard"] * groups.count("standard")
    assert groups.count("extended") == 13  # 1,000 has room for a cap of 400 until 650 are spent
    clock["now"] += 120
    assert groups_of(bulk(world, url, [{}])) == ["extended"]
    (row,) = world.snapshot(gateway)["calendar"]
    assert (row["spent"], row["total"]) == (50, 1000)
    assert row["ends"] == datetime(2026, 12, 1, 23, 0, tzinfo=UTC).timestamp()


def test_quotas_survive_a_restart_of_the_gateway(tmp_path, world):
    upstream, state = world.upstream(), str(tmp_path / "book.sqlite")
    tables = {"session": {"tokens": 600}, "calendar": {"month": {"tokens": 5000}}}
    seen = []
    for name in ("a", "b"):
        gateway, url, _ = world.gateway(upstream.url, plan={}, tables=tables, state=state, name=name, upstream=QUICK)
        seen += groups_of(bulk(world, url, [{"x-ibpo-session": "run"}] * 5))
        world.wait_until(lambda gateway=gateway: world.snapshot(gateway)["num_in_flight"] == 0)
    assert seen == ["extended"] * 5 + ["standard"] * 5
    assert world.snapshot(gateway)["calendar"][0]["spent"] == 5 * 50 + 5 * 10


def test_sessions_that_are_idle_are_forgotten_and_the_months_account_is_not(monkeypatch, world):
    upstream = world.upstream()
    tables = {"session": {"tokens": 600, "idle_seconds": 60}, "calendar": {"month": {"tokens": 5000}}}
    gateway, url, _ = world.gateway(upstream.url, plan={}, tables=tables, upstream={**QUICK, "total_seconds": 10})
    bulk(world, url, [{"x-ibpo-session": f"run {i}"} for i in range(5)])
    controller = gateway.governor.controller
    accounts = controller._store.accounts
    assert len([name for name in accounts if name.startswith("quota session ")]) == 5
    world.run(controller._run(controller._forget))
    assert len([name for name in accounts if name.startswith("quota session ")]) == 5
    forgotten = gateway.governor.quotas.forgotten
    monkeypatch.setattr(gateway.governor.quotas, "forgotten", lambda now, least: forgotten(now + 3600, least))
    world.run(controller._run(controller._forget))
    assert [name.split()[1] for name in accounts if name.startswith("quota ")] == ["month"]


def test_money_needs_prices_and_a_file_with_quotas_alone_is_enough():
    model = {"name": "*", "response_group": GROUPS}
    from ibpo.serving.gateway.settings import check_groups

    bare = build_settings({"model": [model], **MONEY}, "gateway.toml")
    with pytest.raises(IbpoError, match="has no price for response group 'standard'; give price"):
        check_groups(bare, build_policy(bare, {}))
    priced = build_settings({"model": [{**model, "price": PRICE}], **MONEY}, "gateway.toml")
    policy = build_policy(priced, {"budget": {"tokens": {"mean": 1000.0}}})
    check_groups(priced, policy)
    assert [budget.name for budget in policy.budgets if budget.is_counted_only] == ["money"]


@pytest.mark.parametrize(
    "tables, said",
    [
        ({"session": {}}, "session: give tokens, money or both"),
        ({"session": {"money": 1, "idle_seconds": 2}}, "session.idle_seconds: must be at least 60"),
        ({"calendar": {"time_zone": "Nowhere"}}, "'Nowhere' is not a known time zone; write e.g. Europe/Berlin"),
        ({"calendar": {"week": {"money": 3}}}, "calendar.week: unknown key"),
        ({"calendar": {"day": {"money": -3}}}, "calendar.day.money: must be above 0"),
        ({"conversation": {"switch_gain": 2}}, "conversation.switch_gain"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tables, said):
    with pytest.raises(IbpoError) as caught:
        build_settings(tables, "gateway.toml")
    assert str(caught.value).startswith("gateway.toml: ") and said in str(caught.value)


def test_a_stream_that_runs_away_is_booked_while_it_runs(world):
    """Of 3,000 tokens where 50 are expected: the budget knows long before the end, within what was reserved."""
    upstream = world.upstream()
    groups = [GROUPS[0], {**GROUPS[1], "max_tokens": 4000}]
    plan = {"budget": {"tokens": {"mean": 500, "overdraft": 9000}}}
    gateway, url, _ = world.gateway(upstream.url, plan=plan, groups=groups, upstream=QUICK)
    held = []

    async def reply(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = list(upstream.events(body, 0, 3000, True, with_usage=True))
        for i in range(0, len(events), 500):
            await response.write(b"".join(events[i : i + 500]))
            for _ in range(200):  # until the gateway has passed it on
                await asyncio.sleep(0.005)
                budget = (await gateway.governor.controller.snapshot())["budgets"][0]
                if budget["in_flight"] > (held[-1] if held else 50.0):
                    break
            held.append(budget["in_flight"])
        return response

    upstream.reply = reply
    bulk(world, url, [{"x-ibpo-response-group": "extended"}], stream=True)
    assert 50 < held[0] < held[2] < held[-1] <= 4000
    assert held[-1] > 2500
    world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
    budget = world.snapshot(gateway)["budgets"][0]
    assert (budget["spent"], budget["in_flight"]) == (3000, 0)


def test_answers_that_callers_cut_short_do_not_teach_how_long_answers_are(world):
    """Else whoever asks for one token each would make everybody's answers look free, and a disconnect cheap."""
    upstream = world.upstream()
    plan = {"budget": {"tokens": {"mean": 500, "overdraft": 9000}}}
    gateway, url, _ = world.gateway(upstream.url, plan=plan, upstream=QUICK)
    usage = {"prompt_tokens": 5, "completion_tokens": 1}

    async def reply(request, body):
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": "w"}}], "usage": usage})

    upstream.reply = reply
    bulk(world, url, [{}] * 50, body={"max_tokens": 1})
    lengths = gateway.governor.expected_lengths
    assert lengths.expect("*/extended", 20, 50.0).mean == 50.0
    bulk(world, url, [{}] * 50, body={"max_tokens": 300})
    assert lengths.expect("*/extended", 20, 50.0).mean == pytest.approx(1.0)


def test_who_explores_answers_as_cheaply_as_can_be_where_a_quota_is_used_up():
    """Nothing to draw from is left there: it ended in an error, and each one left a request that nobody had made."""
    budget = BudgetPolicy(name="tokens", mean=100.0)
    controller = Controller(ServingPolicy(budgets=(budget,), explore=0.1))
    candidates = [
        Candidate(response_group="a", gain=0.0, cost={"tokens": 10.0}),
        Candidate(response_group="b", gain=0.1, cost={"tokens": 100.0}),
    ]
    quota = {"session s": {"tokens": 15.0}}
    found = [controller.decide(candidates, request_id=str(i), now=0.0, quotas=quota) for i in range(4)]
    assert [one.response_group for one in found] == ["a"] * 4
    assert [one.propensity for one in found] == [1.0] * 4


def test_who_explores_may_find_every_response_group_too_expensive_for_some_budget():
    policies = BudgetPolicy(name="tokens", mean=100.0), BudgetPolicy(name="money", mean=1.0)
    controller = Controller(ServingPolicy(budgets=policies, explore=0.1))
    candidates = [
        Candidate(response_group="own", gain=0.5, cost={"tokens": 550.0, "money": 0.0}),
        Candidate(response_group="api", gain=0.6, cost={"tokens": 10.0, "money": 5.5}),
    ]
    for i in range(20):
        found = controller.decide(candidates, request_id=str(i), now=0.0)
        assert 0 < found.propensity <= 1
        controller.settle(str(i))


def test_a_quota_that_is_refused_touches_none():
    controller = Controller(ServingPolicy.from_dict({"budget": {"tokens": {"mean": 100}}}))
    options = [Candidate(response_group="short", gain=0.0, cost={"tokens": 1.0})]
    for bad in ({"money": 1.0}, {"tokens": -1.0}):
        with pytest.raises(IbpoError, match="quota 'b'"):
            controller.decide(options, request_id="1", now=0.0, quotas={"a": {"tokens": 5.0}, "b": bad})
    assert controller.state_dict()["book"]["touched"] == {}
