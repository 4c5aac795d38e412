"""What a stream says about its cost, however it is cut."""

import json
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ibpo.serving.gateway.money import read_prompt
from ibpo.serving.gateway.usage import MAX_EVENT_BYTES, StreamUsage, read_cost
from ibpo.usage import read_tokens
from tests.serving.world import TOKENS, bulk, call

EVENTS = [
    b'data: {"choices":[{"index":0,"delta":{"content":"say \\"usage\\": {"}}]}\n\n',
    b": a comment\n\n",
    b'event: x\r\ndata: {"choices":[{"delta":{}}],"usage":null}\r\n\r\n',
    'data: {"choices":[{"delta":{"content":"\u2713\u00e9"}}]}\n\n'.encode(),
    b'data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":1}}\n\n',
    b"data: [DONE]\n\n",
]


@given(st.lists(st.integers(0, sum(map(len, EVENTS))), max_size=12), st.booleans())
def test_a_stream_is_the_same_however_it_is_cut(cuts, strip):
    data, places = b"".join(EVENTS), sorted({0, *cuts, sum(map(len, EVENTS))})
    usage = StreamUsage(strip=strip)
    passed = b"".join(usage.feed(data[a:b]) for a, b in pairwise(places)) + usage.end()
    assert passed == b"".join(event for event in EVENTS if not (strip and b'"choices":[]' in event))
    assert usage.tokens == 7 and usage.finished and usage.total == 7


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_that_are_no_events_pass_as_they_are(pieces):
    usage = StreamUsage(strip=True)
    assert b"".join(map(usage.feed, pieces)) + usage.end() == b"".join(pieces)


@pytest.mark.parametrize("strip", [False, True])
def test_the_last_of_several_usages_counts(strip):
    """Servers that report with each piece (vLLM's continuous usage) say each time what all has cost so far."""
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"completion_tokens":1}}\n\n',
        b'data: {"choices":[{"delta":{"content":"b"}}],"usage":{"completion_tokens":3}}\n\n',
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}\n\n',  # says nothing of it: forgets nothing
        b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n',
    ]
    usage, seen = StreamUsage(strip=strip), []
    passed = []
    for event in events:
        passed.append(usage.feed(event))
        seen.append(usage.tokens)
    assert seen == [1, 3, 3, 7]
    assert passed == [*events[:3], b"" if strip else events[3]] and usage.end() == b""


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"completion_tokens": 7}, 7),
        ({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}, 7),
        # Reasoning that is not among the completion tokens: by the total, else by itself.
        ({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 517}, 507),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 7,
                "total_tokens": 517,
                "completion_tokens_details": {"reasoning_tokens": 500},
            },
            507,
        ),
        ({"completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 500}}, 507),
        ({"completion_tokens": 7, "reasoning_tokens": 500}, 507),
        ({"completion_tokens": 507, "completion_tokens_details": {"reasoning_tokens": 500}}, 507),
        ({"prompt_tokens": 10, "total_tokens": 510}, 500),
        ({"input_tokens": 10, "output_tokens": 507, "total_tokens": 517}, 507),
        ({"input_tokens": 10, "output_tokens": 7, "total_tokens": 517}, 507),
        ({"input_tokens": 10, "output_tokens": 507, "cache_read_input_tokens": 900}, 507),
        ({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 7}, 7),  # a total that is wrong lowers nothing
        ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": None}, None),
        ({"completion_tokens": 7.0, "completion_tokens_details": None}, 7),
        ({"completion_tokens": -7}, None),
        ({"completion_tokens": 1e300}, None),
        ([], None),
    ],
)
def test_reasoning_counts_wherever_it_is_reported(usage, tokens):
    assert read_tokens(usage)[0] == tokens
    assert read_cost(json.dumps({"choices": [], "usage": usage}).encode()).tokens == tokens
    event = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    stream = StreamUsage(strip=False)
    assert stream.feed(event) == event and stream.tokens == tokens


