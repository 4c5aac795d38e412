r"""Responses of each format, built out of independent solutions, for a cold start: whatever is built reads back.

A solution is a text that boxes its answer; `with_box` makes one of any solution whose answer is known. What would be
read back as something else is refused by `CannotBuild`, which says why; nothing is mended silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ibpo.responses.blocks import BOX, CannotBuild, Reading, canonical, one_box
from ibpo.responses.formats import (
    COT,
    DEBATE,
    END_THINK,
    REFLECTION,
    SELF_CORRECTION,
    SEQUENTIAL_VOTING,
    THINKING_OFF,
    THINKING_ON,
    Format,
)
from ibpo.responses.sequential_voting import vote
from ibpo.types import Prompt


def with_box(solution: str, answer: str | None) -> str:
    r"""The solution, its answer boxed at the end if nothing is boxed yet.

    Raises:
        CannotBuild: where there is no answer.

    Example:
        >>> with_box("3 + 4 = 7", "7")
        '3 + 4 = 7\nThe answer is \\boxed{7}.'
    """
    if BOX.search(solution):
        return solution.strip()
    if answer is None or not answer.strip():
        raise CannotBuild("the solution gives no answer")
    return f"{solution.strip()}\nThe answer is \\boxed{{{answer.strip()}}}."


def build_single(solution: str, form: Format = COT) -> str:
    """One attempt, for formats that open by a word: standard and the levels of effort."""
    return _checked(form, f"{form.group.prefix} {solution.strip()}", [one_box(solution, "the solution")])


def build_voting(solutions: Sequence[str]) -> str:
    r"""Sequential voting out of independent solutions, stopped by the rule; the plurality where there is no consensus.

    Raises:
        CannotBuild: where a solution has no clear answer, or too few are given for the rule to stop.
    """
    answers = [one_box(solution, f"trial {i}") for i, solution in enumerate(solutions, start=1)]
    if not answers:
        raise CannotBuild("a vote needs solutions")
    winner, used = vote([canonical(answer) for answer in answers])
    final = next(answer for answer in answers if canonical(answer) == winner)
    trials = [f"[TRIAL]\n{solution.strip()}\n[/TRIAL]" for solution in solutions[:used]]
    agreed = Counter(map(canonical, answers[:used]))[winner]
    verdict = f"{agreed} of {used} trials agree: \\boxed{{{final}}}"
    return _checked(SEQUENTIAL_VOTING, "\n".join([*trials, verdict]), answers[:used], final)


def build_correction(first: str, second: str) -> str:
    """Self-correction in one response."""
    answers = [one_box(first, "the attempt"), one_box(second, "the revision")]
    text = f"[ATTEMPT]\n{first.strip()}\n[/ATTEMPT]\n[REVISION]\n{second.strip()}\n[/REVISION]"
    return _checked(SELF_CORRECTION, text, answers)


def correction_turns(problem: Prompt, first: str) -> list[dict[str, str]]:
    """Self-correction in two turns, as in SCoRe: the messages that ask for the second."""
    messages = [{"role": "user", "content": problem}] if isinstance(problem, str) else list(problem)
    return [
        *messages,
        {"role": "assistant", "content": first},
        {"role": "user", "content": SELF_CORRECTION.follow_up},
    ]


def build_reflection(draft: str, reflection: str, final: str) -> str:
    """A draft, what may be wrong with it, and the final solution."""
    text = f"[DRAFT]\n{draft.strip()}\n[/DRAFT]\n[REFLECTION]\n{reflection.strip()}\n[/REFLECTION]\n{final.strip()}"
    return _checked(REFLECTION, text, [one_box(draft, "the draft")], one_box(final, "the final solution"))


def build_debate(voices: Sequence[str], verdict: str) -> str:
    """Two or more voices and a verdict."""
    answers = [one_box(voice, f"voice {i}") for i, voice in enumerate(voices, start=1)]
    text = "\n".join([*(f"[VOICE]\n{voice.strip()}\n[/VOICE]" for voice in voices), verdict.strip()])
    return _checked(DEBATE, text, answers, one_box(verdict, "the verdict"))


def build_thinking(thought: str, solution: str) -> str:
    """A thought in tags, then the solution; an empty thought makes the response that does not think."""
    answer = one_box(solution, "the solution")
    if not thought.strip():
        return _checked(THINKING_OFF, f"{THINKING_OFF.group.prefix}{solution.strip()}", [answer])
    return _checked(
        THINKING_ON, f"{THINKING_ON.group.prefix}{thought.strip()}\n{END_THINK}\n\n{solution.strip()}", [answer]
    )


def _checked(form: Format, text: str, attempts: Sequence[str], final: str | None = None) -> str:
    """The text, if reading it gives back exactly what went in."""
    reading = form.read(text)
    if reading.problem is not None:
        raise CannotBuild(reading.problem)
    if reading != Reading(attempts=tuple(attempts), answer=attempts[-1] if final is None else final):
        raise CannotBuild("reads back as something else")
    if not form.group.matches(text):
        raise CannotBuild(f"does not open with {form.group.prefix!r}")
    return text
