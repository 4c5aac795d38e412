"""Clients that mean ill: each gets an error, and nobody else notices."""

import asyncio
import json
import re
import socket
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.serving.world import HASHED, KEYS, World, call

LIMITS = {
    "max_body_bytes": 20_000,
    "header_seconds": 8,  # a busy machine must not make an honest client slow
    "body_seconds": 8,
    "keep_alive_seconds": 8,
    "max_connections": 60,
}
GOOD = {"Authorization": f"Bearer {KEYS['gold']}"}
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def served():
    with World() as world:
        upstream = world.upstream()
        gateway, url, rows = world.gateway(upstream.url, limits=LIMITS, keys=HASHED)
        yield world, upstream, gateway, url, rows


@pytest.fixture(autouse=True)
def others_notice_nothing(served):
    """After each attack an honest request is answered and everything is settled."""
    world, upstream, gateway, url, _ = served
    before = len(upstream.requests)
    yield
    status, headers, _ = call(f"{url}/v1/chat/completions", BODY, GOOD)
    assert status == 200 and headers["x-ibpo-response-group"] in ("standard", "extended")
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    shown = world.snapshot(gateway)
    assert shown["num_in_flight"] == 0 and shown["budgets"][0]["in_flight"] == 0
    assert len(upstream.requests) >= before + 1


