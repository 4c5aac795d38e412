"""A log, gathered and allocated; `tests/commands/test_allocate.py` goes the whole way."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ibpo.data import Labels, Log, LogColumns
from ibpo.errors import IbpoError
from ibpo.evaluation.log_allocation import GAP, GroupLimit, answer_questions, as_shown, choose_groups, questions
from ibpo.evaluation.log_parts import part_of_log, read_parts
from ibpo.evaluation.log_picture import draw_answers
from ibpo.evaluation.log_verdict import summarise_parts, verdict
from ibpo.evaluation.statistics import rate_interval


def read(tmp_path, text, **options):
    path = tmp_path / "log.csv"
    path.write_text(text)
    said = []
    return read_parts(path, LogColumns(), say=said.append, **options), said


LOG = "id,group,reward,cost\n" + "".join(
    f"{p},{group},{int(group == 'long' or p == 1)},{1 + 8 * (group == 'long')}\n"
    for p in (1, 2, 3)
    for group in ("short", "long", "short", "long")
    if (p, group) != (3, "long")
)


@pytest.mark.parametrize("stream", [False, True])
def test_only_problems_with_every_response_group_have_a_place(tmp_path, stream):
    found, said = read(tmp_path, LOG, stream=stream)
    (part,) = found.parts
    assert said == ["problems without a response of every response group: 1 of 3 left out"]
    assert [str(p) for p in part.problems] == ["1", "2"]
    assert part.find(Labels.from_list(["2", "3", "1"])).tolist() == [
        1,
        -1,
        0,
    ]
    assert part.count.tolist() == [[2, 2], [2, 2]] and part.now() == (0.75, 5.0)
    assert part.log is None or part.log.problem == ["1"] * 4 + ["2"] * 4
    (answer,) = answer_questions(part, questions(["long>=50%"]), holdout=None, num_splits=2, seed=0, say=said.append)
    assert [part.groups[g] for g in answer.pick] == ["short", "long"]
    assert (answer.held_out is None) == stream
    assert not stream or said[-1] == "no held-out values: the log is streamed"


@pytest.mark.parametrize("holdout", [True, False])
def test_picture(tmp_path, holdout, monkeypatch):
    """Groups, mixture, and each budget's choice with the interval of its responses that did not decide."""
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: drawn.append(self))
    found, _ = read(tmp_path, LOG)
    (part,) = found.parts
    asked = questions(["cost=5"])
    answers = answer_questions(part, asked, holdout=holdout, num_splits=2, seed=0, say=lambda _: None)
    draw_answers(part, answers, tmp_path / "frontier.png")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "cost per problem" and axes.get_ylabel() == "reward"
    said = {text.get_text() for text in axes.texts}
    assert said == {"short", "long", *(answer.question.label for answer in answers if answer.allocation)}
    assert (len(axes.containers) - 1) == sum(answer.allocation is not None for answer in answers)
    assert any("not held out" in text.get_text() for text in axes.get_legend().get_texts()) != holdout


def test_long_names_of_one_beginning_differ_in_the_picture(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: drawn.append(self))
    ways = [f"claude-opus-4-5-20251101-thinking-{effort}" for effort in ("low", "high")]
    rows = "".join(f"{p},{g},{p % 2},{1 + 8 * (g == ways[1])}\n" for p in range(4) for g in ways)
    found, _ = read(tmp_path, "id,group,reward,cost\n" + rows)
    draw_answers(found.parts[0], [], tmp_path / "frontier.png")
    said = [text.get_text() for text in drawn[0].axes[0].texts]
    assert {text[-5:] for text in said} == {"g-low", "-high"} and max(map(len, said)) <= 28


def test_the_bars_of_a_picture_are_those_of_the_problems_that_were_halved(tmp_path, monkeypatch):
    """Of 40 problems three had two answers: their bars were as narrow as if all had."""
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: drawn.append(self))
    rows = "".join(
        f"{p},{g},{(p + n + (g == 'long')) % 3 // 2},{1 + 8 * (g == 'long')}\n"
        for p in range(40)
        for n in range(4 if p < 3 else 1)
        for g in ("short", "long")
    )
    found, _ = read(tmp_path, "id,group,reward,cost\n" + rows)
    (part,) = found.parts
    [answer] = answer_questions(
        part, questions(["cost=5"])[1:2], holdout=None, num_splits=2, seed=0, say=lambda _: None
    )
    draw_answers(part, [answer], tmp_path / "frontier.png")
    assert answer.held_out is not None
    held = as_shown(part, answer.held_out)
    low, high = rate_interval(held.reward, held.reward_stderr, 3)
    [segment] = drawn[0].axes[0].containers[-1].lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([low, high]) and high - low > 0.5


