"""One chain of thought, or sequential voting (Yu et al. 2025, section 4): up to eight attempts in one response.

Each attempt stands in its own `[TRIAL]` block. As soon as one answer has occurred three times it is the consensus and
the response ends with it; after eight attempts without consensus it ends with the plurality, ties going to the answer
that got there first. Two departures from the paper's format help a very small model: each block closes with a tally of
its answer (`1x`, `2x`, `3x`), and the tie rule is fixed where the paper says "the most plausible".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ibpo.types import ResponseGroup

MAX_TRIALS = 8
CONSENSUS = 3
TRIAL_END = re.compile(r"\S \dx ")
"""What a trial ends with: the end of its answer, and the count."""
FINAL = "<answer>"


def vote(answers: Sequence[str]) -> tuple[str, int]:
    """The stop rule on a sequence of attempts: (winning answer, number of attempts used).

    Raises:
        ValueError: if there is no attempt.

    Example:
        >>> vote(["4", "7", "4", "4", "7"])
        ('4', 4)
        >>> vote(["1", "2", "2", "1"])
        ('2', 4)
    """
    if not answers:
        raise ValueError("a vote needs at least one attempt")
    counts: Counter[str] = Counter()
    winner = answers[0]
    for used, answer in enumerate(answers[:MAX_TRIALS], start=1):
        counts[answer] += 1
        if counts[answer] > counts[winner]:
            winner = answer
        if counts[answer] == CONSENSUS:
            return answer, used
    return winner, min(len(answers), MAX_TRIALS)


def build_sequential_vote(attempts: Sequence[tuple[str, str]]) -> str:
    """A sequential-voting response out of independent attempts (working, answer), stopped by the rule.

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
