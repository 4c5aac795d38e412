"""The LiteLLM plug-in at its seam: the hooks in the orders in which the real proxy calls them.

Where LiteLLM is not installed a stand-in takes the place of its base class; `test_litellm_proxy.py` compares the two,
and runs the real proxy.
"""

import asyncio
import importlib
import inspect
import json
import random
import re
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ibpo.errors import IbpoError
from ibpo.testing import Clock

GATEWAY = """
[budget.tokens]
mean = 22
overdraft = 450
burst = 110
[tenant.gold]
at_least = {tokens = 5}
[limits]
max_answers = 4
[[model]]
name = "*"
[[model.response_group]]
name = "standard"
chat_template_kwargs = {enable_thinking = false}
reasoning_effort = "low"
tokens = 10
max_tokens = 100
[[model.response_group]]
name = "extended"
chat_template_kwargs = {enable_thinking = true}
reasoning_effort = "high"
tokens = 50
max_tokens = 400
gain = 0.5
[[model]]
name = "routed"
[[model.response_group]]
name = "standard"
tokens = 10
max_tokens = 100
[[model.response_group]]
name = "extended"
tokens = 50
max_tokens = 400
gain = 0.5
body = {model = "large", top_p = 0.9}
[[model]]
name = "prefixed"
[[model.response_group]]
name = "standard"
prefix = "Short:"
tokens = 10
max_tokens = 50
"""


class StandIn:
    """What of `CustomLogger` the plug-in overrides."""

    def __init__(self):
        pass

    def log_pre_api_call(self, model, messages, kwargs):
        pass

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        pass

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        pass

    async def async_pre_call_deployment_hook(self, kwargs, call_type):
        pass

    async def async_post_call_success_deployment_hook(self, request_data, response, call_type):
        pass

    async def async_post_call_failure_hook(
        self, request_data, original_exception, user_api_key_dict, traceback_str=None
    ):
        pass

    async def async_post_call_response_headers_hook(
        self, data, user_api_key_dict, response, request_headers=None, litellm_call_info=None
    ):
        pass

    async def async_post_call_streaming_iterator_hook(self, user_api_key_dict, response, request_data):
        async for item in response:
            yield item


HOOKS = {name: hook for name, hook in vars(StandIn).items() if not name.startswith("__")}


@pytest.fixture(scope="module")
def plugin():
    """The module of the plug-in."""
    try:
        importlib.import_module("litellm")
        made = []
    except ImportError:
        names = ("litellm", "litellm.integrations", "litellm.integrations.custom_logger")
        made = [types.ModuleType(name) for name in names]
        made[-1].CustomLogger = StandIn  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules.update(zip(names, made, strict=True))
    sys.modules.pop("ibpo.serving.plugins.litellm", None)
    yield importlib.import_module("ibpo.serving.plugins.litellm")
    for module in made:
        sys.modules.pop(module.__name__)
    sys.modules.pop("ibpo.serving.plugins.litellm", None)


@pytest.fixture
def budget(plugin, tmp_path, request):
    (tmp_path / "gateway.toml").write_text(getattr(request, "param", GATEWAY))
    made = plugin.BudgetLogger(tmp_path / "gateway.toml", log=tmp_path / "log.jsonl", clock=Clock())
    yield made
    made._log._file._file.close()


class Answer(SimpleNamespace):
    """As LiteLLM's pydantic objects: attributes, and `model_dump`."""

    def model_dump(self, exclude_none=False):
        rows = {key: value.model_dump() if isinstance(value, Answer) else value for key, value in vars(self).items()}
        return {key: value for key, value in rows.items() if not exclude_none or value is not None}


def answer_of(tokens, text="w"):
    usage = Answer(prompt_tokens=5, completion_tokens=tokens, total_tokens=5 + tokens)
    return Answer(choices=[{"index": 0, "message": {"role": "assistant", "content": text}}], usage=usage)


def chunk(text=None, tokens=None):
    usage = None if tokens is None else Answer(prompt_tokens=5, completion_tokens=tokens, total_tokens=5 + tokens)
    return Answer(choices=[{"index": 0, "delta": {"content": text}}], usage=usage)


class Failure(Exception):
    def __init__(self, status):
        super().__init__(str(status))
        self.status_code = status


