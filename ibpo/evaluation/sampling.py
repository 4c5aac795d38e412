"""Sample a policy on a task in several ways, resumably, and judge what it answered: the table of an `ibpo eval` run.

A way may go on after its first responses, for any policy that can hold a dialogue (`ibpo.evaluation.dialogues`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ibpo.endpoint import RefusedRequest
from ibpo.errors import IbpoError
from ibpo.evaluation.dialogues import Dialogue, as_one_response, asking, goes_on, is_whole, turns_so_far
from ibpo.evaluation.importing import read_answer
from ibpo.evaluation.responses import row_of
from ibpo.responses import FORMATS, split_thought
from ibpo.rewards import Judge
from ibpo.rollouts import (
    Collected,
    EndpointSampler,
    JoinedSampler,
    Request,
    RolloutStore,
    Sampled,
    Sampler,
    collect,
    rollout_of_row,
    score,
)
from ibpo.types import Problem, ResponseGroup

CHOOSES = "chooses itself"
"""The configuration in which the policy chooses its response group."""
Json = dict[str, Any]
OnOutcome = Callable[[Sampled | IbpoError], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of using the policy: one row of the report."""

    configuration: str
    response_groups: Sequence[ResponseGroup] = ()
    """One: it is asked for, and forced where it has a prefix. Several: the policy chooses. None: a bare prompt."""
    force: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the request to a server, e.g. `{"reasoning_effort": "low"}`."""
    adapt: bool = False
    """Ask as the model's family is asked (`PromptWriter.adapt`): for shipped response groups, not for a recipe's."""
    dialogue: Dialogue | None = None
    """How it goes on; the first turns are those of the same way without it, and sampled once."""

    def requests(self, problems: Sequence[Problem], num_responses: int) -> list[Request]:
        """`num_responses` to each problem, one round after the other, so that an early stop leaves whole rounds."""
        alone = self.response_groups[0] if len(self.response_groups) == 1 else None
        wordings = [[group.name, group.instruction] for group in self.response_groups]
        body = [dict(self.body)] if self.body else []
        wording = json.dumps([wordings, dict(self.template_options), *body], sort_keys=True)
        return [
            Request(
                problem=problem,
                number=number,
                response_group=alone.name if alone else "",
                prefix=alone.prefix if alone and self.force else "",
                wording=wording,
            )
            for number in range(num_responses)
            for problem in problems
        ]


def by_key(store: RolloutStore) -> dict[str, Json]:
    """The stored responses by the keys of their requests."""
    return {row["key"]: row for row in store.rows()}


def later_turns(
    way: Way, turn: int, requests: Sequence[Request], num_responses: int, stored: Mapping[str, Json]
) -> tuple[list[Request], int]:
    """What a later turn of a way asks behind the dialogues that have come so far, and how many never will."""
    if way.dialogue is None or turn >= len(way.dialogue.turns):
        return [], 0
    found, num_ended = list[Request](), 0
    num_before = way.dialogue.num_first + turn
    for request in requests:
        before = turns_so_far(way.dialogue, request, stored, num_responses)
        if before is None:
            continue
        num_ended += not goes_on(before[:num_before])
        if len(before) >= num_before:
            some = before[:num_before]
            asked = asking(way.dialogue, turn, request, some, num_responses, way.response_groups)
            found += [] if asked is None else [asked]
    return found, num_ended


def num_missing_and_all(
    ways: Sequence[Way], problems: Sequence[Problem], num_responses: int, store: RolloutStore
) -> tuple[int, int]:
    """How many responses are not in the store yet, and how many there will be."""
    every: dict[str, Request] = {}
    num_later = num_later_there = 0
    stored = by_key(store) if any(way.dialogue for way in ways) else {}
    for way in ways:
        requests = way.requests(problems, num_responses)
        every |= {request.key: request for request in requests}
        for turn in range(len(way.dialogue.turns) if way.dialogue else 0):
            asked, num_ended = later_turns(way, turn, requests, num_responses, stored)
            num_later += len(requests) - num_ended
            num_later_there += sum(request in store for request in asked)
    missing = sum(request not in store for request in every.values())
    return missing + num_later - num_later_there, len(every) + num_later


def fingerprint(problems: Sequence[Problem]) -> str:
    """A short hash of problems and answers, whatever their order."""
    lines = sorted(json.dumps([p.problem_id, p.prompt, p.answer]) for p in problems)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def sample_ways(
    ways: Sequence[Way],
    problems: Sequence[Problem],
    num_responses: int,
    sampler_for: Callable[[Way], Sampler],
    store: RolloutStore,
    *,
    max_passes: int = 3,
    on_outcome: OnOutcome | None = None,
) -> Collected:
    """Sample what the store lacks, in up to `max_passes` passes over what failed.

    Returns:
        How many responses are new; and which later turns failed in every pass, as those do whose prompt no longer fits
        the model: their dialogues end with the response before.

    Raises:
        IbpoError: where first responses are still missing, where the first 16 requests all fail, or the disk is full;
            what was sampled is kept and a rerun goes on.
    """
    watched = _Watched(on_outcome or (lambda _: None))
    num_new = 0
    for number in range(1, max_passes + 1):
        failures: list[str] = []
        of_later: list[str] = []
        first = [(way, way.requests(problems, num_responses), sampler_for(way)) for way in ways]
        asked = [(requests, sampler) for _, requests, sampler in first]
        # First responses, then as many later turns as the longest dialogue has.
        for turn in range(1 + max(len(way.dialogue.turns) if way.dialogue else 0 for way in ways)):
            if turn:
                asked, stored = [], by_key(store)
                for way, requests, _ in first:
                    if way.dialogue:  # its prompts hold the instructions already
                        later, _ = later_turns(way, turn - 1, requests, num_responses, stored)
                        asked.append((later, sampler_for(replace(way, response_groups=()))))
            for sampler, requests in joined(asked):
                found = collect(watched.around(sampler, is_later=turn > 0), requests, store)
                num_new += found.num_new
                (of_later if turn else failures).extend(found.failures)
        if not failures and (not of_later or number == max_passes):
            return Collected(num_new=num_new, failures=tuple(of_later))
        if failures and number == max_passes:
            raise IbpoError(
                f"{len(failures)} responses failed in {max_passes} passes, the first: {failures[0]}; "
                f"{len(store)} are kept in {store.path}: run the same command again"
            )
    raise AssertionError("max_passes is at least 1")


def joined(parts: Sequence[tuple[Sequence[Request], Sampler]]) -> list[tuple[Sampler, list[Request]]]:
    """What is asked of one server, as one queue, a round of every part after the other; other samplers as they are."""
    samplers = [sampler for _, sampler in parts]
    served = [sampler for sampler in samplers if isinstance(sampler, EndpointSampler)]
    if len(served) < len(samplers) or any(sampler.endpoint is not served[0].endpoint for sampler in served):
        return [(sampler, list(requests)) for requests, sampler in parts]
    # Ways that ask the same share their responses.
    every = {
        request.key: (request, sampler)
        for (requests, _), sampler in zip(parts, served, strict=True)
        for request in requests
    }
    requests = sorted((request for request, _ in every.values()), key=lambda request: request.number)
    return [(JoinedSampler(served[0].endpoint, {key: sampler for key, (_, sampler) in every.items()}), requests)]


def judge_ways(
    ways: Sequence[Way], problems: Sequence[Problem], num_responses: int, store: RolloutStore, judge: Judge,
    count_tokens: Callable[[str], int] | None = None, read: Callable[[str], str | None] = read_answer,
    *, budget: float | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Read and judge the stored responses: one row each, as `ibpo report` reads them.

    A truncated response gets no answer and no reward, and is counted apart. Tokens that the server did not report are
    unknown, not 0. Thinking tokens are those that the server counts separately (`reasoning_tokens` of its usage), where
    there is a tokenizer those of the text up to the thought's end. In the column `thought`, a thought without end is
    `cut`, one that nothing follows is `unanswered`. `read` reads responses without response group, and later turns
    that stand. `budget` is the share that the policy was trained to keep where it chooses by itself.
    """
    stored = by_key(store)
    rows: list[dict[str, Any]] = []
    for way in ways:
        requests = way.requests(problems, num_responses)
        found = [stored[request.key] for request in requests]
        if way.dialogue is None:
            rows += judge_stored(way, requests, found, judge, count_tokens, read, budget=budget)
            continue
        every = [turns_so_far(way.dialogue, request, stored, num_responses) for request in requests]
        turns = [some for some in every if some is not None]
        made: dict[str, Json] = {}
        for is_last in (True, False):  # a first response that stands is read as its response group's are
            own = [n for n, some in enumerate(turns) if is_whole(way.dialogue, some) == is_last]
            if not own:
                continue
            one_turn = way if is_last else replace(way, dialogue=None)
            asked, found = [requests[n] for n in own], [as_one_response(way.dialogue, turns[n]) for n in own]
            judged = judge_stored(one_turn, asked, found, judge, count_tokens, read, budget=budget)
            made |= {request.key: row for request, row in zip(asked, judged, strict=True)}
        rows += [made[request.key] for request in requests]
    return rows


