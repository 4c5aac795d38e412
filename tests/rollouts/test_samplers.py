"""One contract for every sampler that can run here, and the store that they fill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ibpo.errors import IbpoError
from ibpo.rollouts.sampler import Request, ScriptedSampler, seed_of
from ibpo.rollouts.store import RolloutStore, collect
from ibpo.types import Problem, ResponseGroup

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = [Problem(problem_id=f"p{i}", prompt=f"{i} + 1 =", answer=str(i + 1)) for i in range(6)]
REQUESTS = [
    Request(problem=problem, number=number, response_group=name, prefix=prefix)
    for problem in PROBLEMS
    for number in range(2)
    for name, prefix in (("standard", ""), ("extended", "[TRIAL]"))
]
LONG = "long"


def script(request):
    """Long for problem 3, refused for problem 5, else the answer."""
    if request.problem.problem_id == "p5":
        raise IbpoError("problem p5: refused")
    return " a" * 40 if request.problem.problem_id == "p3" else f" it is {request.problem.answer}"


@contextmanager
def scripted():
    yield ScriptedSampler(answer=script, max_tokens=20)


def server_answer(body, number):
    from tests.openai_server import Fault

    if isinstance(body.get("prompt"), list):
        raise Fault(400, "no token ids here")
    prompt = (
        body["prompt"] if "prompt" in body else " ".join(m["content"] for m in body["messages"] if m["role"] == "user")
    )
    if "5 + 1" in prompt:
        raise Fault(400, "refused")
    if number == 3:
        raise Fault(503, retry_after_ms="1")
    if "3 + 1" in prompt:
        return " a" * 20, "length"
    return f" it is {int(prompt.split(' + ')[0].split()[-1]) + 1}", "stop"


@contextmanager
def endpoint(forcing):
    pytest.importorskip("openai")
    from ibpo.endpoint import Endpoint
    from ibpo.rollouts.sampler import PromptWriter
    from ibpo.rollouts.served import EndpointSampler
    from tests.openai_server import serving

    with serving(server_answer) as log:
        sampler = EndpointSampler(
            endpoint=Endpoint(base_url=log.url, model="m", num_concurrent=4, price_per_million=(1.0, 2.0)),
            max_tokens=20,
            forcing=forcing,
            writer=PromptWriter(tokenizer=tiny()[0]) if forcing == "render" else None,
        )
        yield sampler


WORDS = ["Q", "0", "1", "2", "4", "+", "=", "[TRIAL]", "it", "is", "3", "5", "6", "a"]


class Scripted:
    """A causal language model that writes what the problem asks, token by token.

    Its next token follows from the last ones: `=` or a forced `[TRIAL]` -> it -> is -> the answer -> end; the problem
    `3 + 1 =` gets `a` without end.
    """

    def __new__(cls, tokenizer):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.modeling_outputs import CausalLMOutputWithPast

        vocabulary = tokenizer.get_vocab()

        class Model(LlamaForCausalLM):
            def forward(self, input_ids: Any = None, past_key_values=None, **kwargs):
                out: Any = super().forward(input_ids=input_ids, past_key_values=past_key_values, **kwargs)
                # Tokens before these are in the cache, where the values tell which they were.
                layer: Any = self.model.layers[0]
                of_token = layer.self_attn.v_proj(layer.input_layernorm(self.model.embed_tokens.weight))
                values = out.past_key_values.layers[0].values[:, 0]
                seen = torch.cdist(values, of_token[None]).argmin(-1)
                logits = torch.full_like(out.logits, -1e9)
                for i, ids in enumerate(seen.tolist()):
                    logits[i, -1, vocabulary[self.after(tokenizer.convert_ids_to_tokens(ids))]] = 0
                return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)

            def after(self, tokens):
                problem = next(t for t in tokens if t.isdigit())
                if tokens[-1] in ("=", "[TRIAL]"):
                    return "a" if problem == "3" else "it"
                follows = {"it": "is", "is": str(int(problem) + 1), "a": "a"}
                return follows.get(tokens[-1], "<eos>")

        size: dict[str, Any] = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        }
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=30, eos_token_id=tokenizer.eos_token_id, **size
        )
        return Model(config).eval()


def tiny():
    """Tokenizer and model of the transformers sampler and of vLLM's peer."""
    pytest.importorskip("transformers")
    from experiments.build import build_tokenizer

    tokenizer = build_tokenizer(WORDS)
    return tokenizer, Scripted(tokenizer)


