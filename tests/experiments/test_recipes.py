"""Names, tuning and refusals, without a model."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.baselines import BaselineSettings, app
from experiments.context import BaselineJob, Context
from experiments.jobs import outputs
from experiments.recipes import (
    NAMES,
    RECIPES,
    Recipe,
    candidate_name,
    choose,
    is_tuned,
    options_of,
    read_tuning,
    recipes_of,
    to_tune,
    trainer_of,
    training_of,
    tuned_by,
)
from ibpo.errors import IbpoError


def job(tmp_path, name="grpo", **changes):
    settings = {
        "name": name,
        "experiment": "thinking",
        "seed_dir": str(tmp_path / "thinking" / "seed0"),
        "cold_start": "models",
        "seed": 0,
        "num_problems": 20,
        "num_validation": 10,
        "num_probe": 15,
        "num_steps": 2,
        "tuning_file": str(tmp_path / "tuning.json"),
    }
    return BaselineJob(**(settings | changes))


def test_every_baseline_of_the_issue_has_a_name():
    assert set(NAMES) == {
        *("standard-only", "extended-only", "random-mix", "self-consistency", "oracle-by-level", "raft", "ibpo"),
        *("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "self-correction", "score"),
        *("sv-sft", "asv-sft", "grpo", "grpo-length", "thinkless", "adaptthink"),
    }
    assert len(recipes_of(["grpo-length"])) >= 3  # the whole curve
    with pytest.raises(IbpoError, match="--baseline: 'nonsense' is not one of"):
        recipes_of(["nonsense"])


def test_recipes_fit_the_functions_that_train_them():
    pytest.importorskip("trl")
    for recipe in RECIPES.values():
        chosen = [{"policy": one.name, "options": one.candidates[0], "chosen": True} for one in to_tune([recipe])]
        inspect.signature(trainer_of(recipe)).bind("context", "folder", **options_of(recipe, chosen))


def test_everything_that_learns_has_a_learning_rate_of_its_own_kind():
    for recipe in RECIPES.values():
        [tuned] = to_tune([recipe])
        assert tuned.baseline.removeprefix("a") == recipe.baseline.removeprefix("a")  # SV-SFT takes over ASV-SFT's
        assert len({candidate["learning_rate"] for candidate in tuned.candidates}) == 2


def test_candidates_are_told_by_their_names():
    for recipe in RECIPES.values():
        assert tuned_by(recipe.name) == (recipe, None)
        for candidate in recipe.candidates:
            assert tuned_by(candidate_name(recipe.name, candidate)) == (recipe, dict(candidate))


def test_nothing_that_tunes_is_trained_on_or_judged(tmp_path):
    context = Context(job(tmp_path, num_validation=300, num_probe=200, num_problems=300))
    validation, probe = ({p.problem_id for p in problems} for problems in (context.validation, context.probe))
    trained = {row["problem_id"] for row in context.training_rows(3000)}
    assert len(validation) == 300 and len(probe) == 200
    assert not validation & probe and not validation & trained
    split_of = context.experiment.task.split_of
    assert {split_of(problem) for problem in validation | probe | trained} == {"train"}


def test_the_best_candidate_is_chosen_by_its_goal_and_all_are_kept(tmp_path, build_responses):
    context = Context(job(tmp_path))
    build_responses(context)
    recipe = Recipe(name="mine", baseline="mine", method="", train="", candidates=({"x": 1}, {"x": 2}))
    rows = choose(context, recipe)
    assert [row["chosen"] for row in rows] == [False, True]  # the second is right more often
    assert rows[1]["accuracy"] > rows[0]["accuracy"] and rows[1]["above_random_mix"] < rows[0]["above_random_mix"]
    rows = choose(context, replace(recipe, goal="above_random_mix"))
    assert [row["chosen"] for row in rows] == [True, False]  # but at the price of an expensive response each time
    path = Path(context.job.tuning_file)
    assert read_tuning(path) == rows and is_tuned(path, "mine") and not is_tuned(path, "grpo")
    assert options_of(recipe, rows) == {"x": 1}


def test_jobs_know_their_files(tmp_path):
    candidate = outputs(job(tmp_path, "grpo~learning_rate-0.001"))
    assert candidate[1].parts[-2:] == ("validation", "grpo~learning_rate-0.001__sampled.jsonl.gz")
    assert outputs(job(tmp_path, "grpo"))[1].parts[-2:] == ("responses", "grpo__sampled.jsonl.gz")


def test_means_are_told_as_they_were(tmp_path):
    (tmp_path / "policies" / "ibpo").mkdir(parents=True)
    (tmp_path / "policies" / "ibpo" / "metrics.json").write_text(json.dumps([{"step": 7}, {"train_runtime": 1}]))

    def told(method, budget=None):
        return tuple(training_of(method, budget, tmp_path, "thinking", lambda name: 10, 100).values())

    assert told("GRPO, length penalty 0.4") == (10, 2560) and told("SCoRe, two turns") == (10, 2 * 2560 + 800)
    assert told("ASV-SFT-1") == told("solve-then-learn", 0.5) == (None, 800)
    assert told("IBPO calibrated", 0.5) == told("self-consistency (IBPO) maj@2", 0.5) == (7, 7 * 128)
    assert told("RAFT without budget") == (None, None)  # trained, and it left no metrics
    assert told("random mix", 0.5) == told("self-consistency (cold start) maj@2") == (0, 0)


def test_where_not_all_can_have_every_update_some_do():
    settings = BaselineSettings(
        experiments=("thinking", "voting"), baselines=NAMES, seeds=(0,), num_problems=1, num_validation=1, num_probe=1,
        num_steps=(9, 6), num_steps_of_others=(9, 3),
    )  # fmt: skip
    of_voting = {
        name: settings.steps_of("voting", name) for name in ("grpo~learning_rate-0.001", "score", "grpo-length-1")
    }
    assert of_voting == {"grpo~learning_rate-0.001": 3, "score": 6, "grpo-length-1": 6}
    assert settings.steps_of("thinking", "grpo") == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "nonsense"], "--experiment: 'nonsense' is not one of thinking, voting, both"),
        (["--baseline", "nonsense"], "--baseline: 'nonsense' is not one of standard-only, extended-only"),
    ],
)
def test_bad_options_are_one_line(arguments, said, tmp_path):
    result = CliRunner().invoke(app, [*arguments, "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 2 and result.stderr.startswith("baselines: ") and said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_run_with_other_numbers_is_refused(tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "settings.json").write_text(json.dumps({"num_problems": 17}))
    result = CliRunner().invoke(
        app, ["--name", "mine", "--runs", str(tmp_path), "--num-problems", "20", "--baseline", "grpo"]
    )
    assert result.exit_code == 2 and "holds a run with num_problems = 17, this one asks for 20" in result.stderr
    assert {path.name for path in directory.iterdir()} == {"settings.json"}


def test_the_names_can_be_listed():
    result = CliRunner().invoke(app, ["--list"])
    assert result.exit_code == 0 and result.stdout.split() == list(NAMES)
