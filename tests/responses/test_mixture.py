"""What a cold start imitates: shares by difficulty, which solutions, in which order, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibpo.responses.formats import vote
from ibpo.responses.readers import CannotBuild, Reading, boxed
from ibpo.responses.voting import BOXED, FORMS, TALLY, BuildConfig, Solution, build_responses, external_vote

TEXTS = {"boxed": "Step {i}: so it is \\boxed{{{a}}}.", "tally": "<cot> a {i} b 4 <answer> ={a}"}


def solutions(answers, gold, form):
    """One solution per answer, the way a model writes them in this form."""
    made = []
    for i, answer in enumerate(answers):
        attempt = form.read_attempt(TEXTS[form.name].format(i=i, a=answer), boxed)
        made.append(Solution(attempt=attempt, right=answer == gold, source=f"p\t{i}"))
    return made


def build(answers, gold="1", form=BOXED, ended=None, **config):
    config = BuildConfig.model_validate({"form": form.name, **config})
    return build_responses("p", solutions(answers, gold, form), ended or len(answers), form, config)


forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
def test_what_is_built_reads_back_and_names_its_sources(form):
    built, refused = build("11213141", form=form, by_difficulty=False, alpha=0.5, responses_per_problem=8)
    assert Counter(r.response_group for r in built) == {form.voting.name: 4, form.standard.name: 4} and not refused
    for response in built:
        assert response.right and response.answer == ("=1" if form is TALLY else "1")
        if response.response_group == form.voting.name:
            reading = form.read_vote(response.completion)
            assert reading.problem is None and reading.answer == response.answer
            assert len(reading.attempts) == len(response.sources)
            assert reading.attempts.count(response.answer) == 3  # stopped at the consensus
        else:
            assert form.standard.matches(response.completion)
            assert form.standard.extract_answer(response.completion) == response.answer


@forms
@given(st.lists(st.sampled_from("1234"), min_size=8, max_size=12), st.sampled_from(["right", "all"]), st.booleans())
def test_votes_are_votes_over_the_models_own_solutions(form, answers, imitate, shuffled):
    built, refused = build(
        answers,
        form=form,
        mixture="sv",
        imitate=imitate,
        order="shuffled" if shuffled else "sampled",
        responses_per_problem=3,
    )
    assert len(built) + sum(refused.values()) == 3
    given_answers = {f"p\t{i}": f"={a}" if form is TALLY else a for i, a in enumerate(answers)}
    for response in built:
        trials = [given_answers[source] for source in response.sources]
        assert vote(trials) == (response.answer, len(trials))
        assert form.read_vote(response.completion) == Reading(attempts=tuple(trials), answer=response.answer)
        assert response.right or imitate == "all"
        assert response.right == (response.answer.strip("=") == "1")
    assert set(refused) <= {"its vote is wrong", "is the same as another"}


def test_the_share_of_votes_follows_the_difficulty():
    def share(answers, **config):
        counts = Counter()
        for seed in range(200):
            built, refused = build(answers, seed=seed, responses_per_problem=1, imitate="all", **config)
            assert not refused
            counts.update(r.response_group for r in built)
        return counts["sequential_voting"] / 200

    assert share("11111111") == 0 and share("23423423") == 1
    assert share("11111122", alpha=4.0) == 1 and share("11111111", mixture="sv") == 1
    assert abs(share("11112345") - 0.5) < 0.12  # three standard errors
    assert abs(share("11111111", by_difficulty=False, alpha=0.25) - 0.25) < 0.1


def test_the_seed_and_the_problem_decide():
    first = build("11223311", responses_per_problem=6)
    assert build("11223311", responses_per_problem=6) == first
    assert build("11223311", responses_per_problem=6, seed=1) != first


def test_what_cannot_be_built_says_why():
    _, refused = build("", ended=0)
    assert refused == {"no solution ended by itself": 4}
    built, refused = build("2222", responses_per_problem=2)
    assert built == [] and refused == {"its vote is wrong": 2}
    built, refused = build("12121", mixture="sv", responses_per_problem=1, order="sampled")
    assert [r.answer for r in built] == ["1"] and not refused
    built, refused = build("1212", mixture="sv", responses_per_problem=1)
    assert refused == {"stops after 4 trials without consensus": 1}
    _, refused = build("1", by_difficulty=False, alpha=0.0)
    assert refused == {"too few solutions to imitate": 3}
    # Solutions that ended without an answer make a problem harder, and are in no vote.
    built, _ = build("111", ended=6, alpha=2.0, responses_per_problem=1)
    assert [r.response_group for r in built] == ["sequential_voting"]


def test_what_a_model_wrote_is_read_or_refused():
    assert BOXED.read_attempt("Solution: 3 + 4 = 7, \\boxed{7}", boxed).text == "3 + 4 = 7, \\boxed{7}"
    assert BOXED.read_attempt("it is 7\n#### 7", lambda text: text[-1]).answer == "7"
    for form, text in ((BOXED, "no answer"), (BOXED, "\\boxed{1} or \\boxed{2}"), (TALLY, "<cot> a 4")):
        with pytest.raises(CannotBuild):
            form.read_attempt(text, boxed)
    nested = Solution(attempt=BOXED.read_attempt("[TRIAL] \\boxed{1}", boxed), right=True, source="s")
    built, refused = build_responses("p", [nested], 1, BOXED, BuildConfig(responses_per_problem=1))
    assert built == [] and refused == {"[TRIAL] has no place here": 1}


def test_external_votes():
    assert external_vote(["1,000", "2", "1000", "3", "1000.", None], BOXED.group) == ("1,000", 5)
    assert external_vote([None, None, None, "4"]) == (None, 4)
    assert external_vote(["none0", None, "none0", "none0"]) == ("none0", 4)
