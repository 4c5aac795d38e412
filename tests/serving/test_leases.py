"""Many processes on one budget: the bound holds whatever they do, and nothing is lost."""

import asyncio
import contextlib
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from ibpo.errors import IbpoError
from ibpo.serving.controller import (
    TOTAL,
    Candidate,
    Controller,
    MemoryStore,
    ServingPolicy,
    end_lease,
    exchange,
    widen,
)
from ibpo.serving.gateway import async_controller
from ibpo.serving.gateway.leased_controller import LeasedController, make_controller
from ibpo.serving.stores import open_store

SHARE = {"budget": {"long": {"mean": 0.3, "response_group": "long", "overdraft": 4}}}
TOKENS = {"budget": {"tokens": {"mean": 40, "overdraft": 400}}}
BOTH = {
    "budget": {
        "long": {"mean": 0.3, "response_group": "long", "overdraft": 4},
        "tokens": {"mean": 40, "overdraft": 400},
    },
    "tenant": {"low": {"at_most": {"tokens": 30}}, "sure": {"at_least": {"tokens": 20}}},
}


CAPPED = {"budget": {"tokens": {"mean": 40, "overdraft": 400, "overcommit": 300}}}


class SharedMemory(MemoryStore):
    """Shared accounts in one process, that may fail before or after a transaction."""

    def __init__(self, num_budgets):
        super().__init__(num_budgets)
        self.rows = {}

    def leases(self):
        return dict(self.rows)

    def put_lease(self, holder, lease):
        if lease is None:
            self.rows.pop(holder, None)
        else:
            self.rows[holder] = lease


class Process:
    """One holder: its controller, its lease, and what is in flight."""

    def __init__(self, policy, name):
        self.controller = Controller(policy, MemoryStore(len(policy.budgets)))
        self.lease = self.controller.lease(name)
        self.name, self.open, self.sent = name, [], None
        self.spent, self.num = [0.0] * len(policy.budgets), 0


def candidates(draw):
    tokens = draw.choice([20, 60, 150])
    short = Candidate(response_group="short", gain=0.0, cost={"tokens": 5.0}, reserve={"tokens": 5.0})
    most = tokens * draw.choice([1, 1, 2])
    long = Candidate(
        response_group="long", gain=draw.random(), cost={"tokens": float(tokens)}, reserve={"tokens": float(most)}
    )
    return [short, long]


def beyond(processes, policy):
    """Per budget: spent and reserved beyond the mean, over all processes ever; by what each was asked to do."""
    return [
        sum(process.spent[k] + sum(row.reserve[k] for row in process.open) for process in processes)
        - budget.mean * sum(process.num for process in processes)
        for k, budget in enumerate(policy.budgets)
    ]


