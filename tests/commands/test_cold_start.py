"""The command on the embedded model: errors, a whole run behind a real server, and runs that were cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from tests.openai_server import Fault, serving

pytest.importorskip("trl")
ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "recipes" / "cold_start_smoke.toml"
SMALL = (
    "data.limit=28",
    "data.holdout=12",
    "build.responses_per_problem=3",
    "gate.below_external=1",
    "gate.well_formed=0.5",
)


def options(out, *overrides):
    settings = (f"data.path={ROOT / 'tests/fixtures/symbol_sums_240.jsonl'}", *overrides)
    return [str(RECIPE), *(x for text in settings for x in ("--set", text)), "--out", str(out)]


def run(*arguments):
    return CliRunner().invoke(app, ["cold-start", *map(str, arguments)])


def assert_last_line(result, message):
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last, result.stderr


def assert_one_line(result, message):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], result.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sample.num_solutoins=3"], "sample.num_solutoins=3: unknown key; did you mean num_solutions?"),
        (["smaple.seed=3"], "--set smaple.seed=3: unknown table; did you mean sample?"),
        (["budget.extended=0.5"], "belongs to recipes of `ibpo train`; run that"),
        (["sample.engine=vlm"], "--set sample.engine=vlm: 'vlm' is not one of transformers, vllm, endpoint"),
        (["sample.engine=endpoint"], "sample.base_url: is needed for engine = 'endpoint'"),
        (["build.alpha=-1"], "build.alpha=-1: must be at least 0, got -1"),
        (["sample.price_prompt=-1"], "sample.price_prompt=-1: must be at least 0, got -1"),
        (["gate.keeps_rule=98"], "gate.keeps_rule=98: must be at most 1, got 98"),
        (["data.task=humaneval", "data.judge=llm"], "judge.base_url: is needed for data.judge = 'llm'"),
        (["data.task=gsm9k"], "cold_start_smoke.toml: data.task: no task 'gsm9k'; did you mean gsm8k?"),
        (
            ["data.judge=code", "data.tests=answer"],
            "cold_start_smoke.toml: data.judge: a vote compares answers, and programs are compared by their tests",
        ),
        (["data.holdout=0"], "data.holdout=0: must be at least 2"),
        (["data.holdout=500", "data.limit=1000"], "data.holdout: 240 problems less 500 held out leave none"),
        (["sample.force_opening=1"], "sample.force_opening=1: needs true or false, got 1"),
        (["sft.max_steps=x", "sft.lerning_rate=1"], "sft.lerning_rate: unknown key of SFTConfig"),
        (["sft.learning_rate=1"], "sft.learning_rate: is set by [train] or --out"),
        (['sft.bf16="no"'], "sft.bf16: needs true or false, got 'no'"),
        (["sft.optim=nope"], "sft: nope is not a valid OptimizerNames"),
        (["train.seed=4294967296"], "must be at most 4294967295, got 4294967296"),
        (["model.path=embedded:votes"], "model.path: no embedded model votes/cold_start"),
    ],
)
def test_bad_recipes(overrides, message, tmp_path):
    assert_one_line(run(*options(tmp_path / "run", *overrides)), message)
    assert not (tmp_path / "run").exists()  # a corrected recipe goes into the same folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path={folder}", "model.path: {folder}: holds no model"),
        ("sample.rollouts={folder}/not.jsonl", "not.jsonl: is not a store of rollouts"),
    ],
)
def test_a_run_without_a_solution_leaves_nothing_behind(override, message, tmp_path):
    """The corrected recipe was refused in this folder: "begun with another recipe"."""
    (tmp_path / "not.jsonl").write_text('{"problem": "1 + 1 =", "answer": "2"}\n')
    result = run(*options(tmp_path / "run", override.format(folder=tmp_path)))
    assert_last_line(result, message.format(folder=tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_server_that_fails_is_given_up_after_a_few_requests(tmp_path):
    """Each of the 640 waited for its retries before the error was said."""

    def fails(body, number):
        raise Fault(400, "out of order")

    with serving(fails) as log:
        asked = ["sample.engine=endpoint", f"sample.base_url={log.url}", "sample.served_model=m"]
        result = run(*options(tmp_path / "run", *asked, "sample.num_concurrent=4"))
        assert_last_line(result, "the first 16 requests failed, the last: ")
        assert "out of order" in result.stderr and 16 <= len(log.requests) <= 20
    assert not (tmp_path / "run").exists()


@contextmanager
def served(stage):
    """An embedded model behind a real server on loopback, answering `/v1/completions` by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.demo import model_path
    from ibpo.rollouts.hf import HFSampler
    from tests.openai_server import serving

    path = model_path("voting", stage)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    lock = threading.Lock()

    def answer(body, number):
        prompt = tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        sampler = HFSampler(model, tokenizer, max_completion_length=body["max_tokens"], temperature=body["temperature"])
        with lock:
            torch.manual_seed(body["seed"])
            [ids] = sampler.sample([prompt], [[]])
        ended = ids[-1] == tokenizer.eos_token_id
        return tokenizer.decode(ids[: len(ids) - ended]), "stop" if ended else "length"

    with serving(answer) as log:
        yield log