def test_usage_in_other_places():
    for answer in (
        {"choices": [{"usage": {"completion_tokens": 9}}]},
        {"choices": [], "x_groq": {"usage": {"completion_tokens": 9}}},
        {"choices": [{"finish_reason": "stop", "text": ""}], "timings": {"predicted_n": 9}},
    ):
        assert read_cost(json.dumps(answer).encode()).tokens == 9
        stream = StreamUsage(strip=False)
        stream.feed(b"data: " + json.dumps(answer).encode() + b"\n\n")
        assert stream.tokens == 9


@pytest.mark.parametrize(
    "rest",
    [
        {"error": {"message": "overloaded"}},
        {"timings": {"predicted_n": 7}},
        {"prompt_filter_results": [{"prompt_index": 0}]},
    ],
)
def test_only_the_usage_is_taken_out(rest):
    event = {"id": "c", "choices": [], "usage": {"completion_tokens": 7}, **rest}
    stream = StreamUsage(strip=True)
    passed = stream.feed(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n")
    head, _, data = passed.partition(b"data: ")
    assert head == b"event: x\n" and json.loads(data) == {"id": "c", "choices": [], **rest}
    assert stream.tokens == 7 and stream.failed == ("error" in rest)


def events(*rows):
    return b"".join(b"data: " + json.dumps(row).encode() + b"\n\n" for row in rows)


@pytest.mark.parametrize("size", [1000, MAX_EVENT_BYTES - 200, MAX_EVENT_BYTES + 1, 3 * MAX_EVENT_BYTES])
@pytest.mark.parametrize("step", [1 << 16, 70_001, 1 << 30])
def test_an_event_with_a_picture_costs_what_its_usage_says(size, step):
    picture = {"type": "image_generation_call", "result": "A" * size}
    usage = {"input_tokens": 7, "output_tokens": 200, "total_tokens": 207}
    answer = {"id": "resp_9", "object": "response", "output": [picture], "usage": usage}
    last = {"type": "response.completed", "response": answer}
    data = events({"type": "response.output_text.delta", "delta": "Here it is"}, last)
    found = StreamUsage(strip=False)
    passed = b"".join(found.feed(data[i : i + step]) for i in range(0, len(data), step)) + found.end()
    assert passed == data
    assert (found.total, found.finished, found.is_counted, found.response_id) == (200, True, True, "resp_9")
    prompt = read_prompt(found.usages)
    assert prompt is not None and prompt.input == 7


def test_what_comes_behind_a_long_event_is_read():
    long = {"choices": [{"delta": {"images": ["A" * (2 * MAX_EVENT_BYTES)]}}]}
    data = events(long, {"choices": [], "usage": {"completion_tokens": 9}}) + b"data: [DONE]\n\n"
    found = StreamUsage(strip=False)
    passed = b"".join(found.feed(data[i : i + 50_000]) for i in range(0, len(data), 50_000)) + found.end()
    assert passed == data and (found.total, found.finished, found.is_counted) == (9, True, True)


@pytest.mark.parametrize("empty", ["", None])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_an_empty_thought_is_none(name, empty):
    found = StreamUsage(strip=False)
    found.feed(
        events({"choices": [{"delta": {"content": "", name: empty}}]}, {"choices": [{"delta": {"content": "4"}}]})
    )
    assert found.total == 1 and not found.saw_thinking


def test_the_first_events_usage_of_anthropic_is_not_that_of_the_answer():
    """A caller who leaves during a long thought has not had two tokens."""
    found = StreamUsage(strip=False)
    message = {"id": "m", "content": [], "usage": {"input_tokens": 10, "output_tokens": 2}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    found.feed(events({"type": "message_start", "message": message}, block))
    assert not found.is_counted and not found.saw_thinking
    found.feed(events({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 900}}))
    assert found.is_counted and found.total == 900


def test_usage_in_a_choice_says_the_prompt_too():
    """As Kimi's streams end, which count the cache's tokens at the top of the usage."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050, "cached_tokens": 400}
    prompt = read_prompt(read_cost(json.dumps({"choices": [{"index": 0, "usage": usage}]}).encode()).usages)
    assert prompt is not None and (prompt.input, prompt.cached_input) == (600, 400)


def test_the_last_zeros_forget_nothing():
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"completion_tokens":40}}\n\n',
        b'data: {"choices":[],"usage":{"completion_tokens":0}}\n\n',
    ]
    stream = StreamUsage(strip=False)
    assert stream.feed(b"".join(events)) == b"".join(events) and stream.total == 40
    # Zeros where there was text say nothing.
    stream = StreamUsage(strip=False)
    stream.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' + events[1])
    assert stream.tokens is None and stream.total == 1
    text = {"choices": [{"message": {"content": "word " * 80}}], "usage": {"completion_tokens": 0}}
    assert read_cost(json.dumps(text).encode())[:2] == (0, 100)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("last", [b"\n", b"\r", b"\r\n"])
def test_events_by_the_standard(end, last):
    if (end, last) == (b"\r", b"\n"):
        return  # together they are one line end
    """Any line end, also mixed; no space after the colon; comments; a byte order mark; data in several lines."""
    data = b"".join(
        [
            b"\xef\xbb\xbf: hello" + end + last,
            b'data:{"choices":[{"delta":{"content":"a"}}]}' + end + last,
            b"id: 3" + end + b'data: {"choices":[],' + last + b'data: "usage":{"completion_tokens":7}}' + end + last,
            b"data:[DONE]" + end + last,
        ]
    )
    for size in (1, 2, 5, 1000):
        stream = StreamUsage(strip=False)
        passed = b"".join(stream.feed(data[i : i + size]) for i in range(0, len(data), size)) + stream.end()
        assert passed == data and stream.tokens == 7 and stream.finished


@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning"])
def test_pieces_that_are_no_tokens_are_estimated_by_their_text(key):
    words = " ".join(f"word{i}" for i in range(600))
    parts = [words[i : i + len(words) // 4 + 1] for i in range(0, len(words), len(words) // 4 + 1)]
    stream = StreamUsage(strip=False)
    for part in parts:
        stream.feed(b"data: " + json.dumps({"choices": [{"delta": {key: part}}]}).encode() + b"\n\n")
    assert len(parts) == 4 and 600 <= (stream.total or 0) <= 1800
    small = StreamUsage(strip=False)
    for word in words.split():
        small.feed(b"data: " + json.dumps({"choices": [{"delta": {key: word}}]}).encode() + b"\n\n")
    assert small.total == 600
    both = StreamUsage(strip=False)  # one text under two names is one text
    for _ in range(10):
        both.feed(b'data: {"choices":[{"delta":{"reasoning":"so","reasoning_content":"so"}}]}\n\n')
    assert both.total == 10


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "overloaded", "code": 503}}',
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}',
        b"event: error\ndata: overloaded",
        b'data: {"object": "error", "error": null, "message": "no"}',
        b'data: {"choices": [{"error": {"message": "no"}, "finish_reason": "error", "delta": {}}]}',
    ],
)
def test_errors_inside_a_stream(event):
    stream = StreamUsage(strip=True)
    assert stream.feed(event + b"\n\n") == event + b"\n\n" and stream.failed and stream.total is None
    later = StreamUsage(strip=True)
    later.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' + event + b"\n\n")
    assert later.failed and later.total == 1


def test_the_largest_answer_is_meant_of_each_answer(world):
    """Four answers without a cap were booked as expected, at 40 tokens, as they are above the limit together."""
    upstream = world.upstream()

    async def reply(request, body):
        choices = [{"index": i, "message": {"role": "assistant", "content": "w"}} for i in range(body["n"])]
        usage = {"prompt_tokens": 5, "completion_tokens": 600 * body["n"]}
        return web.json_response({"choices": choices, "usage": usage})

    upstream.reply = reply
    gateway, url, _ = world.gateway(
        upstream.url, plan=TOKENS, groups=[{"name": "standard", "tokens": 10}], limits={"max_answer_tokens": 1000}
    )
    bulk(world, url, [{}], body={"n": 4})
    assert world.snapshot(gateway)["budgets"][0]["spent"] == 2400
    assert 'ibpo_failures_total{what="usage"}' not in call(f"{url}/metrics")[2].decode()
