"""Training, evaluation and fine-tuning on a small checkpoint of each kind, with the settings as they come."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.rollouts import encode_prompt, load_policy
from ibpo.training.cold_start.run import supervised_fine_tune
from ibpo.training.trainer import IBPOConfig, IBPOTrainer
from ibpo.types import ResponseGroup
from tests.checkpoints import KINDS, make_checkpoint

GROUPS = [ResponseGroup(name="standard", prefix="Answer:"), ResponseGroup(name="extended", prefix="Steps:")]


def train(folder, out, model=None, rewards=None, rows=8, **options):
    """Two updates of two prompts with IBPOConfig's defaults, but for lengths and numbers."""
    settings: dict[str, Any] = {"max_steps": 2, "max_completion_length": 32, "num_generations": 4, "logging_steps": 1}
    settings |= {"guards": "warn", "use_cpu": True, "budget": {"extended": 0.5}} | options
    prompts = [f"{i} + {i} =" for i in range(rows)]
    chat = load_policy(str(folder))[1].chat_template
    data = [
        {"prompt": [{"role": "user", "content": text}] if chat else text, "problem_id": f"p{i}"}
        for i, text in enumerate(prompts)
    ]
    trainer = IBPOTrainer(
        model=model or str(folder),
        reward_funcs=rewards or (lambda completions, **_: [0.5] * len(completions)),
        response_groups=GROUPS,
        args=IBPOConfig(output_dir=str(out), **settings),
        train_dataset=Dataset.from_list(data),
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, tmp_path_factory):
    return request.param, make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
def test_the_trainer_as_it_comes_trains_it(checkpoint, tmp_path):
    kind, folder = checkpoint
    options: dict[str, Any] = {"router_aux_loss_coef": 0.0} if kind == "linear" else {}
    trainer = train(folder, tmp_path / "run", **options)
    assert trainer.args.bf16  # TRL's default
    logs = [log for log in trainer.state.log_history if "ibpo/share/extended" in log]
    assert len(logs) == 2
    for log in logs:
        assert math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"]) and log["grad_norm"] > 0
    assert logs[0]["ibpo/kl"] == pytest.approx(0.0, abs=1e-4)  # both policies in the same precision
    _, tokenizer = load_policy(str(folder))
    if kind == "bos":
        assert all(ids[0] == tokenizer.bos_token_id for ids in trainer.handover.prompt_ids)
    trainer.save_model(str(tmp_path / "kept"))
    again, _ = load_policy(str(tmp_path / "kept"))
    assert all(torch.isfinite(p).all() for p in again.parameters())


@pytest.mark.slow
def test_ibpo_eval_and_a_cold_starts_tuning_take_it(checkpoint, tmp_path):
    """The same prompt ids as in training, responses that end at any of the model's ids, weights that can be saved."""
    kind, folder = checkpoint
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps({"question": f"{i} + {i} =", "answer": str(2 * i)}) + "\n" for i in range(3)))
    precision = ["--engine", "dtype=bfloat16"] if kind == "bfloat16" else []
    run = ["eval", str(folder), str(task), "--set", "data.judge=exact", "--out", str(tmp_path / "run"), *precision]
    result = CliRunner().invoke(app, [*run, "--num-responses", "4", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["settings"]["max_tokens"] == 256
    model, tokenizer = load_policy(str(folder))
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").open()][1:]
    text = "0 + 0 ="
    prompt: Any = [{"role": "user", "content": text}] if tokenizer.chat_template else text
    asked = encode_prompt(tokenizer, prompt)
    assert asked in [row["prompt_token_ids"] for row in rows]
    assert (asked[0] == tokenizer.bos_token_id) == (kind == "bos")
    ends = {2, 3, 100} if kind == "several_eos" else {2}
    for row in rows:
        assert (row["finish_reason"] == "stop") == (row["completion_token_ids"][-1] in ends)
    if kind == "several_eos":
        assert any(row["completion_token_ids"][-1] in (3, 100) for row in rows)
    if kind == "linear":  # made without experts, whose auxiliary loss TRL asks for
        return
    tuned = supervised_fine_tune(
        model, tokenizer, [(asked, "Answer: 0"), (text, "Steps: 0")], tmp_path / "tuned", learning_rate=1e-3,
        batch_size=2, seed=0, use_cpu=True,
    )  # fmt: skip
    tuned.save_pretrained(tmp_path / "kept")
    tokenizer.save_pretrained(tmp_path / "kept")
    load_policy(str(tmp_path / "kept"))
