"""One contract for every shared book, and two processes that hold one budget together."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from ibpo.errors import IbpoError
from ibpo.serving.controller import TOTAL, Candidate, Controller, MemoryStore, ServingPolicy
from ibpo.serving.stores import SqliteStore

PLAN = ServingPolicy.from_dict({"budget": {"long": {"mean": 0.3, "response_group": "long"}}, "fair_share": 0.5})

# One of several processes: decide `count` requests, settle each ten later; with `die`, leave without a word half-way.
WORKER = """
import os, random, sys
from ibpo.serving.controller import Controller, Candidate
from tests.serving.test_stores import PLAN, open_store
kind, place, name, count, die = sys.argv[1:]
book = open_store(kind, place)
controller, chance = Controller(PLAN, book), random.Random(name)
for i in range(int(count)):
    options = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=chance.random())]
    controller.decide(options, request_id=f"{name}{i}", now=float(i), tenant=name)
    if die == "yes" and 2 * i > int(count):
        os._exit(0)
    if i >= 10:
        assert controller.settle(f"{name}{i - 10}")
for i in range(int(count) - 10, int(count)):
    assert controller.settle(f"{name}{i}")
"""


TOKENS = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2000.0}}})

# Keeps its state now and then, as a gateway does, and is killed with 30 requests in flight.
KILLED = """
import os, random, signal, sys
from tests.serving.test_stores import TOKENS, lengths, open_store
from ibpo.serving.controller import Controller
book = open_store(*sys.argv[1:], ["tokens"])
controller, chance = Controller(TOKENS, book), random.Random(0)
for i in range(800):
    made = controller.decide(lengths(chance.random()), request_id=f"a{i}", now=float(i))
    if i == 700:
        book.save_state("gateway", controller.state_dict())
    if i >= 30:
        controller.settle(f"a{i - 30}")
