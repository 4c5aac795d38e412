"""Ways of more than one turn: which response stands, what it costs, and that it is judged as what it is."""

import pytest

from ibpo.evaluation.dialogues import DIALOGUES
from ibpo.evaluation.sampling import Way, judge_ways, sample_ways
from ibpo.responses import FORMATS
from ibpo.rewards import ExactJudge
from ibpo.rollouts import RolloutStore, Sampled
from ibpo.types import Problem, Rollout

PROBLEMS = [Problem(problem_id=f"p{n}", prompt=f"{n} + 1 =", answer=str(n + 1)) for n in range(4)]


class Answering:
    """A policy by a function of the prompt and the response's name: (text, how it ends); every turn takes 10 tokens."""

    def __init__(self, answer):
        self.answer = answer

    def sample_requests(self, requests):
        for request in requests:
            text, ended = self.answer(request)
            ids = {"prompt_token_ids": (1,) * 5, "completion_token_ids": (1,) * 10}
            name = request.problem.problem_id
            rollout = Rollout(problem_id=name, completion=text, finish_reason=ended, **ids)
            yield Sampled.of_rollout(request, rollout)


def judged(tmp_path, answer, ways, num_responses=2):
    store = RolloutStore(tmp_path / "rollouts.jsonl", settings={})
    sample_ways(ways, PROBLEMS, num_responses, lambda way: Answering(answer), store)
    rows = judge_ways(ways, PROBLEMS, num_responses, store, ExactJudge())
    return {way.configuration: [row for row in rows if row["configuration"] == way.configuration] for way in ways}


@pytest.mark.parametrize(("also", "turns"), [("two-turns", 2), ("refine", 3), ("debate", 3)])
@pytest.mark.parametrize("ended", ["length", "content_filter"])
def test_where_the_last_turn_is_cut_off_the_first_response_stands_at_the_cost_of_all(tmp_path, also, turns, ended):
    """It counted as wrong, though every first response was right: accuracy 0 where the document says 1."""

    def answer(request):
        last = DIALOGUES[also].turns[-1]
        right = f"It is {request.problem.answer}"
        return ("Let me look at it once", ended) if request.response_group.startswith(last) else (right, "stop")

    ways = [Way(configuration="responses"), Way(configuration="responses, also", dialogue=DIALOGUES[also])]
    rows = judged(tmp_path, answer, ways)
    for first, found in zip(rows["responses"], rows["responses, also"], strict=True):
        assert found["completion"] == first["completion"] and found["answer"] == first["answer"]
        assert (found["reward"], found["finish_reason"], found["tokens"]) == (1.0, "stop", 10 * turns)


def test_of_a_debate_whose_choice_is_cut_off_the_response_stands_that_is_whole(tmp_path):
    """A first response that was cut off ends the debate before: then the other one stands, at both their costs."""

    def answer(request):
        cut = request.number == 0 or request.response_group.startswith("choice")
        return f"It is {request.problem.answer}", "length" if cut else "stop"

    ways = [Way(configuration="responses"), Way(configuration="responses, debated", dialogue=DIALOGUES["debate"])]
    found = judged(tmp_path, answer, ways)["responses, debated"]
    assert {(row["reward"], row["finish_reason"], row["tokens"]) for row in found} == {(1.0, "stop", 20)}


@pytest.mark.parametrize("text", [r"Look: 7. \boxed{9}", "no box, it is {}"])
def test_a_first_response_that_stands_is_read_as_those_of_its_response_group(tmp_path, text):
    """Later turns give the last box or number; a group's own reader may see no answer where that one sees one."""
    group = FORMATS["direct"].group

    def answer(request):
        later = request.response_group != "direct"
        return ("It is", "length") if later else (text.replace("{}", request.problem.answer), "stop")

    ways = [Way(configuration="direct", response_groups=[group], force=False)]
    ways += [Way(configuration="direct, refined", response_groups=[group], force=False, dialogue=DIALOGUES["refine"])]
    rows = judged(tmp_path, answer, ways)
    for first, found in zip(rows["direct"], rows["direct, refined"], strict=True):
        assert (found["answer"], found["reward"]) == (first["answer"], first["reward"])
        assert found["tokens"] == 2 * first["tokens"]


def test_where_all_turns_are_whole_the_last_one_counts(tmp_path):
    def answer(request):
        right = request.response_group.startswith("second turn") == (int(request.problem.answer) % 2 == 0)
        return f"It is {int(request.problem.answer) + (not right)}", "stop"

    way = Way(configuration="responses, corrected", dialogue=DIALOGUES["two-turns"])
    found = judged(tmp_path, answer, [way])["responses, corrected"]
    assert [row["reward"] for row in found] == [float(int(p.answer) % 2 == 0) for p in PROBLEMS] * 2