LONG_PROMPT = "1 + 1 = " * 10
"""Of problem 5 where an engine refuses by length: 40 tokens, 20 of room left for the completion."""


@contextmanager
def transformers_sampler():
    tokenizer, model = tiny()
    from ibpo.rollouts.hf import HFRequestSampler, HFSampler
    from ibpo.rollouts.sampler import PromptWriter

    yield Refusing(
        HFRequestSampler(
            HFSampler(model, tokenizer, max_completion_length=20), PromptWriter(tokenizer=tokenizer), batch_size=3
        )
    )


@contextmanager
def vllm_sampler():
    tokenizer, model = tiny()
    from ibpo.rollouts.sampler import PromptWriter
    from ibpo.rollouts.served import VLLMSampler
    from tests.rollouts.vllm_peer import LLM, SamplingParams

    llm = LLM(model, tokenizer, max_model_len=60)
    writer = PromptWriter(tokenizer=tokenizer)
    yield Refusing(VLLMSampler(llm, SamplingParams, writer, max_tokens=20, batch_size=5, max_model_len=30))


class Refusing:
    """Makes problem 5 longer than the model's room, which is what these engines refuse."""

    def __init__(self, sampler):
        self.sampler = sampler

    def sample_requests(self, requests):
        from dataclasses import replace

        known = {request.key: request for request in requests}
        long = [
            replace(r, problem=replace(r.problem, prompt=LONG_PROMPT)) if r.problem.problem_id == "p5" else r
            for r in requests
        ]
        for outcome in self.sampler.sample_requests(long):
            yield outcome if isinstance(outcome, IbpoError) else replace(outcome, request=known[outcome.request.key])


SAMPLERS = {
    "scripted": scripted,
    "endpoint, rendered": lambda: endpoint("render"),
    "endpoint, prefilled": lambda: endpoint("prefill"),
    "transformers": transformers_sampler,
    "vllm's signatures": vllm_sampler,
}


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    with SAMPLERS[request.param]() as it:
        yield it


def outcomes(sampler, requests):
    return list(sampler.sample_requests(requests))


def test_one_outcome_per_request(sampler):
    found = outcomes(sampler, REQUESTS)
    assert len(found) == len(REQUESTS)
    good = [o for o in found if not isinstance(o, IbpoError)]
    assert sorted(o.request.key for o in good) == sorted(r.key for r in REQUESTS if r.problem.problem_id != "p5")
    errors = [str(o) for o in found if isinstance(o, IbpoError)]
    assert len(errors) == 4 and all(text.startswith("problem p5: ") and "\n" not in text for text in errors)


def test_the_completion_begins_with_its_prefix_and_says_how_it_ended(sampler):
    for outcome in outcomes(sampler, [r for r in REQUESTS if r.problem.problem_id != "p5"]):
        rollout, request = outcome.rollout, outcome.request
        assert rollout.problem_id == request.problem.problem_id
        assert rollout.completion.startswith(request.prefix)
        assert rollout.completion.count("[TRIAL]") == (request.prefix != "")
        assert rollout.finish_reason == ("length" if rollout.problem_id == "p3" else "stop")
        assert outcome.num_prompt_tokens > 0 and 0 < outcome.num_completion_tokens <= 20 + (request.prefix != "")
        if rollout.finish_reason == "stop":
            assert rollout.completion.endswith(f"it is {request.problem.answer}")
        if rollout.completion_token_ids:
            assert len(rollout.completion_token_ids) == outcome.num_completion_tokens


