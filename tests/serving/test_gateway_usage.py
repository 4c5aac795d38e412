"""What a stream says about its cost, however it is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.serving.gateway.usage import StreamUsage

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
    assert usage.tokens == 7 and usage.finished and usage.num_events == 3


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
