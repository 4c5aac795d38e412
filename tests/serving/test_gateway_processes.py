"""Gateways that share a budget, restarts, kills, and an orderly end."""

import asyncio
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.killing import KILL, TERM, moment, running, send, wait_until
from tests.serving.test_stores import open_store
from tests.serving.world import World, bulk, groups_of

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


@pytest.mark.parametrize("lease", [None, 0.05])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_two_gateways_hold_one_budget_together(world, tmp_path, request, kind, lease):
    upstream, state = world.upstream(), str(tmp_path / "book.sqlite")
    if kind == "redis":
        state = request.getfixturevalue("redis_url").replace("/0", "/0" if lease is None else "/2")  # or skipped
    gateways = [world.gateway(upstream.url, state=state, name=name, lease=lease) for name in ("a", "b")]
    room = 5 if lease is None else 50
    seen = interleaved(world, [url for _, url, _ in gateways], 240)
    assert {status for status, _ in seen} == {200}
    extended = [group for _, group in seen].count("extended")
    for gateway, _, _ in gateways:
        # Each of them knows the sum of both; of leases some time later.
        world.wait_until(lambda gateway=gateway: shown(world, gateway) == (extended, 240, 0))
        assert world.snapshot(gateway)["budgets"][0]["largest_overdraft"] <= room + 1e-9
    assert 0.3 * 240 - 2 * room <= extended <= 0.3 * 240 + room


def shown(world, gateway):
    budget = world.snapshot(gateway)["budgets"][0]
    return budget["spent"], budget["num_requests"], budget["in_flight"]


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
    command = [sys.executable, "-m", "ibpo", "serve", "--upstream", upstream_url, "--listen", ":0", *map(str, options)]
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
@pytest.mark.parametrize("lease", [None, 0.05])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_two_processes_one_of_which_is_killed(world, tmp_path, request, kind, lease):
    upstream, state = world.upstream(), tmp_path / "book.sqlite"
    if kind == "redis":  # a database of its own
        state = request.getfixturevalue("redis_url").replace("/0", "/1" if lease is None else "/3")
    options = ("--budget", "extended=30%", "--state", state, *(() if lease is None else ("--lease", lease)))
    room = 5 if lease is None else 50
    with process(upstream.url, *options, "--name", "a") as (_, first):
        with process(upstream.url, *options, "--name", "b") as (second, url):
            seen = interleaved(world, [first, url], 400)
            world.wait_until(lambda: settled(state)[0] == 400 and settled(state)[2] == 0)
            assert settled(state)[1] == [group for _, group in seen].count("extended")
            upstream.held = True
            world.run(_begin(url, 6))
            world.wait_until(lambda: len(upstream.requests) >= 406)
            world.wait_until(lambda: settled(state)[0] == 406)
            second.kill()
            second.wait()
        # What the dead one had in flight stays reserved: the other does not overdraw.
        upstream.held = False
        more = interleaved(world, [first], 200)
        assert {status for status, _ in more} == {200}
        world.wait_until(lambda: settled(state)[0] == 606)
        count, spent, still = settled(state)
        assert spent + still <= 0.3 * count + room + 1e-9
    with process(upstream.url, *options, "--name", "b") as (_, again):
        assert interleaved(world, [again], 5)[0][0] == 200
        world.wait_until(lambda: settled(state)[0] == 611)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_sessions_and_the_calendar_survive_a_killed_process(world, tmp_path, request, kind):
    """What was in flight at the kill stays reserved in its session and its month, and nothing is counted twice."""
    upstream, state = world.upstream(), str(tmp_path / "book.sqlite")
    if kind == "redis":
        state = request.getfixturevalue("redis_url").replace("/0", "/2")
    config = tmp_path / "gateway.toml"
    config.write_text(
        """
        session = { tokens = 1200 }
        calendar = { time_zone = "Europe/Zurich", month = { tokens = 100_000 } }
        [[model]]
        name = "*"
        [[model.response_group]]
        name = "standard"
        chat_template_kwargs = { enable_thinking = false }
        tokens = 10
        max_tokens = 100
        [[model.response_group]]
        name = "extended"
        chat_template_kwargs = { enable_thinking = true }
        tokens = 50
        max_tokens = 400
        gain = 0.5
        """
    )
    options, run = ("--config", config, "--state", state), {"x-ibpo-session": "run"}

    def accounts():
        with open_store(kind, state, ["tokens"]) as store, store.transaction():
            return {name.split()[1]: store.buckets(name)[0] for name in _quota_names(store, kind)}

    with process(upstream.url, *options, "--name", "a") as (server, url):
        assert groups_of(bulk(world, url, [run] * 8)) == ["extended"] * 8
        world.wait_until(lambda: accounts()["month"].estimated == 0)
        upstream.held = True
        world.run(_begin(url, 2, run))
        world.wait_until(lambda: len(upstream.requests) >= 10)
        server.kill()
        server.wait()
    upstream.held = False
    held = accounts()
    for name in ("session", "month"):
        assert (held[name].spent, held[name].num_requests) == (400, 10)
        assert held[name].estimated > 0  # two answers of some 50 tokens, and their caps beside
    with process(upstream.url, *options, "--name", "b") as (_, url):
        # 1,200 - 400 - two caps of 400: no room for a third.
        replies = bulk(world, url, [run, {"x-ibpo-session": "other"}])
        assert groups_of(replies) == ["standard", "extended"]
        assert replies[0][1]["x-ibpo-used-up"] == "session"
        world.wait_until(lambda: accounts()["month"].num_requests == 12)


