"""Self-correction by prompting: the policy's first response, the user's request to look it over, the second response.

The form of SCoRe's evaluation (Kumar et al. 2024, arXiv 2409.12917), for any policy that can hold a dialogue: the
second answer counts, and both responses are paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ibpo.responses import correction_turns, offer
from ibpo.rollouts import Request
from ibpo.types import ResponseGroup

SECOND = "second turn"
Json = dict[str, Any]


def second_request(request: Request) -> Request:
    """Names the second response of a dialogue; `asking` gives it its prompt."""
    name = f"{SECOND}, {request.response_group}" if request.response_group else SECOND
    return replace(request, response_group=name, prefix="")


def asking(request: Request, first: Mapping[str, Any], response_groups: Sequence[ResponseGroup]) -> Request | None:
    """The second turn after a stored first response; None after one that was cut off, which nobody can correct.

    Example:
        >>> from ibpo.types import Problem
        >>> request = Request(problem=Problem(problem_id="p", prompt="1 + 1 =", answer="2"), number=0)
        >>> second = asking(request, {"completion": "It is 3.", "finish_reason": "stop"}, [])
        >>> [message["role"] for message in second.problem.prompt]
        ['user', 'assistant', 'user']
    """
    if first["finish_reason"] != "stop":
        return None
    prompt = correction_turns(offer(response_groups, request.problem.prompt, chat=True), first["completion"])
    second = second_request(request)
    return replace(second, problem=replace(second.problem, prompt=prompt))


def dialogue(first: Mapping[str, Any], second: Mapping[str, Any] | None) -> Json:
    """Both turns as one stored response: the text of the second, the tokens of both, cut off if one is."""
    if second is None:
        return dict(first)
    counts = ("num_prompt_tokens", "num_completion_tokens")
    both = {key: first[key] + second[key] if first[key] and second[key] else None for key in counts}
    thinking: list[Any] = [turn.get("num_thinking_tokens") for turn in (first, second)]
    both["num_thinking_tokens"] = None if None in thinking else sum(thinking)
    return dict(second) | both
