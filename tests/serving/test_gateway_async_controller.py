"""A store that is away costs no answer, and no settlement is lost."""

import asyncio
import random
import threading
import time

import aiohttp
import pytest

from ibpo.prices import Price
from ibpo.serving import Conversations
from ibpo.serving.controller import Candidate, ServingPolicy, StoreError
from ibpo.serving.gateway import async_controller
from ibpo.serving.gateway.async_controller import AsyncController
from ibpo.serving.gateway.leased_controller import make_controller
from ibpo.serving.stores import SqliteStore
from tests.serving.world import TOKENS, call, many

PRICE = Price(input=1.0, cached_input=0.1, cache_write=1.0, output=10.0, reasoning=10.0)


def lose(world, controller):
    world.run(controller._run(lambda: controller._store._connection.execute("alter table account rename to lost")))


def bring_back(world, controller):
    world.run(controller._run(lambda: controller._store._connection.execute("alter table lost rename to account")))


def test_a_store_that_is_away_costs_no_answer(world, tmp_path):
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url, state=str(tmp_path / "book.sqlite"))
    controller = gateway.governor.controller
    assert many(world, url, 5) == ["whole"] * 5
    world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)

    lose(world, controller)
    assert many(world, url, 5) == ["whole"] * 5
    assert sum(row["event"] == "store_failed" for row in rows()) == 5
    # Whoever watches for that has to see it while it lasts: the metrics were a 503, too.
    status, _, text = call(f"{url}/metrics")
    assert status == 200 and b"ibpo_unbudgeted_total 5.0" in text and b"ibpo_budget{" not in text
    assert call(f"{url}/budget.json")[0] == 503
    bring_back(world, controller)
    assert b'ibpo_budget{budget="extended",value="num_requests"} 5.0' in call(f"{url}/metrics")[2]
    assert many(world, url, 5) == ["whole"] * 5
    world.wait_until(lambda: world.snapshot(gateway)["budgets"][0]["num_requests"] == 10)
    assert world.snapshot(gateway)["budgets"][0]["in_flight"] == 0


@pytest.mark.parametrize("fault", [None, "400"], ids=["settled", "cancelled"])
def test_what_ends_while_the_store_is_away_is_booked_when_it_is_back(world, tmp_path, fault):
    """The reservation was made before; until its end is booked it would hold back what others could spend."""
    upstream = world.upstream()
    upstream.held, upstream.fault_of = True, lambda number: fault
    gateway, url, rows = world.gateway(upstream.url, plan=TOKENS, state=str(tmp_path / "accounts.sqlite"))
    controller = gateway.governor.controller
    asked = asyncio.run_coroutine_threadsafe(ask_many(url, 3), world.loop)
    world.wait_until(lambda: len(upstream.requests) == 3)
    lose(world, controller)
    upstream.held = False
    assert asked.result(60) == [200 if fault is None else 400] * 3
    # Tried, and failed, at least once each; nothing is booked.
    world.wait_until(lambda: sum(row["event"] == "store" for row in rows()) >= 3)
    bring_back(world, controller)
    world.wait_until(lambda: world.snapshot(gateway)["budgets"][0]["in_flight"] == 0)
    budget = world.snapshot(gateway)["budgets"][0]
    tokens = [row["tokens"] for row in rows() if row["event"] == "request"]
    assert budget["num_requests"] == (3 if fault is None else 0)
    assert budget["spent"] == (sum(tokens) if fault is None else 0)


async def ask_many(url, count):
    """The status of each of `count` requests at once."""
    async with aiohttp.ClientSession() as session:

        async def one():
            async with session.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": []}) as reply:
                await reply.read()
                return reply.status

        return await asyncio.gather(*(one() for _ in range(count)))


def candidates(chance):
    return [
        Candidate(response_group="short", gain=0.0, cost={"tokens": 10.0}),
        Candidate(response_group="long", gain=chance, cost={"tokens": 50.0}),
    ]