@pytest.mark.parametrize("table", [SHARE, TOKENS, BOTH], ids=["share", "tokens", "both"])
@pytest.mark.parametrize("seed", range(25))
def test_the_bound_holds_and_nothing_is_lost(table, seed):
    """Requests, ends, exchanges that are slow, fail before or after they are stored, dead and paused processes."""
    draw, policy = random.Random(seed), ServingPolicy.from_dict(table)
    store = SharedMemory(len(policy.budgets))
    processes, alive, paused = [], [], []

    def start():
        process = Process(policy, f"p{len(processes)}")
        processes.append(process)
        alive.append(process)

    for _ in range(3):
        start()
    slip = [0.0] * len(policy.budgets)
    for step in range(600):
        process = draw.choice(alive)
        act = draw.random()
        if act < 0.5:
            row = process.controller.decide(
                candidates(draw), request_id=f"{step}", now=0.0, tenant=draw.choice(["", "low", "sure"])
            )
            process.open.append(row)
            process.num += 1
            if not row.within:
                slip = [s + max(0.0, r - b.mean) for s, r, b in zip(slip, row.reserve, policy.budgets, strict=True)]
        elif act < 0.8 and process.open:
            row = process.open.pop(draw.randrange(len(process.open)))
            costs = [most if most == 1 else most * draw.random() for most in row.reserve]
            names = {b.name: c for b, c in zip(policy.budgets, costs, strict=True) if b.response_group is None}
            process.controller.settle(row.request_id, names)
            process.spent = [s + c for s, c in zip(process.spent, costs, strict=True)]
        elif act < 0.82 and process.open:
            row = process.open.pop()
            process.controller.cancel(row.request_id)
            process.num -= 1
            slip = [s + b.mean for s, b in zip(slip, policy.budgets, strict=True)]
        elif act < 0.97:
            # An exchange takes time: the process goes on between its report and the answer.
            if process.sent is None:
                process.sent = process.lease.report()
            elif draw.random() < 0.8:
                grant = exchange(store, process.sent, now=0.0)
                if draw.random() < 0.8:  # else the answer is lost
                    process.lease.take(grant)
                    process.sent = None
                else:
                    assert process.lease.report() is process.sent
        elif act < 0.98 and len(alive) > 1:  # somebody thinks that it is gone: it may be paused, or slow
            end_lease(store, process.name, now=1.0, spent=True)
        elif act < 0.985 and len(alive) > 1:
            alive.remove(process)
            paused.append(process)
        elif act < 0.99 and paused:
            alive.append(paused.pop())
        elif len(processes) < 8:
            start()
        for k, over in enumerate(beyond(processes, policy)):
            room = policy.budgets[k].largest_overdraft + slip[k]
            caps = sum(row.reserve[k] - row.estimate[k] for process in processes for row in process.open)
            # Beside the caps of what is in flight: the bound, and what all of them could still spend without asking.
            expected = over - caps
            assert expected + sum(max(0.0, usable(process, k)) for process in processes) <= room + 1e-6, (step, k)
    for process in processes:  # the end: all exchange until nothing moves
        while process.open:
            row = process.open.pop()
            process.controller.settle(row.request_id)
            process.spent = [s + c for s, c in zip(process.spent, row.estimate, strict=True)]
        for _ in range(2):
            process.lease.take(exchange(store, process.lease.report(), now=0.0))
    for k, bucket in enumerate(store.buckets(TOTAL)):
        assert bucket.num_requests == sum(process.num for process in processes)
        assert bucket.spent == pytest.approx(sum(process.spent[k] for process in processes), abs=1e-6)
        assert bucket.estimated == pytest.approx(0, abs=1e-6)
        assert bucket.overcommitted == pytest.approx(0, abs=1e-6)
        mean = policy.budgets[k].mean
        assert bucket.balance == pytest.approx(mean * bucket.num_requests - bucket.spent - bucket.forfeited, abs=1e-6)
        assert bucket.held == pytest.approx(sum(p.lease.room_of(TOTAL, k) for p in processes), abs=1e-6)
        assert bucket.held <= bucket.balance + policy.budgets[k].largest_overdraft + slip[k] + 1e-6


def usable(process, k):
    """What a process may spend by its own accounts, promises of tenants included."""
    bucket = process.controller.store.buckets(TOTAL)[k]
    if bucket.away == math.inf:
        return 0.0
    return bucket.balance - bucket.away + process.controller.policy.budgets[k].largest_overdraft


@pytest.mark.parametrize("gone", [False, True])
def test_what_an_ended_lease_held_is_not_held_for_ever(gone):
    """Given back, all of it can be leased again; of a process that is gone it counts as spent."""
    policy, store = ServingPolicy.from_dict(TOKENS), SharedMemory(1)
    first, second = Process(policy, "a"), Process(policy, "b")
    for process in (first, second, first, second, first, second):
        process.lease.take(exchange(store, process.lease.report(), now=0.0))
    assert (first.lease.room_of(TOTAL, 0), second.lease.room_of(TOTAL, 0)) == (200, 200)
    assert end_lease(store, "a", now=1.0, spent=gone) and not end_lease(store, "a", now=1.0, spent=gone)
    second.lease.take(exchange(store, second.lease.report(), now=2.0))
    assert second.lease.room_of(TOTAL, 0) == (200 if gone else 400)
    if gone:  # it was only paused: everything is as before
        first.lease.take(exchange(store, first.lease.report(), now=3.0))
        assert first.lease.room_of(TOTAL, 0) == 200
        assert store.buckets(TOTAL)[0].forfeited == 0


