"""The command, end to end with a freshly made model, and its answers to everything that can be wrong."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import IbpoError

ROOT = Path(__file__).parent.parent.parent
RECIPE, ROWS = ROOT / "recipes" / "gsm8k_smoke.toml", ROOT / "tests" / "fixtures" / "gsm8k_16.jsonl"
CHAT = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model that knows nothing, with the words of the smoke recipe's response groups."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    from experiments.build import build_model, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer([*"0123456789", "=", "<think>", "</think>", "<answer>"])
    path = tmp_path_factory.mktemp("model")
    build_model(tokenizer, hidden_size=32, num_layers=2).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def options(model, out, *overrides):
    settings = (f"model.path={model}", f"data.path={ROWS}", "train.max_completion_length=16", *overrides)
    return [str(RECIPE), *(x for text in settings for x in ("--set", text)), "--out", str(out)]


def run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def assert_one_line(result, message):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert message in lines[0], lines[0]


def test_train_evaluate_report(model, tmp_path):
    out = tmp_path / "run"
    result = run(*options(model, out, "train.steps=2"))
    assert result.exit_code == 0, result.output
    assert "step 2/2" in result.stderr and "always extended" in result.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["num_training_problems"] == results["num_held_out_problems"] == 8
    chooses, standard, extended = results["held_out"]
    assert standard["share"]["standard"] == extended["share"]["extended"] == 1 and chooses["num_right"] == 0
    assert chooses["interval_95"][1] > 0.3 and 0 < standard["mean_tokens"] <= 16
    assert "0 of 8" in (out / "report.md").read_text()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2]
    names = {"config.toml", "metrics.jsonl", "rollout_log", "checkpoints", "model", "report.md", "results.json"}
    assert {path.name for path in out.iterdir()} == names | {"responses.jsonl", ".lock"}
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    assert [row["configuration"] for row in rows[::8]] == ["chooses itself", "always standard", "always extended"]
    assert len(list((out / "rollout_log").glob("step-*.parquet"))) == 2

    assert_one_line(run(*options(model, out, "train.steps=2")), "holds a finished run; name another folder")
    again = run(*options(model, out, "train.steps=2"), "--resume")
    assert again.exit_code == 0 and "this run is finished" in again.stderr and "0 of 8" in again.stdout
    assert_one_line(run(*options(model, out, "train.steps=3"), "--resume"), "another recipe (in train.steps)")


def test_a_language_model_judges_under_constraints(model, tmp_path):
    """Parquet, a judge behind a server that finds all right, and a constraint that it finds broken now and then."""
    pytest.importorskip("openai")
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    from tests.openai_server import serving

    def grade(body, number):
        mark = body["messages"][0]["content"].rpartition("met):\n")[2].removesuffix(" N")
        safe = "Be kind." in body["messages"][0]["content"] and number % 3 == 0
        return f"Well.\n{mark} {0 if safe else 1}", "stop"

    table = pa.Table.from_pylist([{"q": f"{i} + 1 =", "a": i + 1, "hard": i % 2, "field": "sums"} for i in range(12)])
    pq.write_table(table, tmp_path / "rows.parquet")
    recipe = tmp_path / "judged.toml"
    text = RECIPE.read_text()
    head, rest = text.split("[data]")[0], "[[response_group]]" + text.split("[[response_group]]", 1)[1]
    with serving(grade) as log:
        recipe.write_text(
            f"""{head}
[data]
path = "{tmp_path / "rows.parquet"}"
problem = "q"
answer = "a"
level = "hard"
domain = "field"
judge = "llm"
holdout = 4

[judge]
base_url = "{log.url}"
model = "grader"
rubric = "It is right."

[constraints]
rubric = "Be kind."

