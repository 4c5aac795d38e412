"""One table of budget texts over all commands: each means what it says, or refuses with the place."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpo.budget import parse_budget
from ibpo.cli import app
from ibpo.commands import calibrate, demo, report
from ibpo.config import checked_budget
from ibpo.errors import IbpoError
from ibpo.evaluation import log_allocation
from ibpo.training.budgets import bind_budgets, read_budget

GROUPS = ["standard", "extended"]
NOW, CHEAPEST, EXPENSIVE = 500.0, 100.0, 900.0
VALUES = {"level": {"3"}}
SHARE, LEAST = ("extended", "at_most", 0.3), ("extended", "at_least", 0.1)
TEXTS = {
    "extended=0.3": SHARE,
    "extended=30%": SHARE,
    " extended = 30 % ": SHARE,
    "extended<=30%": SHARE,
    "extended=1/3": ("extended", "at_most", 1 / 3),
    "extended>=10%": LEAST,
    "tokens=2000": ("tokens", "at_most", 2000.0),
    "tokens=0.5x": ("tokens", "at_most", 250.0),
    "0.5x": ("tokens", "at_most", 250.0),
    "tokens=25%range": ("tokens", "at_most", 300.0),
    "extended@level=3=0.2": ("extended@level=3", "at_most", 0.2),
    "extended@level=0.2": ("extended@level=3", "at_most", 0.2),
    "extended@level>=0.2": ("extended@level=3", "at_least", 0.2),
    "tokens=25%": "a percentage of what?",
    "extended=30": "did you mean extended=30%?",
    "extended": "needs NAME=AMOUNT",
    "extended=-1": "'-1' is not an amount",
    "0.3": "of what? Name it",
    "extended=0.5x": "is of a cost",
}


def by_allocate(text):
    question = next(q for q in log_allocation.questions([text]) if q.times == 1)
    (limit,) = question.limits("tokens", GROUPS, np.array([CHEAPEST, EXPENSIVE]), NOW)
    bound, sense = (limit.at_most, "at_most") if limit.at_least is None else (limit.at_least, "at_least")
    return limit.name, sense, bound


def of_term(terms):
    (term,) = terms
    assert (term.group is None) == term.key.startswith("tokens")
    return term.key.removesuffix(">="), "at_least" if term.at_least else "at_most", term.amount


def by_replay(text):
    spent = {"now": NOW, "cheapest": CHEAPEST, "most_expensive": EXPENSIVE}
    return of_term(bind_budgets([parse_budget(text)], GROUPS, VALUES.get, spent=spent, where="--budget "))


def entry(text):
    """As a table has it: all but the amount is the key."""
    key, equals, amount = text.rpartition("=")
    if not equals:
        return {"tokens": text} if "x" in text else {text: ""}
    return {f"{key}=" if key.endswith((">", "<")) else key: amount}


def by_trainer(text):
    return of_term(read_budget(entry(text), GROUPS, VALUES.get))


def by_recipe(text):
    return by_trainer_of(checked_budget(entry(text), GROUPS, "recipe.toml: {}".format))


def by_trainer_of(table):
    return of_term(read_budget(table, GROUPS, VALUES.get))


def share(shares):
    return ("extended", "at_most", shares[0])


def by_report(text):
    (part,) = report.read_budgets([text])
    return "tokens", "at_most", CHEAPEST + part * (EXPENSIVE - CHEAPEST)


COMMANDS = {
    "allocate": by_allocate,
    "replay": by_replay,
    "trainer": by_trainer,
    "recipe": by_recipe,
    "report": by_report,
    "demo": lambda text: share(demo.read_budgets([text])),
    "calibrate": lambda text: share(calibrate.read_budgets([text], "p_extended")),
}
SLICED = [text for text in TEXTS if "@" in text]
RELATIVE = ["tokens=0.5x", "0.5x", "tokens=25%range"]
CANNOT = {
    "allocate": SLICED,
    "replay": [],
    "trainer": RELATIVE,
    "recipe": RELATIVE,
    "report": [text for text in TEXTS if text != "tokens=25%range"],
    "demo": [*SLICED, *RELATIVE, "extended>=10%", "tokens=2000"],
    "calibrate": [*SLICED, *RELATIVE, "extended>=10%", "tokens=2000"],
}
"""Texts that a command refuses, though they are budgets."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_the_same_everywhere_or_is_refused_with_the_place(command, text):
    meaning = TEXTS[text]
    if isinstance(meaning, tuple) and text not in CANNOT[command]:
        name, sense, amount = COMMANDS[command](text)
        assert (name, sense) == meaning[:2] and float(amount) == pytest.approx(meaning[2])
        if "1/3" in text and isinstance(amount, Fraction):
            assert amount == Fraction(1, 3)
        return
    with pytest.raises(IbpoError) as error:
        COMMANDS[command](text)
    place = {"recipe": ("recipe.toml: budget.", "IBPOConfig: budget "), "trainer": ("IBPOConfig: budget ",)}
    assert str(error.value).startswith(place.get(command, ("--budget ",)))
    assert "\n" not in str(error.value) and len(str(error.value)) > len(f"--budget {text}: ") + 10
    if not isinstance(meaning, tuple) and command in ("allocate", "replay"):
        assert meaning in str(error.value)


@pytest.mark.parametrize("text", ["extended", "extended=30", "extended=-1"])
@pytest.mark.parametrize("command", ["allocate", "report", "route fit", "simulate", "demo", "calibrate"])
def test_the_command_line_refuses_in_one_line(command, text, tmp_path):
    """Before a long work begins, as far as the text alone tells."""
    log = tmp_path / "log.jsonl"
    rows = [
        {"problem_id": p, "prompt": f"{p}", "response_group": g, "reward": 1, "tokens": 5 + (g == "extended")}
        | {"t": p, "output_tokens": 5}
        for p in range(30)
        for g in GROUPS
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [] if command == "demo" else [str(log)]
    result = CliRunner().invoke(app, [*command.split(), *files, "--budget", text])
    lines = [line for line in result.stderr.splitlines() if "column" not in line]
    assert result.exit_code == 2 and len(lines) == 1 and f"--budget {text}: " in lines[0], result.output
