"""The client against a real server on loopback, with the faults that servers have."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("openai")

from ibpo.endpoint import Endpoint, as_finish_reason, read_api_key
from ibpo.errors import IbpoError
from tests.openai_server import Fault, serving

NOW = {"retry_after_ms": "1"}


def echo(body, number):
    del number
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"], "stop"


def ask(endpoint, text, **options):
    return endpoint.chat([{"role": "user", "content": text}], **options)


def test_chat_and_completion_with_their_bill():
    with serving(echo) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(2e6, 1e6))
        assert ask(endpoint, "one two three", temperature=0.5).text == "one two three"
        assert endpoint.complete("four five", max_tokens=7).text == "four five"
    assert [r["path"] for r in log.requests] == ["/v1/chat/completions", "/v1/completions"]
    assert log.requests[0]["temperature"] == 0.5 and log.requests[1]["max_tokens"] == 7
    bill = endpoint.bill
    assert (bill.num_requests, bill.prompt_tokens, bill.completion_tokens, bill.cost) == (2, 5, 5, 15.0)


def test_half_of_a_character_in_a_reply_is_a_question_mark():
    """A text that was cut in the middle of one could not be sent on, to a judge or a next turn."""
    with serving(
        lambda body, number: ("cut \ud83d" if number == 1 else body["messages"][-1]["content"], "stop")
    ) as log:
        endpoint = Endpoint(base_url=log.url, model="m")
        texts = [(text := ask(endpoint, "go on").text), ask(endpoint, text).text]
    assert texts == ["cut ?", "cut ?"]


def test_usage_that_is_not_told_is_unknown_and_costs_not_nothing():
    with serving(echo, usage=False) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(2e6, 1e6))
        reply = ask(endpoint, "one two three")
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)
    assert (endpoint.bill.num_requests, endpoint.bill.num_unmetered, endpoint.bill.cost) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("usage", "completion", "reasoning"),
    [
        ({"completion_tokens": 7, "total_tokens": 510}, 507, 500),  # only the total holds the thinking
        ({"completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 500}}, 507, 500),
        ({"completion_tokens": 507, "completion_tokens_details": {"reasoning_tokens": 500}}, 507, 500),
        ({"completion_tokens": 507, "total_tokens": 510, "reasoning_tokens": 500}, 507, 500),
        ({"completion_tokens": 7, "total_tokens": 10}, 7, None),
        # new-api and one-api name the Responses API's counts too, and leave them 0; others null, or the other ones.
        ({"completion_tokens": 7, "total_tokens": 10, "input_tokens": 0, "output_tokens": 0}, 7, None),
        ({"completion_tokens": 7, "total_tokens": 10, "input_tokens": None, "output_tokens": None}, 7, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 3, "output_tokens": 7}, 7, None),
        ({"completion_tokens": 7, "output_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}}, 7, 5),
    ],
)
def test_thinking_is_paid_for_wherever_the_server_counts_it(usage, completion, reasoning):
    with serving(echo, usage=usage) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(0.0, 1e6))
        reply = ask(endpoint, "one two three")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.reasoning_tokens) == (3, completion, reasoning)
    assert endpoint.bill.cost == completion


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, (None, None)),
        ({"prompt_tokens": "few", "completion_tokens": -1, "total_tokens": []}, (None, None)),
        ({"prompt_tokens": None, "total_tokens": None}, (None, 3)),
        ({"completion_tokens": 0, "total_tokens": 3}, (3, None)),
    ],
)
def test_a_usage_that_tells_nothing_loses_no_answer(usage, told):
    with serving(echo, usage=usage) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(2e6, 1e6))
        reply = ask(endpoint, "one two three")
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("one two three", *told)
    assert (endpoint.bill.num_requests, endpoint.bill.num_unmetered, endpoint.bill.cost) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("fields", "text", "thought"),
    [
        ({"content": "7", "reasoning_details": "3 + 4"}, "7", "3 + 4"),
        ({"content": "7", "reasoning_details": [None, "3 + ", {"text": 4}, {"summary": ["4"]}]}, "7", "3 + 4"),
        ({"content": "7", "reasoning_details": {"type": "reasoning.encrypted", "data": "x"}}, "7", ""),
        ({"content": ["It is ", {"text": "7"}, {"type": "image", "text": "no"}, None]}, "It is 7", ""),
        ({"content": [{"type": "reasoning", "summary": [{"text": "3"}]}, {"type": "text", "text": "7"}]}, "7", "3"),
    ],
)  # fmt: skip
def test_odd_parts_beside_an_answer_lose_no_answer(fields, text, thought):
    with serving(lambda body, number: (fields, "stop")) as log:
        reply = ask(Endpoint(base_url=log.url, model="m"), "a")
    assert (reply.text, reply.reasoning) == (text, thought)


def test_a_reply_that_is_too_deep_to_read_stops_no_other():
    class Deep(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"choices": ' + b"[" * 200_000)

        def log_message(self, format, *args):
            del format, args

    with HTTPServer(("127.0.0.1", 0), Deep) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = Endpoint(base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", max_retries=0)
        done = dict(endpoint.map(lambda i: ask(endpoint, str(i)), range(3)))
        server.shutdown()
    assert len(done) == 3 and all("the reply cannot be read" in str(error) for error in done.values())


@pytest.mark.parametrize(("usage", "tokens"), [({"prompt_tokens": "few"}, 0), (None, 0), ({"prompt_tokens": 3}, 3)])
def test_embeddings_are_kept_whatever_their_usage_says(usage, tokens):
    row = {"object": "embedding", "index": 0, "embedding": [1, 2]}
    with serving(echo, other=lambda path, body: {"object": "list", "data": [row], "usage": usage}) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(1e6, 0.0))
        assert endpoint.embed(["a"]) == [[1.0, 2.0]]
    assert (endpoint.bill.prompt_tokens, endpoint.bill.cost) == (tokens, tokens)


def test_an_error_with_status_200_is_said():
    def error(path, body):
        return {"error": {"message": "no credits\nleft", "code": 402}}

    with serving(echo, other=error) as log, pytest.raises(IbpoError, match="but an error: no credits left"):
        ask(Endpoint(base_url=log.url, model="m", max_retries=0), "a")


@pytest.mark.parametrize("reason", [None, ""])
def test_a_reply_that_does_not_say_how_it_ended_is_an_error_that_is_paid_for(reason):
    with serving(lambda body, number: ("It is", reason)) as log:
        endpoint = Endpoint(base_url=log.url, model="m", price_per_million=(2e6, 1e6))
        with pytest.raises(IbpoError, match="no finish_reason, so it looks like one that was cut off"):
            ask(endpoint, "one two three")
    assert (endpoint.bill.num_requests, endpoint.bill.num_failures, endpoint.bill.cost) == (1, 1, 8.0)


def test_the_users_key_goes_nowhere_unless_given(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(echo) as log:
        ask(Endpoint(base_url=log.url, model="m"), "a")
        ask(Endpoint(base_url=log.url, model="m", api_key="k"), "a")
    assert [r["authorization"] for r in log.requests] == ["Bearer none", "Bearer k"]


@pytest.mark.parametrize("status", [429, 500, 503, 408, 0])
def test_passing_faults_are_retried(status):
    def flaky(body, number):
        if number <= 2:
            raise Fault(status, **NOW)
        return echo(body, number)

    with serving(flaky) as log:
        endpoint = Endpoint(base_url=log.url, model="m")
        assert ask(endpoint, "a").text == "a"
    assert len(log.requests) == 3 and endpoint.bill.num_retries == 2 and endpoint.bill.num_failures == 0


@pytest.mark.parametrize(
    ("status", "message", "requests"),
    [
        (401, "the key is refused", 1),
        (403, "the key is refused", 1),
        (404, "check the address, which ends in /v1, and the model's name 'm'", 1),
        (400, "BadRequestError", 1),
        (429, "too many requests, retries included", 2),
        (500, "InternalServerError", 2),
    ],
)
def test_lasting_faults_are_one_clear_line(status, message, requests):
    def fail(body, number):
        raise Fault(status, "no\nway", **NOW)

    with serving(fail) as log:
        endpoint = Endpoint(base_url=log.url, model="m", max_retries=1)
        with pytest.raises(IbpoError) as error:
            ask(endpoint, "a")
    assert message in str(error.value) and str(error.value).startswith(log.url) and "\n" not in str(error.value)
    assert len(log.requests) == requests and endpoint.bill.num_failures == 1


def test_no_server_slow_server_and_no_openai_server():
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m", max_retries=0)
    with pytest.raises(IbpoError, match="cannot be reached; start the server"):
        ask(endpoint, "a")

    def slow(body, number):
        time.sleep(0.5)
        return echo(body, number)

    with serving(slow) as log, pytest.raises(IbpoError, match="no answer in time; raise timeout_seconds"):
        ask(Endpoint(base_url=log.url, model="m", max_retries=0, timeout_seconds=0.05), "a")
    with serving(echo) as log, pytest.raises(IbpoError, match="not found"):
        ask(Endpoint(base_url=log.url.removesuffix("/v1"), model="m", max_retries=0), "a")


def test_concurrency_is_bounded_and_one_refusal_stops_nothing():
    two = threading.Barrier(2, timeout=60)  # the first two are in flight together, however busy the machine is

    def sometimes(body, number):
        if number <= 2:
            two.wait()
        if body["messages"][-1]["content"] == "7":
            raise Fault(400, "not this one")
        return echo(body, number)

    with serving(sometimes) as log:
        endpoint = Endpoint(base_url=log.url, model="m", num_concurrent=4)
        done = dict(endpoint.map(lambda i: ask(endpoint, str(i)).text, range(40)))
        assert 1 < log.most_running <= 4
        assert isinstance(done.pop(7), IbpoError)
        assert done == {i: str(i) for i in range(40) if i != 7}
        before = len(log.requests)
        for _ in endpoint.map(lambda i: ask(endpoint, str(i)).text, range(1000)):
            break
        assert len(log.requests) <= before + 8


@pytest.fixture
def interrupts():
    """Interrupts as a terminal has them: what a shell began in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_what_is_in_flight_at_an_interrupt_is_paid_for_and_kept():
    interrupted, caller = threading.Event(), threading.main_thread().ident

    def waits_for_answers():
        frame = sys._current_frames().get(caller or 0)
        while frame is not None and frame.f_code is not futures.wait.__code__:
            frame = frame.f_back
        return frame is not None

    def answer(body, number):
        if number == 4:
            while not waits_for_answers():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.set()
        interrupted.wait(60)
        return echo(body, number)

    done = {}
    with serving(answer) as log:
        endpoint = Endpoint(base_url=log.url, model="m", num_concurrent=4)
        with pytest.raises(KeyboardInterrupt):
            for position, text in endpoint.map(lambda i: ask(endpoint, str(i)).text, range(50)):
                done[position] = text
        asked = {request["messages"][0]["content"] for request in log.requests}
    assert len(asked) == 4 and set(done.values()) == asked
    assert endpoint.bill.num_requests == len(done)


