"""One membership and one scorer: training and evaluation say the same of the same rollouts."""

from __future__ import annotations

import math

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ibpo.evaluation.sampling import Way, judge_ways
from ibpo.responses.formats import DIRECT, THINKING_ON
from ibpo.responses.groups import encode_groups
from ibpo.rewards.judges import ExactJudge
from ibpo.rollouts.sampler import Request, Sampled, rollout_of_ids, rollout_of_row, score
from ibpo.rollouts.store import RolloutStore
from ibpo.training.generation import describe
from ibpo.training.judge_reward import JudgeReward
from ibpo.types import Problem, Rollout

GROUPS = (DIRECT.group, THINKING_ON.group)
TEXTS = {
    r"Answer: it is \boxed{4}": "direct",
    "\n\n  Answer:\n" + r"\boxed{4}": "direct",
    r" Answer: \boxed{5}": "direct",
    "<think>\n2 and 2</think>" + r"\boxed{4}": "thinking_on",
    "<think>2 and 2</think>" + r"\boxed{4}": "thinking_on",
    "\n<think>\n\n2 and 2</think>" + r"\boxed{4}": "thinking_on",
    "<think>\n\n</think>\n\n" + r"\boxed{4}": "",
    "<think></think>" + r"\boxed{4}": "",
    r"The answer is \boxed{4}": "",
    "<think>\n2 and": "thinking_on",
    "Ans": "",
    "<think": "",
}


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, but `:` and a line break are one token, as in many vocabularies; nothing but the end is special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(":", "Ċ"), ("Ċ", "Ċ"), ("<", "think"), ("t", "h"), ("th", "i"), ("thi", "n"), ("thin", "k")]
    vocab = {piece: i for i, piece in enumerate([*letters, *dict.fromkeys(a + b for a, b in merges), "<end>"])}
    merges = [pair for pair in merges if pair[0] in vocab and pair[1] in vocab]
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("<end>"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def test_the_share_in_training_is_the_share_in_evaluation(tokenizer, tmp_path):
    problem = Problem(problem_id="p", prompt="2 + 2 =", answer="4")
    eos = {tokenizer.eos_token_id}
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    ids = [[*one, *eos] if "boxed" in text else one for one, text in zip(ids, TEXTS, strict=True)]
    encoded = encode_groups(GROUPS, tokenizer)

    reward = JudgeReward(ExactJudge(), GROUPS, tokenizer)
    rewards = reward(prompts=["2 + 2 ="] * len(ids), completion_ids=ids, answer=["4"] * len(ids))
    rows = describe([{"problem_id": "p"}] * len(ids), ids, encoded, eos, (), [reward.scored])
    trained = [encoded.names[row["response_group"]] if row["response_group"] >= 0 else "" for row in rows]

    store = RolloutStore(tmp_path / "rollouts.jsonl")
    for number, one in enumerate(ids):
        request = Request(problem=problem, number=number, wording=WAY.requests([problem], 1)[0].wording)
        store.add(Sampled.of_rollout(request, rollout_of_ids(tokenizer, "p", (), one, eos_token_ids=eos)))
    evaluated = judge_ways([WAY], [problem], len(ids), store, ExactJudge(), read=lambda text: None)

    assert trained == [row["response_group"] for row in evaluated] == list(TEXTS.values())
    assert [scored.response_group for scored in reward.scored] == trained
    assert rewards == [row["reward"] for row in evaluated] == [1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert [row["tokens"] for row in evaluated] == [row["tokens"] for row in rows] == [len(one) for one in ids]


WAY = Way(configuration="chooses", response_groups=GROUPS)


def test_what_is_forced_opens_a_response_of_its_group_however_the_model_goes_on(tokenizer):
    encoded = encode_groups(GROUPS, tokenizer)
    for group, forced in zip(GROUPS, encoded.prefix_ids, strict=True):
        for text in (group.prefix + "x", group.prefix + "\n\nx"):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids[: len(forced)] == forced and GROUPS[encoded.index_of(ids)] is group
            assert encoded.num_opening_tokens(ids) == len(forced)
    assert tokenizer.decode(encoded.prefix_ids[0]) == "Answer"  # the colon may be one token with a line break


def test_a_truncated_response_gives_no_answer_and_an_asked_group_is_kept():
    problem = Problem(problem_id="p", prompt="2 + 2 =", answer="4")

    def rollout(text, reason="stop", ids=()):
        return Rollout(
            problem_id="p", prompt_token_ids=(), completion_token_ids=ids, completion=text, finish_reason=reason
        )

    right = r"Answer: \boxed{4}"
    rollouts = [rollout(right, ids=(1, 2)), rollout(right, "length"), rollout(r"\boxed{4}"), rollout("is 4")]
    asked = ["", "", "direct", ""]
    scored = score(rollouts, [problem] * 4, GROUPS, ExactJudge(), asked=asked, read_other=lambda text: text[-1])
    assert [s.response_group for s in scored] == ["direct", "direct", "direct", ""]
    assert [s.predicted_answer for s in scored] == ["4", None, None, "4"]  # the third is asked for, and malformed
    assert [s.reward for s in scored] == [1.0, 0.0, 0.0, 1.0]
    assert scored[0].cost == 2.0 and math.isnan(scored[1].cost)


def test_a_stored_row_is_a_rollout_again(tokenizer, tmp_path):
    store = RolloutStore(tmp_path / "rollouts.jsonl")
    request = Request(problem=Problem(problem_id="p", prompt="q", answer="4"), number=0)
    ids = [*tokenizer("Answer: 4", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    rollout = rollout_of_ids(tokenizer, "p", (1, 2), ids, eos_token_ids={tokenizer.eos_token_id})
    assert rollout.completion == "Answer: 4" and rollout.finish_reason == "stop"
    store.add(Sampled.of_rollout(request, rollout))
    assert [rollout_of_row(row) for row in store.rows()] == [rollout]
