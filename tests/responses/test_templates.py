"""A chat template is a program that came with a model: one that does not come to an end is named everywhere."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.responses import EndlessTemplate, apply_template, openings

pytest.importorskip("transformers")

ROOT = Path(__file__).parent.parent.parent
FOR_EVER = "{% for x in range(99999) %}" * 3 + "{% endfor %}" * 3
PLAIN = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
ENDLESS = {
    "loops": FOR_EVER + PLAIN,
    "with one content": "{% if 'loop' in messages[-1]['content'] %}" + FOR_EVER + "{% endif %}" + PLAIN,
    "in a macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}" + PLAIN,
    "a filter": "{{ range(99999) | map('multiply') | list if false else '' }}{% for i in range(99999) %}"
    "{{ range(99999) | sum }}{% endfor %}" + PLAIN,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from experiments.build import build_tokenizer

    return build_tokenizer([*"0123456789", "=", "<think>", "</think>", "<answer>"])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(openings, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(openings, "_ENDLESS", set())


def asked(tokenizer, content="loop"):
    return apply_template(tokenizer, [{"role": "user", "content": content}], tokenize=False)


@pytest.mark.parametrize("where", ["main", "another thread"])
@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_is_named(tokenizer, name, where):
    tokenizer.chat_template = ENDLESS[name]
    said = []

    def ask():
        try:
            said.append(asked(tokenizer))
        except EndlessTemplate as error:
            said.append(error)

    before = signal.getsignal(signal.SIGVTALRM)
    if where == "main":
        ask()
    else:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)
    (error,) = said
    assert isinstance(error, EndlessTemplate) and "did not end after 0.3 CPU seconds" in str(error)
    assert signal.getsignal(signal.SIGVTALRM) == before and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    began = time.process_time()
    with pytest.raises(EndlessTemplate):  # at once: it is known
        asked(tokenizer, "other")
    assert time.process_time() - began < 0.3


def test_a_template_that_ends_is_left_alone(tokenizer):
    tokenizer.chat_template = PLAIN
    said = []

    def ask_often():
        for number in range(300):
            said.append(asked(tokenizer, str(number)))
            sum(range(20_000))  # a strike that came late would hit here

    threads = [threading.Thread(target=ask_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    ask_often()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted(f"{number} " for number in range(300) for _ in range(5))


def test_an_error_of_the_template_stays_its_own(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(Exception, match="no such role"):
        asked(tokenizer)


def with_template(source, folder, template):
    """A model with another chat template."""
    from transformers import AutoTokenizer

    shutil.copytree(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loops", "with one content"])
def test_every_command_says_it_in_one_line(name, tmp_path):
    """Whatever renders prompts here: checks, evaluation, cold start, training, calibration."""
    pytest.importorskip("trl")
    from ibpo.demo import model_path

    thinking = with_template(model_path("thinking", "cold_start"), tmp_path / "thinking", ENDLESS[name])
    voting = with_template(model_path("voting", "cold_start"), tmp_path / "voting", ENDLESS[name])
    problems = tmp_path / "problems.jsonl"
    rows = [json.loads(line) for line in (ROOT / "tests/fixtures/symbol_sums_240.jsonl").read_text().splitlines()[:120]]
    for row in rows[1:]:  # the first prompt, by which the settings are checked, ends
        row["question"] += " loop"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, recipes = str(tmp_path / "run"), ROOT / "recipes"
    data = ["--set", f"data.path={problems}", "--set", "data.id=id", "--set", "data.judge=exact", "--out", out]
    commands = [
        ["train", str(recipes / "gsm8k_smoke.toml"), "--set", f"model.path={thinking}", *data,
         "--set", "train.max_completion_length=8", "--set", "data.answer_after="],
        ["cold-start", str(recipes / "cold_start_smoke.toml"), "--set", f"model.path={voting}", *data],
        ["eval", thinking, str(problems), "--out", out, "--max-tokens", "8", "--response-group", "thinking_on",
         "--set", "data.judge=exact"],
        ["calibrate", str(problems), "--columns", "prompt=question", "--model", thinking, "--prefix", "<think>",
         "--out", str(tmp_path / "c.json")],
    ]  # fmt: skip
    if name == "loops":
        commands.append(["groups", "check", thinking, "--response-group", "thinking_on"])
    for command in commands:
        shutil.rmtree(out, ignore_errors=True)
        openings._ENDLESS.clear()
        done = CliRunner().invoke(app, command)
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "did not end" in line]
        assert len(lines) == 1 and done.exit_code in (1, 2), (command, done.output, done.exception)
        assert "Traceback" not in done.output, done.output
