"""Ways of answering in more than one turn, each a response group at its true cost.

    corrected    a response, the request to look it over, the response again (Kumar et al. 2024, arXiv 2409.12917)
    refined      a response, what may be wrong with it, the response again (Self-Refine: Madaan et al. 2023,
                 arXiv 2303.17651; one round, and one policy in all roles)
    debated      two responses to the same problem, and a choice between them by a third (a debate of two without
                 rounds: after Du et al. 2023, arXiv 2305.14325)

The last response's answer counts, and every turn's tokens are paid for. First turns are the policy's ordinary
responses, sampled once for all ways that need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibpo.responses import CHOICE, FEEDBACK, FOLLOW_UP, REVISION, offer, split_thought
from ibpo.rollouts import Request
from ibpo.types import ResponseGroup

Json = dict[str, Any]
Message = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """How a way goes on after a first response."""

    name: str
    """Name of the way: "steps, corrected"."""
    turns: Sequence[str]
    """What its later turns are called in the store."""
    asks: Sequence[str]
    """What the user asks in each of them; of a choice, what is behind both responses."""
    is_choice: bool = False
    """Whether two responses are compared; each then counts once as the first and once as the second of its pair."""

    @property
    def num_first(self) -> int:
        """First responses that it begins with."""
        return 2 if self.is_choice else 1


DIALOGUES = {
    "two-turns": Dialogue(name="corrected", turns=("second turn",), asks=(FOLLOW_UP,)),
    "refine": Dialogue(name="refined", turns=("feedback", "refined"), asks=(FEEDBACK, REVISION)),
    "debate": Dialogue(name="debated", turns=("choice",), asks=(CHOICE,), is_choice=True),
}
"""Name in `--also` -> the dialogue."""


def partner(number: int, num_responses: int) -> int:
    """Which other response a debate compares one with: 0 with 1, 2 with 3, a last one with the first.

    Example:
        >>> [partner(n, 5) for n in range(5)]
        [1, 0, 3, 2, 0]
    """
    other = number ^ 1
    return other if other < num_responses else 0


def named(dialogue: Dialogue, turn: int, request: Request, num_responses: int) -> Request:
    """Names the response of a later turn after the first response `request`; `asking` gives it its prompt."""
    name = dialogue.turns[turn]
    if dialogue.is_choice:  # a last one's partner changes as responses are added
        name = f"{name} beside {partner(request.number, num_responses)}"
    return replace(request, response_group=", ".join(filter(None, (name, request.response_group))), prefix="")


def asking(
    dialogue: Dialogue,
    turn: int,
    request: Request,
    before: Sequence[Mapping[str, Any]],
    num_responses: int,
    response_groups: Sequence[ResponseGroup] = (),
) -> Request | None:
    """The request of a later turn.

    Args:
        dialogue: which.
        turn: 0 for the first turn behind the first response.
        request: of the first response.
        before: the stored responses so far: the first one (of a choice both), then those of the turns before.
        num_responses: first responses to each problem.
        response_groups: whose instruction the problem carries.

    Returns:
        None where nothing can be asked: one of them was cut off.

    Example:
        >>> from ibpo.types import Problem
        >>> request = Request(problem=Problem(problem_id="p", prompt="1 + 1 =", answer="2"), number=0)
        >>> first = {"completion": "It is 3.", "finish_reason": "stop"}
        >>> asked = asking(DIALOGUES["two-turns"], 0, request, [first], 1)
        >>> [message["role"] for message in asked.problem.prompt]
        ['user', 'assistant', 'user']
    """
    problem = offer(response_groups, request.problem.prompt, chat=True)
    assert not isinstance(problem, str)
    if not goes_on(before):
        return None
    texts = [str(row["completion"]) for row in before]
    ask = dialogue.asks[turn]
    if dialogue.is_choice:
        prompt = choice_turn(problem, texts, ask)
    else:
        prompt = list(problem)
        for text, follow_up in zip(texts, dialogue.asks[: turn + 1], strict=True):
            prompt += [{"role": "assistant", "content": text}, {"role": "user", "content": follow_up}]
    asked = named(dialogue, turn, request, num_responses)
    return replace(asked, problem=replace(asked.problem, prompt=prompt))


def goes_on(before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is something to go on from: no response so far was cut off."""
    return all(row["finish_reason"] == "stop" for row in before)


