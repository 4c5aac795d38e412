"""A clock that is set, and a disk that is full: what is in flight is booked once, and callers are answered."""

import json
import resource
import signal
import sqlite3
import threading
import time
import types
from typing import Any

import pytest

from ibpo.serving.controller import Candidate, Controller, ServingPolicy
from ibpo.serving.gateway import async_controller
from ibpo.serving.gateway.telemetry import open_log
from tests.serving.test_gateway_processes import process, settled
from tests.serving.test_stores import open_store
from tests.serving.world import SHARE, call

BODY = {"model": "m", "messages": []}
HOUR = 3600.0


def ask_beside(url, count, replies):
    """So many requests, each in a thread; headers of the answers go into `replies`."""

    def one():
        replies.append(call(f"{url}/v1/chat/completions", BODY)[1])

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("jump", [24 * HOUR, -24 * HOUR])
def test_a_clock_that_is_set_ends_nothing_and_keeps_nothing(world, tmp_path, monkeypatch, jump):
    """Two gateways on one store, one that is dead, and a clock that is set while answers are in flight."""
    clock = {"set": 0.0, "passed": 0.0}
    monkeypatch.setattr(
        async_controller,
        "time",
        types.SimpleNamespace(
            time=lambda: time.time() + clock["set"] + clock["passed"],
            monotonic=lambda: time.monotonic() + clock["passed"],
        ),
    )
    upstream, state = world.upstream(), str(tmp_path / "book.sqlite")
    with open_store("sqlite", state, ["extended"]) as store:
        dead = Controller(ServingPolicy.from_dict(SHARE), store)
        dead.decide([Candidate(response_group="extended", gain=1.0)], request_id="dead", now=time.time())
    (first, url, _), (second, _, _) = [world.gateway(upstream.url, state=state, name=name) for name in ("a", "b")]

    def expire(gateway):
        controller = gateway.governor.controller
        return world.run(controller._run(controller._expire))

    upstream.held, replies = True, []
    asking = ask_beside(url, 3, replies)
    world.wait_until(lambda: len(upstream.requests) == 3)
    assert expire(first) == expire(second) == []
    clock["set"] = jump
    assert expire(first) == expire(second) == []
    upstream.held = False
    for thread in asking:
        thread.join(60)
    extended = sum(headers["x-ibpo-response-group"] == "extended" for headers in replies)
    world.wait_until(lambda: settled(state) == (4, extended, 1.0))
    clock["passed"] = 2.1 * HOUR  # longer than any answer takes
    assert expire(first) == ["dead"] and expire(second) == []
    assert settled(state) == (4, extended + 1, 0.0)


@pytest.mark.parametrize("jump", [40 * 24 * HOUR, -40 * 24 * HOUR])
def test_a_clock_that_is_set_gives_no_session_its_total_anew(world, monkeypatch, jump):
    """Forward by 40 days and back: nobody had been idle, and what the session and the day had spent was forgotten."""
    clock = {"set": 0.0}
    monkeypatch.setattr(
        async_controller,
        "time",
        types.SimpleNamespace(time=lambda: time.time() + clock["set"], monotonic=time.monotonic),
    )
    tables = {"session": {"tokens": 600, "idle_seconds": 60}, "calendar": {"day": {"tokens": 1000}}}
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, plan={}, tables=tables, upstream={"total_seconds": 10})
    controller = gateway.governor.controller

    def ask():
        headers = call(f"{url}/v1/chat/completions", BODY, {"x-ibpo-session": "run"})[1]
        return headers["x-ibpo-session-left"], headers["x-ibpo-calendar-left"]

    assert ask() == ("tokens=550", "day tokens=950")
    clock["set"] = jump
    world.run(controller._run(controller._forget))
    clock["set"] = 0.0
    world.run(controller._run(controller._forget))
    assert ask() == ("tokens=500", "day tokens=900")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process need Linux")
def test_a_full_disk_costs_nobody_the_answer_and_nothing_that_was_booked(world, tmp_path):
    upstream, state, log = world.upstream(), tmp_path / "book.sqlite", tmp_path / "log.jsonl"
    options = ("--budget", "extended=30%", "--state", state, "--log", log)
    with process(upstream.url, *options) as (server, url):

        def asked(count):
            return [call(f"{url}/v1/chat/completions", BODY) for _ in range(count)]

        before, begun = asked(5), []
        upstream.held = True
        asking = ask_beside(url, 3, begun)
        world.wait_until(lambda: settled(state)[0] == 8 and len(upstream.requests) == 8)
        # No file may grow: what the kernel says when the disk is full, to this process alone.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        upstream.held = False
        for thread in asking:
            thread.join(60)
        during = asked(4)
        assert [status for status, _, _ in during] == [200] * 4
        assert {headers["x-ibpo-response-group"] for _, headers, _ in during} == {"standard"}
        assert all(headers["x-ibpo-budget-left"] is None for _, headers, _ in during)
        assert b"ibpo_unbudgeted_total 4.0" in call(f"{url}/metrics")[2]
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        world.wait_until(lambda: settled(state)[2] == 0)  # what has ended meanwhile is tried again
        after = asked(3)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        errors: Any = server.stderr
        said = errors.read()
    groups = [headers["x-ibpo-response-group"] for headers in [row[1] for row in before + after] + begun]
    assert settled(state) == (11, groups.count("extended"), 0)
    assert sqlite3.connect(state).execute("pragma integrity_check").fetchall() == [("ok",)]
    assert said.count("the log cannot be written: File too large") == 1 and "Traceback" not in said
    rows = [json.loads(line) for line in log.read_text().splitlines() if line]  # no line is torn
    assert next(row["lost"] for row in rows if row["event"] == "log_gap") >= 7
    assert sum(row["event"] == "request" for row in rows) >= 8


def test_a_log_on_a_full_disk_says_so_once(tmp_path, capsys):
    log = open_log(tmp_path / "full")
    log.write("started")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "full").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # a part of the next line fits
    try:
        for _ in range(3):
            log.write("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write("ended")
    whole = (tmp_path / "full").read_text().splitlines()
    assert json.loads(whole[0])["event"] == "started" and json.loads(whole[-1])["event"] == "ended"
    assert json.loads(whole[-2]).items() >= {"event": "log_gap", "lost": 3}.items()
    assert capsys.readouterr().err.count("the log cannot be written") == 1
