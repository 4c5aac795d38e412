"""Replaying a rollout log: exact over what was recorded, true to the run where it can be, and its command."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import IbpoError
from ibpo.training.budgets import read_budget
from ibpo.training.rollout_log import compare, find_rollout_log, read_rollout_log, replay, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps of a real training whose utilities are plain means and whose batches are solved one by one."""
    from tests.training.tiny import build_trainer

    folder = tmp_path_factory.mktemp("run")
    options = {"utility": "group_mean", "price": "batch", "integral_gain": 0.0, "min_gain": 0.1, "learning_rate": 1e-3}
    budget = {"extended": 0.5, "extended@level=2": 1.0}
    build_trainer(
        folder, max_steps=3, kl_share=0.0, rollout_log_dir=str(folder / "rollout_log"), budget=budget, **options
    ).train()
    return folder


def read(budget, table):
    return read_budget(budget, table.names, lambda column: set(table.columns[column].tolist()))


def ask(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


def gains(table):
    """What extended is worth more than standard, less the least gain."""
    return table.utility[:, 1] - table.utility[:, 0] - 0.1


def test_a_rollout_log_says_what_was_recorded(run):
    table = read_rollout_log(find_rollout_log(run))
    assert table.names == ["standard", "extended"] and table.settings["window"] == 1
    assert table.step.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert not np.isnan(table.utility).any() and np.allclose(table.utility, table.reward)
    assert (table.chosen_group >= 0).all()


def test_the_runs_own_budget_is_replayed_to_the_same_worth(run):
    table = read_rollout_log(find_rollout_log(run))
    answer = replay(table, read(table.settings["budget"], table), window=1, min_gain=0.1)
    for step in range(3):
        here = table.step == step
        worth = [np.sum(gains(table)[here][group[here] == 1]) for group in (table.chosen_group, answer.assigned)]
        assert worth[0] == pytest.approx(worth[1], abs=1e-4)  # ties fall by chance


def test_the_least_gain_is_that_of_each_step(run, tmp_path):
    """By its own columns; in shards of earlier versions by their settings, also beside later shards."""
    import pyarrow.parquet as pq

    table = read_rollout_log(find_rollout_log(run))
    assert table.min_gain.tolist() == [[0.0, 0.1]] * 24
    budgets = read({"extended": 1.0}, table)
    as_run = replay(table, budgets, window=1, min_gain=None)
    assert (as_run.assigned == replay(table, budgets, window=1, min_gain=0.1).assigned).all()
    assert (as_run.assigned != replay(table, budgets, window=1, min_gain=0.9).assigned).any()
    for number, shard in enumerate(sorted(find_rollout_log(run).glob("*.parquet"))):
        columns = pq.read_table(shard)
        if number == 0:  # of an earlier version, with a least gain of .3
            columns = columns.drop_columns([name for name in columns.column_names if name.startswith("min_gain:")])
            settings = json.loads(columns.schema.metadata[b"ibpo"]) | {"min_gain": 0.3}
            columns = columns.replace_schema_metadata({b"ibpo": json.dumps(settings).encode()})
        pq.write_table(columns, tmp_path / shard.name)
    mixed = read_rollout_log(tmp_path)
    assert mixed.min_gain.tolist() == [[0.0, 0.3]] * 8 + [[0.0, 0.1]] * 16


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_another_budget_gets_the_largest_gains_of_each_step(run, share):
    table = read_rollout_log(find_rollout_log(run))
    answer = replay(table, read({"extended": share}, table), window=1, min_gain=0.1)
    for step in range(3):
        here = table.step == step
        best = np.sort(np.maximum(gains(table)[here], 0))[::-1][: int(share * 8)].sum()
        assert np.sum(gains(table)[here][answer.assigned[here] == 1]) == pytest.approx(best)
        assert np.sum(answer.assigned[here] == 1) <= share * 8


def test_a_window_lets_steps_share_the_budget(run):
    table = read_rollout_log(find_rollout_log(run))
    every = replay(table, read({"extended": 0.125}, table), window=3, min_gain=0.0)
    assert every.assigned.shape == (24,) and np.mean(every.assigned == 1) <= 0.4
    last = table.step == 2
    best = np.sort(gains(table) + 0.1)[::-1][:3]
    taken = (gains(table) + 0.1)[last & (every.assigned == 1)]
    assert all(gain >= best[-1] - 1e-9 for gain in taken)


def test_summary_and_comparison_add_up(run):
    table = read_rollout_log(find_rollout_log(run))
    answer = replay(table, read({"extended": 0.25}, table), window=1, min_gain=0.1)
    told = compare(table, answer)
    assert told["changed"] == pytest.approx(np.mean(table.chosen_group != answer.assigned))
    assert sum(change["share"] for change in told["changes"]) == pytest.approx(told["changed"])
    rows = told["by_level"]
    assert len(rows) >= 2 and sum(row["replayed"]["num_prompts"] for row in rows) == 24
    whole = sum(row["replayed"]["reward"] * row["replayed"]["num_prompts"] for row in rows) / 24
    assert told["replayed"]["reward"] == pytest.approx(whole)
    always = summary(table, np.ones(24, int))
    assert always["reward"] == pytest.approx(always["random_mix"]) and always["share"]["extended"] == 1


def test_the_command_prints_and_writes_the_answer(run, tmp_path):
    out = tmp_path / "answer.json"
    result = ask(run, "--budget", "extended=25%", "--budget", "tokens=30", "--out", out)
    assert result.exit_code == 0, result.output
    assert "extended=25%, tokens=30" in result.stdout and "choices that change" in result.stdout
    answer = json.loads(out.read_text())
    assert answer["budget"] == {"extended": "25%", "tokens": 30.0} and answer["min_gain"] == pytest.approx(
        {"standard": 0.0, "extended": 0.1}
    )
    assert answer["replayed"]["share"]["extended"] <= 0.25 and answer["replayed"]["tokens"] <= 30
    assert set(answer["price"]) == {"extended", "tokens"}
    half = ask(run, "--budget", "90%range", "--budget", "tokens>=0.1x", "--out", out)
    assert half.exit_code == 0, half.output
    table = read_rollout_log(find_rollout_log(run))
    low, high = np.nanmean(table.tokens, 0)
    assert json.loads(out.read_text())["replayed"]["tokens"] <= low + 0.9 * (high - low)
    sliced = ask(run, "--budget", "extended@level=2=0.0", "--out", out)
    assert sliced.exit_code == 0, sliced.output
    by_level = {row["level"]: row["replayed"]["share"]["extended"] for row in json.loads(out.read_text())["by_level"]}
    assert by_level["2"] == 0 and max(by_level.values()) > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "extended"], "--budget extended: needs NAME=AMOUNT"),
        (["--budget", "tokens=20%"], "--budget tokens=20%: a percentage of what?"),
        (["--budget", "extendde=0.3"], "--budget extendde=0.3: no response group and no cost is named 'extendde'"),
        (["--budget", "extended@topic=0.3"], "the rollout log has no column 'topic', only"),
    ],
)
def test_bad_questions(run, arguments, said):
    result = ask(run, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and said in line


def test_logs_that_cannot_be_read(run, tmp_path):
    with pytest.raises(IbpoError, match="there is no such run"):
        find_rollout_log(tmp_path / "none")
    with pytest.raises(IbpoError, match="holds no rollout log"):
        find_rollout_log(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name / "ledger").mkdir(parents=True)
        (tmp_path / name / "ledger" / "step-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(IbpoError, match="holds 2 rollout logs; name one of"):
        find_rollout_log(tmp_path)
    with pytest.raises(IbpoError, match=r"step-000000.parquet: is not a Parquet file"):
        read_rollout_log(find_rollout_log(tmp_path / "a"))


def test_a_log_of_an_older_version_is_read_too(run, tmp_path):
    new = read_rollout_log(find_rollout_log(run))
    assert set(new.price) == {"extended", "extended@level=2"}
    added = ["prompt", "violations", "score", "margin", *(f"price:{key}" for key in new.price)]
    for shard in find_rollout_log(run).iterdir():
        table = pq.read_table(shard)
        old_one = table.drop_columns(added).append_column("price", table["price:extended"])
        pq.write_table(old_one.replace_schema_metadata(None), tmp_path / shard.name)
    old = read_rollout_log(tmp_path)
    assert old.settings == {} and old.names == new.names
    for name in ("step", "utility", "reward", "chosen_group"):
        assert np.array_equal(getattr(old, name), getattr(new, name))
    assert np.array_equal(old.price["budget"], new.price["extended"])
    answer = ask(tmp_path, "--budget", "extended=0.4")
    assert answer.exit_code == 0, answer.output


def test_a_run_that_an_older_version_began_is_read_too(run, tmp_path):
    shards = sorted(find_rollout_log(run).iterdir())
    for shard in shards:
        table = pq.read_table(shard)
        if shard != shards[-1]:
            table = table.drop_columns(["score", "margin"])
        pq.write_table(table, tmp_path / shard.name)
    assert np.array_equal(read_rollout_log(tmp_path).utility, read_rollout_log(find_rollout_log(run)).utility)


def test_a_group_that_was_not_sampled_takes_no_number_from_the_others(run, tmp_path):
    """Free rollouts may lack a response group on a level, or everywhere: the random mix was NaN, which is not JSON."""
    import pyarrow as pa

    for shard in sorted(find_rollout_log(run).glob("*.parquet")):
        columns = pq.read_table(shard)
        is_standard = pa.array([name == "standard" for name in columns["response_group"].to_pylist()])
        pq.write_table(columns.filter(is_standard), tmp_path / shard.name)
    with warnings.catch_warnings(action="error"):
        result = ask(tmp_path, "--budget", "tokens=50%range", "--out", tmp_path / "answer.json")
    assert result.exit_code == 0, result.output
    answer = json.loads((tmp_path / "answer.json").read_text(), parse_constant=pytest.fail)
    table = read_rollout_log(tmp_path)
    assert answer["replayed"]["share"] == {"standard": 1, "extended": 0}
    assert answer["replayed"]["random_mix"] == pytest.approx(float(table.reward[:, 0].mean()))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_least_gain_is_a_number(run, number):
    result = ask(run, "--min-gain", number)
    assert result.exit_code == 2 and f"--min-gain {number}: must be a finite number" in result.stderr


def test_a_slice_by_a_column_that_the_log_has_for_something_else(tmp_path):
    """Of a data set's own column `score` the log kept nothing, and a replay sliced by the rewards."""
    from tests.training.tiny import build_trainer

    def build(log):
        return build_trainer(
            tmp_path / "run",
            num_problems=16,
            per_device_train_batch_size=16,
            rollout_log_dir=str(log),
            columns=lambda problem: {"score": "high" if len(problem.prompt) % 2 else "low"},
            budget={"extended@score=high": 0.25},
        )

    trainer = build(tmp_path / "log")
    trainer.train()
    table = read_rollout_log(tmp_path / "log")
    rows: Any = trainer.train_dataset
    score_of = dict(zip(rows["problem_id"], rows["score"], strict=True))
    assert table.columns["score"].tolist() == [score_of[name] for name in table.columns["problem_id"].tolist()]
    (tmp_path / "file").write_text("")
    with pytest.raises(IbpoError, match=r"rollout_log_dir: .*file: no folder can be made there"):
        build(tmp_path / "file")
