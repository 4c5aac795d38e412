"""A log, gathered and allocated; `tests/commands/test_allocate.py` goes the whole way."""

import pytest

from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.evaluation.log_allocation import answer_questions, questions
from ibpo.evaluation.log_parts import read_parts
from ibpo.evaluation.log_picture import draw_answers


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
    assert [str(p) for p in part.problems] == ["1", "2"] and part.find(["2", "3", "1"]).tolist() == [1, -1, 0]
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