class Life:
    """One request, in the proxy's order of events."""

    def __init__(self, budget, *, call_type="acompletion", headers=None, key=None, **fields):
        self.budget, self.key = budget, key or SimpleNamespace()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        place = "metadata" if call_type in ("acompletion", "atext_completion") else "litellm_metadata"
        self.data = {**body, "litellm_call_id": "same", "litellm_logging_obj": object()}
        self.data.setdefault(place, {})
        self.data["proxy_server_request"] = {"headers": headers or {}, "body": dict(body)}
        self.call_type = call_type

    async def pre(self):
        await self.budget.async_pre_call_hook(self.key, None, self.data, self.call_type)
        return self

    @property
    def kwargs(self):
        """As logging events see it."""
        known = self.data.get("litellm_metadata") or self.data.get("metadata")
        return {"litellm_params": {"metadata": known}, "call_type": self.call_type}

    async def attempt(self):
        """An attempt reaches the upstream."""
        changed = await self.budget.async_pre_call_deployment_hook(dict(self.data), None)
        self.budget.log_pre_api_call("m", [], self.kwargs)
        return changed

    async def answered(self, answer):
        await self.budget.async_post_call_success_deployment_hook(self.data, answer, None)
        await self.success(answer)

    async def success(self, answer, **more):
        await self.budget.async_log_success_event(
            kwargs={**self.kwargs, **more}, response_obj=answer, start_time=None, end_time=None
        )

    async def failed(self, error):
        await self.budget.async_post_call_failure_hook(self.data, error, self.key)

    def stream(self, items):
        return self.budget.async_post_call_streaming_iterator_hook(self.key, items, self.data)


async def said(*items, error=None):
    for item in items:
        yield item
    if error is not None:
        raise error


def rows_of(budget):
    with open(budget._log._file._file.name) as lines:
        return [row for row in map(json.loads, lines) if row["event"] == "request"]


def total(budget):
    accounts = budget.decider.controller._store.accounts["total"][0]
    assert budget.decider.controller.num_open == len(budget._open)
    return accounts


def test_hooks_are_those_of_the_class(plugin):
    own = {name: hook for name, hook in vars(plugin.BudgetLogger).items() if name in HOOKS}
    assert own.keys() == HOOKS.keys()  # LiteLLM looks at the class itself
    for name, hook in own.items():
        assert list(inspect.signature(hook).parameters) == list(inspect.signature(HOOKS[name]).parameters), name
    # The failure event comes before retries and fallbacks, and a success follows it.
    assert "async_log_failure_event" not in vars(plugin.BudgetLogger)


