"""A picture of the gateway's live page: a minute of real traffic from several tenants, and what Chromium shows.

    python -m benchmarks.live_page --out docs/images/live.png
    python -m benchmarks.live_page --out live.png --seconds 20 --width 360 --theme dark

Everything is real but the model: an upstream on loopback that speaks OpenAI's protocol (`tests/openai_server.py`) and
fails now and then, `ibpo serve` with keys, prices, an average of three kinds, a day's total and sessions, and callers
of three tenants, of whom some leave early. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.openai_server import Fault, serving

KEYS = {"search": "key of search", "support": "key of support", "agents": "key of agents", "operator": "operator's key"}
SETTINGS = """
[upstream]
url = "{url}"
[budget.extended]
mean = 0.3
response_group = "extended"
[budget.tokens]
mean = 60
overdraft = 2000
[budget.money]
mean = 0.001
overdraft = 0.02
[tenant.agents.at_most]
extended = 0.5
[session]
money = 0.05
[calendar]
day = {{ money = 2 }}
[[model]]
name = "*"
price = {{ input = 1.25, cached_input = 0.125, output = 10 }}
[[model.response_group]]
name = "standard"
reasoning_effort = "low"
tokens = 25
max_tokens = 400
[[model.response_group]]
name = "extended"
reasoning_effort = "high"
tokens = 130
max_tokens = 1600
gain = 0.5
"""


def answer(body: dict, number: int) -> tuple[str, str]:
    """Some 25 or 130 words; an error now and then."""
    draw = random.Random(number)
    if number % 41 == 0:
        raise Fault((429, 500, 0)[number // 41 % 3])
    high = body.get("reasoning_effort") == "high"
    time.sleep(draw.uniform(0.1, 0.5) if high else draw.uniform(0.02, 0.08))
    return " ".join(["word"] * round(draw.lognormvariate(0, 0.4) * (130 if high else 25))), "stop"


async def ask(url: str, seconds: float, per_second: float) -> int:
    """A stream of requests of three tenants; how many there were."""
    draw, tasks, until = random.Random(0), set(), time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:

        async def one(number: int) -> None:
            tenant = draw.choices(["search", "support", "agents"], [5, 3, 2])[0]
            headers = {"Authorization": f"Bearer {KEYS[tenant]}", "x-ibpo-gain": f"{draw.random():.2f}"}
            if tenant == "agents":
                headers["x-ibpo-session"] = f"run {number // 100}"
            if number % 97 == 0:
                headers["Authorization"] = "Bearer a wrong key"
            body = {"model": "m", "messages": [{"role": "user", "content": f"Why? {number} " * 10}]}
            patience = aiohttp.ClientTimeout(total=0.05 if number % 61 == 0 else 60)
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(
                    f"{url}v1/chat/completions", json=body, headers=headers, timeout=patience
                ) as reply:
                    await reply.read()

        number = 0
        while time.monotonic() < until:
            number += 1
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(draw.expovariate(per_second))
        await asyncio.gather(*tasks)
    return number


def main() -> None:
    """Serve, ask, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("live.png"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--width", type=int, default=1280, help="pixels")
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, serving(answer) as upstream:
        folder = Path(name)
        (folder / "gateway.toml").write_text(SETTINGS.format(url=upstream.url))
        rows = [f'{who} = ["sha256:{hashlib.sha256(key.encode()).hexdigest()}"]' for who, key in KEYS.items()]
        (folder / "keys.toml").write_text("\n".join(["[keys]", *rows]))
        command = [sys.executable, "-m", "ibpo", "serve", "--config", str(folder / "gateway.toml")]
        command += ["--keys", str(folder / "keys.toml"), "--listen", "127.0.0.1:0"]
        command += ["--state", str(folder / "budget.sqlite"), "--log", str(folder / "log.jsonl")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as gateway:
            try:
                line = gateway.stderr.readline() if gateway.stderr else ""
                found = re.search(r"http://\S+", line)
                if found is None:
                    sys.exit(f"the gateway did not start: {line}")
                print(asyncio.run(ask(found.group(), options.seconds, options.rate)), "requests")
                chromium = next(
                    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
                )
                with sync_playwright() as play:
                    browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                    context = browser.new_context(
                        viewport={"width": options.width, "height": 900},
                        color_scheme=options.theme,
                        http_credentials={"username": "me", "password": KEYS["operator"]},
                    )
                    tab = context.new_page()
                    tab.goto(found.group())
                    tab.locator("article").first.wait_for()
                    tab.screenshot(path=options.out, full_page=True)
                    browser.close()
            finally:
                gateway.terminate()
    print(options.out)


if __name__ == "__main__":
    main()
