"""What does the gateway cost? Latency against the upstream alone, CPU per request, and memory over many requests.

    python benchmarks/gateway.py --rates 100,300,500 --seconds 10 --blocks 4
    python benchmarks/gateway.py --rates 100,300,500 --seconds 10 --blocks 4 --state sqlite
    python benchmarks/gateway.py --rates 100 --seconds 10 --blocks 4 --stream
    python benchmarks/gateway.py --rates "" --memory 200000
    python benchmarks/gateway.py --against ../other-checkout

Three processes on loopback: a synthetic upstream that answers at once (in streams: 20 pieces), `ibpo serve` with a
budget of 30 % in front of it, and this one, which asks at a constant rate whatever the answers do (open loop). Blocks
of the upstream alone and of the gateway take turns, so that both see the same machine. CPU is what the gateway's
process used (`/proc`, Linux only): other work on the machine changes it less than the latency. `--against` asks the
gateway of another checkout in turn with this one, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

WORDS = " ".join(f"word{i}" for i in range(50))
USAGE = {"prompt_tokens": 20, "completion_tokens": 50, "total_tokens": 70}
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE} | {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": WORDS}}]
}
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Why? " * 40}]}).encode()
STREAMED = json.dumps({**json.loads(BODY), "stream": True}).encode()


def _chunks() -> bytes:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    rows = [{**base, "choices": [{"index": 0, "delta": {"content": f"word{i} "}}]} for i in range(20)]
    rows.append({**base, "choices": [], "usage": USAGE})
    parts = [f"data: {json.dumps(row)}\n\n".encode() for row in rows] + [b"data: [DONE]\n\n"]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


PLAIN = json.dumps(CHAT).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(PLAIN), PLAIN)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunks()


class Upstream(asyncio.Protocol):
    """As little of a server as can be: what is measured is the gateway."""

    def connection_made(self, transport: Any):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            found = re.search(rb"content-length: *(\d+)", self.data[:end], re.IGNORECASE)
            total = end + 4 + int(found[1] if found else 0)
            if len(self.data) < total:
                return
            self.transport.write(STREAM if b'"stream": true' in self.data[end:total] else ANSWER)
            self.data = self.data[total:]


async def be_upstream():
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def cpu_and_memory(pid):
    """Seconds of CPU and MiB of memory of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def ask(session, url, body):
    """Seconds until the whole answer was there; NaN if the gateway said that it had too much to do."""
    began = time.perf_counter()
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
        data = await reply.read()
    if reply.status == 503 and b'"busy"' in data:
        return math.nan
    if reply.status != 200:
        raise SystemExit(f"{url}: status {reply.status}: {data[:200]!r}")
    return time.perf_counter() - began


async def at_rate(session, url, body, rate, seconds):
    """Latencies of requests that leave at a constant rate."""
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), []
    for number in range(int(rate * seconds)):
        wait = began + number / rate - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(ask(session, url, body)))
    return await asyncio.gather(*tasks)


async def latency(upstream, gateway, pid, args):
    body = STREAMED if args.stream else BODY
    rows = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for url in (upstream, gateway):
            await at_rate(session, url, body, 50, 2)  # warm-up
        for rate in args.rates:
            seen, used = {upstream: [], gateway: []}, 0.0
            for block in range(args.blocks):
                for url in (upstream, gateway) if block % 2 == 0 else (gateway, upstream):
                    before = cpu_and_memory(pid)[0]
                    seen[url] += await at_rate(session, url, body, rate, args.seconds)
                    used += cpu_and_memory(pid)[0] - before if url == gateway else 0.0
            alone, through = (1e3 * np.nanpercentile(seen[url], (50, 99)) for url in (upstream, gateway))
            count, refused = len(seen[gateway]), int(np.isnan(seen[gateway]).sum())
            rows.append((rate, count, refused, *alone, *through, *(through - alone), 1e3 * used / count))
    print("| requests/s | n | refused | upstream p50, p99 | gateway p50, p99 | added p50, p99 | CPU of the gateway |")
    print("|---|---|---|---|---|---|---|")
    for rate, n, refused, a, b, c, d, e, f, cpu in rows:
        cells = f"{a:.2f}, {b:.2f} ms | {c:.2f}, {d:.2f} ms | {e:.2f}, {f:.2f} ms | {cpu:.2f} ms"
        print(f"| {rate} | {n} | {refused} | {cells} |")


