"""The gateway by the official client: what passes through, what is set, what is held."""

import json
import urllib.request

import pytest

pytest.importorskip("aiohttp")
openai = pytest.importorskip("openai")

from tests.serving.world import SHARE, TOKENS, World


@pytest.fixture
def world():
    with World() as made:
        yield made


def client_of(url, key="none", **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30, **options)


def ask(client, content="hello", **options):
    return client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": content}], **options
    )


def post(url, body, headers=None):
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.status, dict(reply.headers), reply.read()


def test_share_is_held_and_said(world):
    upstream = world.upstream()
    gateway, url, rows = world.gateway(upstream.url)
    client = client_of(url)
    chosen = []
    for _ in range(200):
        raw = ask(client)
        assert raw.parse().choices[0].message.content.startswith("w0 w1")
        chosen.append(raw.headers["x-ibpo-response-group"])
        assert raw.headers["x-ibpo-budget-left"].startswith("extended=")
        assert raw.headers["x-ibpo-price"].startswith("extended=")
    assert abs(chosen.count("extended") - 60) <= 5  # the overdraft
    thinking = [body["chat_template_kwargs"]["enable_thinking"] for body in upstream.requests]
    assert thinking == [group == "extended" for group in chosen]
    shown = world.snapshot(gateway)["budgets"][0]
    assert (shown["spent"], shown["num_requests"], shown["under_way"]) == (chosen.count("extended"), 200, 0)
    assert len([row for row in rows() if row["event"] == "request"]) == 200
    assert "hello" not in json.dumps(rows())
