"""The real vLLM: evaluation, cold start and probe through its server, and its offline engine.

Run where `IBPO_VLLM` names an environment that has it; `make_env.sh` makes one without a GPU. The gateway's other tests
in front of it: `tests/serving/test_gateway_engines.py`.
"""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.tasks import digit_sums, distinct
from tests.model_servers import serving, vllm_environment, vllm_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("model"), "vllm", template="{{ messages[-1]['content'] }}") as server:
        yield server


@pytest.fixture(scope="module")
def policy():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.demo import model_path

    path = model_path("thinking")
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def evaluate(out, *arguments):
    fixed = ["--force", "--limit", "60", "--num-responses", "1"]
    result = CliRunner().invoke(
        app, ["eval", *map(str, arguments), "thinking", *fixed, "--temperature", "0", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (out / "responses.jsonl").open()]
    assert len(rows) == 120
    return {(row["configuration"], row["problem_id"]): row for row in rows}


def test_eval_through_the_server_is_eval_of_the_model(served, tmp_path):
    model, url = served
    here = evaluate(tmp_path / "here", "embedded:thinking")
    there = evaluate(tmp_path / "there", model, "--base-url", url)
    assert here.keys() == there.keys()
    # Greedy, in float32 by other kernels: two tokens that are almost as likely may change places.
    same = [here[key]["completion"] == there[key]["completion"] for key in here]
    assert np.mean(same) >= 0.95
    told = [(here[key]["tokens"], here[key]["reward"]) == (there[key]["tokens"], there[key]["reward"]) for key in here]
    assert np.mean(told) >= 0.95
    said = json.loads((tmp_path / "there" / "eval.json").read_text())["engine"]["server"]
    assert said["owned_by"] == "vllm" and said["version"]


def test_the_probe_reads_the_policys_own_choice(served, policy):
    import openai
    import torch

    from tests.serving.world import World

    name, upstream = served
    model, tokenizer = policy
    groups = [
        {"name": "standard", "prefix": " <answer>", "tokens": 3, "max_tokens": 64},
        {"name": "extended", "prefix": " <think>", "tokens": 20, "max_tokens": 64},
    ]
    plan = {"budget": {"extended": {"mean": 0.3, "response_group": "extended"}}}
    asked = [problem.prompt for problem in distinct(digit_sums, "test", 60, seed=0)]
    with World() as world:
        chosen_by = {"choose": ["probe"], "probe": {"top_logprobs": 20, "seconds": 60}}
        gateway, url, rows = world.gateway(upstream, plan=plan, groups=groups, model=chosen_by)
        client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        for prompt in asked:
            client.completions.create(model=name, prompt=prompt, max_tokens=64)
        world.wait_until(lambda: sum(row["event"] == "request" for row in rows()) == len(asked))
        made = [row for row in rows() if row["event"] == "request"]
        spent = world.snapshot(gateway)["budgets"][0]["spent"]
    # On a machine that does much else a probe may take too long; then the default source is asked.
    assert sum(row["source"] == "probe" for row in made) >= 55
    think, answer = (tokenizer.convert_tokens_to_ids(word) for word in ("<think>", "<answer>"))
    for prompt, row in zip(asked, made, strict=True):
        if row["source"] != "probe":
            continue
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = model(ids).logits[0, -1].log_softmax(-1)
        own = math.exp(scores[think]) / (math.exp(scores[think]) + math.exp(scores[answer]))
        assert row["gains"]["extended"] == pytest.approx(own, abs=1e-4)
    assert spent == sum(row["response_group"] == "extended" for row in made) <= 0.3 * len(asked) + 5


def test_a_cold_start_samples_through_the_server(tmp_path):
    recipe = ROOT / "recipes" / "cold_start_smoke.toml"
    with serving(tmp_path, "vllm", experiment="voting") as (model, url):
        settings = [
            f"data.path={ROOT / 'tests/fixtures/symbol_sums_240.jsonl'}", "data.limit=28", "data.holdout=12",
            "build.responses_per_problem=3", "gate.below_external=1", "gate.well_formed=0.5",
            "sample.engine=endpoint", f"sample.base_url={url}", f"sample.served_model={model}",
        ]  # fmt: skip
        overrides = [x for text in settings for x in ("--set", text)]
        result = CliRunner().invoke(app, ["cold-start", str(recipe), *overrides, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    counts = json.loads((tmp_path / "run" / "results.json").read_text())["data_set"]["counts"]
    assert counts["solutions"] == 16 * 8 and 0 < counts["right"] < counts["solutions"]
    requests = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").open()][1:]
    assert len(requests) == 16 * 8


def test_the_offline_engine_answers_as_the_model_does(served, policy, tmp_path):
    from ibpo.rollouts.hf import HFSampler

    path, _ = served
    model, tokenizer = policy
    problems = distinct(digit_sums, "test", 30, seed=0)
    wanted = [
        {"id": problem.problem_id, "prompt": problem.prompt, "prefix": prefix}
        for problem in problems
        for prefix in ("<answer>", "<think>")
    ]
    (tmp_path / "requests.json").write_text(json.dumps(wanted))
    command = [vllm_program("python"), ROOT / "tests" / "vllm" / "sample_offline.py", path, tmp_path / "requests.json"]
    done = subprocess.run(
        list(map(str, command)), env=vllm_environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"id"')]
    assert len(rows) == len(wanted)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    sampler = HFSampler(model, tokenizer, max_completion_length=64, temperature=0)
    here = sampler.sample([encode(row["prompt"]) for row in wanted], [encode(row["prefix"]) for row in wanted])
    same = [list(row["ids"]) == list(ids) for row, ids in zip(rows, here, strict=True)]
    assert np.mean(same) >= 0.95