def test_picture_of_one_problem_and_of_many_is_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    for num in (1, 40):
        rows = "".join(f"{p},{g},{p % 2},{1 + 8 * (g == 'long')}\n" for p in range(num) for g in ("short", "long"))
        found, said = read(tmp_path, "id,group,reward,cost\n" + rows)
        (part,) = found.parts
        answers = answer_questions(part, questions([]), holdout=None, num_splits=2, seed=0, say=said.append)
        draw_answers(part, answers, tmp_path / f"{num}.png")
        assert (tmp_path / f"{num}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_budget_on_a_slice_is_refused(tmp_path):
    found, _ = read(tmp_path, LOG)
    (question, *_) = questions(["long@level=3=0.2"])
    with pytest.raises(IbpoError, match="--by COLUMN solves each part"):
        question.limits_on(found.parts[0])


def simulated(seed, num_responses, equal):
    """A log of 60 problems and three groups, of which the middle one is the best everywhere, or gains differ."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=(60, 1))
    level = np.array([0.55, 0.8, 0.6]) if equal else 1 / (1 + np.exp(-4 * (ease - np.array([0.8, 0.0, -0.8]))))
    chance = np.zeros((60, 3)) + level
    length = np.array([300.0, 1200.0, 4000.0]) * np.exp(-0.4 * ease)
    shape = (60, 3, num_responses)
    reward = (rng.random(shape) < chance[..., None]).astype(float)
    cost = length[..., None] * rng.gamma(4, 0.25, shape)
    p, g, _ = np.indices(shape).reshape(3, -1)
    log = Log(
        problem=[f"{x:03}" for x in p.tolist()], response_group=[f"g{x}" for x in g.tolist()], reward=reward.ravel(),
        cost=cost.ravel(), part=[""] * reward.size, shown=[""] * reward.size, guessed=(),
        columns={"problem": "p", "response_group": "g", "reward": "reward", "cost": "tokens"},
    )  # fmt: skip
    return part_of_log("", log, lambda _: None), chance, length


def answer_to(part, seed) -> Any:
    asked = questions(["tokens=40%range"])[1:2]
    (answer,) = answer_questions(part, asked, holdout=None, num_splits=12, seed=seed, say=lambda _: None)
    return answer


@pytest.mark.parametrize("num_responses", [2, 4])
def test_what_is_spent_on_unseen_responses_is_what_is_allowed(num_responses):
    """Costs that look low by luck are chosen too often: the choice aims at less, as halves spend too much."""
    told, true, aims = [], [], []
    for seed in range(30):
        part, _, length = simulated(100 * num_responses + seed, num_responses, equal=False)
        answer = answer_to(part, seed)
        allowed = float(answer.limits[0].at_most)
        told.append(answer.held_out.spent / allowed - 1)
        true.append(np.take_along_axis(length, answer.pick[:, None].astype(int), 1).mean() / allowed - 1)
        aims.append(float(answer.aim))
        assert float(answer.allocation.spent[0]) <= allowed * float(answer.aim) * (1 + 1e-9)
    assert abs(np.mean(told)) < 0.01 and min(aims) < 1 == max(aims)
    assert abs(np.mean(true)) < 0.01 + 2 * np.std(true) / np.sqrt(len(true))


@pytest.mark.parametrize("equal", [True, False])
def test_the_interval_covers_the_gain_of_the_choice(equal):
    """Also where one group is best everywhere: the gain is about 0 for every problem, and has no spread to be seen."""
    held = 0
    for seed in range(40):
        part, chance, _ = simulated(seed, 4, equal)
        answer = answer_to(part, seed)
        of_choice = np.take_along_axis(chance, answer.pick[:, None].astype(int), 1).mean()
        true = of_choice - chance.mean(0) @ answer.mixture
        row = answer.held_out
        held += abs(row.mixture_gain - true) <= 2.0 * row.mixture_gain_stderr
    assert held >= 36


@pytest.mark.parametrize("seed", range(3))
def test_many_problems_that_were_answered_alike_are_not_searched_for_the_last_tie(seed):
    """Equal expectations, near ties: a choice within a small part of the best, and a stated bound."""
    draw = np.random.default_rng(seed)
    kinds = draw.random((40, 2)), np.array([100.0, 1000.0]) * draw.uniform(0.9, 1.1, (40, 2))
    kind = draw.integers(0, 40, 1500)
    limits = [GroupLimit(name="tokens", group=None, at_most=Fraction("500.37"), at_least=None)]
    allocation, pick = choose_groups(kinds[0][kind], kinds[1][kind], limits)
    assert allocation.gap <= GAP * allocation.objective
    assert kinds[1][kind][np.arange(1500), pick].mean() <= 500.37


def alike(tmp_path, num_problems, num_others=0, scale=1.0) -> tuple[Any, Any]:
    """Problems on which `high` is right and `low` is not, but for some on which both are; each answered four times."""
    rows = "".join(
        f"{p},{group},{scale if group == 'high' or p < num_others else 0},{cost}\n"
        for p in range(num_problems) for group, cost in (("low", 10), ("high", 30)) for _ in range(4)
    )  # fmt: skip
    (part,) = read(tmp_path, "id,group,reward,cost\n" + rows)[0].parts
    (_, answer, _) = answer_questions(
        part, questions(["cost=12.5"]), holdout=True, num_splits=4, seed=0, say=lambda _: None
    )
    return part, answer


@pytest.mark.parametrize("num_problems", [6, 30, 100])
def test_problems_that_are_all_alike_are_no_certainty(tmp_path, num_problems):
    """It read "choosing changes that by -0.125 (95 %: -0.125 to -0.125)" of six problems."""
    part, answer = alike(tmp_path, num_problems)
    text = verdict(part, answer).text
    held = answer.held_out
    assert held.mixture_gain_stderr >= np.sqrt(3) / num_problems - 1e-9  # as if three were not alike
    assert f"by {held.mixture_gain:+.3f} (95 %: {held.mixture_gain:+.3f} to" not in text
    # One that is not alike says a little more, three say all that their variance says.
    one, three = (alike(tmp_path, num_problems, few)[1].held_out for few in (1, 3))
    assert one.mixture_gain_stderr > 1 / num_problems and three.mixture_gain_stderr > 0


def test_no_mean_is_shown_outside_the_rewards_of_the_log(tmp_path):
    """What halves keep, extrapolated, came out as 101.7 % of all answers right, and below none."""
    part, answer = alike(tmp_path, 12, scale=0.5)
    raw = replace(answer.held_out, reward=0.51, random_mix=-0.01, straight_line=-0.02, mixture=0.55, mixture_gain=-0.04,
                  gain=0.52, kept=1.02)  # fmt: skip
    seen = as_shown(part, raw)
    assert (seen.reward, seen.random_mix, seen.straight_line, seen.mixture) == (0.5, 0.0, 0.0, 0.5)
    assert (seen.gain, seen.mixture_gain, seen.kept) == (0.5, 0.0, 1.0)
    assert (seen.reward_stderr, seen.mixture_gain_stderr, seen.spent) == (
        raw.reward_stderr, raw.mixture_gain_stderr, raw.spent,
    )  # fmt: skip
    assert as_shown(part, answer.held_out) is answer.held_out  # inside, to the last bit
    none = replace(raw, mixture=None, mixture_gain=None, mixture_gain_stderr=None)
    assert as_shown(part, none).mixture_gain is None


def test_what_is_said_of_a_choice_that_is_nearly_always_right(tmp_path):
    """The sentence, the table of numbers and the file say the same, and no more than all answers right."""
    rng, rows = np.random.default_rng(4), []
    for p in range(20):
        for group, cost in (("low", 10), ("high", 30)):
            right = rng.random(4) < (0.3 if group == "low" and p % 3 == 0 else 1.0)
            rows += [f"{p},{group},{int(one)},{cost}" for one in right.tolist()]
    (part,) = read(tmp_path, "\n".join(["id,group,correct,cost", *rows]))[0].parts
    found = answer_questions(part, questions(["50%range"]), holdout=True, num_splits=20, seed=0, say=lambda _: None)
    held = found[1].held_out
    assert held is not None and held.reward > 1.01
    seen, told = as_shown(part, held), verdict(part, found[1]).text
    assert seen.reward == 1 and "right answers (correct 1.000 for 20 cost)" in told
    assert f"by {seen.mixture_gain:+.3f} (95 %:" in told
    [summary] = summarise_parts(tmp_path / "log.csv", None, [(part, found)], num_bad=0)["parts"]
    assert summary["budgets"][1]["held_out"]["reward"] == 1


def test_all_that_is_spent_today_may_be_spent(tmp_path):
    """Four tokens for three problems: 1x is 4/3, and not the float below it, of which only three could be spent."""
    rows = [(1, 1, 2, 1, 0), (2, 1, 2, 0, 1), (3, 1, 1, 1, 1)]
    text = "".join(f"{p},short,{rl},{low}\n{p},long,{rh},{high}\n" for p, low, high, rl, rh in rows)
    found, said = read(tmp_path, "id,group,reward,cost\n" + text)
    (part,) = found.parts
    asked = [question for question in questions(["1x"]) if question.times == 1]
    (answer,) = answer_questions(part, asked, holdout=False, num_splits=None, seed=0, say=said.append)
    assert answer.allocation is not None and answer.allocation.objective == 3.0
    assert answer.limits[0].at_most == Fraction(4, 3)


@pytest.mark.parametrize("seed", range(40))
def test_the_ends_of_the_range_can_be_kept(tmp_path, seed):
    """The cheapest response group keeps 0%range, whatever rounding does to means and to expected costs."""
    rng = np.random.default_rng(seed)
    num, repeats, digits = int(rng.integers(1, 8)), int(rng.integers(1, 3)), int(rng.choice([0, 2]))
    text = "".join(
        f"{p},{group},{rng.integers(2)},{round(float(rng.random() + 0.1) * times, digits) + 1}\n"
        for p in range(num)
        for group, times in (("short", 5), ("long", 9))
        for _ in range(repeats)
    )
    found, said = read(tmp_path, "id,group,reward,cost\n" + text)
    (part,) = found.parts
    for budget in ("cost=0%range", "cost>=100%range", "cost=100%range", "cost>=0%range"):
        asked = [question for question in questions([budget]) if question.times == 1]
        (answer,) = answer_questions(part, asked, holdout=False, num_splits=None, seed=0, say=said.append)
        assert answer.allocation is not None and answer.mixture is not None


@pytest.mark.parametrize("gain", [0.0, 0.4])
def test_a_mixture_that_gains_by_chance_alone_is_said_to(gain):
    """On noise the larger of two means is the expensive one's half of the time: that is no reason to pay for it."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        right = rng.random((2, 60, 8)) < np.array([0.3, 0.3 + gain])[:, None, None]
        if right[1].mean() > right[0].mean():
            break
    rows = [(p, g, k) for p in range(60) for g in range(2) for k in range(8)]
    log = Log(
        problem=[f"p{p}" for p, _, _ in rows],
        response_group=[("low", "high")[g] for _, g, _ in rows],
        reward=np.array([float(right[g, p, k]) for p, g, k in rows]),
        cost=np.array([(100.0, 1000.0)[g] for _, g, _ in rows]),
        part=[""] * len(rows),
        shown=[""] * len(rows),
        columns={"problem": "id", "response_group": "effort", "reward": "reward", "cost": "tokens"},
        guessed=(),
    )
    part = part_of_log("", log, lambda _: None)
    asked = questions(["tokens=40%range"])[1:2]
    (answer,) = answer_questions(part, asked, holdout=None, num_splits=12, seed=0, say=lambda _: None)
    told = verdict(part, answer)
    assert told.mixture is not None and told.mixture["high"] > 0.3 and not told.per_problem
    said = "But nothing shows that always 'low', for 100 tokens, is worse: this gains +0.0"
    assert (said in told.text) == (gain == 0)
