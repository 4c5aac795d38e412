"""The gateway's parts without a network: what is set in a request, counted in an answer, read from a file."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.allocation.log_file import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing.fit import fit_router, read_routed_log
from ibpo.routing.router import load_router, save_router
from ibpo.serving.controller import ServingPolicy
from ibpo.serving.gateway.gains import FittedRouter, read_opening_probabilities, split_openings, write_probe
from ibpo.serving.gateway.openai_request import can_set, check_size, max_tokens_of, read_request, write_body
from ibpo.serving.gateway.settings import (
    GROUPS_BY,
    GroupSettings,
    Limits,
    ModelSettings,
    build_settings,
    check_groups,
    check_router,
    find_cautions,
    keys_from_environment,
    new_key,
    read_keys,
    read_settings,
)
from ibpo.serving.gateway.usage import StreamUsage

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


def test_probe_asks_for_one_token_of_the_same_prompt():
    groups = [{"name": "a", "prefix": "<|channel|>final"}, {"name": "b", "prefix": "<|channel|>analysis"}]
    model = ModelSettings.model_validate({"name": "*", "choose": ["probe"], "response_group": groups})
    assert split_openings(model) == ("<|channel|>", {"a": "final", "b": "analysis"})
    request = read_request(json.dumps({**CHAT, "max_tokens": 99, "stream": True, "n": 4}).encode(), chat=True)
    body = json.loads(write_probe(request, model) or b"")
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert not {"stream", "n", "seed"} & set(body) and body["messages"][-1]["content"] == "<|channel|>"
    top = [{"token": "ana", "logprob": -1.0}, {"token": "final", "logprob": -2.0}, {"token": "Hm", "logprob": -0.5}]
    answer = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()
    chances = read_opening_probabilities(answer, request, model)
    assert chances["b"] == pytest.approx(1 / (1 + 2.718281828**-1)) and sum(chances.values()) == pytest.approx(1)
    for bad in (b"", b"[]", b'{"choices": []}', b'{"choices": [{"logprobs": null}]}'):
        with pytest.raises(IbpoError, match="no log-probabilities"):
            read_opening_probabilities(bad, request, model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[upstrem]\nurl = 'http://x'", r"upstrem: unknown key; did you mean upstream\?"),
        ("[upstream]\nurl = 'ftp://x'", r"upstream.url: must begin with http:// or https://"),
        ("[upstream]\nretries = 'many'", r"upstream.retries: .*integer.*, not 'many'"),
        ("[limits]\nmax_body = 3", r"limits.max_body: unknown key; did you mean max_body_bytes\?"),
        ("[limits]\nmax_body_bytes = 3", r"limits.max_body_bytes: .*greater than or equal to 1024, not 3"),
        ("[[model]]\nname = 'm'", r"model.1.response_group: is missing; add response_group"),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a b'}]", r"model.1.response_group.1.name: .*, not 'a b'"),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a'}, {name = 'a'}]", "two response groups of one name"),
        (
            "[[model]]\nname = 'm'\nchoose = ['probe']\nresponse_group = [{name = 'a'}]",
            "a probe needs a response group",
        ),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', efort = 'x'}]",
            r"unknown key; known here|did you mean",
        ),
        ("[[model]\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(IbpoError) as error:
        read_settings(path)
    assert re.search(said, str(error.value)), error.value
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_example_of_the_documentation_is_read(tmp_path):
    page = (Path(__file__).parent.parent.parent / "docs" / "gateway.md").read_text(encoding="utf-8")
    path = tmp_path / "gateway.toml"
    path.write_text(re.findall(r"```toml\n(# ibpo serve.*?)```", page, re.DOTALL)[0])
    settings, plan = read_settings(path)
    check_groups(settings, ServingPolicy.from_dict(plan))
    assert [group.name for group in settings.model_of("any").response_group] == ["standard", "extended"]
    assert settings.model_of("any").choose == ["caller", "router", "probe"]


def test_a_fitted_router_speaks_of_requests(tmp_path):
    pytest.importorskip("sklearn")
    rows = []
    for p in range(40):
        prompt = f"What is {' + '.join(map(str, range(2 + 6 * (p % 2))))} and {p}?"
        for name, tokens, right in (("standard", 50, 0.9 - 0.8 * (p % 2)), ("extended", 400, 0.9)):
            rows.append({"id": f"p{p}", "prompt": prompt, "group": name, "reward": right, "tokens": tokens + p})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_router(fit_router(read_routed_log(log, columns=LogColumns())), tmp_path / "router.json")
    router = FittedRouter(load_router(tmp_path / "router.json"), "router.json")
    hard, easy = (router.gain({"prompt": rows[i]["prompt"]}) for i in (2, 0))
    assert hard.gain["standard"] == easy.gain["standard"] == 0
    assert hard.gain["extended"] == pytest.approx(0.8, abs=0.2) and easy.gain["extended"] == pytest.approx(0, abs=0.2)
    assert hard.tokens["extended"] > 5 * hard.tokens["standard"] > 0
    as_chat = {"messages": [{"role": "user", "content": rows[2]["prompt"]}]}
    assert router.gain(as_chat) == hard
    check_unlike(router)


def check_unlike(router: FittedRouter):
    """One that knows other response groups would say nothing."""
    for names, choose, refused in (
        (("standard", "extended"), ["router"], False),
        (("low", "high"), ["caller"], False),
        (("low",), ["router"], False),
        (("low", "high"), ["caller", "router"], True),
        (("standard", "extended", "most"), ["router"], True),
    ):
        groups = [{"name": name} for name in names]
        settings = build_settings({"model": [{"name": "m", "choose": choose, "response_group": groups}]}, "file")
        if refused:
            with pytest.raises(IbpoError, match="knows the response groups standard, extended, and model 'm' has"):
                check_router(settings, router.groups)
        else:
            check_router(settings, router.groups)


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
    limits, free = Limits(max_answer_tokens=1000), [GroupSettings(name="standard")]
    check_size(read_request(b'{"max_tokens": 1000}', chat=True), free, limits)
    check_size(read_request(b'{"max_tokens": 1001}', chat=True), [GroupSettings(name="g", max_tokens=9)], limits)
    with pytest.raises(IbpoError, match="give 1000 or less"):
        check_size(read_request(b'{"max_tokens": 1001}', chat=True), free, limits)


def test_the_operator_is_told_what_bounds_the_tokens():
    groups = [
        {"name": "standard", "tokens": 400, "max_tokens": 4096},
        {"name": "extended", "tokens": 5000, "max_tokens": 16384},
    ]
    tables = {"limits": {"max_in_flight": 100}, "model": [{"name": "m", "response_group": groups}]}

    def said(budget, **change):
        changed = {**tables, "model": [{"name": "m", "response_group": [groups[0], {**groups[1], **change}]}]}
        return find_cautions(build_settings(changed, "file"), ServingPolicy.from_dict({"budget": budget}))

    assert said({"b": {"mean": 0.3, "response_group": "extended"}}) == []
    (bound,) = said({"tokens": {"mean": 2000, "overdraft": 20000}})
    assert "overspent by 1,158,400 tokens" in bound  # 20,000 and 100 x 11,384
    (tight,) = said({"tokens": {"mean": 2000, "overcommit": 30000}})
    assert "room for the caps of some 2 answers at a time, and 100 may be in flight" in tight
    assert (
        "no hard bound, as extended of model m has no max_tokens"
        in said({"tokens": {"mean": 2000}}, max_tokens=None)[0]
    )


def test_budget_and_groups_belong_together():
    tables = {"model": [{"name": "m", "response_group": [{"name": "a"}, {"name": "b", "max_tokens": 9000}]}]}
    settings = build_settings(tables, "file")
    check_groups(settings, ServingPolicy.from_dict({"budget": {"b": {"mean": 0.3, "response_group": "b"}}}))
    check_groups(settings, ServingPolicy.from_dict({"budget": {"tokens": {"mean": 500}}}))
    for budget, said in (
        ({"c": {"mean": 0.3, "response_group": "c"}}, "no model has a response group 'c'"),
        ({"money": {"mean": 3}}, "a gateway counts tokens"),
        ({"tokens": {"mean": 20}}, "expected to take 512"),
        ({"tokens": {"mean": 500, "overcommit": 100}}, "raise overcommit to 9000"),
    ):
        with pytest.raises(IbpoError, match=said):
            check_groups(settings, ServingPolicy.from_dict({"budget": budget}))


def test_keys_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    (first, line), (second, other) = new_key(), new_key()
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys]\ngold = ["{line}"]\nquiet = "{other}"\n')
    assert first not in path.read_text()
    keys = read_keys(path)
    assert (keys.tenant_of(f"Bearer {first}"), keys.tenant_of(f"bearer  {second} ")) == ("gold", "quiet")
    assert keys.tenant_of(f"Bearer {line}") is None and keys.tenant_of("Bearer") is None
    monkeypatch.setenv("THE_KEYS", f"gold={first}, quiet={second}")
    assert keys_from_environment("THE_KEYS") == keys
    for text, said in (
        ("", "is empty"),
        ("gold", "needs TENANT=KEY"),
        ("gold=short", "at least 16"),
        (f"a b={first}", "letters"),
    ):
        monkeypatch.setenv("THE_KEYS", text)
        with pytest.raises(IbpoError, match=said) as error:
            keys_from_environment("THE_KEYS")
        assert first not in str(error.value)
    for text, said in (
        ("", "needs one table"),
        (f"[keys]\ngold = ['{first}']", "sha256"),
        (f"[keys]\na = '{line}'\nb = '{line}'", "one key is given twice"),
        ("[keys\n", "is not TOML"),
        (f"[keys]\na = '{line}'\n[slices]\nb = ['law']", "slices.b: there is no such tenant"),
        (f"[keys]\na = '{line}'\n[slices]\na = 'law'", "slices.a: needs a list"),
    ):
        path.write_text(text)
        with pytest.raises(IbpoError, match=said):
            read_keys(path)
