"""Judges in the trainer: what violates a constraint is never chosen nor imitated, and metrics say so."""

from __future__ import annotations

import functools
import math

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from ibpo.demo import THINKING, model_path
from ibpo.errors import IbpoError
from ibpo.rewards.judges import GIVES_ANSWER, Judgement, MixtureOfJudges, Rule, exact_match
from ibpo.training.judge_reward import JudgeReward
from tests.training.tiny import reward as right

ODD = Rule(name="odd", check=lambda c: "is odd" if (c.predicted_answer or "0")[-1] in "13579" else None)


class Exact:
    """Correctness, in the form of a judge."""

    def __init__(self):
        self.seen = []

    def judge(self, candidates):
        """Equal answers."""
        self.seen += candidates
        return [Judgement(reward=exact_match(c.predicted_answer, c.problem.answer), reason="") for c in candidates]


@pytest.fixture
def reward():
    tokenizer = AutoTokenizer.from_pretrained(model_path("thinking", "cold_start"))
    judge = MixtureOfJudges(rewards={"exact": Exact()}, constraints=[ODD, GIVES_ANSWER])
    return JudgeReward(judge, THINKING.response_groups, tokenizer)


def test_a_judge_sees_problem_answer_and_finish(reward):
    tokenizer = reward.tokenizer
    ids = [tokenizer(text)["input_ids"] for text in ("<answer> 3", "<think> a 1 1 </think> <answer> 4", "3 4")]
    ids = [[*ids[0], tokenizer.eos_token_id], [*ids[1], tokenizer.eos_token_id], ids[2]]
    rewards = reward(
        prompts=["p"] * 3, completion_ids=ids, completions=[""] * 3, answer=["3", "4", "3"], level=["1"] * 3,
        domain=["x"] * 3, trainer_state=None,
    )  # fmt: skip
    assert rewards == [1.0, 1.0, 0.0]
    assert [j.violations for j in reward.scored] == [("odd",), (), ("truncated",)]
    (first, second) = reward.judge.rewards["exact"].seen  # what was cut off is not shown to the judges
    assert first.predicted_answer == "3" and second.completion.startswith("<think>")
    assert first.problem.level == "1" and first.problem.info["domain"] == "x"


def test_a_column_without_a_value_is_no_text(reward):
    """A data set fills rows of other sources with None: the answer was "None", the problem one of all such rows."""
    ids = [[*reward.tokenizer("<answer> 4")["input_ids"], reward.tokenizer.eos_token_id]] * 2
    columns = {"answer": [None, None], "gold": ["4", None], "problem_id": [None, None], "level": [None, None]}
    assert reward(prompts=["p", "q"], completion_ids=ids, completions=[""] * 2, **columns) == [1.0, 0.0]
    first, second = (candidate.problem for candidate in reward.judge.rewards["exact"].seen)
    assert (first.answer, second.answer, first.problem_id, first.level) == ("4", "", "", "")


def test_every_token_that_ends_the_models_responses_ends_one_for_the_judge(make_trainer, reward):
    tokenizer = reward.tokenizer
    other = tokenizer("4")["input_ids"][-1]
    ids = [*tokenizer("<answer> 3")["input_ids"], other]
    trainer = make_trainer(reward_funcs=reward)
    reward(prompts=["p"], completion_ids=[ids], answer=["3"])
    assert reward.scored[0].violations == ("truncated",)
    trainer.model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    make_trainer(model=trainer.model, reward_funcs=reward)
    assert reward(prompts=["p"], completion_ids=[ids], answer=["3"]) == [1.0]


def test_violating_responses_are_neither_chosen_nor_imitated(make_trainer, reward, tmp_path):
    trainer = make_trainer(
        reward_funcs=reward, rollout_log_dir=str(tmp_path / "rollout_log"), kl_share=0.0, completion_loss_weight=0.5
    )
    trainer.train()
    (shard,) = (tmp_path / "rollout_log").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    odd = [row for row in rows if "odd" in row["violations"]]
    assert odd and len(odd) < len(rows)
    assert not any(
        row["chosen"] or row["prefix_loss_weight"] or row["completion_loss_weight"] or row["reward"] for row in odd
    )
    by_prompt = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(row)
    for siblings in by_prompt.values():
        assert sum(row["chosen"] for row in siblings) == any("odd" not in row["violations"] for row in siblings)
    log = next(log for log in trainer.state.log_history if "reward" in log)
    assert log["ibpo/violates/odd"] == pytest.approx(len(odd) / len(rows))
    assert {"ibpo/violating/standard", "ibpo/violating/extended"} <= set(log)
    # The reward that is reported is the judge's own: violations are counted apart.
    assert log["rewards/judge/mean"] > sum(row["reward"] for row in rows) / len(rows)