def judge_stored(
    way: Way, requests: Sequence[Request], found: Sequence[Json], judge: Judge,
    count_tokens: Callable[[str], int] | None = None, read: Callable[[str], str | None] = read_answer,
    *, budget: float | None = None,
) -> list[Json]:  # fmt: skip
    """Rows of responses of one way (`judge_ways`); `found` are as the store keeps them, one for each request."""
    groups = list(way.response_groups)
    if way.dialogue:
        groups = [replace(group, extract_answer=read) for group in groups]
    scored = score(
        [rollout_of_row(row) for row in found],
        [request.problem for request in requests],
        groups,
        judge,
        asked=[request.response_group for request in requests],
        read_other=read,
    )
    rows: list[Json] = []
    for request, row, response in zip(requests, found, scored, strict=True):
        problem, text = request.problem, row["completion"]
        thought, beside = split_thought(text), row.get("reasoning") or ""
        tokens = row["num_completion_tokens"]
        tokens = None if tokens == 0 and text else tokens  # older stores have 0 for unknown
        thinking = row.get("num_thinking_tokens")  # rows of older stores have none
        if thinking is None and count_tokens is not None and (beside or thought.text is not None):
            thinking = count_tokens(beside or text.removesuffix(thought.answer))
            thinking = tokens if tokens is not None and not thought.closed else min(thinking, tokens or thinking)
        rows.append(
            row_of(problem, response, configuration=way.configuration, number=request.number)
            | {
                "tokens": tokens,
                "prompt_tokens": row["num_prompt_tokens"] or None,
                "thinking_tokens": thinking,
                "budget": budget if len(way.response_groups) > 1 else None,
                "violations": list(response.violations),
                "thought": "cut" if not thought.closed else "" if thought.answer.strip() else "unanswered",
            }
            | ({"reasoning": beside} if beside else {})
        )
    return rows


