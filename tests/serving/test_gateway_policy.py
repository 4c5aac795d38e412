"""In front of a real policy: the one-token probe, the group it sets, and what the answers are."""

import math
from typing import Any

import numpy as np
import openai
import pytest
from aiohttp import web

from ibpo.tasks import digit_sums
from tests.serving.world import World, call

pytestmark = pytest.mark.slow
PLAN = {
    "budget": {"extended": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 20, "overdraft": 200}},
}
BY_PREFIX = [
    {"name": "standard", "prefix": " <answer>", "tokens": 3, "max_tokens": 64},
    {"name": "extended", "prefix": " <think>", "tokens": 20, "max_tokens": 64},
]
BY_TEMPLATE = [
    {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}, "opening": "<answer>", "tokens": 3},
    {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "opening": "<think>", "tokens": 20},
]


@pytest.fixture(scope="module")
def policy():
    pytest.importorskip("torch")
    from tests.serving.model_server import ModelServer

    with World() as world:
        server = ModelServer()

        async def start():
            runner = web.AppRunner(server.app())
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            world.stack.push_async_callback(runner.cleanup)
            return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

        yield world, server, world.run(start())


def prompts(count):
    rng = np.random.default_rng(0)
    return [digit_sums.prompt_of(digit_sums.draw_operands(1 + i % 10, False, rng)) for i in range(count)]


@pytest.mark.parametrize("chat", [False, True], ids=["prefix", "template"])
def test_probe_reads_the_policys_own_choice_and_the_budget_holds(policy, chat):
    world, server, upstream = policy
    model = {"choose": ["probe"], "probe": {"top_logprobs": 20, "seconds": 120}}
    gateway, url, rows = world.gateway(upstream, plan=PLAN, groups=BY_TEMPLATE if chat else BY_PREFIX, model=model)
    client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    asked, tokens, texts = prompts(120), 0, []
    for number, prompt in enumerate(asked):
        if chat:
            messages = [{"role": "user", "content": prompt}]
            raw = client.chat.completions.with_raw_response.create(model="m", messages=messages, seed=number)
            texts.append(raw.parse().choices[0].message.content)
        else:
            raw = client.completions.with_raw_response.create(model="m", prompt=prompt, seed=number, max_tokens=64)
            texts.append(raw.parse().choices[0].text)
        tokens += raw.parse().usage.completion_tokens + 1  # the probe's token counts
    world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == 120)
    made = [row for row in rows() if row["event"] == "request"]
    assert {row["source"] for row in made} == {"probe"}
    # The gain is the policy's own probability, as a forward pass here says.
    think, answer = (server.tokenizer.convert_tokens_to_ids(word) for word in ("<think>", "<answer>"))
    for prompt, row in list(zip(asked, made, strict=True))[:20]:
        scores, _ = server.logprobs(prompt)
        own = math.exp(scores[think]) / (math.exp(scores[think]) + math.exp(scores[answer]))
        assert row["gains"]["extended"] == pytest.approx(own, abs=2e-6) and row["gains"]["standard"] == 0
    # It is held, given to the larger gains, and the upstream answers so.
    extended = np.array([row["response_group"] == "extended" for row in made])
    gains = np.array([row["gains"]["extended"] for row in made])
    share, spent = world.snapshot(gateway)["budgets"]
    assert share["spent"] == extended.sum() <= 0.3 * 120 + 5 and extended.sum() >= 0.3 * 120 - 10
    assert spent["spent"] == tokens <= 20 * 120 + 200
    assert gains[extended].mean() > gains[~extended].mean()
    assert all(("</think>" in text) == long for text, long in zip(texts, extended, strict=True))


@pytest.mark.parametrize("stream", [False, True])
def test_answers_of_a_policy_pass_byte_for_byte(policy, stream):
    world, server, upstream = policy
    _, url, _ = world.gateway(upstream, groups=BY_PREFIX)
    for number, prompt in enumerate(prompts(20)):
        body = {"model": "m", "prompt": prompt, "seed": number, "stream": stream, "max_tokens": 64}
        status, headers, through = call(f"{url}/v1/completions", body)
        sent = {key: value for key, value in server.bodies[-1].items() if key != "stream_options"}
        _, _, direct = call(f"{upstream}/completions", sent)
        assert status == 200 and through == direct and len(direct) > 50
        prefix = {group["name"]: group["prefix"] for group in BY_PREFIX}[headers["x-ibpo-response-group"]]
        assert sent["prompt"] == prompt + prefix


def test_a_probe_that_takes_too_long_leaves_the_default(policy):
    world, _, upstream = policy
    model = {"choose": ["probe"], "probe": {"top_logprobs": 1, "seconds": 1e-6}}
    groups = [BY_PREFIX[0], {**BY_PREFIX[1], "gain": 0.5}]
    _, url, rows = world.gateway(upstream, groups=groups, model=model)
    status, _, _ = call(f"{url}/v1/completions", {"model": "m", "prompt": prompts(1)[0]})
    assert status == 200
    world.wait_until(lambda: any(row["event"] == "request" for row in rows()))
    assert next(row for row in rows() if row["event"] == "request")["source"] == "default"