async def memory(gateway, pid, count, parallel=32):
    """Memory every tenth of the way, closed loop."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began, cpu = time.perf_counter(), cpu_and_memory(pid)[0]
        for tenth in range(11):
            done, now = tenth * count // 10, time.perf_counter()
            print(f"{done:>8} requests  {cpu_and_memory(pid)[1]:7.1f} MiB  {now - began:7.1f} s", flush=True)
            numbers = iter(range(count // 10 if tenth < 10 else 0))

            async def worker(numbers=numbers):
                for number in numbers:
                    await ask(session, gateway, STREAMED if number % 4 == 0 else BODY)

            await asyncio.gather(*(worker() for _ in range(parallel)))
        print(f"CPU of the gateway: {1e3 * (cpu_and_memory(pid)[0] - cpu) / count:.2f} ms a request")


async def compare(gateways, pairs, count=1000, parallel=4):
    """CPU of two gateways, another checkout's first, that are asked in turn; closed loop."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for name, body in (("plain", BODY), ("stream", STREAMED)):
            ratios = []
            for pair in range(pairs + 1):
                before = [cpu_and_memory(pid)[0] for _, pid in gateways]

                async def worker(number, body=body):
                    for i in range(count // parallel):
                        for url, _ in gateways if (i + number) % 2 else gateways[::-1]:
                            await ask(session, url, body)

                await asyncio.gather(*(worker(number) for number in range(parallel)))
                after = [cpu_and_memory(pid)[0] for _, pid in gateways]
                if not pair:
                    continue  # warm-up
                other, this = (1e3 * (b - a) / count for a, b in zip(before, after, strict=True))
                ratios.append(this / other)
                print(f"{name:>6}  {other:.2f} ms, {this:.2f} ms a request, ratio {this / other:.3f}", flush=True)
            low, middle, high = np.percentile(ratios, (0, 50, 100))
            print(f"{name:>6}  median ratio {middle:.3f}, from {low:.3f} to {high:.3f}", flush=True)


def _first_line(stream) -> str:
    return stream.readline().strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100,300,500", type=lambda text: [int(x) for x in text.split(",") if x])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one block")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--state", choices=["memory", "sqlite"], default="memory")
    parser.add_argument("--memory", type=int, default=0, help="requests of the memory run")
    parser.add_argument("--against", type=Path, help="another checkout, whose gateway is asked in turn with this one's")
    parser.add_argument("--pairs", type=int, default=5, help="blocks of --against, of 1,000 requests to each gateway")
    parser.add_argument("--as-upstream", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_upstream:
        asyncio.run(be_upstream())
        return
    with tempfile.TemporaryDirectory() as folder:
        upstream = subprocess.Popen([sys.executable, __file__, "--as-upstream"], stdout=subprocess.PIPE, text=True)
        root = f"http://127.0.0.1:{_first_line(upstream.stdout)}"
        command = [sys.executable, "-m", "ibpo", "serve", "--upstream", f"{root}/v1", "--listen", ":0"]
        command += ["--budget", "extended=30%", *(["--state", f"{folder}/book.sqlite"] * (args.state == "sqlite"))]
        gateways = [
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": str(checkout)},
            )
            for checkout in ([args.against.resolve()] if args.against else [])
            + [Path(__file__).resolve().parent.parent]
        ]
        gateway = gateways[-1]
        try:
            if args.against:
                urls = [re.findall(r"http://[\d.:]+", _first_line(one.stderr))[0] for one in gateways]
                pairs = [(f"{url}/v1/chat/completions", one.pid) for url, one in zip(urls, gateways, strict=True)]
                asyncio.run(compare(pairs, args.pairs))
                return
            url = re.findall(r"http://[\d.:]+", _first_line(gateway.stderr))[0] + "/v1/chat/completions"
            if args.rates:
                asyncio.run(latency(f"{root}/v1/chat/completions", url, gateway.pid, args))
            if args.memory:
                asyncio.run(memory(url, gateway.pid, args.memory))
        finally:
            for one in gateways:
                one.terminate()
                one.wait()
            upstream.terminate()
            upstream.wait()


if __name__ == "__main__":
    main()
