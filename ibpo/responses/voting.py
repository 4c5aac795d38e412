r"""Sequential voting as something to be built and checked: its two forms, and what a cold start imitates.

A form says how attempts are read, built and read back. Two are shipped: `boxed`, for language models
(`ibpo.responses.formats`), and `tally`, the embedded models' own (Yu et al. 2025, section 4, with two departures that
help a very small model): each `[TRIAL]` block closes with a tally of its answer (`1x`, `2x`, `3x`), and the tie rule is
fixed where the paper says "the most plausible".

A cold start imitates standard and voting responses that are built out of a model's own judged solutions. SV-SFT
imitates sequential voting alone. ASV-SFT-alpha (Yu et al. 2025 name it without its formula; this one is ours) imitates
either, with a share of votes that grows with the difficulty d of the problem for this very model,

    share(d) = min(1, alpha d),    d = 1 - right / ended,

so that a problem that is always solved is answered once and one that is often missed is voted on. Truncated solutions
are neither right nor wrong: they count nowhere and nothing is built out of them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ibpo.answers import representatives
from ibpo.config import Table
from ibpo.responses.formats import (
    CONSENSUS,
    COT,
    MAX_TRIALS,
    SEQUENTIAL_VOTING,
    build_single,
    build_voting,
    vote,
    with_box,
)
from ibpo.responses.readers import CannotBuild, Reading, malformed, one_box
from ibpo.types import ResponseGroup

TRIAL_END = re.compile(r"\S \dx ")
"""What a trial ends with: the end of its answer, and the count."""
FINAL = "<answer>"


def build_sequential_vote(attempts: Sequence[tuple[str, str]]) -> str:
    """Build a sequential-voting response from independent attempts (working, answer), stopped by the rule.

    Example:
        >>> build_sequential_vote([("a 4", "=4")] * 8).count("[TRIAL]")
        3
    """
    winner, used = vote([answer for _, answer in attempts])
    counts: Counter[str] = Counter()
    blocks = []
    for working, answer in attempts[:used]:
        counts[answer] += 1
        blocks.append(" ".join(f"[TRIAL] {working} {answer} {counts[answer]}x [/TRIAL]".split()))
    return " ".join([*blocks, f"<answer> {winner}"])


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCheck:
    """What a sequential-voting response did, read back from its text."""

    answers: tuple[str, ...]
    final: str | None
    keeps_rule: bool
    """It stopped exactly when the rule says, and no answer occurred more often than its final answer."""


def read_sequential_vote(completion: str) -> VoteCheck:
    """Parse a response; a malformed one keeps no rule. Linear in the length."""
    trials = [trial.partition("[/TRIAL]") for trial in completion.split("[TRIAL]")[1:]]
    # The answer is the word before the count; `rsplit` reads from the end, however long the working is.
    answers = tuple(text[:-4].rsplit(None, 1)[-1] for text, end, _ in trials if end and TRIAL_END.fullmatch(text[-5:]))
    final = final_answer(completion)
    whole = completion.count("[TRIAL]") == len(answers) == completion.count("[/TRIAL]")
    keeps = False
    if answers and whole and final is not None:
        _, used = vote(answers)
        counts = Counter(answers)
        most = max(counts.values())
        ended = len(answers) == MAX_TRIALS or most == CONSENSUS
        keeps = used == len(answers) and ended and counts[final] == most
    return VoteCheck(answers=answers, final=final, keeps_rule=keeps)


def final_answer(completion: str) -> str | None:
    """The word after `<answer>`, if the completion ends with it.

    Example:
        >>> final_answer("a 4 <answer> =4"), final_answer("<answer>=4 "), final_answer("<answer> =4 or so")
        ('=4', '=4', None)
    """
    *before, last = completion.rsplit(None, 1) or [""]
    if before and before[0].endswith(FINAL):
        return last
    return last.partition(FINAL)[2] or None


STANDARD = ResponseGroup(name="standard", prefix="<cot>", extract_answer=final_answer)
EXTENDED = ResponseGroup(name="extended", prefix="[TRIAL]", extract_answer=final_answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One solution and the answer that it gives."""

    text: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VotingForm:
    """A standard response group and sequential voting over its responses; whatever is built is read back first."""

    name: str
    standard: ResponseGroup
    voting: ResponseGroup
    read_attempt: Callable[[str, Callable[[str], str | None]], Attempt]
    """(what a model wrote, reader of answers without a box) -> attempt; raises `CannotBuild`."""
    build_standard: Callable[[Attempt], str]
    build_voting: Callable[[Sequence[Attempt]], str]
    """At most eight attempts, of which the rule says how many are used; raises `CannotBuild`."""
    read_vote: Callable[[str], Reading]
    """A response -> its trials' answers; its `problem` says how it breaks form or rule."""
    group: Callable[[Sequence[str]], list[str]]
    """For each answer the one that stands for it in the vote."""