def raw(url, data, *, wait=60.0, slowly=None):
    """Everything that comes back on a socket until it is closed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as peer:
        if slowly is None:
            peer.sendall(data)
        else:
            try:
                for byte in data:
                    peer.send(bytes([byte]))
                    time.sleep(slowly)
            except OSError:
                pass
        got = b""
        try:
            while piece := peer.recv(65536):
                got += piece
        except OSError:
            pass
        return got


def head(*lines, path="/v1/chat/completions"):
    kind = "Content-Type: application/json"
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", kind, f"Authorization: {GOOD['Authorization']}", *lines]
    ).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic !!!!"},
        {"Authorization": "Basic é"},
        {"Authorization": f"Basic {KEYS['gold']}"},
        {"Authorization": KEYS["gold"]},
        {"Authorization": f"Bearer {KEYS['gold']}x"},
        {"Authorization": "Bearer " + "k" * 8000},
        {"x-api-key": KEYS["gold"]},
    ],
)
def test_wrong_keys(served, headers):
    _, upstream, _, url, _ = served
    before = len(upstream.requests)
    status, _, body = call(f"{url}/v1/chat/completions", BODY, headers)
    assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
    assert call(f"{url}/v1/models", headers=headers)[0] == 401
    assert len(upstream.requests) == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": 3}',
        b'{"model": "m", "stream": "yes"}',
        b'{"model": "m", "n": -1}',
        b'{"model": "m", "n": 1e99}',
        b'{"model": "m", "n": 2147483648}',
        b'{"model": "m", "n": 129}',
        b'{"model": "m", "max_tokens": true}',
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": 1e999}',
        b'{"model": "m", "stream_options": 3}',
        b'{"model": "\xff\xfe"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 15_000,
        b'{"a":' * 3_000,
        b'{"n": ' + b"9" * 10_000 + b"}",
        b"\x00" * 1000,
    ],
    ids=range(20),
)
def test_bodies_that_are_no_request(served, body):
    _, upstream, _, url, _ = served
    before = len(upstream.requests)
    status, headers, said = call(f"{url}/v1/chat/completions", body, GOOD)
    assert status == 400 and json.loads(said)["error"]["code"] == "bad_request"
    assert "\n" not in json.loads(said)["error"]["message"] and "Traceback" not in said.decode()
    assert len(upstream.requests) == before and "x-ibpo-response-group" not in headers


def test_huge_bodies(served):
    _, upstream, _, url, _ = served
    before = len(upstream.requests)
    big = b'{"model": "' + b"m" * 30_000 + b'"}'
    assert call(f"{url}/v1/chat/completions", big, GOOD)[0] == 413
    assert call(f"{url}/v1/embeddings", big, GOOD)[0] == 413
    chunk = b"7530\r\n" + b"x" * 30_000 + b"\r\n"  # length not said beforehand
    got = raw(url, head("Transfer-Encoding: chunked", "Connection: close", "", "") + chunk * 4)
    assert got.startswith(b"HTTP/1.1 413")
    # A promise of 10 GB is refused without waiting for it.
    got = raw(url, head("Content-Length: 10000000000", "", "{"))
    assert got.startswith(b"HTTP/1.1 413")
    # Compressed 1:1000.
    assert call(f"{url}/v1/chat/completions", b"x", {**GOOD, "Content-Encoding": "gzip"})[0] == 415
    # A page of another site can have a browser post text or forms, but not JSON.
    assert call(f"{url}/v1/chat/completions", BODY, {**GOOD, "Content-Type": "text/plain"})[0] == 415
    assert len(upstream.requests) == before


def test_huge_and_odd_headers(served):
    _, _, _, url, _ = served
    end = ["Content-Length: 2", "", "{}"]
    for lines in (
        ["X-Big: " + "x" * 200_000],
        [f"X-{i}: y" for i in range(5000)],
        ["X-Null: a\x00b"],
        ["Bad Name: x"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Transfer-Encoding: chunked, gzip, nonsense"],
        [": empty"],
    ):
        assert raw(url, head(*lines, *end)).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), lines[0][:40]
    assert raw(url, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.")
    assert b" 400 " in raw(url, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300)[:40]


def test_nothing_is_injected_into_headers(served):
    world, upstream, _, url, rows = served
    for value in ("extended%0d%0aX-Evil: 1", "extended\tX", "ext\u00e9nded", "a" * 5000):
        status, headers, body = call(
            f"{url}/v1/chat/completions",
            BODY,
            {**GOOD, "x-ibpo-response-group": value.encode("latin-1").decode("latin-1")},
        )
        assert status == 400 and headers["X-Evil"] is None and value.encode() not in body
    # What only the gateway may say is neither taken from the caller nor from the upstream.
    upstream.extra_headers = {"x-ibpo-price": "forged"}
    _, headers, _ = call(
        f"{url}/v1/chat/completions", BODY, {**GOOD, "X-IBPO-Price": "forged", "x-ibpo-slice": "s" * 99}
    )
    upstream.extra_headers = {}
    assert headers.get_all("x-ibpo-price") != ["forged"] and len(headers.get_all("x-ibpo-price")) == 1
    assert not any(name.lower().startswith("x-ibpo") for name in upstream.headers[-1])
    assert "Authorization" not in upstream.headers[-1]
    assert all(not name.startswith("slice") for name in world.run(_accounts(served[2])))
    assert all("X-Evil" not in json.dumps(row) for row in rows())


async def _accounts(gateway):
    return gateway.governor.controller._store.accounts


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2fcompletions",
        "/v1/%63hat/completions",
        "/v1/models/../chat/completions",
        "/v1/models/%2e%2e/chat/completions",
        "/v1\\chat\\completions",
        "/x/%2e%2e/v1/chat/completions",
        "/v1/responses/",
        "/v1/respons%65s",
        "/v1/messages/count",
        "/generate",
        "/%67enerate",
        "/v1/chat/completions%00",
        "/v1/chat/completions%3fa",
    ],
)
def test_no_way_around_the_budget(served, path):
    _, upstream, _, url, _ = served
    before = len(upstream.requests)
    data = json.dumps(BODY)
    got = raw(url, head(f"Content-Length: {len(data)}", "Connection: close", "", data, path=path))
    assert got.split(b" ")[1] in (b"400", b"404"), got[:200]
    assert len(upstream.requests) == before


def test_slow_clients_are_shown_the_door(served):
    _, _, _, url, _ = served
    host, port = url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    dripping = [socket.create_connection((host, int(port))) for _ in range(20)]
    for peer in dripping:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-A: ")
    begun = socket.create_connection((host, int(port)))
    begun.sendall(head("Content-Length: 100", "", '{"model": '))
    assert call(f"{url}/v1/chat/completions", BODY, GOOD)[0] == 200  # in the meantime
    for peer in silent + dripping:
        assert closed(peer)
    begun.settimeout(60)
    assert begun.recv(4096).startswith(b"HTTP/1.1 408")
    begun.close()
    got = raw(url, head("Content-Length: 100", "", '{"model": "m"'), slowly=0.05)
    assert not got or got.startswith(b"HTTP/1.1 408")


def closed(peer):
    """Whether the other side ends the connection, now or within a minute."""
    peer.settimeout(60)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    peer.close()
    return True


def test_too_many_connections():
    with World() as world:
        _, url, _ = world.gateway(world.upstream().url, limits={"max_connections": 10, "header_seconds": 60})
        host, port = url.removeprefix("http://").split(":")
        peers = [socket.create_connection((host, int(port))) for _ in range(30)]
        assert sum(closed(peer) for peer in peers[15:]) == 15
        for peer in peers[:15]:
            peer.close()
        world.wait_until(lambda: answers(url))


def answers(url):
    try:
        return call(f"{url}/v1/chat/completions", BODY)[0] == 200
    except OSError:
        return False


def test_one_tenant_does_not_take_all_places(world_of_few):
    world, upstream, url = world_of_few
    upstream.held = True

    async def ask(session, tenant):
        async with session.post(
            f"{url}/v1/chat/completions", json=BODY, headers={"Authorization": f"Bearer {KEYS[tenant]}"}
        ) as reply:
            return tenant, reply.status

    async def run():
        async with aiohttp.ClientSession() as session:
            greedy = [asyncio.ensure_future(ask(session, "gold")) for _ in range(6)]
            while sum(task.done() for task in greedy) < 3 or len(upstream.requests) < 3:
                await asyncio.sleep(0.01)
            modest = asyncio.ensure_future(ask(session, "quiet"))
            while len(upstream.requests) < 4:
                await asyncio.sleep(0.01)
            upstream.held = False
            return await asyncio.gather(*greedy, modest)

    seen = world.run(run())
    assert sorted(status for tenant, status in seen if tenant == "gold") == [200, 200, 200, 429, 429, 429]
    assert ("quiet", 200) in seen


@pytest.fixture
def world_of_few():
    with World() as world:
        upstream = world.upstream()
        _, url, _ = world.gateway(upstream.url, limits={"max_in_flight_per_tenant": 3}, keys=HASHED)
        yield world, upstream, url


def test_many_answers_and_huge_caps_are_refused_before_anything_is_booked(served):
    world, upstream, gateway, url, _ = served
    before = world.snapshot(gateway)["budgets"][0]["num_requests"], len(upstream.requests)
    for path, body, said in (
        ("completions", {"prompt": ["a"] * 65, "n": 2}, "ask for 130 answers"),
        ("completions", {"prompt": "a", "best_of": 1000}, "ask for 1000 answers"),
        ("completions", {"prompt": [[1], [2]], "n": 100}, "ask for 200 answers"),
    ):
        status, _, data = call(f"{url}/v1/{path}", {"model": "m", **body}, GOOD)
        assert status == 400 and said in json.loads(data)["error"]["message"]
    # A group's own cap lowers the caller's: nothing is too large then.
    assert call(f"{url}/v1/chat/completions", {**BODY, "max_tokens": 1 << 30}, GOOD)[0] == 200
    world.wait_until(lambda: gateway.access.num_in_flight == 0)
    after = world.snapshot(gateway)["budgets"][0]["num_requests"], len(upstream.requests)
    assert after == (before[0] + 1, before[1] + 1)


def stream_request(url):
    """A connection that has asked for a stream, with next to no room for what comes."""
    host, port = url.removeprefix("http://").split(":")
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect((host, int(port)))
    data = json.dumps({**BODY, "stream": True}).encode()
    peer.sendall(head(f"Content-Length: {len(data)}") + b"\r\n\r\n" + data)
    return peer


def test_a_reader_that_stops_loses_its_place(served):
    world, upstream, gateway, url, rows = served
    upstream.padding = 1 << 20
    begun, before = len(upstream.requests), len(rows())
    with stream_request(url):
        world.wait_until(lambda: len(upstream.requests) > begun)
        world.wait_until(lambda: gateway.access.num_in_flight == 0)
    upstream.padding = 0
    assert [row["outcome"] for row in rows()[before:] if row["event"] == "request"] == ["disconnected"]


def test_a_reader_that_stops_at_the_very_end_loses_its_place(served, monkeypatch):
    """The last bytes are handed over by `write_eof`, which waits for the reader too."""
    world, upstream, gateway, url, _ = served
    whole = web.StreamResponse.write_eof

    async def write_eof(self, data=b""):
        if type(self) is web.StreamResponse and "x-ibpo-response-group" in self.headers:
            await asyncio.sleep(60)
        await whole(self, data)

    monkeypatch.setattr(web.StreamResponse, "write_eof", write_eof)
    begun = len(upstream.requests)
    with stream_request(url):
        world.wait_until(lambda: len(upstream.requests) > begun)
        world.wait_until(lambda: gateway.access.num_in_flight == 0)


@pytest.mark.parametrize("keys", [None, HASHED], ids=["trusted", "tenants"])
def test_pages_of_other_sites(keys):
    """What a browser sends for them: their Origin, bodies that need no leave, or a name of theirs for this address."""
    with World() as world:
        upstream = world.upstream()
        _, url, _ = world.gateway(upstream.url, keys=keys)
        path, own = f"{url}/v1/chat/completions", {} if keys is None else GOOD
        place = url.removeprefix("http://")
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"https://{place}.evil.example", ""):
            status, headers, _ = call(path, BODY, {**own, "Origin": origin})
            assert status == 403 and "Access-Control-Allow-Origin" not in headers, origin
            assert call(f"{url}/v1/embeddings", BODY, {**own, "Origin": origin})[0] == 403
            assert call(f"{url}/budget.json", headers={**own, "Origin": origin})[0] == 403
        for kind in ("text/plain", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8"):
            for where in ("chat/completions", "embeddings", "responses", "messages"):
                assert call(f"{url}/v1/{where}", BODY, {**own, "Content-Type": kind})[0] == 415
        assert call(path, headers={**own, "Access-Control-Request-Method": "POST"}, method="OPTIONS")[0] in (401, 405)
        assert upstream.requests == []
        foreign = [
            "evil.example",
            f"evil.example:{place.partition(':')[2]}",
            "127.0.0.1.evil.example",
            "a@127.0.0.1",
            "[::1",
        ]
        for host in foreign if keys is None else []:
            for page in (path, f"{url}/budget.json", f"{url}/metrics", f"{url}/v1/models"):
                data = BODY if page == path else None
                assert call(page, data, {"Host": host})[0] in (400, 403), (host, page)
        assert upstream.requests == []
        for host in (place, "localhost", "LocalHost:80", "[::1]:8080"):
            assert call(path, BODY, {**own, "Host": host})[0] == 200, host
        assert call(path, BODY, {**own, "Origin": url})[0] == 200


def test_the_threat_model_names_tests_that_exist():
    here = Path(__file__).parent
    page = (here.parent.parent / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in here.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 30 and [name for name in named if f"def {name}(" not in tests] == []
