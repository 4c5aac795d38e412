"""One process of many on a leased budget: decides and settles as fast as asked, and writes down what it did.

    python -m tests.serving.lease_worker STATE NAME JOURNAL SEED SECONDS RATE

It says `ready`, and begins at a line of its input.

The journal has a line for each decision (`d RESERVE NUMBER`) and each end (`s RESERVE COST`), written before anything
else happens: whoever kills this process still knows what it had spent and reserved.

No response costs more than was expected of it, so that the bound is exact: names of response groups change before
enough of one have ended (32) that its costs are corrected by what they were.
"""

import asyncio
import os
import random
import sys
import time

from ibpo.serving.controller import Candidate, ServingPolicy
from ibpo.serving.gateway.leased_controller import LeasedController

POLICY = {"budget": {"tokens": {"mean": 40, "overdraft": 3000}}}
CANDIDATES = (20.0, 60.0, 150.0)


async def main(state: str, name: str, journal: str, seed: int, seconds: float, rate: float) -> None:
    draw = random.Random(seed)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    said: list[str] = []
    controller = LeasedController(
        ServingPolicy.from_dict(POLICY), state, seconds=0.05, name=name, on_failure=said.append
    )
    await controller.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    end, open_now, number = time.monotonic() + seconds, [], 0
    while time.monotonic() < end:
        tokens = draw.choice(CANDIDATES)
        short, long = f"short {number // 30}", f"long {number // 30}"
        rows = [
            Candidate(response_group=short, gain=0.0, cost={"tokens": 5.0}),
            Candidate(response_group=long, gain=draw.random(), cost={"tokens": tokens}),
        ]
        number += 1
        found = await controller.decide(rows, request_id=f"{name} {number}", tenant="", slice_name="")
        cost = 5.0 if found.response_group == short else tokens
        os.write(file, f"d {cost} {number}\n".encode())
        open_now.append((found, cost))
        if len(open_now) > 20:
            row, most = open_now.pop(draw.randrange(len(open_now)))
            spent = most * draw.uniform(0.5, 1.0)
            os.write(file, f"s {most} {spent}\n".encode())
            controller.settle(row, {"tokens": spent})
        await asyncio.sleep(1 / rate if rate else 0)
    for row, most in open_now:
        os.write(file, f"s {most} {most}\n".encode())
        controller.settle(row, {"tokens": most})
    await controller.close()
    print(f"exchanges {controller.num_exchanges} failures {len(said)}", flush=True)


if __name__ == "__main__":
    state, name, journal, seed, seconds, rate = sys.argv[1:]
    asyncio.run(main(state, name, journal, int(seed), float(seconds), float(rate)))