def external_vote(
    answers: Sequence[str | None], group: Callable[[Sequence[str]], list[str]] = list
) -> tuple[str | None, int]:
    """Voting over separate responses by the rule of sequential voting: (winning answer, number of responses used).

    A response without answer uses up its turn and agrees with no other. `group` says which answers are one.

    Example:
        >>> external_vote(["4", None, "4", "7", "4"])
        ('4', 5)
        >>> external_vote([None, None])
        (None, 2)
    """
    groups = iter(group([answer for answer in answers if answer is not None]))
    keys = [f"none{i}" if answer is None else f"={next(groups)}" for i, answer in enumerate(answers)]
    winner, used = vote(keys)
    return answers[keys.index(winner)], used


def _read_boxed(completion: str, reader: Callable[[str], str | None]) -> Attempt:
    text = completion.strip().removeprefix(COT.group.prefix).strip()
    boxed = with_box(text, reader(text))
    return Attempt(text=boxed, answer=one_box(boxed, "the solution"))


def _read_tallied(completion: str, reader: Callable[[str], str | None]) -> Attempt:
    del reader  # the form's answers are tokens of their own
    answer = final_answer(completion)
    if answer is None:
        raise CannotBuild("the solution gives no answer")
    text = completion.removeprefix(STANDARD.prefix).split("<answer>")[0].strip()
    return Attempt(text=text, answer=answer)


def _build_tallied(attempt: Attempt) -> str:
    text = " ".join(f"{STANDARD.prefix} {attempt.text} <answer> {attempt.answer}".split())
    if not STANDARD.matches(text) or STANDARD.extract_answer(text) != attempt.answer:
        raise CannotBuild("reads back as something else")
    return text


def _vote_tallied(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        raise CannotBuild("a vote needs solutions")
    winner, used = vote([a.answer for a in attempts])
    text = build_sequential_vote([(a.text, a.answer) for a in attempts])
    reading = _read_tally(text)
    if reading.problem is not None:
        raise CannotBuild(reading.problem)
    if reading != Reading(attempts=tuple(a.answer for a in attempts[:used]), answer=winner):
        raise CannotBuild("reads back as something else")
    return text


def _read_tally(completion: str) -> Reading:
    check = read_sequential_vote(completion)
    if not check.keeps_rule:
        return malformed("its trials cannot be read, or it breaks the rule of the vote", check.answers)
    return Reading(attempts=check.answers, answer=check.final)


BOXED = VotingForm(
    name="boxed",
    standard=COT.group,
    voting=SEQUENTIAL_VOTING.group,
    read_attempt=_read_boxed,
    build_standard=lambda attempt: build_single(attempt.text),
    build_voting=lambda attempts: build_voting([attempt.text for attempt in attempts]),
    read_vote=SEQUENTIAL_VOTING.read,
    group=representatives,
)
TALLY = VotingForm(
    name="tally",
    standard=STANDARD,
    voting=EXTENDED,
    read_attempt=_read_tallied,
    build_standard=_build_tallied,
    build_voting=_vote_tallied,
    read_vote=_read_tally,
    group=list,
)
"""The voting form of the embedded experiments: each trial's answer is tallied."""
FORMS = {form.name: form for form in (BOXED, TALLY)}
"""Name -> a voting form, for `build.form` of a recipe."""


class BuildConfig(Table):
    """`[build]` of a cold start's recipe: which responses are built, and how many."""

    form: Literal["boxed", "tally"] = "boxed"
    """`boxed` for language models, `tally` for the embedded ones."""
    mixture: Literal["asv", "sv"] = "asv"
    """`asv`: either response group; `sv`: votes alone."""
    alpha: float = Field(default=1.0, ge=0)
    """Factor of the share of votes: see `voting_share`."""
    by_difficulty: bool = True
    """False: the share is alpha whatever the difficulty."""
    responses_per_problem: int = Field(default=4, ge=1)
    imitate: Literal["right", "all"] = "right"
    """`right`: only responses whose answer is right, though votes may hold wrong trials; `all`: wrong ones too."""
    order: Literal["shuffled", "sampled"] = "shuffled"
    """Order of the solutions in a vote: `shuffled`, another order for each vote, or `sampled`, as they came, each vote
    beginning one later."""
    seed: int = Field(default=0, ge=0)


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
    """Keys of the solutions that it holds, in order."""


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
    answer, used = external_vote([s.attempt.answer for s in order], form.group)
    assert answer is not None
    *groups, winner = form.group([*(s.attempt.answer for s in order[:used]), answer])
    right = any(s.right for s, its_group in zip(order[:used], groups, strict=True) if its_group == winner)
    if config.imitate == "right" and not right:
        raise CannotBuild("its vote is wrong")
    return Built(
        response_group=form.voting.name,
        completion=completion,
        answer=answer,
        right=right,
        sources=tuple(s.source for s in order[:used]),
    )