os.kill(os.getpid(), signal.SIGKILL)
"""


def lengths(gain):
    return [
        Candidate(response_group="short", gain=0.0, cost={"tokens": 400.0}, reserve={"tokens": 4096.0}),
        Candidate(response_group="long", gain=gain, cost={"tokens": 5000.0}, reserve={"tokens": 16384.0}),
    ]


def open_store(kind, place, budgets=("long",)) -> Any:
    if kind == "sqlite":
        return SqliteStore(place, budgets)
    from ibpo.serving.stores import RedisStore

    return RedisStore(place, budgets)


def options(gain):
    return [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=gain)]


def test_a_shared_book_is_a_book(place):
    """The same requests, cancellations and retries lead to the same accounts as in memory, over several openings."""
    accounts, book = MemoryStore(1), open_store(*place)
    memory, shared = Controller(PLAN, accounts), Controller(PLAN, book)
    for i in range(120):
        made = [
            controller.decide(options(i * 0.37 % 1), request_id=str(i), now=float(i), tenant="ab"[i % 2])
            for controller in (memory, shared)
        ]
        assert made[0] == made[1]
        assert shared.decide(options(0.0), request_id=str(i), now=0.0) == made[0]
        if i >= 5:
            end = "cancel" if i % 7 == 0 else "settle"
            assert getattr(memory, end)(str(i - 5))
            assert getattr(shared, end)(str(i - 5))
            assert not shared.settle(str(i - 5))
        if i % 50 == 0:
            state = json.loads(json.dumps(shared.state_dict()))
            book.close()
            book = open_store(*place)
            shared = Controller.from_state(PLAN, state, book)
    assert shared.expire(117.5) == memory.expire(117.5) == ["115", "116", "117"]
    mine = {name: [bucket.state() for bucket in buckets] for name, buckets in book.accounts().items()}
    assert mine == accounts.state()["accounts"]
    book.save_state("one", shared.state_dict())
    assert book.load_state("one") == shared.state_dict()
    assert book.load_state("other") is None
    book.close()


def test_an_error_leaves_a_shared_book_as_it_was(place):
    book = open_store(*place)
    controller = Controller(PLAN, book)
    controller.decide(options(1.0), request_id="a", now=0.0)
    before = [bucket.state() for bucket in book.accounts()[TOTAL]]
    with pytest.raises(IbpoError, match="gain is nan"):
        controller.decide(options(float("nan")), request_id="b", now=0.0)
    with pytest.raises(RuntimeError), book.transaction():
        book.buckets(TOTAL)[0].spent += 1
        book.pop("a")
        raise RuntimeError
    assert [bucket.state() for bucket in book.accounts()[TOTAL]] == before
    assert controller.settle("a")
    book.close()


def work(place, name, count, die="no"):
    command = [sys.executable, "-c", WORKER, *place, name, str(count), die]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])})


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_two_processes_hold_one_budget_together(place, count):
    workers = [work(place, name, count) for name in "xy"]
    assert [worker.wait(250) for worker in workers] == [0, 0]
    book = open_store(*place)
    (total,) = book.accounts()[TOTAL]
    assert total.num_requests == 2 * count
    assert total.spent == pytest.approx(0.6 * count, abs=5)
    assert total.peak <= 5.0 + 1e-9
    for name in "xy":
        (bucket,) = book.accounts()[f"tenant {name}"]
        assert bucket.num_requests == count
        assert bucket.spent >= 0.15 * count - 5
    assert total.spent == sum(book.accounts()[f"tenant {name}"][0].spent for name in "xy")
    book.close()


def test_a_process_that_dies_is_settled_by_another(place):
    workers = [work(place, "x", 60, die="yes"), work(place, "y", 60)]
    assert [worker.wait(250) for worker in workers] == [0, 0]
    book = open_store(*place)
    (total,) = book.accounts()[TOTAL]
    assert total.num_requests == 92
    assert sorted(Controller(PLAN, book).expire(1e9)) == sorted(f"x{i}" for i in range(21, 32))
    (total,) = book.accounts()[TOTAL]
    assert total.estimated == pytest.approx(0)
    assert total.peak <= 5.0 + 1e-9
    book.close()


def test_a_process_that_is_killed_leaves_tokens_that_the_next_one_still_learns(place):
    command = [sys.executable, "-c", KILLED, *place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    assert subprocess.run(command, env=environment, timeout=250, check=False).returncode == -signal.SIGKILL
    book, chance, cost = open_store(*place, budgets=["tokens"]), random.Random(1), {}
    saved = book.load_state("gateway")
    assert saved is not None
    controller = Controller.from_state(TOKENS, saved, book)
    for i in range(2500):
        made = controller.decide(lengths(chance.random()), request_id=str(i), now=1000.0 + i)
        cost[i] = 2500.0 if made.response_group == "long" else 200.0  # half of what is told, since the kill
        if i >= 30:
            controller.settle(str(i - 30), {"tokens": cost[i - 30]})
        if i == 300:
            assert len(controller.expire(1000.0)) == 30
    assert sum(list(cost.values())[1200:]) / 1300 == pytest.approx(2000, rel=0.05)
    for i in range(2470, 2500):
        controller.settle(str(i), {"tokens": cost[i]})
    assert book.accounts()[TOTAL][0].waiting == pytest.approx(0.0, abs=1e-3)
    book.close()


@pytest.mark.slow
def test_who_waits_when_a_process_dies_with_the_lock_of_redis_still_gets_it(redis_url):
    import redis

    from ibpo.serving.stores import LOCK_SECONDS

    redis_url = redis_url.replace("/0", "/3")  # a database of its own
    client, lock = redis.Redis.from_url(redis_url), "waiting:lock"
    client.set("waiting:about", "whose accounts they are")
    client.set(lock, "lives", ex=60)
    dies = threading.Timer(1.0, lambda: client.set(lock, "dead", ex=LOCK_SECONDS))
    with open_store("redis", redis_url, ["long"]) as store:
        store._prefix = "waiting"
        dies.start()
        with store.transaction():
            store.buckets(TOTAL)[0].num_requests = 1
        assert store.accounts()[TOTAL][0].num_requests == 1
    dies.join()


def test_the_lock_that_a_silent_redis_took_for_nobody_is_given_back(redis_url):
    """It took it once it spoke again, after we had given up, and all processes waited for it to lapse: 10 seconds."""
    import redis

    from ibpo.serving.stores import RedisStore

    server, loop = redis.Redis.from_url(redis_url), "for _ = 1, ARGV[1] do end"
    server.flushall()
    began = time.monotonic()
    server.eval(loop, 0, 10**7)
    steps = int(10**7 / (time.monotonic() - began))  # of one second
    with RedisStore(f"{redis_url}?socket_timeout=0.2", ["long"]) as store:
        busy = threading.Thread(target=server.eval, args=(loop, 0, steps))
        busy.start()
        time.sleep(0.1)
        with pytest.raises(IbpoError, match=r"redis: .*[Tt]imeout"), store.transaction():
            pass
        busy.join()
        began = time.monotonic()
        with store.transaction():
            assert store.buckets(TOTAL)[0].num_requests == 0
        assert time.monotonic() - began < 5


def test_a_redis_that_has_lost_the_accounts_is_said_once(redis_url):
    """A server without a disk that began again gave everybody the month's total anew, and nobody was told."""
    import redis

    from ibpo.serving.stores import RedisStore

    url = redis_url.replace("/0", "/4")  # a database of its own
    server = redis.Redis.from_url(url)
    server.flushdb()
    with RedisStore(url, ["long"]) as store, RedisStore(url, ["long"]) as other:
        controllers = [Controller(PLAN, one) for one in (store, other)]
        both = [Candidate(response_group="short", gain=0.0), Candidate(response_group="long", gain=0.5)]
        controllers[0].decide(both, request_id="a", now=0.0)
        server.flushdb()
        assert not controllers[0].settle("a")
        with pytest.raises(IbpoError, match="lost the accounts, and they begin again at 0"):
            controllers[1].decide(both, request_id="b", now=0.0)
        for number, controller in enumerate(controllers):
            controller.decide(both, request_id=str(number), now=0.0)
        assert store.accounts()[TOTAL][0].num_requests == 2
    with pytest.raises(IbpoError, match="are accounts of"):  # whose they are is written down again
        RedisStore(url, ["short"])