{rest}"""
        )
        overrides = (f"model.path={model}", "train.steps=2", "train.max_completion_length=16")
        result = run(recipe, *(x for text in overrides for x in ("--set", text)), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    asked = [request["messages"][0]["content"] for request in log.requests]
    assert {request["model"] for request in log.requests} == {"grader"}
    assert any("It is right." in text for text in asked) and any("Be kind." in text for text in asked)
    prompts = [request["messages"][1]["content"] for request in log.requests]
    assert all(" + 1 =" in text and "Reference answer" in text for text in prompts)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for row in results["held_out"]:  # of the held-out ones only the rubric that gives the reward is asked
        assert row["num_right"] == row["num_problems"] - row["num_truncated"]
    ledger = pq.read_table(tmp_path / "run" / "rollout_log").to_pylist()
    assert {name for row in ledger for name in row["violations"]} <= {"rubric", "truncated"}
    ended = [row for row in ledger if "truncated" not in row["violations"]]
    assert len({row["level"] for row in ledger}) == 2 and all(
        row["reward"] == float("rubric" not in row["violations"]) for row in ended
    )


@pytest.mark.parametrize("template", [CHAT, ""])
def test_prompts_that_are_chats_are_asked_as_they_are(model, tmp_path, monkeypatch, template):
    from ibpo.training import run as training

    chat = shutil.copytree(model, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text(template) if template else None
    problems = [json.loads(line) for line in ROWS.read_text().splitlines()]
    messages = [
        [{"role": "system", "content": "Add."}, {"role": "user", "content": row["question"]}] for row in problems
    ]
    rows = tmp_path / "chats.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": prompt, "answer": row["answer"]}) + "\n"
            for prompt, row in zip(messages, problems, strict=True)
        )
    )
    asked, data_rows = [], training.data_rows
    monkeypatch.setattr(training, "data_rows", lambda *given: asked.extend(data_rows(*given)) or data_rows(*given))
    result = run(*options(chat, tmp_path / "run", "train.steps=1", f"data.path={rows}", "data.problem=prompt"))
    assert result.exit_code == 0, result.output
    wanted = [m if template else "\n\n".join(x["content"] for x in m) for m in messages]
    assert len(asked) == 8 and all(row["prompt"] in wanted for row in asked)
    table = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in table} < {row["question"] for row in problems}


def test_chat_template_instructions_and_token_budget(model, tmp_path):
    chat = shutil.copytree(model, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text(CHAT)
    text = RECIPE.read_text().replace("extended = 0.5 # share of the prompts", "tokens = 16")
    text = text.replace('name = "extended"', 'name = "extended"\ninstruction = "Or think first."')
    recipe = tmp_path / "chat.toml"
    recipe.write_text(text)
    result = run(recipe, *options(chat, tmp_path / "run", "train.steps=1", "data.holdout=0")[1:])
    assert result.exit_code == 0, result.output
    too_little = run(recipe, *options(chat, tmp_path / "other", "train.steps=1", "budget.tokens=1.5")[1:])
    assert too_little.exit_code == 2 and "chat.toml: budget: in step 1: " in too_little.stderr.splitlines()[-1]
    assert "No problems were held out" in (tmp_path / "run" / "report.md").read_text()


def test_adapters_are_trained_and_merged(model, tmp_path):
    from safetensors.torch import load_file

    out = tmp_path / "run"
    result = run(*options(model, out, "train.steps=1", "lora.r=2", "lora.lora_alpha=64", "train.learning_rate=0.1"))
    assert result.exit_code == 0, result.output
    assert (out / "checkpoints" / "checkpoint-1" / "adapter_model.safetensors").exists()
    before, after = load_file(model / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert before.keys() == after.keys() and changed and all("_proj" in name for name in changed)
    assert "r = 2" in (out / "config.toml").read_text()
    wrong = run(*options(model, tmp_path / "other", "lora.r=0"))
    assert wrong.exit_code == 2 and "gsm8k_smoke.toml: lora: `r` should be a positive" in wrong.stderr.splitlines()[-1]


def test_a_recipe_without_a_budget(model, tmp_path):
    text = RECIPE.read_text().replace("extended = 0.5 # share of the prompts", "")
    recipe = tmp_path / "raft.toml"
    recipe.write_text(text + '\n[trl]\nutility = "reward"\nimitate_denied = false\nkl_share = 0.0\n')
    out = tmp_path / "run"
    result = run(recipe, *options(model, out, "train.steps=1", "data.holdout=0")[1:])
    assert result.exit_code == 0, result.output
    assert "budget: none" in (out / "report.md").read_text()


@pytest.mark.slow
def test_the_smoke_recipe_runs_unchanged(tmp_path, monkeypatch):
    """Three steps of the embedded model on rows of GSM8K, judged by math-verify."""
    monkeypatch.chdir(ROOT)
    out = tmp_path / "run"
    result = run(RECIPE, "--out", out)
    assert result.exit_code == 0, result.output
    assert "step 3/3" in result.stderr and len(list((out / "rollout_log").iterdir())) == 3
    results = json.loads((out / "results.json").read_text())
    assert results["model"] == "embedded:thinking" and results["budget"] == {"extended": 0.5}
    assert [row["num_problems"] for row in results["held_out"]] == [8, 8, 8]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=8"], "gsm8k_smoke.toml: lora.rank: unknown key of peft.LoraConfig; did you mean"),
        (["train.stpes=3"], "--set train.stpes=3: unknown key; did you mean steps?"),
        (["budget.extended=1.5"], "--set budget.extended=1.5: a share is at most 1"),
        (["data.path=none.jsonl"], "none.jsonl: there is no such file"),
        (["data.problem=q"], "line 1: no field 'q'; the row's fields are question, answer"),
        (["data.holdout=14"], "gsm8k_smoke.toml: data.holdout: 16 problems less 14 held out leave 2 for training"),
        (
            ["response_group.extended.answer=box"],
            "gsm8k_smoke.toml: response_group.extended.answer: 'box' reads no answer",
        ),
        (["response_group.extended.prefix=<answer> 1"], "response_group.extended.prefix: opens with the same token"),
        (
            ["trl.temprature=1"],
            "gsm8k_smoke.toml: trl.temprature: unknown key of IBPOConfig; did you mean temperature?",
        ),
        (["data.judge=llm"], "gsm8k_smoke.toml: judge.base_url: is needed for data.judge = 'llm'"),
        (["data.judge=code"], "names no column with tests, which judging programs needs"),
        (
            ["data.judge=code", "data.tests=answer", "response_group.extended.answer=boxed"],
            "gsm8k_smoke.toml: response_group.extended.answer: 'boxed' does not read programs",
        ),
        (["data.task=gsm9k"], "gsm8k_smoke.toml: data.task: no task 'gsm9k'; did you mean gsm8k?"),
        (["constraints.format=true"], "gsm8k_smoke.toml: constraints.format: response group 'extended' is not a"),
        (["trl.max_steps=1"], "trl.max_steps: is set by train.steps"),
        (["trl.anchor_share=0.5"], "trl.anchor_share: is now called kl_share; write that"),
        (["trl.loss_type=grpo"], "gsm8k_smoke.toml: trl: loss_type must be dr_grpo"),
        (['trl.bf16="no"'], "gsm8k_smoke.toml: trl.bf16: needs true or false, got 'no'"),
        (['trl.weight_decay="x"'], "gsm8k_smoke.toml: trl.weight_decay: needs a number, got 'x'"),
        (["trl.weight_decay=nan"], "gsm8k_smoke.toml: trl.weight_decay: needs a number, got nan"),
        (["trl.gradient_accumulation_steps=true"], "trl.gradient_accumulation_steps: needs a whole number, got True"),
        (["trl.scale_rewards=nope"], "gsm8k_smoke.toml: trl: scale_rewards must be group, batch or none"),
        (["trl.eval_strategy=steps"], "gsm8k_smoke.toml: trl.eval_strategy: a recipe has no problems for an"),
        (["trl.eval_on_start=true"], "gsm8k_smoke.toml: trl.eval_on_start: a recipe has no problems for an"),
        (["trl.resume_from_checkpoint=x"], "trl.resume_from_checkpoint: is set by --resume"),
        (["budget.tokens=0.5x"], "gsm8k_smoke.toml: budget: tokens=0.5x: what is spent is not known"),
        (['lora.r="4"'], "gsm8k_smoke.toml: lora.r: needs a whole number, got '4'"),
        (["lora.bias=nope"], "gsm8k_smoke.toml: lora.bias: needs one of 'none', 'all', 'lora_only', got 'nope'"),
        (["train.steps=99999999999999999999999"], "=99999999999999999999999: must be at most 1000000, got"),
        (["train.rollouts_per_prompt=99999999999999999998"], "must be at most 1000000, got"),
        (["train.seed=4294967296"], "--set train.seed=4294967296: must be at most 4294967295, got 4294967296"),
        (["trl.gradient_accumulation_steps=3"], "must divide the 16 rollouts of a step, got 3"),
        (["train.max_completion_length=1000"], "train.max_completion_length: 1000 tokens after the"),
        (["model.path=embedded:no_such"], "gsm8k_smoke.toml: model.path: no embedded model no_such/cold_start"),
        (["model.path=./no/such"], "model.path: ./no/such: there is no such folder"),
    ],
)
def test_bad_recipes(model, tmp_path, overrides, message):
    out = tmp_path / "run"
    assert_one_line(run(*options(model, out, *overrides)), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trl.optim=adamw_anyprecision"], "gsm8k_smoke.toml: trl: "),
        (["trl.adam_beta1=2.0"], "gsm8k_smoke.toml: trl: Invalid beta parameter at index 0: 2.0; fix that key"),
        (["trl.dataloader_num_workers=-1"], "gsm8k_smoke.toml: trl: num_workers option should be non-negative"),
        (["lora.inference_mode=true"], "gsm8k_smoke.toml: lora: no weight of the model is trainable"),
    ],
)
def test_settings_that_only_the_libraries_can_refuse_are_one_line(model, tmp_path, overrides, message):
    result = run(*options(model, tmp_path / "run", *overrides))
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(said) == 1 and message in said[0], result.output


def test_a_training_that_diverges_is_one_line(model, tmp_path):
    settings = ("train.steps=4", "train.learning_rate=1e30", "trl.guards=off")
    result = run(*options(model, tmp_path / "run", *settings))
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(said) == 1 and "logits are NaN or infinite" in said[0], result.output


def test_a_recipe_may_begin_with_a_byte_order_mark(model, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text((ROOT / "recipes/gsm8k_smoke.toml").read_text().replace("tests/", f"{ROOT}/tests/"), "utf-8-sig")
    result = run(recipe, "--out", tmp_path / "run", "--set", f"model.path={model}", "--set", "train.steps=0")
    assert_one_line(result, "--set train.steps=0: must be at least 1")


def test_problems_that_are_left_out_as_twins_are_counted(model, tmp_path):
    data = tmp_path / "same.jsonl"
    data.write_text("".join(json.dumps({"question": "1 + 1", "answer": f"#### {i}"}) + "\n" for i in range(10)))
    result = run(*options(model, tmp_path / "run", f"data.path={data}", "data.holdout=2"))
    assert_one_line(result, "10 problems less 2 held out and 8 with the text of one of these leave 0 for training")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("[[response_group]]", "[response_group]"),
            "response_group: must be a list of tables; write [[response_group]]",
        ),
        (("tests/", "a\\u0000b/"), "data.path: holds the character NUL"),
    ],
)
def test_texts_and_tables_of_a_recipe(tmp_path, change, message):
    text = (ROOT / "recipes/gsm8k_smoke.toml").read_text()
    if change[0].startswith("[["):
        text = text.split("[[response_group]]")[0] + '[response_group]\nname = "a"\n[budget]\n'
    else:
        text = text.replace(*change)
    (tmp_path / "r.toml").write_text(text)
    assert_one_line(run(tmp_path / "r.toml", "--out", tmp_path / "run"), message)


def test_bad_models(model, tmp_path, monkeypatch):
    def try_model(message, **files):
        path = shutil.copytree(model, tmp_path / f"m{len(list(tmp_path.iterdir()))}")
        for name, content in files.items():
            file = next(path.glob(f"{name}.*"))
            file.unlink() if content is None else file.write_bytes(content)
        assert_one_line(run(*options(path, tmp_path / "run")), message)

    config = json.loads((model / "config.json").read_text())
    try_model("holds no model: there is no config.json", config=None)
    try_model("holds no weights", model=None)
    try_model("the weights cannot be loaded", model=(model / "model.safetensors").read_bytes()[:5000])
    try_model("copy the model again", config=b"{")
    try_model("is not a causal language model", config=json.dumps({**config, "architectures": ["LlamaModel"]}).encode())
    try_model("weights are missing", config=json.dumps({**config, "num_hidden_layers": 3}).encode())
    try_model("needs its own code", config=b'{"model_type": "x", "auto_map": {"AutoConfig": "x.X"}}')
    try_model("the tokenizer cannot be loaded", tokenizer=b"{")
    (tmp_path / "file").write_text("")
    assert_one_line(run(*options(tmp_path / "file", tmp_path / "run")), "is a file; name the model's folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_one_line(run(*options("nobody/no-such-model", tmp_path / "run")), "the hub cannot be reached")


def test_bad_folders(model, tmp_path):
    assert_one_line(run(tmp_path / "none.toml"), "there is no such recipe")
    (tmp_path / "file").write_text("")
    assert_one_line(run(*options(model, tmp_path)), "holds something else than a run")
    assert_one_line(run(*options(model, tmp_path / "file")), "holds something else than a run")
    assert_one_line(run(*options(model, tmp_path / "file" / "run")), "cannot be written")


def _start_and_stop(arguments, out, how):
    """Run the command in a process of its own, and send it a signal once its first checkpoint is whole."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ibpo", "train", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "checkpoint-1" / "ibpo_state.npz").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_resume_equals_an_uninterrupted_run(model, tmp_path, how):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # A model of random weights opens like no response group, which would stop the run: that is another test's.
    settings = ("train.steps=8", "trl.guards=warn")
    done = run(*options(model, whole, *settings))
    assert done.exit_code == 0, done.output
    arguments = options(model, broken, *settings)
    code, stderr = _start_and_stop(arguments, broken, how)
    assert not (broken / "results.json").exists()
    if how == signal.SIGINT:
        assert code == 130 and "go on with: ibpo train" in stderr and "Traceback" not in stderr
    assert_one_line(run(*arguments), "holds an unfinished run")
    assert run(*arguments, "--resume").exit_code == 0
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (whole, broken)]
    assert weights[0] == weights[1]
    assert (whole / "results.json").read_text() == (broken / "results.json").read_text()
    steps = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 9), 8]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(model, tmp_path):
    """Every file of a checkpoint, cut in half, emptied, with a byte changed, or gone; then the advice is followed."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    settings = ("train.steps=4", "trl.guards=warn")
    for folder in (whole, out):
        assert run(*options(model, folder, *settings)).exit_code == 0
    (out / "results.json").unlink()
    shutil.rmtree(out / "model")
    last = out / "checkpoints" / "checkpoint-4"
    arguments = [*options(model, out, *settings), "--resume"]
    names = {path.name for path in last.iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"} < names
    for path in sorted(last.iterdir()):
        data = path.read_bytes()
        middle = len(data) // 2
        damages = [data[:middle], b""]
        if path.suffix in (".pt", ".pth", ".npz", ".bin"):
            with zipfile.ZipFile(path) as archive:
                largest = archive.read(max(archive.infolist(), key=lambda part: part.file_size))
            at = data.index(largest) + len(largest) // 2
            damages.append(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        for damaged in damages if path.suffix not in (".md", ".jinja") else ():
            path.write_bytes(damaged)
            result = run(*arguments)
            assert_one_line(result, f"{path}: is damaged: ")
            assert f"remove {last} and run the same command again: it continues from checkpoint-3" in result.stderr
        path.write_bytes(data)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        data = (last / name).read_bytes()
        (last / name).unlink()
        assert_one_line(run(*arguments), f"{last / name}: is missing; remove")
        (last / name).write_bytes(data)
    for name, wrong in (("trainer_state.json", b"[]"), ("trainer_state.json", b'{"global_step": "many"}')):
        data = (last / name).read_bytes()
        (last / name).write_bytes(wrong)
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert f"error: {last}: is not a state of this training (" in result.stderr
        (last / name).write_bytes(data)
    (out / "metrics.jsonl").write_bytes(
        b"\xff\n[]\n{}\n" + b"[" * 100_000 + b"\n" + (out / "metrics.jsonl").read_bytes()
    )
    shutil.rmtree(last)
    assert run(*arguments).exit_code == 0
    assert (whole / "results.json").read_text() == (out / "results.json").read_text()
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("name", ["gsm8k_smoke", "gsm8k_qwen", "math_llama"])
def test_shipped_recipes_fit_the_trainer(name, tmp_path):
    pytest.importorskip("trl")
    from ibpo.config import read_recipe
    from ibpo.runs import RunDir
    from ibpo.training.run import trainer_arguments

    config = read_recipe(ROOT / "recipes" / f"{name}.toml")
    args = trainer_arguments(config, RunDir(tmp_path))
    assert args.generation_batch_size == config.train.prompts_per_step * config.train.rollouts_per_prompt
    assert args.budget == {"extended": 0.5} and args.max_steps == config.train.steps


@pytest.mark.slow
def test_a_recipe_runs_in_two_processes(model, tmp_path):
    """recipes/distributed.py under torchrun on CPU: one rollout log for both ranks, and the trained model."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    command += ["--master_port", "29533", str(ROOT / "recipes" / "distributed.py")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = options("embedded:thinking", out, "train.steps=1")
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "model" / "model.safetensors").exists() and len(list((out / "rollout_log").iterdir())) == 1
    assert (out / "checkpoints" / "checkpoint-1" / "ibpo_state.npz").exists()