def test_a_key_is_read_from_a_file_and_never_shown(tmp_path):
    path = tmp_path / "key"
    for text, key in (("  sk-secret\n", "sk-secret"), ("\n", "none")):
        path.write_text(text)
        assert read_api_key(path, "--key") == key
    assert read_api_key("", "--key") == read_api_key(None, "--key") == "none"
    path.write_bytes(b"sk-\xff")
    for broken in (path, tmp_path / "absent"):
        with pytest.raises(IbpoError) as error:
            read_api_key(broken, "--key")
        assert str(error.value) == f"--key: {broken}: cannot be read; name a text file with the key"


ENDS = (
    "FINISH_REASON_STOP, FinishReason.STOP, stopSequence, STOP-SEQUENCE, eot_id, <|eot_id|>, eos_token_id, endTurn, "
    "FINISHED_STOPPED, end of text, stopped"
)
LIMITS = (
    "maxTokens, MaxTokensReached, max tokens, FINISHED_LENGTH_CAPPED, Length, FinishReason.MAX_TOKENS, truncated, "
    "token limit reached, max_seq_len"
)
NEITHER = (
    "content_filter, SAFETY, tool_calls, ERROR_LIMIT, abort, user_cancelled, stopped_by_filter, refusal, pause_turn, "
    "RECITATION, "
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((word, "stop") for word in ENDS.split(", ")),
        *((word, "length") for word in LIMITS.split(", ")),
        *((word, word) for word in NEITHER.split(", ")),
    ],
)  # fmt: skip
def test_finish_reasons_in_the_words_of_other_servers(said, reason):
    assert as_finish_reason(said) == reason