def test_forced_accuracy_and_share_by_level_are_metrics(make_trainer):
    trainer = make_trainer(kl_share=0.0)
    trainer.train()
    log = next(log for log in trainer.state.log_history if "reward" in log)
    assert 0 <= log["ibpo/forced_reward/standard"] <= log["ibpo/forced_reward/extended"] <= 1
    levels = {key for key in log if key.startswith("ibpo/share_by_level/")}
    assert len(levels) >= 2 and all(key.endswith("/extended") for key in levels)
    assert log["ibpo/complete"] == 1.0 and log["ibpo/allowed/extended"] == 0.5


def rewards_with(values):
    """Correctness of the task, but these values for the first responses of a batch."""

    def some(completions, answer, **_):
        return [*values, *right(completions, answer)[len(values) :]]

    return some


def test_a_reward_that_does_not_apply_leaves_the_response_out(make_trainer, tmp_path):
    """None, as TRL has it: no gain is read from it, it is not chosen, and what is left decides."""
    trainer = make_trainer(
        reward_funcs=rewards_with([None] * 6), rollout_log_dir=str(tmp_path / "log"), imitate_completions="every_group"
    )
    trainer.train()
    (shard,) = (tmp_path / "log").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert [row["score"] for row in rows[:6]] == [None] * 6 and None not in [row["score"] for row in rows[6:]]
    for row in rows[:6]:
        assert not (row["chosen"] or row["prefix_loss_weight"] or row["completion_loss_weight"] or row["kl_weight"])
    _, means, _ = trainer.lower_level.history[-1]
    assert means.count[0].tolist() == [0, 0] and means.count[1].tolist() == [0, 2] and means.count[2].tolist() == [2, 2]


def test_a_response_counts_where_one_of_several_functions_applies(make_trainer):
    trainer = make_trainer(reward_funcs=[rewards_with([None] * 4), lambda completions, **_: [1.0] * len(completions)])
    trainer.train()
    assert trainer.lower_level.history[-1][1].count[0].tolist() == [2, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, "1.0"])
def test_a_broken_reward_is_an_error_that_names_the_row(make_trainer, value):
    trainer = make_trainer(reward_funcs=rewards_with([0.0, value]))
    with pytest.raises(IbpoError, match=r"reward function 'some': gave .* for a response to the row with") as said:
        trainer.train()
    assert any(f"problem_id {name!r};" in str(said.value) for name in trainer.train_dataset["problem_id"])
    assert "\n" not in str(said.value)


def test_too_few_rewards_are_an_error(make_trainer):
    async def short(completions, **_):
        return [1.0] * (len(completions) - 1)

    with pytest.raises(IbpoError, match="reward function 'short': gave 31 rewards for 32 completions"):
        make_trainer(reward_funcs=short).train()


def test_a_data_set_without_one_whole_step_is_refused(make_trainer):
    with pytest.raises(IbpoError, match="the data set has 7 rows and one step takes 8 prompts"):
        make_trainer(num_problems=7)


def test_partial_functions_and_objects_are_called_and_named_as_by_trl(make_trainer):
    """An asynchronous partial function was refused, and the others' metrics were called `at_once` and `later`."""

    async def scaled(completions, answer, scale, **_):
        return [scale * reward for reward in right(completions, answer)]

    class Soft:
        async def __call__(self, completions, **_):
            return [0.5] * len(completions)

    class Hard:
        def __call__(self, completions, **_):
            return [0.25] * len(completions)

    trainer = make_trainer(reward_funcs=[functools.partial(scaled, scale=0.1), Soft(), Hard()])
    assert trainer.reward_func_names == ["scaled", "Soft", "Hard"]
    trainer.train()
    logs = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    assert logs["rewards/Soft/mean"] == 0.5 and logs["rewards/Hard/mean"] == 0.25
    assert logs["reward"] == pytest.approx(0.75 + logs["rewards/scaled/mean"])