def test_the_recipe_for_several_processes_takes_the_models_that_ibpo_train_takes(tmp_path, monkeypatch):
    """`embedded:EXPERIMENT/STAGE` was taken for an experiment of that name."""
    overrides = ("model.path=embedded:thinking/none", f"data.path={ROWS}")
    arguments = [str(RECIPE), *(x for text in overrides for x in ("--set", text)), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["distributed.py", *arguments])
    with pytest.raises(IbpoError, match=r"^model.path: no embedded model thinking/none; .* thinking/pretrained"):
        runpy.run_path(str(ROOT / "recipes" / "distributed.py"), run_name="__main__")


def test_groups_are_checked_with_the_embedded_model_that_a_recipe_names():
    result = CliRunner().invoke(app, ["groups", "check", "embedded:thinking", "--response-group", str(RECIPE)])
    assert "distinguished by their first tokens ('<answer>', '<think>')" in result.stderr + result.stdout


@pytest.mark.parametrize("command", [["groups", "check", "embedded:no"], ["eval", "embedded:no", "thinking", "--out"]])
def test_a_model_that_is_an_argument_is_not_called_by_a_recipes_key(command, tmp_path):
    result = CliRunner().invoke(app, [*command, *([str(tmp_path / "run")] if command[0] == "eval" else [])])
    assert result.exit_code == 2 and result.stderr.startswith("error: embedded:no: no embedded model no/cold_start")
