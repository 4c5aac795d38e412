"""How a response group is set in a request: nothing else is touched, caps only get lower."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.errors import IbpoError
from ibpo.serving.controller import BudgetPolicy
from ibpo.serving.gateway.decision import make_candidate
from ibpo.serving.gateway.gains import Gains
from ibpo.serving.gateway.openai_request import (
    CAP_FIELDS,
    PATHS,
    Api,
    can_set,
    check_size,
    max_tokens_of,
    read_request,
    write_body,
)
from ibpo.serving.gateway.settings import CAPS, COUNTS, GROUPS_BY, GroupSettings, LimitSettings, ModelSettings

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.123456789, "seed": 2**60}


def sent(asked, /, *, api: Api = "chat", **group):
    """The body as the upstream gets it."""
    settings = GroupSettings.model_validate({"name": "g", **group})
    model = ModelSettings(name="*", response_group=[settings])
    return json.loads(write_body(read_request(json.dumps(asked).encode(), api), settings, model))


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
    assert sent({"prompt": ["a", "b"]}, api="completions", prefix=" x")["prompt"] == ["a x", "b x"]
    assert not can_set(read_request(b'{"prompt": [1, 2]}', "completions"), GroupSettings(name="g", prefix="x"))
    assert sent({"prompt": [1, 2]}, api="completions", prefix="x")["prompt"] == [1, 2]


@pytest.mark.parametrize(
    ("body", "cap", "expected"),
    [
        ({}, 50, {"max_tokens": 50}),
        ({"max_tokens": 20}, 50, {"max_tokens": 20}),
        ({"max_tokens": 99}, 50, {"max_tokens": 50}),
        ({"max_completion_tokens": 99}, 50, {"max_completion_tokens": 50}),
        # What a server makes of two caps is its own affair: here they say the same.
        ({"max_completion_tokens": 99, "max_tokens": 10}, 50, {"max_completion_tokens": 10, "max_tokens": 10}),
        ({"max_completion_tokens": 9999, "max_tokens": 1}, None, {"max_completion_tokens": 1, "max_tokens": 1}),
        ({"max_new_tokens": 99}, 50, {"max_new_tokens": 50, "max_tokens": 50}),
        ({"max_output_tokens": 9}, None, {"max_output_tokens": 9, "max_tokens": 9}),
        ({"max_tokens": 99}, None, {"max_tokens": 99}),
    ],
)
def test_caps_only_ever_get_lower(body, cap, expected):
    got = sent({**CHAT, **body}, max_tokens=cap)
    assert {key: value for key, value in got.items() if "max" in key} == expected
    request = read_request(json.dumps(body).encode())
    assert max_tokens_of(request, GroupSettings(name="g", max_tokens=cap)) == min(expected.values())


def test_usage_of_streams_is_asked_for_once():
    assert sent({**CHAT, "stream": True})["stream_options"] == {"include_usage": True}
    given = {"include_usage": True, "other": 1}
    assert sent({**CHAT, "stream": True, "stream_options": given})["stream_options"] == given
    assert "stream_options" not in sent(CHAT)


@pytest.mark.parametrize("way", GROUPS_BY)
def test_what_belongs_to_chats_is_not_set_in_completions(way):
    """The groups of `--by` on /v1/completions: nothing to be set, so nothing to be booked as extended."""
    plain = read_request(b'{"model": "m", "prompt": "hi"}', "completions")
    chat = read_request(b'{"model": "m", "messages": []}')
    for group in (GroupSettings.model_validate(row) for row in GROUPS_BY[way]):
        assert can_set(chat, group) and not can_set(plain, group)
        opened = group.model_copy(update={"prefix": " x"})
        assert can_set(plain, opened)
        model = ModelSettings(name="*", response_group=[opened])
        assert json.loads(write_body(plain, opened, model)) == {
            "model": "m",
            "prompt": "hi x",
            "max_tokens": 16,  # the protocol's own default, said to servers that have another
        }
    assert can_set(plain, GroupSettings(name="g", reasoning_effort="low", body={"effort": "low"}))


def test_caps_that_a_caller_may_choose_are_bounded():
    limits, free = LimitSettings(max_answer_tokens=1000), [GroupSettings(name="standard")]
    check_size(read_request(b'{"max_tokens": 1000}'), free, limits)
    check_size(read_request(b'{"max_tokens": 1001}'), [GroupSettings(name="g", max_tokens=9)], limits)
    with pytest.raises(IbpoError, match="give 1000 or less"):
        check_size(read_request(b'{"max_tokens": 1001}'), free, limits)


@pytest.mark.parametrize("name", CAPS)
@pytest.mark.parametrize("value", [0, -1, 1.5, "9", True])
def test_a_cap_is_a_whole_number_from_one_on(name, value):
    """Nothing, and less than that, mean "no cap" to some servers."""
    with pytest.raises(IbpoError, match=f"field {name}: must be a whole number, at least 1"):
        read_request(json.dumps({name: value}).encode())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"Max_Tokens": 9}, "write max_tokens"),
        ({"maxTokens": 9}, "write max_tokens"),
        ({"maxOutputTokens": 9}, "write max_output_tokens"),
        ({"N": 9}, "write n"),
        ({"bestOf": 9}, "write best_of"),
        ({"Prompt": ["a"]}, "write prompt"),
        ({"extra_body": {"max_tokens": 9}}, "write it at the top"),
        ({"extra_body": {"sampling_params": {"maxNewTokens": 9}}}, "write it at the top"),
        ({"options": {"num_predict": 9}}, "write it at the top"),
        ({"parameters": {"n": 9}}, "write it at the top"),
        ({"generation_config": '{"max_new_tokens": 9}'}, "send an object"),
        ({"background": True}, "cannot be counted"),
        ({"n_cmpl": 0}, "field n_cmpl"),
    ],
)
def test_no_other_way_of_saying_more(body, said):
    """Where servers may look for it."""
    with pytest.raises(IbpoError, match=said):
        read_request(json.dumps(body).encode(), "completions")


@pytest.mark.parametrize("place", ["output_format", "nvext.guided_json", "extra_body.response_format.json_schema"])
def test_the_form_of_an_answer_may_hold_any_name(place):
    """`maxLength` of a JSON schema is no cap on the answer."""
    body = {"type": "object", "properties": {"n": {"type": "string", "maxLength": 9}}}
    for name in reversed(place.split(".")):
        body = {name: body}
    assert read_request(json.dumps({"messages": [], **body}).encode(), "chat").num_answers == 1


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 5}, 10),
        ({"prompt": [1, "b"]}, 2),
        ({"prompt": ["a"], "prompt_embeds": ["x", "y"]}, 3),
        ({"prompt": "a", "n": 1, "n_cmpl": 8}, 8),
        ({"prompt": []}, 1),
        ({}, 1),
    ],
)
def test_answers_are_counted_whatever_they_are_called(body, count):
    assert read_request(json.dumps(body).encode(), "completions").num_answers == count
    conversations = {"messages": [[{"role": "user"}]] * 3}
    assert read_request(json.dumps(conversations).encode()).num_answers == 3


def servers_cap(body, api):
    """The largest cap that any server could read from a body; None: none."""
    caps = [body[name] for name in CAPS if body.get(name) is not None]
    return max(caps) if any(body.get(name) is not None for name in CAP_FIELDS[api]) else None


@given(
    st.sampled_from([*PATHS.values()]),
    st.dictionaries(st.sampled_from([*CAPS, *COUNTS]), st.none() | st.integers(1, 99), max_size=5),
    st.none() | st.integers(1, 50),
    st.lists(st.just("a"), max_size=3),
    st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_the_body_allows_what_is_reserved(api, fields, cap, prompts, cap_field):
    """By every name that a server may look at, and whatever of several numbers of answers it takes."""
    group = GroupSettings(name="g", max_tokens=cap, tokens=5)
    model = ModelSettings(name="*", response_group=[group], cap_field=cap_field)
    asked = {"messages": []} if api != "completions" else {"prompt": prompts}
    request = read_request(json.dumps({**asked, **fields}).encode(), api=api)
    candidate = make_candidate(
        request, group, Gains(by_group={}, source="default"), [BudgetPolicy(name="tokens", mean=9)]
    )
    body = json.loads(write_body(request, group, model))
    most, answers = servers_cap(body, api), max([body[name] for name in COUNTS if body.get(name)], default=1)
    if most is None:
        assert not candidate.reserve and cap is None and not any(fields.get(name) for name in CAPS)
    else:
        assert candidate.reserve["tokens"] == most * answers * max(1, len(body.get("prompt", [])))
        assert candidate.cost["tokens"] <= candidate.reserve["tokens"]


def test_a_limit_on_the_thinking_is_never_above_the_cap():
    for given_limit in (
        {"thinking_token_budget": 99},
        {"thinking_budget": 99},
        {"reasoning": {"max_tokens": 99}},
        {"custom_params": {"thinking_budget": 99}},
        {"thinking_token_budget": -1},  # none at all
    ):
        got = sent({**CHAT, **given_limit}, max_tokens=50)
        assert got == {
            **CHAT,
            **json.loads(json.dumps(given_limit).replace("99", "50").replace("-1", "50")),
            "max_tokens": 50,
        }
    assert sent({**CHAT, "thinking_token_budget": 9}, max_tokens=50)["thinking_token_budget"] == 9
    assert sent(CHAT, max_thinking_tokens=20, max_tokens=50)["thinking_token_budget"] == 20
    assert sent({**CHAT, "thinking_token_budget": 30}, max_thinking_tokens=20)["thinking_token_budget"] == 20


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_a_number_that_is_too_large_is_refused_before_anything_is_decided(number):
    with pytest.raises(IbpoError, match="the body holds a number that is too large; correct it"):
        read_request(f'{{"messages": [], "seed": {number}}}'.encode())


@pytest.mark.parametrize("name", ["min_tokens", "min_new_tokens"])
def test_the_least_length_is_never_above_the_cap(name):
    """Servers refuse that, and the caller had asked for nothing wrong: the group's cap is the gateway's."""
    assert sent({**CHAT, name: 200, "max_tokens": 300}, max_tokens=100)[name] == 100
    assert sent({**CHAT, name: 50}, max_tokens=100)[name] == 50
    assert sent({**CHAT, name: 200})[name] == 200
