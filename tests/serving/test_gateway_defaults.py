"""The groups of `ibpo serve --by`, in front of servers that render real chat templates."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError
from ibpo.responses import served_cautions
from ibpo.rollouts import ask_for_tokenizer
from ibpo.serving.gateway.openai_request import can_set, read_request
from ibpo.serving.gateway.settings import GROUPS_BY, GroupSettings, default_groups
from tests.openai_server import serving
from tests.responses.test_families import NAMES, TEMPLATES, tokenizer
from tests.rollouts.test_served_forcing import VLLM
from tests.serving.test_gateway_processes import process
from tests.serving.world import call


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", GROUPS_BY)
def test_what_is_sent_can_be_set_in_chats_alone(name, by):
    """Neither group is free for a request without a template: it would be booked, and do nothing."""
    try:
        rows, line = default_groups(by, tokenizer(name))
    except IbpoError as error:
        assert str(error).startswith(f"--by {by}: the model's chat template (") and "--config" in str(error)
        return
    assert "\n" not in line
    plain = read_request(b'{"model": "m", "prompt": "hi"}', "completions")
    chat = read_request(b'{"model": "m", "messages": []}')
    for group in (GroupSettings.model_validate(row) for row in rows):
        assert can_set(chat, group) and not can_set(plain, group)


def test_words_that_every_server_knows_go_by_the_field_too():
    rows, line = default_groups("effort", tokenizer("gptoss"))
    assert rows == [
        {"name": "standard", "chat_template_kwargs": {"reasoning_effort": "low"}, "reasoning_effort": "low"},
        {"name": "extended", "chat_template_kwargs": {"reasoning_effort": "high"}, "reasoning_effort": "high",
         "gain": 0.5},
    ]  # fmt: skip
    assert line == (
        "standard is asked for by reasoning_effort=low, extended by reasoning_effort=high, as the chat template "
        "(gpt-oss) has it"
    )
    rows, _ = default_groups("effort", tokenizer("qwen3_8"))
    assert [row.get("reasoning_effort") for row in rows] == ["low", None]  # other servers refuse xhigh
    rows, line = default_groups("effort", tokenizer("qwen3"))
    assert [row["chat_template_kwargs"]["enable_thinking"] for row in rows] == [False, True]
    assert line.endswith("; it has no words of effort")


@contextmanager
def gateway(upstream, *options):
    """`ibpo serve` as a process: (its URL, what it says of the groups)."""
    with process(upstream, "--budget", "extended=100%", *options) as (server, url):
        said: Any = server.stderr
        yield url, said.readline()


def thoughts(url):
    """Bodies as they are: one request whose extended answer gains, and one whose does not."""
    for gain in ("1", "0"):
        body = {"model": "m", "messages": [{"role": "user", "content": "2 + 2 ="}]}
        status, headers, said = call(f"{url}/v1/chat/completions", body, {"x-ibpo-gain": gain})
        assert status == 200, said
        yield headers["x-ibpo-response-group"]


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_by_effort_on_a_template_without_words_switches_thinking(kind):
    """R17: `--by effort` on Qwen3 renders one prompt for low and high, and was booked as extended all the same."""
    server = VLLM("qwen3", kind=kind)
    with serving(server.answer, other=server.other) as log, gateway(log.url, "--by", "effort") as (url, line):
        assert "by enable_thinking=False, extended by enable_thinking=True" in line and "no words of effort" in line
        assert list(thoughts(url)) == ["extended", "standard"]
    extended, standard = server.prompts
    assert extended.endswith("assistant\n") and standard.endswith("<think>\n\n</think>\n\n")


def test_a_folder_stands_for_a_server_that_tells_nothing(tmp_path):
    server = VLLM("qwen3_8")
    server.tokenizer.save_pretrained(tmp_path / "tokenizer")
    with serving(server.answer) as log:
        with gateway(log.url, "--by", "effort", "--tokenizer", tmp_path / "tokenizer") as (url, line):
            assert "extended by reasoning_effort=xhigh, as the chat template (Qwen3.8) has it" in line
            assert list(thoughts(url)) == ["extended", "standard"]
        with gateway(log.url, "--by", "effort") as (_, line):
            assert "by reasoning_effort=low, extended by reasoning_effort=high, unchecked" in line
    sent = [body["chat_template_kwargs"]["reasoning_effort"] for body in log.requests if "chat" in body["path"]]
    assert sent == ["xhigh", "low"]


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        ("llama3_1", "thinking", "has no option that switches thinking"),
        ("deepseek_r1_distill", "effort", "has no option that switches"),
    ],
)
def test_no_start_where_both_groups_would_be_one(name, by, said):
    server = VLLM(name)
    with serving(server.answer, other=server.other) as log:
        options = ["serve", "--upstream", log.url, "--listen", ":0", "--budget", "extended=30%", "--by", by]
        result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and said in result.stderr and "name response groups in --config" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_server_s_template_is_its_own_and_known_where_it_is_told(kind):
    """Two servers in one process: the family of the one is not that of the other."""
    found = []
    for name in ("gptoss", "qwen3"):
        server = VLLM(name, kind=kind)
        with serving(server.answer, other=server.other) as log:
            asked = ask_for_tokenizer(Endpoint(base_url=log.url, model="m"))
            assert asked is not None and asked.chat_template != TEMPLATES[name]
            found.append(default_groups("thinking", asked)[0][1]["chat_template_kwargs"])
    assert found == [{"reasoning_effort": "high"}, {"enable_thinking": True}]
    server = VLLM("gptoss", kind=kind)
    path = {"vllm": "/tokenizer_info", "llama.cpp": "/props"}[kind]
    told = {path: {"chat_template": TEMPLATES["gptoss"]}}
    with serving(server.answer, other=server.other, pages=told) as log:
        asked = ask_for_tokenizer(Endpoint(base_url=log.url, model="m"))
        assert asked is not None and asked.chat_template == TEMPLATES["gptoss"]


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_prefix_that_a_server_continues_rightly_has_no_caution(kind):
    """The question to the server has to say that the assistant's message goes on."""
    server = VLLM("llama3_1", kind=kind)
    with serving(server.answer, other=server.other) as log:
        asked = ask_for_tokenizer(Endpoint(base_url=log.url, model="m"))
        groups = {"a": ("Answer:", {}), "b": ("[TRIAL]", {})}
        assert served_cautions(asked, groups) == []
    server = VLLM("qwen3", kind=kind)
    with serving(server.answer, other=server.other) as log:
        asked = ask_for_tokenizer(Endpoint(base_url=log.url, model="m"))
        for made in (asked, server.tokenizer):
            [caution] = served_cautions(made, {"a": ("", {}), "b": ("<think>\n", {})})
            assert caution.startswith("response group b: of its prefix '<think>\\n' the chat template makes")