def test_a_lease_that_has_been_forgotten_starts_anew():
    """What it held had been counted as spent, and is not given out twice."""
    policy, store = ServingPolicy.from_dict(TOKENS), SharedMemory(1)
    process = Process(policy, "a")
    process.lease.take(exchange(store, process.lease.report(), now=0.0))
    process.controller.decide([Candidate(response_group="x", gain=0.0, cost={"tokens": 90.0})], request_id="1", now=0.0)
    assert process.lease.room_of(TOTAL, 0) == 400 + 40 - 90
    end_lease(store, "a", now=1.0, spent=True)
    exchange(store, Process(policy, "b").lease.report(), now=1e9)
    assert "a" not in store.leases()
    process.lease.take(exchange(store, process.lease.report(), now=1e9))
    bucket = store.buckets(TOTAL)[0]
    assert bucket.balance - bucket.held >= -400 and bucket.balance == 40 - 90 - 400


def test_a_wider_overdraft_does_not_widen_a_lease():
    policy, store = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 40}}}), SharedMemory(1)
    process = Process(policy, "a")
    process.lease.take(exchange(store, process.lease.report(), now=0.0))
    assert process.lease.room_of(TOTAL, 0) == process.controller.overdraft[0] == 200
    process.controller._admission.set_overdraft([4000.0])
    bucket = process.controller.store.buckets(TOTAL)[0]
    assert bucket.balance - bucket.held - bucket.away + 4000 == 200


def test_room_that_is_not_given_is_what_leases_need():
    given = {"budget": {"tokens": {"mean": 40, "burst": 7}, "long": {"mean": 0.3, "response_group": "long"}}}
    rows = widen(ServingPolicy.from_dict(given)).budgets
    assert [(row.overdraft, row.burst) for row in rows] == [(None, 7.0), (50.0, 50.0)]
    rows = widen(ServingPolicy.from_dict({"budget": {"tokens": 40, "long": "30%"}})).budgets
    assert [(row.overdraft, row.burst) for row in rows] == [(4000.0, 4000.0), (50.0, 50.0)]
    assert widen(ServingPolicy.from_dict(SHARE)) == ServingPolicy.from_dict(SHARE)


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"state": None, "lease": 0.25}, "name a SQLite file"),
        ({"state": "x.db", "lease": 0.0}, "0.01 to 60"),
        ({"state": "x.db", "lease": math.nan}, "0.01 to 60"),
        ({"state": "x.db", "lease": 0.25, "quotas": object()}, r"take \[session\]"),
        ({"state": "x.db", "lease": 0.25, "policy": CAPPED}, "do not divide overcommit"),
    ],
)
def test_what_cannot_be_leased_is_said(options, fix):
    options = dict(options)
    more = {"name": "a", "stale_seconds": 1.0, "on_failure": print, "keepers": {}}
    policy = ServingPolicy.from_dict(options.pop("policy", SHARE))
    with pytest.raises(IbpoError, match=fix):
        make_controller(policy, **{**more, **options})


def test_two_processes_share_a_store_and_give_back_at_their_end(place):
    """In one event loop: each sees what the other has spent, and at the end everything is in the shared accounts."""
    _, address = place

    async def run():
        both = [LeasedController(ServingPolicy.from_dict(BOTH), address, seconds=0.02, name=name) for name in "ab"]
        for controller in both:
            await controller.open()
        draw, spent, open_now = random.Random(0), [0.0, 0.0], []
        for number in range(3000):
            controller = both[number % 2]
            row = await controller.decide(
                candidates(draw), request_id=str(number), tenant=draw.choice(["", "low", "sure"]), slice_name=""
            )
            open_now.append((controller, row))
            if len(open_now) > 20:
                controller, row = open_now.pop(0)
                spent[0] += row.response_group == "long"
                spent[1] += 30.0
                controller.settle(row, {"tokens": 30.0})
            if number % 50 == 0:
                await asyncio.sleep(0.01)
        for controller, row in open_now:
            controller.cancel(row)
        shown = await both[0].snapshot()
        for controller in both:
            await controller.close()
        return spent, shown

    spent, shown = asyncio.run(run())
    assert {row["name"] for row in shown["tenants"]} == {"low", "sure"}
    store = open_store(address, ["long", "tokens"])
    with store:
        with store.transaction():
            assert store.leases() == {}
        total = store.accounts()["total"]
        assert [bucket.spent for bucket in total] == pytest.approx(spent)
        assert [bucket.num_requests for bucket in total] == [2980, 2980]
        assert [bucket.held for bucket in total] == pytest.approx([0, 0], abs=1e-6)
        assert [bucket.estimated for bucket in total] == pytest.approx([0, 0], abs=1e-6)
        assert spent[0] <= 0.3 * 3000 + 4 and spent[1] <= 40 * 3000 + 400


