"""Gateways that share a budget, restarts, kills, and an orderly end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.serving.test_stores import open_store, redis_url
from tests.serving.world import World, bulk, groups_of

__all__ = ["redis_url"]
ROOT = Path(__file__).parent.parent.parent


def interleaved(world, urls, count, *, parallel=8):
    """Status and response group of `count` requests, spread over the gateways."""

    async def run():
        gate = asyncio.Semaphore(parallel)

        async def one(session, number):
            headers = {"x-ibpo-gain": str((37 * number % 100) / 100)}
            async with (
                gate,
                session.post(
                    f"{urls[number % len(urls)]}/v1/chat/completions",
                    json={"model": "m", "messages": [], "stream": number % 3 == 0},
                    headers=headers,
                ) as reply,
            ):
                await reply.read()
                return reply.status, reply.headers["x-ibpo-response-group"]

        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(one(session, number) for number in range(count)))

    return world.run(run(), timeout=300)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_two_gateways_hold_one_budget_together(world, tmp_path, request, kind):
    upstream, state = world.upstream(), str(tmp_path / "book.sqlite")
    if kind == "redis":
        state = request.getfixturevalue("redis_url")  # skipped without a server
    gateways = [world.gateway(upstream.url, state=state, name=name) for name in ("a", "b")]
    seen = interleaved(world, [url for _, url, _ in gateways], 240)
    assert {status for status, _ in seen} == {200}
    extended = [group for _, group in seen].count("extended")
    for gateway, _, _ in gateways:
        world.wait_until(lambda gateway=gateway: world.snapshot(gateway)["budgets"][0]["in_flight"] == 0)
        budget = world.snapshot(gateway)["budgets"][0]
        # Each of them knows the sum of both.
        assert (budget["spent"], budget["num_requests"]) == (extended, 240)
        assert budget["largest_overdraft"] <= 5 + 1e-9
    assert 0.3 * 240 - 10 <= extended <= 0.3 * 240 + 5


def test_state_survives_a_restart(tmp_path):
    state = str(tmp_path / "book.sqlite")
    with World() as world:
        upstream = world.upstream()
        gateway, url, _ = world.gateway(upstream.url, state=state)
        first = groups_of(bulk(world, url, [{"x-ibpo-gain": str((37 * i % 100) / 100)} for i in range(80)]))
        world.wait_until(lambda: world.snapshot(gateway)["num_in_flight"] == 0)
        prices = world.snapshot(gateway)["budgets"][0]["price"]
    with World() as world:
        upstream = world.upstream()
        gateway, url, _ = world.gateway(upstream.url, state=state)
        budget = world.snapshot(gateway)["budgets"][0]
        assert (budget["spent"], budget["num_requests"]) == (first.count("extended"), 80)
        assert budget["price"] == prices > 0


@contextmanager
def process(upstream_url, *options):
    """`ibpo serve` as a process of its own: (process, URL)."""
    command = [sys.executable, "-m", "ibpo", "serve", "--upstream", upstream_url, "--port", "0", *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            said: Any = server.stderr
            line = said.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + said.read()
            yield server, found[0]
        finally:
            if server.poll() is None:
                server.kill()


def settled(state):
    """Of the total: requests, extended ones, and what is still open."""
    kind = "redis" if str(state).startswith("redis:") else "sqlite"
    with open_store(kind, state, ["extended"]) as book:
        bucket = book.accounts()["total"][0]
        return bucket.num_requests, bucket.spent, bucket.estimated


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_two_processes_one_of_which_is_killed(world, tmp_path, request, kind):
    upstream, state = world.upstream(), tmp_path / "book.sqlite"
    if kind == "redis":
        state = request.getfixturevalue("redis_url").replace("/0", "/1")  # a database of its own
    options = ("--budget", "extended=30%", "--state", state)
    with process(upstream.url, *options, "--name", "a") as (_, first):
        with process(upstream.url, *options, "--name", "b") as (second, url):
            seen = interleaved(world, [first, url], 400)
            world.wait_until(lambda: settled(state)[2] == 0)
            assert settled(state)[:2] == (400, [group for _, group in seen].count("extended"))
            upstream.held = True
            world.run(_begin(url, 6))
            world.wait_until(lambda: len(upstream.requests) >= 406)
            second.kill()
            second.wait()
        # What the dead one had in flight stays reserved: the other does not overdraw.
        upstream.held = False
        more = interleaved(world, [first], 200)
        assert {status for status, _ in more} == {200}
        world.wait_until(lambda: settled(state)[0] == 606)
        count, spent, still = settled(state)
        assert spent + still <= 0.3 * count + 5 + 1e-9
    with process(upstream.url, *options, "--name", "b") as (_, again):
        assert interleaved(world, [again], 5)[0][0] == 200
        assert settled(state)[0] == 611


async def _begin(url, count):
    """Send requests and leave them."""
    async with asyncio.timeout(60):
        for _ in range(count):
            _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            data = json.dumps({"model": "m", "messages": []})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\n\r\n{data}".encode())
            await writer.drain()
            _OPEN.append(writer)


_OPEN = []


@pytest.mark.slow
def test_sigterm_lets_streams_come_to_their_end(world, tmp_path):
    upstream, state = world.upstream(), tmp_path / "book.sqlite"
    upstream.pause, upstream.held = 1.0, True  # a stream of 10 pieces takes two seconds once it is let go
    with process(upstream.url, "--budget", "extended=30%", "--state", state) as (server, url):

        async def stream(session):
            body = {"model": "m", "messages": [], "stream": True}
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                return await reply.read()

        async def run():
            async with aiohttp.ClientSession() as session:
                streams = [asyncio.ensure_future(stream(session)) for _ in range(4)]
                while len(upstream.requests) < 4:
                    await asyncio.sleep(0.05)
                server.send_signal(signal.SIGTERM)
                while not await refuses(session):
                    await asyncio.sleep(0.05)
                upstream.held = False
                return await asyncio.gather(*streams)

        async def refuses(session):
            try:
                async with session.get(f"{url}/v1/models") as reply:
                    return reply.status == 503
            except aiohttp.ClientError:
                return True

        streams = world.run(run(), timeout=120)
        assert all(data.endswith(b"data: [DONE]\n\n") for data in streams)
        assert server.wait(60) == 0
    assert settled(state)[0] == 4 and settled(state)[2] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "extended=30%"], "no upstream; give --upstream"),
        (["--upstream", "127.0.0.1:8000", "--budget", "extended=30%"], "must begin with http:// or https://"),
        (["--upstream", "http://127.0.0.1:1/v1"], "give the budgets once"),
        (["--upstream", "http://127.0.0.1:1/v1", "--budget", "long=30%"], "no model has a response group 'long'"),
        (["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--host", "0.0.0.0"], "give --keys"),
        (
            ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--keys", "none.toml"],
            "none.toml: cannot",
        ),
        (
            ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--state", "/"],
            "cannot hold accounts",
        ),
        (["--config", "none.toml"], "none.toml: cannot be read"),
    ],
)
def test_errors_are_one_line(options, said):
    from typer.testing import CliRunner

    from ibpo.cli import app

    result = CliRunner().invoke(app, ["serve", "--port", "0", *options])
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1
