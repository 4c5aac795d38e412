"""Names, tuning and refusals, without a model."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.baselines.context import BaselineJob, Context
from ibpo.baselines.job import outputs
from ibpo.baselines.recipes import NAMES, RECIPES, Recipe, recipes_of, trainer_of, tuned_first
from ibpo.baselines.tuning import candidate_name, choose, is_tuned, options_of, read_tuning, tuned_by
from ibpo.cli import app
from ibpo.errors import IbpoError


def job(tmp_path, name="grpo", **changes):
    settings = {
        "name": name,
        "experiment": "thinking",
        "seed_dir": str(tmp_path / "thinking" / "seed0"),
        "models_dir": "models",
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
        *("adaptive-self-consistency", "oracle-by-problem", "solve-then-learn", "self-correction", "score"),
        *("sv-sft", "asv-sft", "grpo", "grpo-length", "thinkless", "adaptthink"),
    }
    assert len(recipes_of(["grpo-length"])) >= 3  # the whole curve
    with pytest.raises(IbpoError, match="--baseline: 'nonsense' is none of"):
        recipes_of(["nonsense"])


def test_recipes_fit_the_functions_that_train_them():
    pytest.importorskip("trl")
    for recipe in RECIPES.values():
        chosen = [{"policy": name, "options": RECIPES[name].candidates[0], "chosen": True}
                  for name in recipe.needs_tuning_of]  # fmt: skip
        inspect.signature(trainer_of(recipe)).bind("context", "folder", **options_of(recipe, chosen))


def test_tuning_comes_before_what_takes_it_over():
    for phase_of in (tuned_first(list(RECIPES.values())), *(tuned_first([recipe]) for recipe in RECIPES.values())):
        done: set[str] = set()
        for phase in phase_of:
            assert all(not recipe.as_tuned or recipe.as_tuned in done for recipe in phase)
            done |= {recipe.name for recipe in phase}
    assert all({RECIPES[n].as_tuned for n in r.needs_tuning_of} <= {"", "grpo"} for r in RECIPES.values())


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
    assert [row["chosen"] for row in rows] == [True, False]  # but at the price of a dear response each time
    path = Path(context.job.tuning_file)
    assert read_tuning(path) == rows and is_tuned(path, recipe) and not is_tuned(path, RECIPES["grpo"])
    assert options_of(recipe, rows) == {"x": 1}


def test_jobs_know_their_files(tmp_path):
    candidate = outputs(job(tmp_path, "grpo~learning_rate-0.001"))
    assert candidate[1].parts[-2:] == ("validation", "grpo~learning_rate-0.001__sampled.parquet")
    assert outputs(job(tmp_path, "grpo"))[1].parts[-2:] == ("responses", "grpo__sampled.parquet")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "nonsense"], "--experiment: 'nonsense' is none of thinking, voting, both"),
        (["--baseline", "nonsense"], "--baseline: 'nonsense' is none of adaptive-self-consistency"),
    ],
)
def test_bad_options_are_one_line(arguments, said, tmp_path):
    result = CliRunner().invoke(app, ["baselines", *arguments, "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 2 and result.stderr.startswith("ibpo baselines: ") and said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_run_with_other_numbers_is_refused(tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "settings.json").write_text(json.dumps({"num_problems": 17}))
    result = CliRunner().invoke(
        app, ["baselines", "--name", "mine", "--runs", str(tmp_path), "--num-problems", "20", "--baseline", "grpo"]
    )
    assert result.exit_code == 2 and "holds a run with num_problems = 17, this one asks for 20" in result.stderr
    assert {path.name for path in directory.iterdir()} == {"settings.json"}


def test_the_names_can_be_listed():
    result = CliRunner().invoke(app, ["baselines", "--list"])
    assert result.exit_code == 0 and result.stdout.split() == list(NAMES)