def test_a_store_that_is_gone_stops_nobody(tmp_path):
    """Decisions go on within what is left, the failure is said once, and later everything is reported."""
    address, said = str(tmp_path / "book.db"), []

    async def run():
        controller = LeasedController(
            ServingPolicy.from_dict(TOKENS), address, seconds=0.02, name="a", on_failure=said.append
        )
        await controller.open()
        failing = controller._store.transaction

        why = "the disk is gone"

        def broken():
            raise IbpoError(why)

        controller._store.transaction = broken
        await asyncio.sleep(0.1)
        for number in range(500):
            row = await controller.decide(
                candidates(random.Random(number)), request_id=str(number), tenant="", slice_name=""
            )
            controller.settle(row, {"tokens": 40.0})
            await asyncio.sleep(0)
        assert said == ["leases: the disk is gone; continuing with what is left"]
        why = "the accounts are lost"  # found out once it is back: it is another thing to tell
        await asyncio.sleep(0.1)
        assert said[1:] == ["leases: the accounts are lost; continuing with what is left"]
        controller._store.transaction = failing
        await asyncio.sleep(0.1)
        await controller.close()

    asyncio.run(run())
    with open_store(address, ["tokens"]) as store:
        (bucket,) = store.accounts()["total"]
        assert (bucket.num_requests, bucket.spent) == (500, 500 * 40.0)


def test_what_happens_while_an_exchange_is_in_flight_is_reported_before_the_end(place):
    _, address = place
    policy = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 40, "overdraft": 3000}}})

    async def run():
        controller = LeasedController(policy, address, seconds=1000.0, name="a", on_failure=print)
        await controller.open()

        async def answer(number):
            rows = candidates(random.Random(number))
            row = await controller.decide(rows, request_id=str(number), tenant="", slice_name="")
            controller.settle(row, {"tokens": 40.0})

        await answer(0)
        begun, transaction = threading.Event(), controller._store.transaction

        def waiting():
            begun.wait(30)
            return transaction()

        controller._store.transaction = waiting
        controller._begin_exchange()
        await asyncio.sleep(0.05)  # its report is made
        await answer(1)
        closing = asyncio.ensure_future(controller.close())
        await asyncio.sleep(0.05)
        begun.set()
        await closing

    asyncio.run(run())
    with open_store(address, ["tokens"]) as store:
        (bucket,) = store.accounts()["total"]
        assert (bucket.num_requests, bucket.spent) == (2, 80.0)