def test_a_redis_that_is_silent_is_an_error(monkeypatch):
    pytest.importorskip("redis")
    from ibpo.serving import stores

    monkeypatch.setattr(stores, "SOCKET_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        with pytest.raises(IbpoError, match=r"redis: .*[Tt]imeout"):
            stores.RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", ["long"])


def test_a_file_of_an_earlier_version_goes_on(tmp_path):
    """Rows as version 3 has always written them: the order of an account's numbers is the format."""
    path = tmp_path / "old.sqlite"
    SqliteStore(path, ["tokens"]).close()
    account = [[-700.0, 9.0, 500.0, 3.0, 2.0, 7, 1.0, 90.0, 4, 6.0, 800.0, 5.0, 8.0]]
    reservation = ["a", "long", [0.1], [500.0], [509.0], [480.0], 12.5, "gold", "", True]
    with sqlite3.connect(path) as connection:
        connection.execute("insert into account values ('total', ?)", (json.dumps(account),))
        connection.execute("insert into reservation values ('a', 12.5, ?)", (json.dumps(reservation),))
    with SqliteStore(path, ["tokens"]) as store:
        (bucket,) = store.accounts()[TOTAL]
        assert (bucket.balance, bucket.overcommitted, bucket.estimated, bucket.forfeited) == (-700.0, 9.0, 500.0, 3.0)
        assert (bucket.held, bucket.num_requests, bucket.owed, bucket.peak) == (2.0, 7, 1.0, 90.0)
        assert (bucket.restarts, bucket.returned, bucket.spent) == (4, 6.0, 800.0)
        assert (bucket.unmet, bucket.waiting) == (5.0, 8.0)
        assert [bucket.state()] == account
        found = store.get("a")
        assert found is not None and json.loads(json.dumps(found.state())) == reservation
        assert (found.estimate, found.reserve, found.raw, found.tenant) == ((500.0,), (509.0,), (480.0,), "gold")
        assert Controller(TOKENS, store).settle("a", {"tokens": 450.0})
        (bucket,) = store.accounts()[TOTAL]
        assert (bucket.spent, bucket.estimated, bucket.overcommitted) == (1250.0, 0.0, 0.0)
    with sqlite3.connect(path) as connection:
        connection.execute("update about set value = ?", (json.dumps({"version": 2, "budgets": ["tokens"]}),))
    with pytest.raises(IbpoError, match=r"accounts of version 2 .*, not of version 3"):
        SqliteStore(path, ["tokens"])


def test_a_file_that_is_no_book(tmp_path):
    path = tmp_path / "book.sqlite"
    path.write_text("something else, longer than a header of SQLite would be" * 40)
    with pytest.raises(IbpoError, match="cannot hold accounts"):
        SqliteStore(path, ["long"])
    SqliteStore(tmp_path / "good.sqlite", ["long"]).close()
    with pytest.raises(IbpoError, match="bring back its budgets"):
        SqliteStore(tmp_path / "good.sqlite", ["tokens"])


def test_a_locked_file_is_an_error(tmp_path):
    with (
        SqliteStore(tmp_path / "b.sqlite", ["long"]) as one,
        SqliteStore(tmp_path / "b.sqlite", ["long"], timeout=0.1) as two,
    ):
        with one.transaction(), pytest.raises(IbpoError, match="locked"), two.transaction():
            pass
        with two.transaction():
            assert two.buckets(TOTAL)[0].num_requests == 0


def test_processes_that_begin_with_a_new_file_at_once_wait_for_each_other(tmp_path):
    """SQLite itself does not wait where the file is not yet written ahead: 1 of some 500 starts failed."""
    path = tmp_path / "book.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("create table about (key text primary key, value text not null) without rowid")
    other.execute("begin immediate")
    threading.Timer(0.3, other.execute, ["rollback"]).start()
    with SqliteStore(path, ["long"]) as store, store.transaction():
        assert store.buckets(TOTAL)[0].num_requests == 0
    other.close()
    other = sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None)
    other.execute("create table about (key text primary key, value text not null) without rowid")
    other.execute("begin immediate")
    with pytest.raises(IbpoError, match="locked"):
        SqliteStore(tmp_path / "new.sqlite", ["long"], timeout=0.1)
    other.close()


