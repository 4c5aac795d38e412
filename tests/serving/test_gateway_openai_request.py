"""How a response group is set in a request: nothing else is touched, caps only get lower."""

import json

import pytest

from ibpo.errors import IbpoError
from ibpo.serving.gateway.openai_request import can_set, check_size, max_tokens_of, read_request, write_body
from ibpo.serving.gateway.settings import GROUPS_BY, GroupSettings, LimitSettings, ModelSettings

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.123456789, "seed": 2**60}


def sent(asked, /, *, chat=True, **group):
    """The body as the upstream gets it."""
    settings = GroupSettings.model_validate({"name": "g", **group})
    model = ModelSettings(name="*", response_group=[settings])
    return json.loads(write_body(read_request(json.dumps(asked).encode(), chat=chat), settings, model))


def test_nothing_else_is_touched():
    odd = {**CHAT, "x": [1e-320, "\U0001f600", "\udc00", None, {"y": True}], "tools": [{"type": "function"}]}
    assert sent(odd) == odd


def test_each_way_of_setting_a_group():
    assert sent(CHAT, reasoning_effort="high")["reasoning_effort"] == "high"
    both = sent(
        {**CHAT, "chat_template_kwargs": {"a": 1, "enable_thinking": True}},
        chat_template_kwargs={"enable_thinking": False},
    )
    assert both["chat_template_kwargs"] == {"a": 1, "enable_thinking": False}
    assert sent(CHAT, body={"thinking_token_budget": 9, "extra": {"b": 1}})["thinking_token_budget"] == 9
    opened = sent(CHAT, prefix="<think>\n")
    assert opened["messages"] == [*CHAT["messages"], {"role": "assistant", "content": "<think>\n"}]
    assert opened["continue_final_message"] is True and opened["add_generation_prompt"] is False
    assert sent({"prompt": ["a", "b"]}, chat=False, prefix=" x")["prompt"] == ["a x", "b x"]
    assert not can_set(read_request(b'{"prompt": [1, 2]}', chat=False), GroupSettings(name="g", prefix="x"))
    assert sent({"prompt": [1, 2]}, chat=False, prefix="x")["prompt"] == [1, 2]


@pytest.mark.parametrize(
    ("body", "cap", "expected"),
    [
        ({}, 50, {"max_tokens": 50}),
        ({"max_tokens": 20}, 50, {"max_tokens": 20}),
        ({"max_tokens": 99}, 50, {"max_tokens": 50}),
        ({"max_completion_tokens": 99}, 50, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 99, "max_tokens": 10}, 50, {"max_completion_tokens": 50, "max_tokens": 10}),
        ({"max_tokens": 99}, None, {"max_tokens": 99}),
    ],
)
def test_caps_only_ever_get_lower(body, cap, expected):
    got = sent({**CHAT, **body}, max_tokens=cap)
    assert {key: value for key, value in got.items() if "max" in key} == expected
    request = read_request(json.dumps(body).encode(), chat=True)
    assert max_tokens_of(request, GroupSettings(name="g", max_tokens=cap)) == min(expected.values())


def test_usage_of_streams_is_asked_for_once():
    assert sent({**CHAT, "stream": True})["stream_options"] == {"include_usage": True}
    given = {"include_usage": True, "other": 1}
    assert sent({**CHAT, "stream": True, "stream_options": given})["stream_options"] == given
    assert "stream_options" not in sent(CHAT)


@pytest.mark.parametrize("way", GROUPS_BY)
def test_what_belongs_to_chats_is_not_set_in_completions(way):
    """The groups of `--by` on /v1/completions: nothing to be set, so nothing to be booked as extended."""
    plain = read_request(b'{"model": "m", "prompt": "hi"}', chat=False)
    chat = read_request(b'{"model": "m", "messages": []}', chat=True)
    for group in (GroupSettings.model_validate(row) for row in GROUPS_BY[way]):
        assert can_set(chat, group) and not can_set(plain, group)
        opened = group.model_copy(update={"prefix": " x"})
        assert can_set(plain, opened)
        model = ModelSettings(name="*", response_group=[opened])
        assert json.loads(write_body(plain, opened, model)) == {"model": "m", "prompt": "hi x"}
    assert can_set(plain, GroupSettings(name="g", reasoning_effort="low", body={"effort": "low"}))


def test_caps_that_a_caller_may_choose_are_bounded():
    limits, free = LimitSettings(max_answer_tokens=1000), [GroupSettings(name="standard")]
    check_size(read_request(b'{"max_tokens": 1000}', chat=True), free, limits)
    check_size(read_request(b'{"max_tokens": 1001}', chat=True), [GroupSettings(name="g", max_tokens=9)], limits)
    with pytest.raises(IbpoError, match="give 1000 or less"):
        check_size(read_request(b'{"max_tokens": 1001}', chat=True), free, limits)
