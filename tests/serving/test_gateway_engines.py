"""In front of `transformers serve` and of vLLM with an embedded policy: servers that nobody wrote for this gateway."""

import json
import re
from typing import Any

import openai
import pytest

from tests.model_servers import serving
from tests.serving.world import World, call

pytestmark = pytest.mark.slow
GROUPS = [
    {"name": "standard", "prefix": " <answer>", "tokens": 3, "max_tokens": 40},
    {"name": "extended", "prefix": " <think>", "tokens": 20, "max_tokens": 40, "gain": 0.5},
]
BY_TEMPLATE = [
    {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}, "tokens": 3, "max_tokens": 40},
    {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "tokens": 20, "max_tokens": 40},
]
PLAN = {"budget": {"extended": {"mean": 0.4, "response_group": "extended"}, "tokens": {"mean": 20, "overdraft": 200}}}


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def served(request, tmp_path_factory):
    """(name of the model, base URL)."""
    # Greedy, so that a request can be asked twice and compared; transformers' server knows no seeds.
    with serving(tmp_path_factory.mktemp("model"), request.param, do_sample=False) as server:
        yield server


def plain(answer):
    """Without what the server makes up anew for each call: its id and the time."""
    return re.sub(rb'"(id|created|request_id)": ?("[^"]*"|\d+)', b"", answer)


def joined(stream):
    """The text of a stream of completions, and how it ended."""
    lines = stream.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    choices = [choice for line in lines[:-2] for choice in json.loads(line.removeprefix("data: "))["choices"]]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


def client_of(url) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def question(number):
    """The policy sums digits: "+3 -4 ="."""
    return f"+{number % 10} +{(3 * number) % 10} -{(7 * number) % 10} ="


def test_official_client_in_front_of_it(served):
    model, upstream = served
    with World() as world:
        gateway, url, rows = world.gateway(upstream, plan=PLAN, groups=GROUPS)
        client, texts, groups, tokens = client_of(url), [], [], 0
        for number in range(60):
            prompt = question(number)
            if number % 2:
                raw = client.completions.with_raw_response.create(model=model, prompt=prompt)
                groups.append(raw.headers["x-ibpo-response-group"])
                answer = raw.parse()
                texts.append(answer.choices[0].text)
                tokens += answer.usage.completion_tokens
            else:
                with client.completions.with_streaming_response.create(model=model, prompt=prompt, stream=True) as raw:
                    groups.append(raw.headers["x-ibpo-response-group"])
                    pieces = [json.loads(line[6:]) for line in raw.iter_lines() if line.startswith("data: {")]
                texts.append("".join(piece["choices"][0]["text"] or "" for piece in pieces if piece["choices"]))
        # Thoughts are for the extended ones only; a few of them the policy never closes.
        closed = [group for text, group in zip(texts, groups, strict=True) if "</think>" in text]
        assert set(closed) == {"extended"} and len(closed) > 0.5 * groups.count("extended")
        world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 60)
        made = [row for row in rows() if row["event"] == "request"]
        assert {row["outcome"] for row in made} == {"answered"}
        share, spent = world.snapshot(gateway)["budgets"]
        assert share["spent"] == groups.count("extended") and abs(share["spent"] - 0.4 * 60) <= 5
        assert spent["spent"] == sum(row["tokens"] for row in made) > tokens


def test_chats_of_a_hybrid_model_think_where_it_gains(served):
    model, upstream = served
    with World() as world:
        gateway, url, rows = world.gateway(upstream, plan=PLAN, groups=BY_TEMPLATE)
        client, seen = client_of(url), []
        for number in range(60):
            gain = 37 * number % 100 / 100
            asked = {"model": model, "messages": [{"role": "user", "content": question(number)}]}
            headers = {"x-ibpo-gain": str(gain)}
            chats = client.chat.completions
            if number % 2:
                raw = chats.with_raw_response.create(**asked, extra_headers=headers)
                text = raw.parse().choices[0].message.content
            else:
                with chats.with_streaming_response.create(**asked, extra_headers=headers, stream=True) as raw:
                    pieces = [json.loads(line[6:]) for line in raw.iter_lines() if line.startswith("data: {")]
                text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
            seen.append((gain, raw.headers["x-ibpo-response-group"] == "extended", "</think>" in text))
        world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 60)
        extended = [gain for gain, extended, _ in seen if extended]
        others = [gain for gain, extended, _ in seen if not extended]
        assert sum(extended) / len(extended) > sum(others) / len(others) + 0.2
        assert not any(closed and not extended for _, extended, closed in seen)
        assert sum(closed for _, _, closed in seen) > 0.5 * len(extended)
        share, spent = world.snapshot(gateway)["budgets"]
        assert share["spent"] == len(extended) and abs(len(extended) - 0.4 * 60) <= 5
        assert spent["spent"] == sum(row["tokens"] for row in rows() if row["event"] == "request")


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_bytes_as_without_the_gateway(served, stream):
    model, upstream = served
    with World() as world:
        _, url, _ = world.gateway(upstream, groups=GROUPS)
        for number in range(4):
            body = {"model": model, "prompt": f"+{number} +5 =", "stream": stream, "max_tokens": 30}
            status, headers, through = call(f"{url}/v1/completions", body)
            prefix = {group["name"]: group["prefix"] for group in GROUPS}[headers["x-ibpo-response-group"]]
            _, _, direct = call(f"{upstream}/completions", {**body, "prompt": body["prompt"] + prefix})
            assert status == 200 and len(direct) > 50
            if stream and b'"stop_reason"' in direct:
                # vLLM puts tokens together in one event as they come, so that no two streams have the same events.
                assert joined(through) == joined(direct)
            else:
                assert plain(through) == plain(direct)