@pytest.mark.slow
def test_sample_build_cold_start_check_behind_a_server(tmp_path):
    out = tmp_path / "run"
    with served("cold_start") as log:
        through = ["sample.engine=endpoint", f"sample.base_url={log.url}", "sample.num_concurrent=2", *SMALL]
        through += ["sample.price_prompt=1e6", "sample.price_completion=2e6"]
        result = run(*options(out, *through))
        requests = list(log.requests)
    assert result.exit_code == 0, result.output
    # One asks whether the server takes token ids. This one does not: it gets texts, without a begin-of-sequence token.
    texts = [request["prompt"] for request in requests if isinstance(request["prompt"], str)]
    asked = len(texts)
    assert asked == 16 * 8 == len(requests) - 1 and all(text.endswith("<cot>") for text in texts)
    results = json.loads((out / "results.json").read_text())
    counts = results["data_set"]["counts"]
    assert counts["solutions"] == asked and 0 < counts["right"] < asked
    bill, stored = results["data_set"]["bill"], [json.loads(x) for x in (out / "rollouts.jsonl").open()][1:]
    assert bill["cost"] == bill["prompt_tokens"] + 2 * bill["completion_tokens"] > 0
    assert bill["completion_tokens"] == sum(row["num_completion_tokens"] for row in stored)
    assert "bill of the solutions: " in result.stdout and f", cost {bill['cost']:.4g}" in result.stdout
    # Every row of the data set reads back, and says which of the model's own solutions it is made of.
    from ibpo.responses.voting import TALLY

    keys = {json.loads(line)["key"] for line in (out / "rollouts.jsonl").read_text().splitlines()[1:]}
    rows = [json.loads(line) for line in (out / "dataset.jsonl").read_text().splitlines()]
    assert {row["response_group"] for row in rows} == {"standard", "extended"}
    for row in rows:
        assert set(row["sources"]) <= keys
        if row["response_group"] == "extended":
            assert TALLY.read_vote(row["completion"]).problem is None
            assert len(TALLY.read_vote(row["completion"]).attempts) == len(row["sources"])
        else:
            assert TALLY.standard.extract_answer(row["completion"]) == row["answer"]
    gate = results["gate"]
    assert results["passed"] and gate["keeps_rule"] >= 0.9 and set(gate["share"]) == {"standard", "extended", "none"}
    assert gate["mean_trials"] <= 8 and gate["num_problems"] == 12
    assert "gate passed; go on with: ibpo train" in result.stdout
    again = run(*options(out, *through))
    assert again.exit_code == 0 and "this run is finished" in again.stderr
    changed = run(*options(out, *through, "train.learning_rate=1e-5"))
    assert_one_line(changed, "begun with another recipe (in train.learning_rate)")
    assert f"--set sample.rollouts={out / 'rollouts.jsonl'}" in changed.stderr

    from ibpo.config import read_recipe

    follows = read_recipe(out / "train.toml")
    assert [group.prefix for group in follows.response_group] == ["<cot>", "[TRIAL]"]
    assert follows.model.path == str(out / "model")