def _quota_names(store, kind):
    if kind == "sqlite":
        rows = store._run("select name from account where name like 'quota %'").fetchall()
        return sorted({row[0].split()[1]: row[0] for row in sorted(rows, reverse=True)}.values())
    names = store._redis.hkeys("ibpo:quota")
    return sorted({name.split()[1]: name for name in sorted(names, reverse=True)}.values())


async def _begin(url, count, headers=None):
    """Send requests and leave them."""
    async with asyncio.timeout(60):
        for _ in range(count):
            _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            data = json.dumps({"model": "m", "messages": []})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
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
        (["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--listen", "0.0.0.0:0"], "give --keys"),
        (
            ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--keys", "none.toml"],
            "none.toml: cannot",
        ),
        (
            ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--state", "/"],
            "cannot hold accounts",
        ),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (
            ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--embed", "url=http://127.0.0.1:1"],
            "give --router too",
        ),
    ],
)
def test_errors_are_one_line(options, said):
    from typer.testing import CliRunner

    from ibpo.cli import app

    result = CliRunner().invoke(app, ["serve", "--listen", ":0", *options])
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1


def test_the_address_that_is_said_can_be_asked(tmp_path):
    """In `http://::1:8080/` nobody finds the port."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on loopback")
    said, log = tmp_path / "said", tmp_path / "log"
    options = ["--upstream", "http://127.0.0.1:1/v1", "--budget", "extended=30%", "--listen", "[::1]:0", "--log", log]
    with running(said, "serve", *options) as process:
        assert wait_until(process, lambda: said.exists() and " holds " in said.read_text(), 0.1)
        address = said.read_text().split(" holds ")[0].removeprefix("ibpo: ")
        assert address.startswith("http://[::1]:")
        with urllib.request.urlopen(f"{address}ready") as reply:
            assert json.load(reply) == {"ready": True}


CONFIG = """
[upstream]
url = "{url}"
[[model]]
name = "*"
[[model.response_group]]
name = "standard"
chat_template_kwargs = {{ enable_thinking = false }}
tokens = 12
max_tokens = 20
[[model.response_group]]
name = "extended"
chat_template_kwargs = {{ enable_thinking = true }}
tokens = 70
max_tokens = 400
[budget]
extended = {{ mean = 0.3, response_group = "extended" }}
tokens = {{ mean = 22, overdraft = 450, burst = 110, overcommit = 900 }}
"""
"""Answers have 10 and 50 tokens: what is expected of one is not what it costs. No cap of the standard group is above
the mean, so the theorem's slip is 0, and what is spent and reserved stays within overdraft and overcommit."""
BEYOND = {"extended": 5, "tokens": 450 + 900}


