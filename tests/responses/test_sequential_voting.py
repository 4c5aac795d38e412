"""Sequential voting: the rule against a plain recount, and construct-then-parse."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.responses.formats import CONSENSUS, MAX_TRIALS, vote
from ibpo.responses.voting import EXTENDED, STANDARD, build_sequential_vote, final_answer, read_sequential_vote

answers = st.lists(st.sampled_from(["=1", "=2", "=3", "=4", "=5"]), min_size=8, max_size=8)


@given(answers)
def test_vote_stops_at_the_first_consensus_and_else_takes_the_plurality(given_answers):
    winner, used = vote(given_answers)
    counts = Counter(given_answers[:used])
    if used < MAX_TRIALS:
        assert counts[winner] == CONSENSUS == max(counts.values())
    assert all(max(Counter(given_answers[:k]).values()) < CONSENSUS for k in range(1, used))
    assert counts[winner] == max(counts.values())


@given(answers)
def test_what_is_built_is_read_back_and_keeps_the_rule(given_answers):
    response = build_sequential_vote([("a 4 b 9", answer) for answer in given_answers])
    winner, used = vote(given_answers)
    check = read_sequential_vote(response)
    assert check.keeps_rule
    assert list(check.answers) == given_answers[:used]
    assert EXTENDED.extract_answer(response) == check.final == winner
    assert EXTENDED.matches(response)
    assert not STANDARD.matches(response)


@given(answers, st.integers(0, 7))
def test_a_broken_response_does_not_pass_for_a_whole_one(given_answers, where):
    response = build_sequential_vote([("a 4", answer) for answer in given_answers])
    words = response.split()
    cut = " ".join(words[: max(1, len(words) - 1 - where)])
    assert not read_sequential_vote(cut).keeps_rule
    doubled = response.replace("[TRIAL]", "[TRIAL] [TRIAL]", 1)
    assert not read_sequential_vote(doubled).keeps_rule
    winner, used = vote(given_answers)
    other = "=1" if winner != "=1" else "=2"
    is_tied = given_answers[:used].count(other) == given_answers[:used].count(winner)
    assert read_sequential_vote(response.rsplit(" ", 1)[0] + " " + other).keeps_rule == is_tied


def test_stopping_early_breaks_the_rule():
    early = "[TRIAL] a 4 =4 1x [/TRIAL] [TRIAL] a 4 =4 2x [/TRIAL] <answer> =4"
    assert not read_sequential_vote(early).keeps_rule
    assert read_sequential_vote("").keeps_rule is False


TRIAL = re.compile(r"\[TRIAL\]((?:(?!\[TRIAL\]).)*?)(\S+) (\d)x \[/TRIAL\]", re.DOTALL)
FINAL = re.compile(r"<answer>\s*(\S+)\s*$")
"""The reader's grammar as expressions, which take quadratic time."""


def test_the_reader_keeps_to_its_grammar():
    rng = Random(0)
    pieces = ["[TRIAL]", "[/TRIAL]", "<answer>", " ", " ", " ", "=4", "=5", " =4 1x ", " 2x [/TRIAL]", "\n", "a", "<"]
    num_whole = 0
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        found, check = FINAL.search(text), read_sequential_vote(text)
        assert final_answer(text) == check.final == (found[1] if found else None), text
        answers = tuple(match[2] for match in TRIAL.finditer(text))
        whole = text.count("[TRIAL]") == len(answers) == text.count("[/TRIAL]")
        assert (text.count("[TRIAL]") == len(check.answers) == text.count("[/TRIAL]")) == whole, text
        if whole:
            num_whole += len(answers) > 0
            assert check.answers == answers, text
    assert num_whole > 100


# The expressions above take minutes for the third and the fifth.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, "[TRIAL]" * 14_000, "[TRIAL] " + "x" * 100_000, "[TRIAL] " + "a 4 " * 25_000 + "[/TRIAL]",
     "<answer>" * 12_500 + " x y", "[TRIAL] a 4 =4 1x [/TRIAL] " * 4_000, " " * 100_000 + "<answer>" + " " * 100_000],
    ids=["word", "opened", "trial of one word", "trial without count", "answers", "trials", "spaces"],
)  # fmt: skip
def test_responses_of_100_kb_are_read_at_once(text):
    check = read_sequential_vote(text)
    assert not check.keeps_rule and final_answer(text) is None