def choice_turn(problem: Sequence[Message], solutions: Sequence[str], ask: str) -> list[Message]:
    """The problem once more, with solutions to it (without their thoughts), and what to do with them: chat messages.

    Example:
        >>> problem = [{"role": "user", "content": "1 + 1 ="}]
        >>> print(choice_turn(problem, ["<think>hm</think>2", "3"], "Which is right?")[0]["content"])
        1 + 1 =
        <BLANKLINE>
        Solution 1:
        2
        <BLANKLINE>
        Solution 2:
        3
        <BLANKLINE>
        Which is right?
    """
    parts = [f"Solution {i}:\n{split_thought(text).answer.strip()}" for i, text in enumerate(solutions, start=1)]
    last = problem[-1]
    return [*problem[:-1], {**last, "content": "\n\n".join([last["content"], *parts, ask])}]


def turns_so_far(
    dialogue: Dialogue, request: Request, stored: Mapping[str, Json], num_responses: int
) -> list[Json] | None:
    """The stored responses of a dialogue, in order; None where not even its first one (of a choice: both) is there."""
    keys = [request.key]
    if dialogue.is_choice:
        keys.append(replace(request, number=partner(request.number, num_responses)).key)
    if any(key not in stored for key in keys):
        return None
    found = [stored[key] for key in keys]
    for turn in range(len(dialogue.turns)):
        key = named(dialogue, turn, request, num_responses).key
        if key not in stored:
            break
        found.append(stored[key])
    return found


def as_one_response(dialogue: Dialogue, turns: Sequence[Json]) -> Json:
    """All turns as one stored response: the text and the end of the last, the tokens of all; unknown where one's are.

    Where the dialogue did not come to its end, or its last turn was cut off, the first response stands (of a choice:
    the first that was not cut off).

    Example:
        >>> turn = {
        ...     "num_prompt_tokens": 5,
        ...     "num_completion_tokens": 7,
        ...     "completion": "It is 3.",
        ...     "finish_reason": "stop",
        ... }
        >>> one = as_one_response(DIALOGUES["two-turns"], [turn, turn | {"completion": "It is 2."}])
        >>> one["num_completion_tokens"], one["completion"]
        (14, 'It is 2.')
        >>> as_one_response(DIALOGUES["refine"], [turn, turn | {"completion": "A step is wrong."}])["completion"]
        'It is 3.'
        >>> cut = turn | {"completion": "Let me look at", "finish_reason": "length"}
        >>> one = as_one_response(DIALOGUES["two-turns"], [turn, cut])
        >>> one["num_completion_tokens"], one["completion"]
        (14, 'It is 3.')
    """
    counts = ("num_prompt_tokens", "num_completion_tokens", "num_thinking_tokens")
    total: Json = {}
    for key in counts:
        values: list[Any] = [turn.get(key) for turn in turns]
        unknown = None in values or (key != "num_thinking_tokens" and 0 in values)  # older stores have 0 for unknown
        total[key] = None if unknown else sum(values)
    first = turns[: dialogue.num_first]
    stands = turns[-1] if is_whole(dialogue, turns) else next((one for one in first if goes_on([one])), first[0])
    return dict(stands) | total


def is_whole(dialogue: Dialogue, turns: Sequence[Json]) -> bool:
    """Whether a dialogue came to its end, and its last response to its own."""
    return len(turns) == dialogue.num_first + len(dialogue.turns) and goes_on(turns[-1:])