class Callers:
    """Ask one request after the other of the gateways that are there, and count what came of it."""

    def __init__(self, world, upstream):
        self.urls, self.num_sent, self.seen, self.upstream = [], 0, Counter(), upstream
        self.asking = True
        self.ended = [asyncio.run_coroutine_threadsafe(self.ask(), world.loop) for _ in range(8)]

    def close(self):
        self.asking = False
        for one in self.ended:
            one.result(60)

    async def ask(self):
        async with aiohttp.ClientSession() as session:
            while self.asking:
                await asyncio.sleep(0.005)
                if not self.urls:
                    continue
                self.num_sent += 1
                url = f"{self.urls[self.num_sent % len(self.urls)]}/v1/chat/completions"
                body = {"model": "m", "messages": [], "stream": self.num_sent % 4 == 0}
                headers = {"x-ibpo-gain": str((37 * self.num_sent % 100) / 100)}
                try:
                    async with session.post(url, json=body, headers=headers) as reply:
                        await reply.read()
                except (aiohttp.ClientError, ConnectionResetError):
                    self.seen["broken"] += 1
                else:
                    budgeted = "x-ibpo-budget-left" in reply.headers
                    self.seen["whole" if reply.status == 200 and budgeted else str(reply.status)] += 1


class Ledger:
    """What the store holds, against what the gateways' logs and the callers know."""

    def __init__(self, kind, state, folder, callers):
        self.kind, self.state, self.folder, self.callers = kind, state, folder, callers
        self.open, self.expired, self.logged, self.num_ends = {}, {}, {}, 0

    def read(self):
        with open_store(self.kind, self.state, list(BEYOND)) as store:
            names = store.older_than(math.inf)
            return store.accounts().get("total"), {name: store.get(name) for name in names}

    def age(self):
        """As if the hours had passed after which a reservation belongs to nobody."""
        with open_store(self.kind, self.state, list(BEYOND)) as store, store.transaction():
            for name in store.older_than(math.inf):
                store.put(store.pop(name)._replace(time=0.0))

    def check_bound(self):
        total, _ = self.read()
        for bucket, beyond in zip(total or (), BEYOND.values(), strict=False):
            assert bucket.peak <= beyond + 1e-6

    def check(self):
        """Once all processes have ended: every request that was decided is open or has been settled, once."""
        for path in self.folder.glob("*.jsonl"):
            for line in path.read_text().splitlines(keepends=True):
                row = json.loads(line) if line.endswith("\n") else {}
                if row.get("event") == "request":
                    assert row["request_id"] not in self.logged and row["outcome"] != "failed"
                    self.logged[row["request_id"]] = row
                assert row.get("event") not in ("store", "store_failed", "internal_error", "cut_off"), row
            path.unlink()
        total, now = self.read()
        if total is None:
            assert not self.logged
            return
        self.expired |= {name: row for name, row in self.open.items() if name not in now}
        self.open = now
        shares, tokens = total
        known = [row for name, row in self.logged.items() if name not in now and name not in self.expired]
        extended = sum(row["response_group"] == "extended" for row in known)
        # Settled, and killed before the line was written: at most one for each process.
        num_unlogged = shares.num_requests - len(now) - len(self.expired) - len(known)
        assert 0 <= num_unlogged <= self.num_ends
        spent = [sum(row.estimate[k] for row in self.expired.values()) for k in range(2)]
        unlogged = round(shares.spent - spent[0]) - extended
        assert 0 <= unlogged <= num_unlogged and shares.spent == pytest.approx(spent[0] + extended + unlogged)
        actual = sum(row["tokens"] for row in known) + 10 * num_unlogged + 40 * unlogged
        assert tokens.spent == pytest.approx(spent[1] + actual, rel=1e-9)
        for k, (bucket, beyond) in enumerate(zip(total, BEYOND.values(), strict=True)):
            reserved = sum(row.reserve[k] for row in now.values())
            assert bucket.estimated == pytest.approx(sum(row.estimate[k] for row in now.values()), abs=1e-6)
            assert bucket.overcommitted + bucket.estimated == pytest.approx(reserved, abs=1e-6)
            assert bucket.num_requests == shares.num_requests
            mean = (0.3, 22)[k]
            assert bucket.spent + reserved - mean * bucket.num_requests <= beyond + 1e-6
            assert bucket.peak <= beyond + 1e-6
        callers = self.callers
        assert len(callers.upstream.requests) <= shares.num_requests <= callers.num_sent
        assert callers.seen["whole"] <= len(callers.upstream.requests)
        assert callers.seen.keys() <= {"whole", "broken", "503"}


def url_of(process, log):
    """Where a gateway listens; None where it ended before it did."""

    def line():
        rows = log.read_text().splitlines(keepends=True) if log.exists() else []
        return next((row for row in rows if '"event": "listening"' in row and row.endswith("\n")), None)

    return f"http://127.0.0.1:{json.loads(str(line()))['port']}" if wait_until(process, line, 0.005) else None