@pytest.mark.slow
def test_solutions_serve_a_second_run_with_an_adapter_and_votes_alone(tmp_path):
    pytest.importorskip("peft")
    from safetensors.numpy import load_file

    from ibpo.demo import model_path

    # The first run fails after sampling: nothing is right where every answer is wrong.
    rows = [json.loads(line) for line in (ROOT / "tests/fixtures/symbol_sums_240.jsonl").read_text().splitlines()]
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("".join(json.dumps({**row, "answer": "=none"}) + "\n" for row in rows))
    first = run(*options(tmp_path / "first", *SMALL, f"data.path={wrong}", "build.imitate=right"))
    assert_last_line(first, "no response of 'standard' could be built: of 128 solutions 0 were cut off")
    second = ["train.lora_rank=4", f"sample.rollouts={tmp_path / 'first' / 'rollouts.jsonl'}", "build.mixture=sv"]
    result = run(*options(tmp_path / "second", *SMALL, f"data.path={wrong}", *second))
    results = json.loads((tmp_path / "second" / "results.json").read_text())
    assert result.exit_code == (0 if results["passed"] else 1), result.output
    assert "solutions: 0 of 128 to sample" in result.stderr
    assert results["gate"]["share"] == {} and set(results["data_set"]["responses"]) == {"extended"}
    model = tmp_path / "second" / "model"
    assert not list(model.glob("adapter*"))
    before, after = (load_file(path / "model.safetensors") for path in (model_path("voting"), model))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all("proj" in name for name in moved) and before.keys() == after.keys()