def test_what_vllm_is_asked_and_refuses():
    tokenizer, model = tiny()
    from ibpo.rollouts.sampler import PromptWriter
    from ibpo.rollouts.served import VLLMSampler
    from tests.rollouts.vllm_peer import LLM, SamplingParams

    llm = LLM(model, tokenizer, max_model_len=60)
    sampler = VLLMSampler(llm, SamplingParams, PromptWriter(tokenizer=tokenizer), max_tokens=9, temperature=0.5)
    found: list[Any] = outcomes(sampler, REQUESTS[:4])
    [asked] = llm.calls
    assert [params.seed for params in asked] == [seed_of(request, 0) for request in REQUESTS[:4]]
    assert [params.max_tokens for params in asked] == [9, 8, 9, 8]  # the prefix is a token
    assert {(params.n, params.temperature, params.top_p, params.top_k) for params in asked} == {(1, 0.5, 1.0, 0)}
    assert [len(o.rollout.prompt_token_ids) for o in found] == [4] * 4
    assert found[1].rollout.completion == "[TRIAL] it is 1"
    # The engine refuses a whole call: every request of it says so, and the next batch goes on.
    too_long = Problem(problem_id="long", prompt="1 + " * 40, answer="")
    mixed = [REQUESTS[0], Request(problem=too_long, number=0), REQUESTS[1]]
    sampler.batch_size = 2
    refused, too, good = outcomes(sampler, mixed)
    assert "problem p0: refused: The decoder prompt is longer" in str(refused) and isinstance(too, IbpoError)
    assert not isinstance(good, IbpoError)
    tight = VLLMSampler(llm, SamplingParams, PromptWriter(tokenizer=tokenizer), max_tokens=1)
    [nothing_left] = outcomes(tight, REQUESTS[1:2])
    assert "its prefix of 1 tokens leaves none of 1" in str(nothing_left)


def test_vllm_that_is_not_there():
    from importlib.util import find_spec

    from ibpo.rollouts.served import load_vllm

    if find_spec("vllm") is None:
        with pytest.raises(IbpoError, match="pip install vllm"):
            load_vllm("m")


def test_nothing_to_sample(sampler):
    assert outcomes(sampler, []) == []


def test_collecting_keeps_truncation_and_asks_again_only_for_what_failed(sampler, tmp_path):
    store = RolloutStore(tmp_path / "s.jsonl")
    first = collect(sampler, REQUESTS, store)
    assert (first.num_new, len(first.failures)) == (20, 4)
    store = RolloutStore(tmp_path / "s.jsonl")
    again = collect(sampler, REQUESTS, store)
    assert (again.num_new, len(store), len(again.failures)) == (0, 20, 4)
    assert sum(row["finish_reason"] == "length" for row in store.rows()) == 4


