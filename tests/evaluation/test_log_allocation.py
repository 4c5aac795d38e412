"""A log, gathered and allocated; `tests/commands/test_allocate.py` goes the whole way."""

import numpy as np
import pytest

from ibpo.allocation import frontier
from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.evaluation.log_allocation import answer_questions, questions
from ibpo.evaluation.log_files import draw_frontier
from ibpo.evaluation.log_parts import read_parts


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


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    curve = frontier(np.array([0, 1, 0, 0.5]), [1, 1, 2, 2], [0, 1, 0, 1])
    draw_frontier(curve, tmp_path / "frontier.png", budget=0.5)
    assert (tmp_path / "frontier.png").read_bytes()[:4] == b"\x89PNG"


def test_a_budget_on_a_slice_is_refused(tmp_path):
    found, _ = read(tmp_path, LOG)
    (question, *_) = questions(["long@level=3=0.2"])
    with pytest.raises(IbpoError, match="--by COLUMN solves each part"):
        question.limits_on(found.parts[0])
