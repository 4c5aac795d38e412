"""A server that answers `n + 1 =` and misbehaves: 500, 429, garbage, half a reply, a lost connection.

It counts what it answered well by prompt and seed, so that a test sees what was asked twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.openai_server import QuietServer

FAULTS = ("500", "429", "garbage", "half", "nothing", "empty", "odd")


@contextmanager
def serving(fault_of=lambda number: None, seconds=0.0, reasoning=None, metered=True):
    """Yields (base URL, Counter of well answered (prompt, seed), Counter of faults).

    With `reasoning`, usage tells that many of the completion's tokens apart; without `metered` there is no usage.
    """
    answered, faults, lock, number = Counter(), Counter(), threading.Lock(), iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = {"/version": {"version": "0.0-test"}, "/v1/models": {"data": [{"id": "m", "owned_by": "test"}]}}
            self._send(200 if self.path in known else 404, json.dumps(known.get(self.path, {})).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fault = fault_of(next(number))
                faults[fault] += fault is not None
            time.sleep(seconds)
            if fault in ("500", "429"):
                return self._send(int(fault), b'{"error": {"message": "fault"}}')
            if fault == "garbage":
                return self._send(200, b"<html>\xff\xfe not JSON")
            if fault == "odd":
                return self._send(200, b'{"choices": [{"message": null}], "usage": {"prompt_tokens": "x"}}')
            if fault == "empty":
                return self._send(200, b"{}")
            prompt, seed = body["messages"][-1]["content"], body.get("seed", 0)
            # A request to correct an answer names no numbers: the problem stands in the first message.
            asked = prompt if " + " in prompt else body["messages"][0]["content"]
            first = int(asked.split(" + ")[0].split()[-1])
            text = f"I think. It is {first + 1 if seed % 4 else first}"
            reply: dict[str, object] = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
            reply["choices"] = [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            ]
            usage: dict[str, object] = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
            if metered:
                reply["usage"] = usage
            if reasoning is not None:
                usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
            data = json.dumps(reply).encode()
            if fault == "half":
                return self._send(200, data[: len(data) // 2], promised=len(data))
            if fault == "nothing":
                self.close_connection = True
                return None
            with lock:
                answered[prompt, seed] += 1
            return self._send(200, data)

        def _send(self, status, data, promised=None):
            self.send_response(status)
            self.send_header("Retry-After-Ms", "1")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(promised or len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = promised is not None

        def log_message(self, format, *args):
            del format, args

    server = QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", answered, faults
    finally:
        server.shutdown()
        server.server_close()
