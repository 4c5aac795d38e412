"""What does the budget cost inside other proxies? Latency and CPU of LiteLLM and Envoy with and without, and of ours.

    python benchmarks/proxies.py --litellm FOLDER/bin/python --envoy PATH --rates 5,20 --seconds 10 --blocks 6

The first is made by `tests/serving/litellm_env.sh`, the second by `tests/serving/envoy_env.sh`; each may be left out.
Processes on loopback: the synthetic upstream of `gateway.py`, two LiteLLM proxies (one worker each, no database, no
retries) of which one has the plug-in, two Envoys (one worker each, `examples/envoy.yaml`) of which one asks `ibpo serve
--ext-proc`, `ibpo serve` itself with the same file, a budget of 30 % in memory, and this one, which asks at a constant
rate whatever the answers do (open loop). Blocks of all addresses take turns, in an order that changes, so that all see
the same machine. CPU is what the processes of a place used (`/proc`, Linux only), Python's beside Envoy's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from gateway import BODY, STREAMED, at_rate, cpu_and_memory

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-of-the-benchmark"
GATEWAY = """
[upstream]
url = "{upstream}"

[budget.extended]
mean = 0.3
response_group = "extended"

[[model]]
name = "*"
[[model.response_group]]
name = "standard"
reasoning_effort = "low"
max_tokens = 100
[[model.response_group]]
name = "extended"
reasoning_effort = "high"
max_tokens = 400
gain = 0.5
"""
PLUGIN = """
from ibpo.serving.plugins.litellm import BudgetLogger

budget = BudgetLogger("gateway.toml")
"""


def start_litellm(python: Path, folder: Path, upstream: str, port: int, callbacks: list[str]) -> subprocess.Popen:
    """A proxy of one worker; it is ready some time later."""
    deployment = {"model": "openai/m", "api_base": upstream, "api_key": "k"}
    config: dict[str, Any] = {"model_list": [{"model_name": "m", "litellm_params": deployment}]}
    config["litellm_settings"] = {"callbacks": callbacks, "num_retries": 0}
    place = folder / f"config-{port}.yaml"
    place.write_text(json.dumps(config))  # JSON is YAML
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_MASTER_KEY": KEY}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [python.parent / "litellm", "--config", place.name, "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*command, "--num_workers", "1"], cwd=folder, env=environment, stdout=quiet, stderr=quiet)


def wait_for(url: str, seconds: float = 300.0):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{url}: not ready in {seconds:.0f} s")


def start_envoy(binary: Path, folder: Path, upstream: int, ext_proc: int | None) -> tuple[subprocess.Popen, int]:
    """An Envoy of one worker with the example's configuration, without the filter where there is no `ext_proc`."""
    port = free_port()
    text = (ROOT / "examples" / "envoy.yaml").read_text()
    text = text.replace("port_value: 10000", f"port_value: {port}").replace(": 8000", f": {upstream}")
    if ext_proc is None:
        text = re.sub(
            r"- name: envoy\.filters\.http\.ext_proc\n.*?(?=- name: envoy\.filters\.http\.router)", "", text, flags=re.S
        )
    else:
        text = text.replace(": 9002", f": {ext_proc}")
    place = folder / f"envoy-{port}.yaml"
    place.write_text(text)
    command = [binary, "-c", place, "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port


def start_gateway(folder: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """`ibpo serve` with the benchmark's file, and its address."""
    command = [sys.executable, "-m", "ibpo", "serve", "--config", str(folder / "gateway.toml"), "--listen", ":0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    gateway = subprocess.Popen(
        [*command, *options], text=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert gateway.stderr is not None
    return gateway, re.findall(r"http://[\d.:]+", gateway.stderr.readline())[0]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def used_by(pids: list[int]) -> tuple[float, float]:
    """CPU seconds, and MiB."""
    found = [cpu_and_memory(pid) for pid in pids]
    return sum(cpu for cpu, _ in found), sum(memory for _, memory in found)


async def measure(places, args):
    """`places`: name -> (address, process ids)."""
    body = STREAMED if args.stream else BODY
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        for url, _ in places.values():
            await at_rate(session, url, body, 10, 5)  # warm-up
        names = list(places)
        print("| requests/s | | n | p50, p99 | added p50, p99 | CPU a request | memory |")
        print("|---|---|---|---|---|---|---|")
        for rate in args.rates:
            seen, used = {name: [] for name in names}, dict.fromkeys(names, 0.0)
            for block in range(args.blocks):
                order = names[block % len(names) :] + names[: block % len(names)]
                for name in order if block % 2 == 0 else order[::-1]:
                    url, pids = places[name]
                    before = used_by(pids)[0]
                    seen[name] += await at_rate(session, url, body, rate, args.seconds)
                    used[name] += used_by(pids)[0] - before
            alone = 1e3 * np.percentile(seen[names[0]], (50, 99))
            for name in names:
                found = 1e3 * np.percentile(seen[name], (50, 99))
                cells = [f"{found[0]:.1f}, {found[1]:.1f} ms", "{:.1f}, {:.1f} ms".format(*(found - alone))]
                cells += [
                    f"{1e3 * used[name] / len(seen[name]):.2f} ms",
                    f"{used_by(places[name][1])[1]:.0f} MiB",
                ]
                print(f"| {rate} | {name} | {len(seen[name])} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", type=Path, help="Python of LiteLLM's environment")
    parser.add_argument("--envoy", type=Path, help="the binary")
    parser.add_argument("--rates", default="5,20", type=lambda text: [int(x) for x in text.split(",") if x])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one block")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    processes: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            command = [sys.executable, str(ROOT / "benchmarks" / "gateway.py"), "--as-upstream"]
            processes.append(upstream := subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert upstream.stdout is not None
            root = f"http://127.0.0.1:{upstream.stdout.readline().strip()}"
            (folder / "gateway.toml").write_text(GATEWAY.format(upstream=f"{root}/v1"))
            (folder / "ibpo_budget.py").write_text(PLUGIN)
            places: dict[str, tuple[str, list[int]]] = {"upstream alone": (root, [upstream.pid])}
            for name, callbacks in (("LiteLLM", []), ("LiteLLM with the plug-in", ["ibpo_budget.budget"])):
                if args.litellm:
                    port = free_port()
                    processes.append(started := start_litellm(args.litellm, folder, f"{root}/v1", port, callbacks))
                    places[name] = (f"http://127.0.0.1:{port}", [started.pid])
                    wait_for(f"{places[name][0]}/health/liveliness")
            if args.envoy:
                asked = free_port()
                service, _ = start_gateway(folder, "--ext-proc", f"127.0.0.1:{asked}")
                processes.append(service)
                for name, ext_proc in (("Envoy", None), ("Envoy with ext_proc", asked)):
                    started, port = start_envoy(args.envoy, folder, int(root.rpartition(":")[2]), ext_proc)
                    processes.append(started)
                    places[name] = (f"http://127.0.0.1:{port}", [started.pid, *([service.pid] if ext_proc else [])])
                    wait_for(f"{places[name][0]}/v1/models")
            gateway, url = start_gateway(folder)
            processes.append(gateway)
            places["ibpo serve"] = (url, [gateway.pid])
            asyncio.run(measure({k: (f"{u}/v1/chat/completions", pids) for k, (u, pids) in places.items()}, args))
        finally:
            for one in processes:
                one.terminate()
            for one in processes:
                one.wait()


if __name__ == "__main__":
    main()