def cautions(rows: Sequence[Json], response_groups: Sequence[ResponseGroup]) -> list[str]:
    """What a reader of the table has to know of its responses, one line each; `rows` of `judge_ways`.

    A wrong marker, template or server makes every response malformed, which looks like a policy that is never right. So
    this says where no response of a way gives an answer, with the reader's reason; where thoughts were cut or have no
    answer; where the policy thought though it was to open by a word; how responses ended that a server calls neither an
    end nor a limit; and where a free choice opens like no response group.
    """
    found: list[str] = []
    for name in dict.fromkeys(row["configuration"] for row in rows):
        own = [row for row in rows if row["configuration"] == name]
        ended = [row for row in own if row["finish_reason"] == "stop"]
        if ended and all(row["answer"] is None for row in ended):
            first = ended[0]
            found.append(
                f"{name}: none of the {len(ended)} responses that ended gives an answer, so its accuracy says nothing "
                f"about the policy. The first, which begins {first['completion'][:50]!r}: {_reason(first)}"
            )
        for what, said in (("cut", "a thought that was cut"), ("unanswered", "a thought and no answer")):
            if number := sum(row["thought"] == what for row in own):
                found.append(f"{name}: {number} of {len(own)} responses are {said}")
        if number := sum("reasoning" in row for row in own):
            found.append(
                f"{name}: {number} of {len(own)} responses think before they open as asked; their tokens are counted"
            )
        lost = sum(row["response_group"] == "" for row in ended)
        if name == CHOOSES and response_groups and 2 * lost > len(ended):
            found.append(f"{name}: {lost} of {len(ended)} responses that ended open like no response group")
    odd = Counter(str(row["finish_reason"]) for row in rows if row["finish_reason"] not in ("stop", "length"))
    found += [
        f"{number} responses ended by {reason!r}, which is neither an end nor a limit: they count as not right"
        for reason, number in odd.most_common()
    ]
    return found


def _reason(row: Json) -> str:
    form = FORMATS.get(row["response_group"])
    said = form.problem_of(row["completion"]) if form is not None else None
    is_lost = row["configuration"] == CHOOSES and not row["response_group"]  # a bare prompt offers no group
    return said or ("opens like no response group" if is_lost else "its reader finds no answer")


class _Watched:
    """Reports each outcome, and gives a dead server up after 16 failures without a success."""

    MAX_FAILURES = 16

    def __init__(self, on_outcome: OnOutcome) -> None:
        self.on_outcome, self.num_good, self.num_bad = on_outcome, 0, 0

    def around(self, sampler: Sampler, *, is_later: bool = False) -> Sampler:
        """The sampler, watched; `is_later`: of turns whose prompts may not fit, which says nothing of the server."""
        watch, is_served = self, isinstance(sampler, EndpointSampler | JoinedSampler)

        class Watching:
            def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
                for outcome in sampler.sample_requests(requests):
                    failed = isinstance(outcome, IbpoError)
                    is_refused = isinstance(outcome, RefusedRequest) or not is_served
                    bad = failed and not (is_later and is_refused)
                    watch.num_bad, watch.num_good = watch.num_bad + bad, watch.num_good + (not failed)
                    watch.on_outcome(outcome)
                    if bad and not watch.num_good and watch.num_bad >= watch.MAX_FAILURES:
                        raise IbpoError(f"the first {watch.num_bad} requests failed, the last: {outcome}")
                    yield outcome

        return Watching()