@pytest.mark.parametrize("lease", [None, 0.05], ids=["after leases", "after transactions"])
def test_what_a_dead_process_left_is_ended_by_one_of_the_other_kind(place, monkeypatch, lease):
    """A gateway is killed, and comes back with `--lease`, or without: its lease or reservation stayed for ever."""
    _, address = place
    monkeypatch.setattr(async_controller, "GONE_SECONDS", 0.0)
    policy = ServingPolicy.from_dict({"budget": {"tokens": {"mean": 40, "overdraft": 3000}}})
    more = {"name": "a", "stale_seconds": 0.0, "on_failure": print, "keepers": {}}

    async def die():
        controller = make_controller(policy, address, lease=None if lease else 0.05, **more)
        await controller.open()
        await controller.decide(candidates(random.Random(0)), request_id="dead", tenant="", slice_name="")
        if isinstance(controller, LeasedController):
            await controller.exchange()

    async def come_back():
        controller = make_controller(policy, address, lease=lease, **{**more, "name": "b", "stale_seconds": 0.01})
        await controller.open()
        for _ in range(2):
            await controller._run(controller._expire)
            await asyncio.sleep(0.05)
        await controller.close()

    asyncio.run(die())
    with open_store(address, ["tokens"]) as store:
        (before,) = store.accounts()["total"]
        assert before.estimated > 0 and (before.held > 0) == (lease is None)
    asyncio.run(come_back())
    with open_store(address, ["tokens"]) as store:
        (bucket,) = store.accounts()["total"]
        assert (bucket.estimated, bucket.spent) == (0.0, before.estimated)
        assert bucket.held == pytest.approx(0.0, abs=1e-6) and store.older_than(1e12) == []


class Worker:
    """`tests.serving.lease_worker` as a process, and what its journal says."""

    def __init__(self, address, folder, name, seconds, rate=300):
        self.journal = folder / f"{name}.txt"
        values = [address, name, str(self.journal), "7", str(seconds), str(rate)]
        command = [sys.executable, "-m", "tests.serving.lease_worker", *values]
        self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def lines(self):
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait(self):
        assert self.process.wait(120) == 0


def check_bound(workers, overdraft=3000.0, mean=40.0):
    """Every moment's bound, as far as journals tell: at the end, with what killed processes had in flight."""
    spent = reserved = count = 0.0
    for worker in workers:
        for line in worker.lines():
            kind, first, second = line.split()
            count += kind == "d"
            reserved += float(first) if kind == "d" else -float(first)
            spent += float(second) if kind == "s" else 0.0
    assert count > 500
    assert spent + reserved - mean * count <= overdraft + 1e-6, (spent, reserved, count)
    return count


@pytest.mark.slow
def test_processes_that_are_killed_and_paused(place, tmp_path):
    """Four processes: one is killed, one is paused for two seconds and goes on, the store is gone for two seconds."""
    kind, address = place
    workers = [Worker(address, tmp_path, name, 8.0) for name in "abcd"]
    for worker in workers:
        assert worker.process.stdout.readline() == "ready\n"
    for worker in workers:
        worker.process.stdin.write("go\n")
        worker.process.stdin.flush()
    time.sleep(1.5)
    workers[0].signal(signal.SIGKILL)
    workers[1].signal(signal.SIGSTOP)
    time.sleep(1.0)
    check_bound(workers)
    before = len(workers[2].lines())
    if kind == "sqlite":  # somebody else keeps the file: we, or the paused one, if its pause fell into a transaction
        lock = sqlite3.connect(address, timeout=2.0, isolation_level=None)
        with contextlib.suppress(sqlite3.OperationalError):
            lock.execute("begin exclusive")
            time.sleep(2.0)
            lock.execute("rollback")
        lock.close()
    else:
        import redis

        redis.Redis.from_url(address).execute_command("CLIENT", "PAUSE", "2000")
        time.sleep(2.0)
    assert len(workers[2].lines()) > before + 50  # nobody waited for it
    workers[1].signal(signal.SIGCONT)
    for worker in workers[1:]:
        worker.wait()
    workers[0].process.wait()
    count = check_bound(workers)
    dead = len([line for line in workers[0].lines() if line.startswith("d")])
    with open_store(address, ["tokens"]) as store, store.transaction():
        (bucket,) = store.buckets(TOTAL)
        (lease,) = store.leases().values()  # of the one that was killed
        assert count - dead <= bucket.num_requests <= count
        assert bucket.held == pytest.approx(lease["room"]["total"][0], abs=1e-6)
        (holder,) = store.leases()
    with open_store(address, ["tokens"]) as store:
        assert end_lease(store, holder, now=time.time(), spent=True)
        (bucket,) = store.accounts()["total"]
        assert bucket.held == pytest.approx(0, abs=1e-6) and bucket.balance >= -3000 - 1e-6
