"""A real Envoy with the configuration of `examples/envoy.yaml`, a process of its own (`envoy_env.sh`)."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.serving.world import call

VARIABLE = "IBPO_ENVOY"
EXAMPLE = Path(__file__).parents[2] / "examples" / "envoy.yaml"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Envoy:
    """Runs until `stop`.

    Args:
        folder: For its configuration and its output.
        upstream: URL of the server of the models.
        ext_proc: Where the gateway answers.
        replaced: Pieces of the example that differ, old -> new.
    """

    def __init__(self, folder: Path, upstream: str, ext_proc: str, **replaced: str):
        self.port, self.admin = free_port(), free_port()
        self.url, self.output = f"http://127.0.0.1:{self.port}", folder / "envoy.txt"
        text = EXAMPLE.read_text()
        changes = {
            "port_value: 10000": f"port_value: {self.port}",
            "port_value: 8000": f"port_value: {upstream.rpartition(':')[2].partition('/')[0]}",
            "port_value: 9002": f"port_value: {ext_proc.rpartition(':')[2]}",
            **replaced,
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        text += f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {self.admin}}}}}}}\n"
        config = folder / "envoy.yaml"
        config.write_text(text)
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [os.environ[VARIABLE], "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(self.output.read_text()[-3000:])

    def stop(self):
        self.process.kill()
        self.process.wait()

    def post(self, path, body, **headers):
        return call(f"{self.url}{path}", body, {name.replace("_", "-"): value for name, value in headers.items()})

    def counter(self, name: str) -> int:
        """The sum of Envoy's own counters whose names end so."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats", timeout=10) as reply:
            rows = [line.partition(": ") for line in reply.read().decode().splitlines()]
        return sum(int(value) for key, _, value in rows if key.endswith(name) and value.isdigit())
