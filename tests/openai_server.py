"""A real HTTP server on loopback that speaks OpenAI's protocol and answers by a function, faults included."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """Says nothing of callers that hung up: it may end after its test, and the words would be another test's stderr."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Fault(Exception):
    """Answer with this status (0: drop the connection) and these headers instead."""

    def __init__(self, status: int, message: str = "fault", **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Log:
    """What the server saw: bodies of requests, and how many were in flight at once."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.running = self.most_running = 0
        self.url = ""
        self.lock = threading.Lock()


@contextmanager
def serving(answer, usage: bool | dict[str, int] = True, other=None, pages=None):
    """Serve `answer(body, number) -> (text, finish_reason)`; yields the log, whose `url` is the base URL.

    In place of the text a chat may have the message's fields, e.g. `{"content": None, "reasoning": "..."}`.

    With `usage=False` the server does not tell how many tokens there were; with a dict it tells other numbers.
    `other(path, body)` answers further paths
    by a JSON object, or None for a 404; `pages` are what it answers to GET, by path.
    """
    log = Log()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body["path"], body["authorization"] = self.path, self.headers.get("Authorization")
            with log.lock:
                log.requests.append(body)
                number = len(log.requests)
                log.running += 1
                log.most_running = max(log.most_running, log.running)
            try:
                self._answer(body, number)
            finally:
                with log.lock:
                    log.running -= 1

        def do_GET(self):
            page = (pages or {}).get(self.path)
            data = json.dumps(page).encode()
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, body, number):
            chat = self.path == "/v1/chat/completions"
            headers = {}
            try:
                further = other(self.path, body) if other is not None else None
                if further is None and not chat and self.path != "/v1/completions":
                    raise Fault(404, "no such path")
                text, reason = answer(body, number) if further is None else ("", "stop")
                fields = text if isinstance(text, dict) else {"content": text}
                message = {"message": {"role": "assistant", **fields}} if chat else {"text": text}
                text = " ".join(str(part) for part in fields.values() if part)
                prompt = "" if further is not None else body["messages"][-1]["content"] if chat else body["prompt"]
                prompt = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
                tokens = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
                tokens["total_tokens"] = sum(tokens.values())
                choice = {"index": 0, "finish_reason": reason, "logprobs": None, **message}
                kind = "chat.completion" if chat else "text_completion"
                reply = {"id": "x", "object": kind, "created": int(time.time()), "model": body.get("model")}
                status, reply = (
                    200,
                    {
                        **reply,
                        "choices": [choice],
                        "usage": {**tokens, **usage} if isinstance(usage, dict) else tokens if usage else None,
                    },
                )
                reply = reply if further is None else further
            except Fault as fault:
                status, reply = fault.status, {"error": {"message": str(fault)}}
                headers = fault.headers
            if status == 0:
                self.close_connection = True
                return
            data = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            del format, args

    server = QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    log.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