def test_a_database_of_something_else_is_left_alone(tmp_path):
    """It got our tables."""
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("create table users (name text)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(IbpoError, match=r"tables of something else \(users\); name another file"):
        SqliteStore(path, ["long"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "address", ["redis://h:port/0", "redis://h:99999/0", "redis://[::1", "HERE?socket_timeout=soon", "HERE?retries=2"]
)
def test_what_is_no_address_of_redis_is_one_line(redis_url, address):
    from ibpo.serving.stores import RedisStore

    with pytest.raises(IbpoError, match="is not an address that the package redis takes; write it as redis://"):
        RedisStore(address.replace("HERE", redis_url), ["long"])


def test_no_error_shows_the_password_of_redis(redis_url):
    import redis

    from ibpo.serving.stores import RedisStore

    server = redis.Redis.from_url(redis_url)
    server.flushall()
    RedisStore(redis_url, ["long"]).close()
    server.config_set("requirepass", "secret")
    try:
        address = redis_url.replace("redis://", "redis://:secret@")
        with pytest.raises(IbpoError, match="are accounts of") as other:
            RedisStore(address, ["tokens"])
        with pytest.raises(IbpoError, match="redis: ") as wrong:
            RedisStore(address.replace("secret", "secret word"), ["long"])
        server = redis.Redis.from_url(address)
        server.set("ibpo:about", "something else")
        with pytest.raises(IbpoError, match="are accounts of 'something else'") as damaged:
            RedisStore(address, ["long"])
        assert not any("secret" in str(error.value) for error in (other, wrong, damaged))
    finally:
        server.config_set("requirepass", "")


def test_a_store_is_known_by_its_address(tmp_path, monkeypatch):
    pytest.importorskip("redis")
    import redis

    from ibpo.serving.stores import open_store

    seen = []

    def connect(url, **options):
        seen.append(url)
        raise redis.ConnectionError("nobody there")

    monkeypatch.setattr(redis.Redis, "from_url", connect)
    for address in ("valkey://h:1/0", "valkeys://h:1/0", "redis://h:1/0", "rediss://h:1/0", "unix:///run/r.sock"):
        with pytest.raises(redis.ConnectionError):
            open_store(address, ["long"])
    assert seen == ["redis://h:1/0", "rediss://h:1/0", "redis://h:1/0", "rediss://h:1/0", "unix:///run/r.sock"]
    for address in ("valkyrie://h", "postgres://u:secret@h/d", "file:///x"):
        with pytest.raises(IbpoError, match=r"is not a store; name a file, or a server by redis://, redis") as error:
            open_store(address, ["long"])
        assert "secret" not in str(error.value)
    with open_store(str(tmp_path / "a.sqlite"), ["long"]) as book:
        assert isinstance(book, SqliteStore)