@pytest.mark.slow
def test_a_model_without_votes_fails_the_gate_and_is_told_why(tmp_path):
    result = run(*options(tmp_path / "run", "model.path=embedded:voting/pretrained", *SMALL))
    assert result.exit_code == 1, result.output
    assert "FAILED: " in result.stdout and "of the votes keep form and stop rule" in result.stdout
    assert "imitate more votes" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_a_run_that_was_killed_in_every_stage_is_completed(tmp_path):
    out = tmp_path / "run"
    arguments = options(out, "sample.batch_size=32", *SMALL, "sft.save_steps=1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def kept():
        return (out / "rollouts.jsonl").read_bytes() if (out / "rollouts.jsonl").exists() else b""

    stages = [
        lambda: kept().count(b"\n") > 40,
        lambda: any((out / "checkpoints").glob("checkpoint-*/trainer_state.json")),
        lambda: (out / "gate.jsonl").exists() and (out / "gate.jsonl").read_bytes().count(b"\n") > 20,
    ]
    before = b""
    for reached in stages:
        process = subprocess.Popen(
            [sys.executable, "-m", "ibpo", "cold-start", *arguments],
            env=environment,
            stderr=(errors := (tmp_path / "stderr.txt").open("w")),
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 600
        while not reached():
            assert process.poll() is None or reached(), (tmp_path / "stderr.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        errors.close()
        whole = before[: before.rfind(b"\n") + 1]
        assert kept().startswith(whole)  # what was sampled is never sampled again
        before = kept()
        # The gate takes a second: on a busy machine it may have ended before this process looked again.
        assert not (out / "results.json").exists() or reached is stages[-1]
    assert run(*arguments).exit_code in (0, 1)
    assert kept() == before
    keys = [json.loads(line)["key"] for line in before.splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 16 * 8


BY_PROGRAM = """
[model]
path = "model"
[data]
path = "rows.jsonl"
holdout = 2
judge = "exact"
[[response_group]]
name = "direct"
prefix = "Answer:"
answer = "last_number"
body = "direct"
[[response_group]]
name = "thinking"
prefix = "<think>"
answer = "last_number"
body = "steps"
"""


def by_program(folder, template):
    """A recipe whose bodies are all in the data, and a tokenizer with this chat template; there is no model."""
    from benchmarks.families import tokenizer_with

    made = tokenizer_with(template)
    made.add_tokens(["[THINK]", "[/THINK]"])
    made.save_pretrained(folder / "model")
    rows = [{"id": i, "question": f"{i} + 1 =", "answer": i + 1, "direct": f" {i + 1}", "steps": f"so</think>{i + 1}"}
            for i in range(8)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(BY_PROGRAM.replace('"model"', json.dumps(str(folder / "model"))))
    return folder / "recipe.toml"


CHAT = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "option", "said"),
    [
        (CHAT, ["--set", "template.enable_thinking=false"], "template.enable_thinking: the chat template (unknown) "),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT,
            ["--set", "data.system=Add."],
            "the chat template refuses the prompt: System role not supported; leave out what it does not support (dat",
        ),
        (CHAT + "<think>", [], "inside an open thought ('<think>'), where '<think>' would open another"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_fit_is_refused_before_the_first_stage(tmp_path, template, option, said):
    """Also where no solution is to be sampled: `ibpo train` refuses what would come out."""
    result = run(by_program(tmp_path, template), *option, "--out", tmp_path / "run")
    assert_last_line(result, said)
    assert not (tmp_path / "run").exists()


def test_what_is_imitated_opens_in_the_tokens_that_are_forced(tmp_path, monkeypatch):
    """A family with marks of its own: its model thinks behind [THINK], and that is what training and the gate force."""
    from transformers import AutoTokenizer

    from ibpo.responses import encode_prefix
    from ibpo.training.cold_start import run as stages

    made = by_program(tmp_path, CHAT + "{# [THINK] #}")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    seen = []

    def fine_tune(model, tokenizer, pairs, *more, **options):
        seen.extend(pairs)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "load_policy", lambda path, dtype: (None, tokenizer))
    monkeypatch.setattr(stages, "_to_device", lambda model: model)
    monkeypatch.setattr(stages, "supervised_fine_tune", fine_tune)
    assert run(made, "--out", tmp_path / "run").exit_code == 130
    texts = {text for _, text in seen}
    assert len(texts) == 12 and sum(text.startswith("[THINK]so[/THINK]") for text in texts) == 6
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prefix = "Answer:" if text.startswith("Answer:") else "<think>"
        assert tuple(ids[: len(encode_prefix(prefix, tokenizer))]) == encode_prefix(prefix, tokenizer)


def test_solutions_of_other_template_options_are_not_used_again(tmp_path):
    from ibpo.training.cold_start.recipe import read_cold_start_recipe
    from ibpo.training.cold_start.run import sample_settings

    for more in ([], ["data.template=Sum: {problem}"]):
        on, off = (
            sample_settings(read_cold_start_recipe(RECIPE, [f"template.enable_thinking={value}", *more]))
            for value in ("true", "false")
        )
        assert on != off


@pytest.mark.parametrize("num_groups", [2, 3, 5, 7])
def test_what_to_go_on_with_is_a_recipe_whatever_the_number_of_groups(tmp_path, num_groups):
    """Eight responses a prompt, the default, are no multiple of three."""
    from ibpo.commands.cold_start import _next_recipe
    from ibpo.config import read_recipe
    from ibpo.runs import RunDir
    from ibpo.training.cold_start.recipe import read_cold_start_recipe

    row = {"id": "1", "question": "1 + 1 =", "answer": "2"} | {f"c{g}": "Answer: 2" for g in range(num_groups)}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    group = '[[response_group]]\nname = "g{0}"\nprefix = "G{0}:"\nanswer = "after:Answer:"\nbody = "c{0}"\n'
    text = '[model]\npath = "embedded:thinking"\n[data]\npath = "rows.jsonl"\nholdout = 2\njudge = "exact"\n'
    (tmp_path / "recipe.toml").write_text(text + "".join(group.format(g) for g in range(num_groups)))
    config = read_cold_start_recipe(tmp_path / "recipe.toml")
    (tmp_path / "train.toml").write_text(_next_recipe(config, RunDir(tmp_path / "run")))
    found = read_recipe(tmp_path / "train.toml")
    assert len(found.response_group) == num_groups and found.train.rollouts_per_prompt in range(8, 15)


def test_shipped_recipes_are_whole(tmp_path):
    from ibpo.commands.cold_start import _next_recipe
    from ibpo.config import read_recipe
    from ibpo.runs import RunDir
    from ibpo.training.cold_start.recipe import read_cold_start_recipe

    for path in sorted((ROOT / "recipes").glob("cold_start_*.toml")):
        assert path.read_text().startswith(f"# ibpo cold-start recipes/{path.name}")
        config = read_cold_start_recipe(path)
        follows = tmp_path / path.name
        follows.write_text(_next_recipe(config, RunDir(tmp_path)))
        assert len(read_recipe(follows).response_group) == 2
        from trl import SFTConfig

        assert set(config.sft) <= set(SFTConfig.__dataclass_fields__)
    assert "not verified on hardware" in (ROOT / "recipes" / "cold_start_qwen.toml").read_text()
