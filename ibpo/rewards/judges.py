"""What a judge sees and says, exact match, constraints, and how several judges make one.

A judge takes one candidate and gives one judgement, many at a time. Judges that give no reward but mark violated
constraints join those that do: CGPO (Xu et al. 2024, arXiv 2409.20370, section 3) calls this a mixture of judges. Per
task, some judges score, others only say whether a constraint is kept, and a response that violates one is never
imitated, whatever its score.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from ibpo.errors import IbpoError
from ibpo.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One response to one problem, as judges see it."""

    problem: Problem
    completion: str
    predicted_answer: str | None
    """What the response group read out of the completion; None where it gives no answer."""
    finish_reason: str = "stop"
    """`"stop"`, or `"length"` where the response was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The reward of a response with its reason, and the constraints that it violates.

    A response may be imitated only if it violates nothing, whatever its reward (Xu et al. 2024, CGPO, section 3: only
    constraint-satisfying responses enter the update). A violation does not change the reward, so that accuracy and
    violations can be reported apart.

    Example:
        >>> Judgement(reward=1.0, reason="equal as text").imitable
        True
        >>> Judgement(reward=1.0, reason="equal as text", violations=("truncated",)).imitable
        False
    """

    reward: float
    """In [0, 1]."""
    reason: str
    """One line: why this reward."""
    violations: tuple[str, ...] = ()
    """Names of the violated constraints."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.reward <= 1.0:  # NaN fails too
            raise ValueError(f"reward: needs a number from 0 to 1, got {self.reward}")

    @property
    def imitable(self) -> bool:
        """Whether the update may imitate the response."""
        return not self.violations


class Judge(Protocol):
    """Anything that judges a batch in order; one candidate's failure never touches another's judgement."""

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """One judgement per candidate."""
        ...


def exact_match(predicted: str | None, gold: str) -> float:
    """1.0 if the predicted answer is the gold one, white space aside; 0.0 otherwise, and for no answer at all.

    Example:
        >>> exact_match(" 7", "7"), exact_match(None, "7")
        (1.0, 0.0)
    """
    if predicted is None:
        return 0.0
    return float(as_answer(predicted).strip() == as_answer(gold).strip())


def as_answer(answer: str) -> str:
    """The answer itself.

    Raises:
        IbpoError: for what is not text, as a number that a data set holds.
    """
    if not isinstance(answer, str):
        raise IbpoError(f"an answer is {answer!r}, of type {type(answer).__name__}; give its text")
    return answer


class ExactJudge:
    """1.0 where the predicted answer is the gold one, letter by letter."""

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """See `Judge`."""
        rewards = [exact_match(c.predicted_answer, c.problem.answer) for c in candidates]
        return [Judgement(reward=r, reason="the same" if r else "another answer") for r in rewards]


class Constraint(Protocol):
    """A property that every imitated response has."""

    @property
    def name(self) -> str:
        """The name under which it is reported."""
        ...

    def violations(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """For each candidate what it violates, in one line, or None where it keeps the constraint."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A constraint that a function decides, one candidate at a time."""

    name: str
    check: Callable[[Candidate], str | None]
    """Candidate -> what it violates, or None."""

    def violations(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """See `Constraint`."""
        return [self.check(candidate) for candidate in candidates]


@dataclass(frozen=True, kw_only=True, slots=True)
class AtLeast:
    """A constraint that a judge decides, such as a language model asked for safety: its reward reaches a threshold."""

    name: str
    judge: Judge
    threshold: float = 1.0

    def violations(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """See `Constraint`; a candidate that the judge could not judge violates it too."""
        judged = self.judge.judge(candidates)
        return [None if j.reward >= self.threshold and j.imitable else j.reason for j in judged]


NOT_TRUNCATED = Rule(
    name="truncated", check=lambda c: None if c.finish_reason == "stop" else f"cut off: {c.finish_reason}"
)
"""The constraint that a response ended by itself: a truncated one is neither right nor wrong."""
GIVES_ANSWER = Rule(name="no answer", check=lambda c: "gives no answer" if c.predicted_answer is None else None)
"""The constraint that a response gives an answer."""


def well_formed(problem_of: Callable[[str], str | None]) -> Rule:
    """The constraint that a response keeps its format: `problem_of` says what is wrong with a completion, or None."""
    return Rule(name="format", check=lambda c: problem_of(c.completion))


def in_script(script: str, *, share: float = 0.95) -> Rule:
    """The constraint that this share of the letters is of one script, by Unicode's names: LATIN, CJK, CYRILLIC, ...

    Catches policies that drift into another language's script (a known failure of R1-style training), not into another
    language of the same script. Greek letters count as formulas, not as text.

    Raises:
        IbpoError: for a script that no letter is of, or a share that is not above 0 and at most 1.

    Example:
        >>> from ibpo.types import Problem
        >>> problem = Problem(problem_id="p", prompt="", answer="3")
        >>> in_script("LATIN").check(Candidate(problem=problem, completion="so 三个", predicted_answer="3"))
        '50 % of the letters are LATIN, at least 95 % are asked for'
    """
    script = str(script).upper()
    letters = filter(str.isalpha, map(chr, range(sys.maxunicode + 1)))
    if not any(unicodedata.name(c, "").replace("-", " ").split()[:1] == [script] for c in letters):
        raise IbpoError(f"language: no letter is of the script {script!r}; write e.g. LATIN, CJK, CYRILLIC or ARABIC")
    if not 0 < share <= 1:
        raise IbpoError(f"language: share is {share!r}; it must be above 0 and at most 1")

    def check(candidate: Candidate) -> str | None:
        scripts = [_script(c) for c in candidate.completion if c.isalpha()]
        letters = [s for s in scripts if s != "GREEK"]
        kept = sum(s == script for s in letters)
        if not letters or kept >= share * len(letters):
            return None
        found = 100 * kept / len(letters)
        return f"{found:.0f} % of the letters are {script}, at least {100 * share:.0f} % are asked for"

    return Rule(name="language", check=check)


def free_of(patterns: Sequence[str]) -> Rule:
    """The constraint that none of these regular expressions occurs, whatever the case of letters.

    Raises:
        IbpoError: for a pattern that is not a regular expression, or one alone in place of a list.
    """
    if isinstance(patterns, str):
        raise IbpoError(f"safety: {patterns!r} is one pattern; give a list of them, [{patterns!r}]")
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern, re.IGNORECASE))
        except (re.error, TypeError) as error:
            raise IbpoError(f"safety: {pattern!r} is not a regular expression: {error}; fix it") from None

    def check(candidate: Candidate) -> str | None:
        found = next((p for p in compiled if p.search(candidate.completion)), None)
        return None if found is None else f"holds {found.pattern!r}"

    return Rule(name="safety", check=check)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureOfJudges:
    """Several judges as one: the mean of the rewards, and every constraint that is violated.

    A truncated response is not shown to the judges: its reward is 0 with the reason `truncated`, and it violates
    `truncated`, so that it is counted apart and never imitated.

    Example:
        >>> from ibpo.rewards.math import MathJudge
        >>> from ibpo.types import Problem
        >>> mixture = MixtureOfJudges(rewards={"math": MathJudge()}, constraints=[in_script("LATIN")])
        >>> problem = Problem(problem_id="p", prompt="1+1", answer="2")
        >>> [j] = mixture.judge([Candidate(problem=problem, completion="答案是 2", predicted_answer="2")])
        >>> j.reward, j.violations, j.imitable
        (1.0, ('language',), False)
    """

    rewards: Mapping[str, Judge]
    constraints: Sequence[Constraint] = ()

    def __post_init__(self) -> None:
        if not self.rewards:
            raise IbpoError("a mixture of judges needs at least one that gives the reward; name one in rewards")

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """See `Judge`."""
        whole = [i for i, candidate in enumerate(candidates) if NOT_TRUNCATED.check(candidate) is None]
        seen = [candidates[i] for i in whole]
        by_judge = {name: judgements_of(name, judge, seen) for name, judge in self.rewards.items()}
        broken = [(constraint.name, constraint.violations(seen)) for constraint in self.constraints]
        for name, reasons in broken:
            _check_number(f"constraint {name!r}", reasons, seen)
        judged = [Judgement(reward=0.0, reason="truncated", violations=(NOT_TRUNCATED.name,)) for _ in candidates]
        for position, i in enumerate(whole):
            parts = {name: judgements[position] for name, judgements in by_judge.items()}
            # Several constraints may have one name, as two lists of words that must not occur: each of them counts.
            violated = [(name, reasons[position]) for name, reasons in broken if reasons[position] is not None]
            judged[i] = self._combine(parts, violated)
        return judged

    def _combine(self, parts: Mapping[str, Judgement], violated: Sequence[tuple[str, str | None]]) -> Judgement:
        reward = sum(part.reward for part in parts.values()) / len(parts)
        several = len(parts) > 1
        said = [f"{name}: {part.reason}" if several else part.reason for name, part in parts.items()]
        said += [f"violates {name}: {reason}" for name, reason in violated]
        violations = [*(v for part in parts.values() for v in part.violations), *(name for name, _ in violated)]
        return Judgement(
            reward=min(max(reward, 0.0), 1.0), reason="; ".join(said), violations=tuple(dict.fromkeys(violations))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePerTask:
    """Each problem goes to the judge of its task, which `info["task"]` names."""

    judges: Mapping[str, Judge]

    def judge(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        """See `Judge`.

        Raises:
            IbpoError: for a problem of a task without a judge.
        """
        rows: dict[str, list[int]] = {}
        for i, candidate in enumerate(candidates):
            task = str(candidate.problem.info.get("task", ""))
            if task not in self.judges:
                known = ", ".join(self.judges)
                raise IbpoError(f"problem {candidate.problem.problem_id}: no judge for task {task!r}, only {known}")
            rows.setdefault(task, []).append(i)
        judged: dict[int, Judgement] = {}
        for task, chosen in rows.items():
            theirs = judgements_of(task, self.judges[task], [candidates[i] for i in chosen])
            judged |= zip(chosen, theirs, strict=True)
        return [judged[i] for i in range(len(candidates))]


def judgements_of(name: str, judge: Judge, candidates: Sequence[Candidate]) -> list[Judgement]:
    """What a judge says; others write judges too, and one judgement too many would shift all others.

    Raises:
        IbpoError: unless it is one judgement for each candidate.
    """
    found = judge.judge(candidates)
    _check_number(f"judge {name!r}", found, candidates)
    if other := [judgement for judgement in found if not isinstance(judgement, Judgement)]:
        raise IbpoError(f"judge {name!r}: gave {other[0]!r}; give Judgement(reward=..., reason=...) for each candidate")
    return found


def _check_number(who: str, found: Sequence[object], candidates: Sequence[Candidate]) -> None:
    if len(found) != len(candidates):
        raise IbpoError(f"{who}: gave {len(found)} results for {len(candidates)} candidates; give one for each")


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]
