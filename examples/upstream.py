"""A server that stands in for vLLM, SGLang or any OpenAI-compatible one: it answers at once, with made-up texts.

    python examples/upstream.py

A request that asks for much reasoning gets a long answer, one that asks for little a short one.
"""

import threading

from ibpo.testing import FakePolicy, upstream

policy = FakePolicy(tokens={"standard": 40, "extended": 400}, accuracy={"standard": 0.5, "extended": 0.8})
with upstream(policy, port=8000) as server:
    print(f"answers at {server.url}", flush=True)
    threading.Event().wait()
