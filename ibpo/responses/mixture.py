"""What a cold start imitates: standard and voting responses, built out of a model's own judged solutions.

SV-SFT imitates sequential voting alone. ASV-SFT-alpha (Yu et al. 2025 name it without its formula; this one is ours)
imitates either, with a share of votes that grows with the difficulty d of the problem for this very model,

    share(d) = min(1, alpha d),    d = 1 - right / ended,

so that a problem that is always solved is answered once and one that is often missed is voted on. Truncated solutions
are neither right nor wrong: they count nowhere and nothing is built out of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ibpo.config import Table
from ibpo.responses.blocks import CannotBuild
from ibpo.responses.sequential_voting import MAX_TRIALS
from ibpo.responses.voting_forms import Attempt, VotingForm, external_vote


class BuildConfig(Table):
    """`[build]` of a cold start's recipe: which responses are built, and how many."""

    form: Literal["boxed", "tally"] = "boxed"
    """`boxed` for language models, `tally` for the embedded ones."""
    mixture: Literal["asv", "sv"] = "asv"
    """`asv`: either response group; `sv`: votes alone."""
    alpha: float = Field(1.0, ge=0)
    """Of the share of votes; see above."""
    by_difficulty: bool = True
    """False: the share is alpha whatever the difficulty."""
    responses_per_problem: int = Field(4, ge=1)
    imitate: Literal["right", "all"] = "right"
    """`right`: only responses whose answer is right, though votes may hold wrong trials; `all`: wrong ones too."""
    order: Literal["shuffled", "sampled"] = "shuffled"
    """Of the solutions in a vote: `shuffled`, another order for each vote, or `sampled`, as they came, each vote
    beginning one later."""
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """A solution that ended by itself and gives an answer."""

    attempt: Attempt
    right: bool
    source: str
    """Where it comes from: its key in the store of rollouts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A response to imitate."""

    response_group: str
    completion: str
    answer: str
    right: bool
    sources: tuple[str, ...]
    """Of the solutions that it holds, in order."""


def voting_share(difficulty: float, config: BuildConfig) -> float:
    """Share of a problem's responses that are votes.

    Example:
        >>> [voting_share(d, BuildConfig(alpha=2.0)) for d in (0.0, 0.25, 0.75)]
        [0.0, 0.5, 1.0]
        >>> voting_share(0.0, BuildConfig(mixture="sv"))
        1.0
    """
    if config.mixture == "sv":
        return 1.0
    return min(1.0, config.alpha * (difficulty if config.by_difficulty else 1.0))


def build_responses(
    problem_id: str, solutions: Sequence[Solution], num_ended: int, form: VotingForm, config: BuildConfig
) -> tuple[list[Built], Counter[str]]:
    """The responses to one problem, and why others were not built; decided by the seed and the problem's id.

    Args:
        problem_id: names the problem.
        solutions: that gave an answer.
        num_ended: solutions that ended by themselves, answer or not.
        form: how responses look.
        config: which and how many.
    """
    refused: Counter[str] = Counter()
    if not num_ended:
        refused["no solution ended by itself"] += config.responses_per_problem
        return [], refused
    rng = random.Random(f"{config.seed}\t{problem_id}")
    share = voting_share(1.0 - sum(s.right for s in solutions) / num_ended, config)
    num_votes = int(config.responses_per_problem * share + rng.random())
    built: dict[str, Built] = {}
    for order in _orders(solutions, num_votes, config, rng):
        _keep(built, refused, lambda order=order: _vote(order, form, config))
    singles = [s for s in solutions if s.right or config.imitate == "all"]
    num_singles = config.responses_per_problem - num_votes
    refused["too few solutions to imitate"] += max(0, num_singles - len(singles))
    for solution in rng.sample(singles, min(num_singles, len(singles))):
        _keep(built, refused, lambda solution=solution: _single(solution, form))
    return list(built.values()), +refused


def _orders(
    solutions: Sequence[Solution], num_votes: int, config: BuildConfig, rng: random.Random
) -> list[list[Solution]]:
    if config.order == "shuffled":
        return [rng.sample(solutions, len(solutions))[:MAX_TRIALS] for _ in range(num_votes)]
    size = max(len(solutions), 1)
    return [[*solutions[k % size :], *solutions[: k % size]][:MAX_TRIALS] for k in range(num_votes)]


def _keep(built: dict[str, Built], refused: Counter[str], make: Callable[[], Built]) -> None:
    try:
        response = make()
    except CannotBuild as error:
        refused[str(error)] += 1
        return
    if response.completion in built:
        refused["is the same as another"] += 1
    else:
        built[response.completion] = response


def _single(solution: Solution, form: VotingForm) -> Built:
    return Built(
        response_group=form.standard.name,
        completion=form.build_standard(solution.attempt),
        answer=solution.attempt.answer,
        right=solution.right,
        sources=(solution.source,),
    )


def _vote(order: Sequence[Solution], form: VotingForm, config: BuildConfig) -> Built:
    completion = form.build_voting([solution.attempt for solution in order])
    answer, used = external_vote([s.attempt.answer for s in order], form.canonical)
    assert answer is not None
    right = any(s.right for s in order[:used] if form.canonical(s.attempt.answer) == form.canonical(answer))
    if config.imitate == "right" and not right:
        raise CannotBuild("its vote is wrong")
    return Built(
        response_group=form.voting.name,
        completion=completion,
        answer=answer,
        right=right,
        sources=tuple(s.source for s in order[:used]),
    )