def end(process, rng):
    """SIGKILL, SIGTERM, or SIGKILL while it drains; which."""
    how = rng.choice(("killed", "terminated", "killed while it drains"))
    if how == "killed":
        assert send(process, KILL)
        return how
    if how == "terminated":
        # Before it listens, nothing waits for the signal.
        assert send(process, TERM) or process.exitcode == 0
        return how
    os.kill(process.pid, TERM)
    moment(rng, 0.03)
    return how if send(process, KILL) else "terminated"


@pytest.fixture
def callers(world, tmp_path):
    upstream = world.upstream()
    upstream.pause = 0.02
    (tmp_path / "serve.toml").write_text(CONFIG.format(url=upstream.url))
    made = Callers(world, upstream)
    yield made
    made.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "num_kills", [pytest.param(5, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.stress)]
)
def test_killed_at_random_moments(tmp_path, callers, num_kills):
    """After each end the store is compared with the logs; what was open is settled at the next start as expected."""
    state, rng, seen, num_open = tmp_path / "book.sqlite", random.Random(num_kills), Counter(), 0
    ledger = Ledger("sqlite", state, tmp_path, callers)
    for number in range(num_kills + 1):
        log = tmp_path / f"{number}.jsonl"
        options = ("--config", tmp_path / "serve.toml", "--listen", ":0", "--state", state, "--log", log)
        with running(tmp_path / "said", "serve", *options) as process:
            if number % 8 == 7:  # while it opens the store
                moment(rng, 0.6)
            elif (url := url_of(process, log)) is not None:
                _, still = ledger.read()
                assert not still, "not settled at the start"
                goal = callers.seen["whole"] + rng.randint(0, 30)
                callers.urls = [url]
                assert wait_until(process, lambda goal=goal: callers.seen["whole"] >= goal, 0.002)
                moment(rng, 0.03)
            if number == num_kills:
                assert not send(process, TERM) and process.exitcode == 0
            else:
                seen[end(process, rng)] += 1
            callers.urls = []
        ledger.num_ends += 1
        ledger.check()
        num_open += len(ledger.open)
        ledger.age()
    print(f"{num_kills} ends", dict(seen), "open", num_open, "callers saw", dict(callers.seen))
    assert not ledger.open and len(ledger.expired) > 0 < callers.seen["whole"]


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_kills", [50])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_two_gateways_killed_at_random_moments(tmp_path, callers, request, kind, num_kills):
    """One of two is killed and comes back while the other goes on; what the dead had in flight stays reserved."""
    state, rng, seen = str(tmp_path / "book.sqlite"), random.Random(num_kills), Counter()
    if kind == "redis":
        state = request.getfixturevalue("redis_url").replace("/0", "/2")  # a database of its own
    ledger, lives = Ledger(kind, state, tmp_path, callers), [0, 0]

    def options(place):
        log = tmp_path / f"{place}-{lives[place]}.jsonl"
        lives[place] += 1
        ledger.num_ends += 1
        named = ("--state", state, "--name", "ab"[place], "--log", log)
        return log, ("serve", "--config", tmp_path / "serve.toml", "--listen", ":0", *named)

    with ExitStack() as stack:
        processes, urls = [], []
        for place in range(2):
            log, arguments = options(place)
            processes.append(stack.enter_context(running(tmp_path / "said", *arguments)))
            urls.append(url_of(processes[place], log))
        for _ in range(num_kills):
            goal, place = callers.seen["whole"] + rng.randint(0, 30), rng.randrange(2)
            callers.urls = list(urls)
            assert wait_until(processes[place], lambda goal=goal: callers.seen["whole"] >= goal, 0.002)
            moment(rng, 0.03)
            seen[end(processes[place], rng)] += 1
            ledger.check_bound()
            callers.urls = [urls[1 - place]]
            log, arguments = options(place)
            processes[place] = stack.enter_context(running(tmp_path / "said", *arguments))
            urls[place] = url_of(processes[place], log)
        callers.urls = []
        for process in processes:
            assert not send(process, TERM) and process.exitcode == 0
    ledger.check()
    num_open = len(ledger.open)
    ledger.age()
    log, arguments = options(0)
    with running(tmp_path / "said", *arguments) as process:
        url_of(process, log)
        assert not send(process, TERM) and process.exitcode == 0
    ledger.check()
    print(f"{num_kills} ends", dict(seen), "open", num_open, "callers saw", dict(callers.seen))
    assert not ledger.open and len(ledger.expired) == num_open > 0
