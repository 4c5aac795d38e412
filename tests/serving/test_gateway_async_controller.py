"""A store that is away costs no answer, and no settlement is lost."""

import asyncio

import aiohttp
import pytest

from tests.serving.world import TOKENS, many


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
    bring_back(world, controller)
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
