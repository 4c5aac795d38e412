"""Openings forced through a server: the prompt is the one that the model would see, or nothing is asked.

The server renders real chat templates as vLLM does: `/tokenize` and `/detokenize`, completions of token ids, and a
begin of sequence in front of every prompt that is text.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("openai")

from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError
from ibpo.rollouts.sampler import PromptWriter, Request
from ibpo.rollouts.served import EndpointSampler, ask_for_tokenizer
from ibpo.types import Problem, ResponseGroup
from tests.openai_server import Fault, serving
from tests.responses.test_families import tokenizer

ANSWERS = {"on": "2 and 2\n</think>\n\n" + r"It is \boxed{4}", "off": r" \boxed{4}"}


class VLLM:
    """What a vLLM with this template answers; `prompts` are what the model saw."""

    def __init__(self, name, *, kind="vllm"):
        self.tokenizer, self.kind, self.prompts = tokenizer(name), kind, []

    def other(self, path, body):
        encode = lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        if self.kind == "vllm" and path == "/tokenize":
            tokens = encode(self.render(body) if "messages" in body else body["prompt"])
            begins = "prompt" in body and body.get("add_special_tokens", True)
            return {"tokens": [*(encode("<BOS>") if begins else ()), *tokens]}
        if self.kind == "vllm" and path == "/detokenize":
            return {"prompt": self.tokenizer.decode(body["tokens"])}
        if self.kind == "llama.cpp" and path == "/apply-template":
            return {"prompt": self.render(body)}
        if self.kind == "llama.cpp" and path == "/tokenize" and "content" in body:
            return {"tokens": (encode("<BOS>") if body.get("add_special") else []) + encode(body["content"])}
        if self.kind == "llama.cpp" and path == "/detokenize":
            return {"content": self.tokenizer.decode(body["tokens"])}
        return None

    def render(self, body):
        continued = body.get("continue_final_message", False)
        if self.kind == "llama.cpp":  # continues an assistant's last message by itself
            continued = body["messages"][-1]["role"] == "assistant"
        try:
            return self.tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=not continued,
                continue_final_message=continued, **body.get("chat_template_kwargs", {}),
            )  # fmt: skip
        except Exception as error:  # what a template refuses is the caller's fault
            raise Fault(400, str(error)) from None

    def answer(self, body, number):
        del number
        if body.get("prompt") == [0]:  # asks whether token ids are taken, before the first of them
            return "", "length"
        if "prompt" not in body:
            prompt = self.render(body)
        elif isinstance(body["prompt"], str):
            prompt = "<BOS>" + body["prompt"]
        else:
            prompt = self.tokenizer.decode(body["prompt"])
        self.prompts.append(prompt)
        return ANSWERS["on" if prompt.rstrip().endswith("<think>") else "off"], "stop"


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps({"id": i, "question": "2 + 2 =", "answer": 4}) + "\n" for i in range(2)))
    return path


def evaluate(task, url, out, *more):
    fixed = ["eval", "m", str(task), "--base-url", url, "--out", str(out), "--num-responses", "1", "--force"]
    groups = [part for name in ("thinking_on", "thinking_off", "direct") for part in ("--response-group", name)]
    return CliRunner().invoke(app, [*fixed, *groups, *map(str, more)])


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "qwen3_5_nothink"])
@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_every_group_is_asked_with_the_prompt_that_the_model_would_see(task, tmp_path, name, kind):
    """As a prefill, Qwen3's `<think>` has an empty thought in front, and Qwen3.6's `Answer:` stands behind one."""
    server = VLLM(name, kind=kind)
    with serving(server.answer, other=server.other) as log:
        result = evaluate(task, log.url, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert not any("continue_final_message" in body for body in log.requests)
    # All groups are asked in one queue: told apart by how their prompts end.
    asked = {prompt.rpartition("2 + 2 =")[2] for prompt in server.prompts}
    [on] = [prompt for prompt in asked if prompt.rstrip().endswith("<think>")]
    [direct] = [prompt for prompt in asked if prompt.endswith("Answer:")]
    [off] = asked - {on, direct}
    assert len(server.prompts) == 6
    assert on.rstrip().endswith("assistant\n<think>") and on.count("<think>") == 1
    assert off.endswith("assistant\n<think>\n\n</think>\n\n") and off.count("<think>") == 1
    assert direct.endswith("assistant\nAnswer:" if name == "qwen3" else "assistant\n<think>\n\n</think>\n\nAnswer:")
    rows = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").open()]
    assert {(row["configuration"], row["reward"]) for row in rows} == {
        (name, 1.0) for name in ("thinking_on", "thinking_off", "direct")
    }
    assert {row["completion"].startswith("<think>") for row in rows if row["configuration"] != "direct"} == {True}


def test_a_server_that_does_not_say_how_it_renders_is_refused_or_told_the_tokenizer(task, tmp_path):
    server = VLLM("qwen3")
    server.tokenizer.save_pretrained(tmp_path / "tokenizer")
    with serving(server.answer) as log:
        refused = evaluate(task, log.url, tmp_path / "a")
        assert refused.exit_code == 2 and "name the model's tokenizer by --engine tokenizer=FOLDER" in refused.stderr
        assert not server.prompts
        told = evaluate(task, log.url, tmp_path / "b", "--engine", f"tokenizer={tmp_path / 'tokenizer'}")
        assert told.exit_code == 0, told.output
    # What stays the same whatever follows.
    assert sum(prompt.endswith("assistant\n<think>") for prompt in server.prompts) == 2


def test_one_begin_of_sequence():
    """The rendered template holds one, and a server adds another to texts: token ids have no second one."""
    server = VLLM("llama3_1")
    request = Request(problem=Problem(problem_id="p", prompt="2 + 2 =", answer="4"), number=0, prefix="[TRIAL]")
    with serving(server.answer, other=server.other) as log:
        endpoint = Endpoint(base_url=log.url, model="m")
        sampler = EndpointSampler(
            endpoint=endpoint, max_tokens=9, forcing="render", writer=PromptWriter(tokenizer=server.tokenizer),
            response_groups=[ResponseGroup(name="trials", prefix="[TRIAL]")],
        )  # fmt: skip
        [sampled] = sampler.sample_requests([request])
        assert not isinstance(sampled, IbpoError) and sampled.rollout.completion.startswith("[TRIAL")
        found = ask_for_tokenizer(endpoint)
        assert found is not None and found("a <BOS>")["input_ids"] == server.tokenizer("a <BOS>")["input_ids"]
    [prompt] = server.prompts
    assert prompt.count("<BOS>") == 1 and prompt.startswith("<BOS>")


class Busy(VLLM):
    """Answers the first request, which asks whether it takes token ids, by a status."""

    def __init__(self, name, status, **more):
        super().__init__(name, **more)
        self.status, self.asked = status, 0

    def answer(self, body, number):
        if body.get("prompt") == [0]:
            self.asked += 1
            if self.asked == 1 or self.status == 400:
                raise Fault(self.status, "busy", retry_after_ms="1")
        return super().answer(body, number)


def forced(server, log, tokenizer, prefix="Answer:", **more):
    sampler = EndpointSampler(
        endpoint=Endpoint(base_url=log.url, model="m"), max_tokens=9, forcing="render",
        writer=PromptWriter(tokenizer=tokenizer, adapt=True),
        response_groups=[ResponseGroup(name="own", prefix=prefix)], **more,
    )  # fmt: skip
    request = Request(problem=Problem(problem_id="p", prompt="2 + 2 =", answer="4"), number=0, prefix=prefix)
    [sampled] = sampler.sample_requests([request])
    assert not isinstance(sampled, IbpoError), sampled
    return sampled


@pytest.mark.parametrize("status", [429, 503, 400])
@pytest.mark.parametrize("whose", ["folder", "vllm", "llama.cpp"])
def test_a_busy_server_has_not_said_that_it_takes_no_token_ids(status, whose):
    """It gets texts where it refuses ids alone: and then without the begin of sequence that it adds itself."""
    server = Busy("llama3_1", status, kind="vllm" if whose == "folder" else whose)
    with serving(server.answer, other=server.other) as log:
        asked = server.tokenizer if whose == "folder" else ask_for_tokenizer(Endpoint(base_url=log.url, model="m"))
        sampled = forced(server, log, asked)
    sent = [body["prompt"] for body in log.requests if body["path"] == "/v1/completions"]
    assert isinstance(sent[-1], str if status == 400 else list) and sampled.rollout.completion.startswith("Answer:")
    assert server.prompts[-1].startswith("<BOS>") and server.prompts[-1].count("<BOS>") == 1


@pytest.mark.parametrize(("reported", "prompt"), [(0, None), (3, None), (100, 93)])
def test_a_server_that_counts_fewer_prompt_tokens_than_were_forced_has_not_counted_them(reported, prompt):
    server = VLLM("qwen3")
    with serving(server.answer, other=server.other, usage={"prompt_tokens": reported, "total_tokens": reported}) as log:
        assert forced(server, log, server.tokenizer).num_prompt_tokens == prompt


@pytest.mark.parametrize(
    ("special", "prefix", "kept"),
    [
        ((), "Answer:", False),
        (("</think>",), "Answer:", True),
        (("[TRIAL]",), "[TRIAL]", True),
        (("[TRIAL]",), "[X]", False),
    ],
)  # fmt: skip
def test_marks_that_are_special_tokens_are_asked_for(special, prefix, kept):
    """A server takes them out of its texts: a thought would have no end, and a response no group."""
    server = VLLM("qwen3")
    server.tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    with serving(server.answer, other=server.other) as log:
        forced(server, log, server.tokenizer, prefix)
    [asked] = [body for body in log.requests if body["path"] == "/v1/completions" and body["prompt"] != [0]]
    assert asked.get("skip_special_tokens") == (False if kept else None)