@pytest.mark.parametrize("lease", [None, 0.05], ids=["transactions", "leases"])
def test_the_state_is_saved_while_requests_come(tmp_path, monkeypatch, lease):
    """What changes in the event loop is read there: read by the store's thread, it changed meanwhile and ended all."""
    monkeypatch.setattr(async_controller, "HISTORY_SECONDS", 0.005)
    monkeypatch.setattr(async_controller, "SAVE_SECONDS", 0.0)
    chats, address, said = Conversations({"a": PRICE, "b": PRICE}, most=1_000_000), str(tmp_path / "book.sqlite"), []
    for number in range(5000):
        chats.answered(str(number), "a", 10.0, now=0.0)

    async def run():
        controller = make_controller(
            ServingPolicy.from_dict({"budget": {"tokens": {"mean": 30}}}),
            address,
            lease=lease,
            name="one",
            stale_seconds=600.0,
            on_failure=said.append,
            keepers={"chats": chats},
        )
        await controller.open()
        draw, open_now, give_up = random.Random(0), [], time.monotonic() + (2.0 if lease is None else 1.0)
        number = 0
        while time.monotonic() < give_up:
            number += 1
            chats.answered(f"new {number}", "a", 10.0, now=0.0)
            row = await controller.decide(
                candidates(draw.random()), request_id=str(number), tenant=f"tenant {number % 97}", slice_name=""
            )
            open_now.append(row)
            if len(open_now) > 300:
                controller.settle(open_now.pop(draw.randrange(300)), {"tokens": 20.0})
            await asyncio.sleep(0)
        assert said == [] and controller._keeper is not None and not controller._keeper.done()
        for row in open_now:
            controller.settle(row, {"tokens": 20.0})
        await controller.close()
        return number

    number = asyncio.run(run())
    with SqliteStore(address, ["tokens"]) as store:
        state, known = store.load_state("one"), store.load_state("one chats")
        assert store.accounts()["total"][0].spent == pytest.approx(20.0 * number)
    assert state is not None and state["num_decisions"] == number
    assert known is not None and len(known["caches"]) == 5000 + number


def test_who_waits_behind_a_store_that_is_silent_shares_its_failure(tmp_path, monkeypatch):
    """One after the other, ten requests would wait ten times as long as the first."""
    monkeypatch.setattr(async_controller, "PATIENCE_SECONDS", 0.05)
    silent = threading.Event()

    async def run():
        controller = AsyncController(
            ServingPolicy.from_dict({"budget": {"tokens": {"mean": 30}}}), str(tmp_path / "book.sqlite")
        )
        await controller.open()
        working = controller._store.transaction

        def hang():
            silent.wait(0.5)
            raise StoreError("no reply")

        async def one(number):
            await asyncio.sleep(0.01 * number)
            began = time.monotonic()
            with pytest.raises(StoreError, match="no reply"):
                await controller.decide(candidates(0.5), request_id=str(number), tenant="", slice_name="")
            return time.monotonic() - began

        before = await controller.decide(candidates(0.5), request_id="before", tenant="", slice_name="")
        controller._store.transaction = hang
        waits = await asyncio.gather(*(one(number) for number in range(10)))
        controller.settle(before, {"tokens": 7.0})
        controller._store.transaction = working
        row = await controller.decide(candidates(0.5), request_id="after", tenant="", slice_name="")
        controller.settle(row, {"tokens": 8.0})
        await controller.close()
        return waits

    # The last few came within the patience of the failure, and one of them asked again.
    assert max(asyncio.run(run())) < 3.0
    with SqliteStore(tmp_path / "book.sqlite", ["tokens"]) as store:
        assert store.accounts()["total"][0].spent == 15.0


def test_what_is_to_be_tried_again_is_waited_for_at_the_end(tmp_path):
    """A store that is away for a moment just when the process ends."""
    said: list[str] = []

    async def run():
        controller = AsyncController(
            ServingPolicy.from_dict({"budget": {"tokens": {"mean": 30}}}),
            str(tmp_path / "book.sqlite"),
            on_failure=said.append,
        )
        await controller.open()
        row = await controller.decide(candidates(0.5), request_id="a", tenant="", slice_name="")
        working = controller._store.transaction

        def away():
            raise StoreError("away")

        controller._store.transaction = away
        controller.settle(row, {"tokens": 7.0})
        while not said:
            await asyncio.sleep(0.01)
        controller._store.transaction = working
        await controller.close()

    asyncio.run(run())
    with SqliteStore(tmp_path / "book.sqlite", ["tokens"]) as store:
        (bucket,) = store.accounts()["total"]
        assert (bucket.spent, bucket.estimated, store.older_than(1e12)) == (7.0, 0.0, [])
    assert said == ["away"]


def test_a_process_whose_store_is_gone_for_good_ends_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(async_controller, "CLOSE_SECONDS", 0.2)
    said: list[str] = []

    async def run():
        controller = AsyncController(
            ServingPolicy.from_dict({"budget": {"tokens": {"mean": 30}}}),
            str(tmp_path / "book.sqlite"),
            on_failure=said.append,
        )
        await controller.open()

        def gone(*_):
            raise StoreError("gone")

        row = await controller.decide(candidates(0.5), request_id="a", tenant="", slice_name="")
        controller._store.transaction = controller._store.save_state = gone
        controller.settle(row, {"tokens": 7.0})
        await controller.close()
        assert controller._thread is not None and controller._thread._shutdown
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(str(context)))
        await asyncio.sleep(1.2)  # the next try would have been now

    asyncio.run(run())
    assert said == ["gone", "gone"]