def test_what_the_endpoint_is_asked():
    pytest.importorskip("openai")
    from ibpo.endpoint import Endpoint
    from ibpo.rollouts.served import EndpointSampler
    from tests.openai_server import serving

    groups = [
        ResponseGroup(name=n, prefix=p, extract_answer=str, instruction=f"Do {n}.")
        for n, p in (("standard", ""), ("extended", "[TRIAL]"))
    ]
    with serving(server_answer) as log:
        sampler = EndpointSampler(
            endpoint=Endpoint(base_url=log.url, model="m", num_concurrent=1, price_per_million=(1e6, 1e6)),
            max_tokens=7,
            temperature=0.5,
            response_groups=groups,
            options={"top_p": 0.9, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
        )
        outcomes(sampler, REQUESTS[:2])
        free = Request(problem=PROBLEMS[0], number=0)
        outcomes(sampler, [free])
        bill = sampler.endpoint.bill
    plain, forced, chooses = (r for i, r in enumerate(log.requests) if i != 2)
    assert [m["role"] for m in plain["messages"]] == ["user"]
    assert plain["messages"][0]["content"] == "Do standard.\n\n0 + 1 ="
    assert forced["messages"][-1] == {"role": "assistant", "content": "[TRIAL]"}
    assert forced["continue_final_message"] is True and forced["add_generation_prompt"] is False
    assert forced["chat_template_kwargs"] == {"enable_thinking": False} and forced["top_p"] == 0.9
    assert (forced["max_tokens"], forced["temperature"]) == (7, 0.5)
    assert plain["seed"] != forced["seed"] == seed_of(REQUESTS[1], 0)
    assert chooses["messages"][0]["content"] == "Do standard.\n\nDo extended.\n\n0 + 1 ="
    assert bill.num_requests == 3 and bill.num_retries == 1 and bill.cost == bill.prompt_tokens + bill.completion_tokens


def test_settings_that_cannot_force():
    pytest.importorskip("openai")
    from ibpo.endpoint import Endpoint
    from ibpo.rollouts.served import EndpointSampler

    nowhere = Endpoint(base_url="http://127.0.0.1:9/v1", model="m", max_retries=0)
    with pytest.raises(IbpoError, match="needs a writer"):
        EndpointSampler(endpoint=nowhere, max_tokens=5, forcing="render")
    [outcome] = outcomes(EndpointSampler(endpoint=nowhere, max_tokens=5, forcing="none"), REQUESTS[1:2])
    assert isinstance(outcome, IbpoError) and "set forcing to 'render' or 'prefill'" in str(outcome)


def test_a_store_cut_anywhere_is_completed(tmp_path):
    """Cut off at every length a kill could leave: the rerun ends with the same rollouts."""
    path = tmp_path / "s.jsonl"
    requests = [r for r in REQUESTS if r.problem.problem_id != "p5"][:8]
    sampler = ScriptedSampler(answer=script)
    collect(sampler, requests, RolloutStore(path, settings={"t": 1}))
    whole = path.read_bytes()
    rng = random.Random(0)
    for length in [0, 1, 30, len(whole.splitlines()[0]), *rng.sample(range(len(whole)), 40)]:
        path.write_bytes(whole[:length])
        store = RolloutStore(path, settings={"t": 1})
        kept = len(store)
        assert kept == max(whole[:length].count(b"\n") - 1, 0)
        assert collect(sampler, requests, store).num_new == len(requests) - kept
        assert path.read_bytes() == whole


def test_what_two_processes_wrote_into_one_store_counts_once(tmp_path):
    path = tmp_path / "s.jsonl"
    first, second = RolloutStore(path), RolloutStore(path)
    for store, text in ((first, "a"), (second, "b")):
        collect(ScriptedSampler(answer=lambda request, text=text: text), REQUESTS[:3], store)
    assert len(path.read_bytes().splitlines()) == 7
    rows = list(RolloutStore(path).rows())
    assert len(rows) == len(RolloutStore(path)) == 3 and {row["completion"].strip()[-1] for row in rows} == {"a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\n", "is not a store of rollouts"),
        (b"some text\nmore\n", "is not a store of rollouts"),
        (b"x" * 9000, "is not a store of rollouts"),
        (b'{"schema": "ibpo.rollouts", "version": 99, "settings": {}}\n', "is of version 99, this ibpo writes 1"),
        (b'{"schema": "ibpo.rollouts", "version": 1, "settings": {"t": 2}}\n', r"other settings \(in t\)"),
        (b'{"schema": "ibpo.rollouts", "version": 1, "settings": {"t": 1}}\n{}\n', "line 2: is not a rollout"),
    ],
)
def test_files_that_are_no_store_are_left_alone(content, message, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(content)
    with pytest.raises(IbpoError, match=message):
        RolloutStore(path, settings={"t": 1})
    assert path.read_bytes() == content


def test_a_killed_collection_goes_on(tmp_path):
    path = tmp_path / "s.jsonl"
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from ibpo.rollouts.sampler import Request, ScriptedSampler
from ibpo.rollouts.store import RolloutStore, collect
from ibpo.types import Problem
problems = [Problem(problem_id=str(i), prompt="q", answer="1") for i in range(400)]
def answer(request):
    time.sleep(0.005)
    return " x" * 500
requests = [Request(problem=p, number=0) for p in problems]
collect(ScriptedSampler(answer=answer), requests, RolloutStore(Path({str(path)!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 20_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(RolloutStore(path))
    assert 0 < kept < 400
    requests = [Request(problem=Problem(problem_id=str(i), prompt="q", answer="1"), number=0) for i in range(400)]
    done = collect(ScriptedSampler(answer=lambda r: " x" * 500), requests, RolloutStore(path))
    assert done.num_new == 400 - kept
    keys = [row["key"] for row in RolloutStore(path).rows()]
    assert len(keys) == len(set(keys)) == 400