def test_without_litellm_it_says_what_to_install():
    code = (
        "import sys; sys.modules['litellm'] = None\n"
        "try:\n    import ibpo.serving.plugins.litellm\nexcept ImportError as error:\n    print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "pip install 'litellm[proxy]==" in shown.stdout


def test_the_group_is_written_into_a_chat(budget):
    async def run():
        life = await Life(budget, max_completion_tokens=900).pre()
        data = life.data
        assert data["reasoning_effort"] == "high" and data["allowed_openai_params"] == ["reasoning_effort"]
        assert data["chat_template_kwargs"] == {"enable_thinking": True}
        assert data["max_completion_tokens"] == 400 and "max_tokens" not in data
        headers = await budget.async_post_call_response_headers_hook(data, None, None)
        assert headers["x-ibpo-response-group"] == "extended" and "x-ibpo-budget-left" in headers
        await life.attempt()
        await life.answered(answer_of(50))
        assert total(budget).spent == 50 and total(budget).estimated == 0

    asyncio.run(run())
    assert [(row["outcome"], row["tokens"], row["counted"]) for row in rows_of(budget)] == [("answered", 50, "usage")]


PRICED = re.sub(
    r'^(name = "(?:\*|routed|prefixed)")$',
    r"\1\nprice = {input = 1.0, cached_input = 0.1, output = 10.0}",
    GATEWAY.replace("[tenant.gold]", "[session]\nmoney = 0.01\n[calendar]\nmonth = {tokens = 1e6}\n[tenant.gold]", 1),
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("budget", [PRICED], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_sessions_money_and_the_calendar_are_those_of_the_gateway(budget, stream):
    """Until the session's total has no room for an extended answer's cap; each charged by its own usage."""

    async def run():
        got, headers = [], {}
        for _ in range(20):
            life = await Life(budget, headers={"X-Ibpo-Session": "run"}, stream=stream).pre()
            headers = await budget.async_post_call_response_headers_hook(life.data, None, None)
            got.append(headers["x-ibpo-response-group"])
            await life.attempt()
            answer = answer_of(50 if got[-1] == "extended" else 10)
            answer.usage.prompt_tokens, answer.usage.total_tokens = 100, 100 + answer.usage.completion_tokens
            answer.usage.prompt_tokens_details = Answer(cached_tokens=60)
            if stream:
                items = said(chunk("w"), Answer(choices=[], usage=answer.usage))
                assert [item async for item in life.stream(items)]
            else:
                await life.answered(answer)
        return got, headers

    got, headers = asyncio.run(run())
    rows = rows_of(budget)
    assert [row["money"] for row in rows] == pytest.approx(
        [(40 + 6 + 10 * row["tokens"]) / 1e6 for row in rows], abs=1e-9
    )
    extended = got.count("extended")
    assert got == ["extended"] * extended + ["standard"] * (20 - extended) and 0 < extended < 20
    assert headers["x-ibpo-used-up"] == "session"
    left = 0.01 - sum(row["money"] for row in rows)
    assert float(headers["x-ibpo-session-left"].removeprefix("money=")) == pytest.approx(left, abs=1e-4)
    assert headers["x-ibpo-calendar-left"].startswith("month tokens=999")


CALENDAR = (
    GATEWAY
    + """
[calendar.day]
tokens = 500
"""
)


@pytest.mark.parametrize("budget", [CALENDAR], indirect=True)
def test_a_used_up_day_ends_with_the_day_of_the_clock(budget):
    async def run():
        got = []
        for number in range(4):
            if number == 3:
                budget.decider.controller.clock.advance(days=1)
            life = await Life(budget).pre()
            await life.attempt()
            headers = await budget.async_post_call_response_headers_hook(life.data, None, None)
            got.append((headers["x-ibpo-calendar-left"], headers.get("x-ibpo-used-up")))
            await life.answered(answer_of(400 if number == 0 else 40))
        return got

    left, used_up = zip(*asyncio.run(run()), strict=True)
    assert used_up == (None, "day", "day", None)
    assert left[0] != left[1] and left[3].startswith("day tokens=")


def test_the_model_is_a_field_like_others(budget):
    async def run():
        life = await Life(budget, model="routed").pre()
        assert life.data["model"] == "large" and life.data["top_p"] == 0.9

    asyncio.run(run())


def test_responses_get_what_litellm_would_drop_in_the_extra_body(budget):
    async def run():
        life = Life(budget, call_type="aresponses", input="hi", metadata={"k": "v"})
        del life.data["messages"]
        data = (await life.pre()).data
        assert data["max_output_tokens"] == 400 and data["extra_body"] == {"reasoning": {"effort": "high"}}
        assert data["metadata"] == {"k": "v"} and "reasoning" not in data  # the API's own metadata goes upstream
        assert data["litellm_metadata"]["ibpo"]["response_group"] == "extended"

    asyncio.run(run())


@pytest.mark.parametrize(("landed", "cap"), [("responses", 16), ("chat", 5), ("messages", 5)])
def test_messages_are_set_as_what_they_are_sent_on_as(plugin, budget, monkeypatch, landed, cap):
    monkeypatch.setattr(plugin, "_messages_land_at", lambda model: landed)

    async def run():
        data = (await Life(budget, call_type="anthropic_messages", max_tokens=5).pre()).data
        assert data["max_tokens"] == cap and "max_output_tokens" not in data
        if landed == "responses":  # which take no switch of a template
            assert data["extra_body"] == {"reasoning": {"effort": "high"}} and "chat_template_kwargs" not in data
        elif landed == "chat":
            assert data["reasoning_effort"] == "high" and data["chat_template_kwargs"] == {"enable_thinking": True}
        else:
            assert data["output_config"] == {"effort": "high"}

    asyncio.run(run())


def test_no_group_fits(budget):
    """A prefix cannot be set in a response: the standard group's cap alone, and the request goes through."""

    async def run():
        life = Life(budget, call_type="aresponses", model="prefixed", input="hi")
        data = (await life.pre()).data
        assert data["max_output_tokens"] == 50 and "extra_body" not in data
        await life.answered(Answer(usage=Answer(input_tokens=1, output_tokens=7, total_tokens=8), output=[]))

    asyncio.run(run())
    assert [(row["response_group"], row["tokens"]) for row in rows_of(budget)] == [("standard", 7)]


def test_a_failure_event_is_no_end(budget):
    """500, 500, then an answer: one request. And three times 500: cancelled, once."""

    async def run():
        life = await Life(budget).pre()
        for _ in range(2):
            await life.attempt()
        assert total(budget).estimated > 0
        await life.attempt()
        await life.answered(answer_of(20))
        assert (total(budget).spent, total(budget).num_requests) == (20, 1)
        life = await Life(budget).pre()
        await life.attempt()
        for _ in range(2):
            await life.failed(Failure(500))
        assert (total(budget).spent, total(budget).num_requests, total(budget).estimated) == (20, 1, 0)

    asyncio.run(run())
    assert [row["outcome"] for row in rows_of(budget)] == ["answered", "failed"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Failure(429), "failed"), (Failure(408), "cut"), (Failure(504), "cut"), (AttributeError("x"), "cut")],
)
def test_only_what_cost_nothing_is_cancelled(budget, error, outcome):
    async def run():
        life = await Life(budget).pre()
        await life.attempt()
        await life.failed(error)
        assert total(budget).spent == (0 if outcome == "failed" else 50)

    asyncio.run(run())
    assert rows_of(budget)[0]["outcome"] == outcome


def test_an_answer_that_others_refuse_is_paid(budget):
    async def run():
        life = await Life(budget).pre()
        await life.attempt()
        await budget.async_post_call_success_deployment_hook(life.data, answer_of(30), None)
        await life.failed(Failure(403))
        await life.success(answer_of(30))
        assert total(budget).spent == 30

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_the_cache_costs_nothing(budget, stream):
    async def run():
        life = await Life(budget, stream=stream).pre()
        if stream:
            assert len([item async for item in life.stream(said(chunk("w"), chunk(None, 7)))]) == 2
        await life.success(answer_of(7), cache_hit=True)
        assert (total(budget).spent, total(budget).num_requests, total(budget).estimated) == (0, 0, 0)

    asyncio.run(run())
    assert [(row["outcome"], row["tokens"]) for row in rows_of(budget)] == [("cached", None)]


def test_a_stream_is_settled_at_its_end_and_the_event_does_nothing(budget):
    async def run():
        life = await Life(budget, stream=True).pre()
        await life.attempt()
        seen = [item async for item in life.stream(said(chunk("a"), chunk("b"), chunk(None, 7)))]
        assert len(seen) == 3 and total(budget).spent == 7
        await life.success(answer_of(999))
        assert total(budget).spent == 7

    asyncio.run(run())


def test_a_stream_that_runs_away_is_booked_while_it_runs(budget):
    async def run():
        life = await Life(budget, stream=True).pre()
        await life.attempt()
        held = []
        async for _ in life.stream(said(*[chunk("w")] * 390, chunk(None, 390))):
            held.append(total(budget).estimated)
        assert held[0] == 50 and 256 < held[300] <= 400  # never more than the cap
        assert (total(budget).spent, total(budget).estimated) == (390, 0)

    asyncio.run(run())


def test_streams_without_a_usage_that_break_off_or_are_left(budget):
    async def run():
        for error, outcome in ((Failure(500), "cut"), (None, "disconnected")):
            before = total(budget).spent if budget._is_open else 0
            life = await Life(budget, stream=True, headers={"x-ibpo-response-group": "standard"}).pre()
            await life.attempt()
            stream = life.stream(said(*map(chunk, "abcdefghijkl"), error=error))
            seen = 0
            try:
                async for _ in stream:
                    seen += 1
                    if error is None and seen == 12:
                        break
            except Failure:
                await life.failed(error)
            await stream.aclose()
            assert (total(budget).spent - before, budget.decider.controller.num_open) == (12, 0), outcome

    asyncio.run(run())
    assert [(row["outcome"], row["counted"]) for row in rows_of(budget)] == [
        ("cut", "estimated"),
        ("disconnected", "estimated"),
    ]


def test_streams_of_events_in_bytes(plugin, budget, monkeypatch):
    monkeypatch.setattr(plugin, "_messages_land_at", lambda model: "chat")

    async def run():
        life = await Life(budget, call_type="anthropic_messages", stream=True, max_tokens=90).pre()
        await life.attempt()
        delta = {"type": "message_delta", "usage": {"input_tokens": 1, "output_tokens": 33}}
        events = [f"event: {row['type']}\ndata: {json.dumps(row)}\n\n".encode() for row in (delta, {"type": "x"})]
        assert [item async for item in life.stream(said(*events))] == events
        assert total(budget).spent == 33

    asyncio.run(run())


def test_completions_streams_hide_the_usage_that_was_not_asked_for(budget):
    async def run():
        for wants in (False, True):
            fields = {"stream_options": {"include_usage": True}} if wants else {}
            life = Life(budget, call_type="atext_completion", stream=True, prompt="hi", **fields)
            del life.data["messages"]
            await life.pre()
            await life.attempt()
            assert life.data["stream_options"] == {"include_usage": True}
            items = [
                Answer(choices=[{"index": 0, "text": "w"}], usage=None),
                Answer(choices=[], usage=chunk("", 9).usage),
            ]
            assert len([item async for item in life.stream(said(*items))]) == 1 + wants
        assert total(budget).spent == 18

    asyncio.run(run())


def test_a_usage_is_believed_within_what_the_body_allows(budget):
    async def run():
        life = await Life(budget, max_tokens=30, n=2).pre()
        await life.answered(answer_of(10**6))
        assert (total(budget).spent, total(budget).num_requests) == (60, 2)

    asyncio.run(run())
    assert rows_of(budget)[0]["counted"] == "reserve"


def test_deployments_own_caps_and_counts_are_lowered(budget):
    async def run():
        life = await Life(budget).pre()
        life.data |= {"max_completion_tokens": 4000, "n": 3}
        changed = await life.attempt()
        assert (changed["max_tokens"], changed["max_completion_tokens"], changed["n"]) == (400, 400, 1)
        assert life.data["n"] == 3  # the hook's own copy
        life.data |= {"max_completion_tokens": 30, "n": 1}
        assert await life.attempt() is None

    asyncio.run(run())


def test_what_a_caller_may_not_say(budget):
    async def run():
        rows: list[tuple[dict[str, Any], str]] = [
            ({"additional_drop_params": ["max_tokens"]}, "additional_drop_params"),
            ({"model": "m, m,m"}, "names several"),  # each of them would answer, and one be booked
            ({"extra_body": "x"}, "extra_body"),
            ({"extra_body": {"model": "other"}}, "field model"),
            ({"fallbacks": [{"model": "b", "max_tokens": 10**6}]}, "max_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"n": 5}, "ask for 4 or fewer"),
        ]
        for fields, message in rows:
            with pytest.raises(Exception, match=message) as refused:
                await Life(budget, **fields).pre()
            assert getattr(refused.value, "status_code", None) == 400
        with pytest.raises(Exception, match="name one of standard, extended"):
            await Life(budget, headers={"x-ibpo-response-group": "huge"}).pre()
        assert not budget._open and not budget.decider.controller._store.accounts

    asyncio.run(run())


def test_the_extra_body_cannot_say_another_group(budget):
    async def run():
        extra = {"max_tokens": 9999, "chat_template_kwargs": {"enable_thinking": True, "x": 1}, "other": 1}
        life = Life(budget, extra_body=extra, headers={"x-ibpo-response-group": "standard"})
        sent = (await life.pre()).data["extra_body"]
        assert sent == {"max_tokens": 100, "chat_template_kwargs": {"enable_thinking": False, "x": 1}, "other": 1}

    asyncio.run(run())


def test_bookings_are_found_by_our_own_id(budget):
    async def run():
        forged = {"ibpo": {"key": "0", "headers": {"x": "y"}}}
        lives = [await Life(budget, metadata=dict(forged), litellm_metadata=dict(forged)).pre() for _ in range(2)]
        keys = {life.data["metadata"]["ibpo"]["key"] for life in lives}
        assert len(keys) == 2 and "0" not in keys and "ibpo" not in lives[0].data["litellm_metadata"]
        for life in lives:
            await life.answered(answer_of(5))
        assert total(budget).spent == 10 and not budget._open
        assert await budget.async_post_call_response_headers_hook({"metadata": {"ibpo": 1}}, None, None) is None

    asyncio.run(run())


@pytest.mark.parametrize("call_type", ["aembedding", "acompletion", "aresponses"])
def test_a_caller_cannot_have_its_stream_cancelled(budget, call_type):
    """By another request that fails, under the id that its answer shows, or under the key if it knew that."""

    async def run():
        life = await Life(budget, stream=True).pre()
        await life.attempt()
        state = life.data["metadata"]["ibpo"]
        assert state["key"] not in str(state["headers"])
        for known in (state["headers"]["x-ibpo-request-id"], state["key"]):
            forged = {"ibpo": {"key": known, "headers": {}}}
            other = Life(budget, call_type=call_type, metadata=dict(forged), litellm_metadata=dict(forged), input="hi")
            await other.pre()
            await other.failed(Failure(400))
            await other.success(answer_of(1), cache_hit=True)
        assert budget.decider.controller.num_open == 1
        assert [item async for item in life.stream(said(chunk("a"), chunk(None, 33)))]
        assert total(budget).spent == 33

    asyncio.run(run())


def test_tenants_are_those_of_the_plan(budget):
    async def run():
        for key, tenant in (
            (SimpleNamespace(team_id="gold", key_alias="k"), "gold"),
            (SimpleNamespace(team_id="other", key_alias="gold"), "gold"),
            (SimpleNamespace(team_id="other"), ""),
        ):
            life = await Life(budget, key=key).pre()
            await life.answered(answer_of(1))
            assert rows_of(budget)[-1]["tenant"] == tenant
        assert set(budget.decider.controller._store.accounts) <= {"total", "tenant gold", "tenant "}

    asyncio.run(run())


def test_other_calls_go_through(budget):
    async def run():
        life = Life(budget, call_type="aembedding", input="hi")
        before = dict(life.data)
        await life.pre()
        await life.answered(answer_of(5))
        assert life.data == before and not budget._open

    asyncio.run(run())


def test_what_litellm_has_lost_is_settled_as_expected(budget):
    clock = budget.decider.controller.clock

    async def run():
        await Life(budget).pre()
        clock.advance(budget._stale_seconds)
        await Life(budget).pre()
        assert len(budget._open) == 2  # not yet
        clock.advance(61)
        await Life(budget).pre()
        assert len(budget._open) == 2 and total(budget).spent >= 50

    asyncio.run(run())


def test_the_store_is_opened_once(budget, monkeypatch):
    """However many requests come first."""
    opened = []
    really = budget.decider.controller.open

    async def slowly():
        opened.append(1)
        await asyncio.sleep(0.01)
        await really()

    monkeypatch.setattr(budget.decider.controller, "open", slowly)

    async def run():
        await asyncio.gather(*(Life(budget).pre() for _ in range(3)))

    asyncio.run(run())
    assert opened == [1] and total(budget).num_requests == 3


def test_a_store_that_is_away_at_the_first_request_costs_no_answer(budget, monkeypatch):
    """Everybody got a 400 until it was back; those who come together wait once."""
    opened = []
    really = budget.decider.controller.open

    async def away():
        opened.append(1)
        await asyncio.sleep(0.05)
        raise IbpoError("redis: no reply")

    async def run():
        monkeypatch.setattr(budget.decider.controller, "open", away)
        lives = [Life(budget) for _ in range(3)]
        await asyncio.gather(*(life.pre() for life in lives))
        for life in lives:
            assert life.data["metadata"]["ibpo"]["response_group"] == "standard"
            await life.answered(answer_of(5))
        monkeypatch.setattr(budget.decider.controller, "open", really)
        life = await Life(budget).pre()
        await life.answered(answer_of(5))

    asyncio.run(run())
    assert opened == [1] and not budget._open and total(budget).num_requests == 1
    assert budget.decider.metrics.unbudgeted._value.get() == 3


def test_thinking_of_messages_stays_where_it_was(plugin, budget, monkeypatch):
    """LiteLLM translates it; a field of that name is not one of `/v1/responses`."""
    monkeypatch.setattr(plugin, "_messages_land_at", lambda model: "responses")

    async def run():
        thinking = {"type": "enabled", "budget_tokens": 4096}
        life = await Life(budget, call_type="anthropic_messages", max_tokens=9000, thinking=thinking).pre()
        assert life.data["thinking"]["budget_tokens"] == 400 == life.data["max_tokens"]
        assert "thinking" not in life.data["extra_body"]

    asyncio.run(run())


def test_the_file_of_the_documentation_is_one(plugin, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "litellm.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "gateway.toml").write_text(text)
    made = plugin.BudgetLogger(tmp_path / "gateway.toml", state=str(tmp_path / "budget.db"))
    assert [group.name for group in made.decider.settings.model_of("reasoner").response_group] == [
        "standard",
        "extended",
    ]


def test_faults_of_the_file_are_said_at_the_start(plugin, tmp_path):
    place = tmp_path / "gateway.toml"
    probing = GATEWAY.replace('name = "*"', 'name = "*"\nchoose = ["probe"]').replace('"low"', '"low"\nopening = "a"')
    for text, message in (
        ("[budget.tokens]\nmean = 5", r"names no \[\[model\]\]"),
        (probing, "probe"),
        (GATEWAY.replace('name = "*"', 'name = "*"\nlearn = true'), "no outcomes come back"),
        (GATEWAY.replace("overdraft = 450\nburst = 110", "overdraft = 4\nburst = 4"), "none would ever be given"),
    ):
        place.write_text(text)
        with pytest.raises(IbpoError, match=message):
            plugin.BudgetLogger(place)
    place.write_text(GATEWAY)
    (tmp_path / "no.db").write_text("no database")
    with pytest.raises(IbpoError, match=r"no\.db"):
        plugin.BudgetLogger(place, state=str(tmp_path / "no.db"))


# The standard cap is below the mean: whoever finds no room costs no more than it brings.
@pytest.mark.parametrize("budget", [GATEWAY.replace("max_tokens = 100", "max_tokens = 20")], indirect=True, ids=[""])
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_held_whatever_happens(budget, seed):
    """300 requests, 8 at a time, with retries, failures, cuts, leavers, cache hits and invented usages."""
    draw = random.Random(seed)
    excess = cancelled = 0.0

    def check():
        """The stated bound: what is open may exceed its expectation, and who is cancelled takes its credit back."""
        nonlocal excess
        reservations = budget.decider.controller._store.reservations.values()
        excess = max(excess, sum(row.reserve[0] - row.estimate[0] for row in reservations))
        account = total(budget)
        assert account.spent - 22 * account.num_requests <= 450 + excess + 22 * cancelled + 1e-6

    async def one(number):
        nonlocal cancelled
        stream, fields = draw.random() < 0.4, {}
        if draw.random() < 0.3:
            fields["max_tokens"] = draw.choice([20, 300, 5000])
        if draw.random() < 0.2:
            fields["n"] = 2
        life = Life(budget, stream=stream, headers={"x-ibpo-gain": f"{draw.random():.3f}"}, **fields)
        await life.pre()
        check()
        answers = fields.get("n", 1)
        cap = life.data["max_tokens"] * answers
        await asyncio.sleep(0)
        fate = draw.choice(
            ["answer", "answer", "answer", "retry", "fail", "time-out", "cache", "absurd", "leave", "cut"]
        )
        if fate == "cache":
            await life.success(answer_of(50), cache_hit=True)
            cancelled += answers
            return
        for _ in range(1 + 2 * (fate == "retry")):
            await life.attempt()
            await asyncio.sleep(0)
        generated = draw.randint(1, cap)
        if fate in ("fail", "time-out"):
            await life.failed(Failure(500 if fate == "fail" else 408))
            cancelled += answers * (fate == "fail")
        elif not stream:
            await life.answered(answer_of(10**7 if fate == "absurd" else generated))
        else:
            items = [chunk("w"), chunk("w"), chunk(None, 10**7 if fate == "absurd" else generated)]
            iterator = life.stream(said(*(items[:2] if fate in ("cut", "leave") else items)))
            async for _ in iterator:
                await asyncio.sleep(0)
                if fate == "leave":
                    break
            await iterator.aclose()
            await life.success(answer_of(generated))
        check()

    async def run():
        gate = asyncio.Semaphore(8)

        async def gated(number):
            async with gate:
                await one(number)

        await asyncio.gather(*map(gated, range(300)))

    asyncio.run(run())
    account, shown = total(budget), rows_of(budget)
    assert account.estimated == pytest.approx(0, abs=1e-6) and not budget._open and len(shown) == 300
    assert account.num_requests > 200 and {"answered", "failed", "cached", "cut", "disconnected"} <= {
        row["outcome"] for row in shown
    }
