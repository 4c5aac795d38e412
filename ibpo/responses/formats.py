r"""The shipped response formats: the instruction that asks for each, the text that opens it, how it is read.

Data and two functions, as everywhere in ibpo: `group.matches` tells by the opening, `group.extract_answer` gives the
answer of a well-formed response. `read` also says what is wrong with a malformed one, which is a violated constraint
(`ibpo.rewards.judges.well_formed`). The wording of the instructions is ours.

Sequential voting is Yu et al.'s (2025, section 4); self-correction in two turns has SCoRe's form (Kumar et al. 2024,
arXiv 2409.12917); thinking on and off are the two chat templates of hybrid models (Qwen3: `enable_thinking`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ibpo.answers import representatives
from ibpo.errors import IbpoError
from ibpo.responses.families import END_THINK, THINK, plain_thoughts, split_thought
from ibpo.responses.readers import (
    BOX,
    MARKER,
    CannotBuild,
    Reading,
    last_program,
    malformed,
    one_box,
    split_blocks,
)
from ibpo.types import ResponseGroup

MAX_TRIALS = 8
"""Most attempts in one sequential vote."""
CONSENSUS = 3


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


BOX_IT = r"Put the final answer in \boxed{}."
PROGRAM_IT = "Give the whole program in one block that opens with ```python."

FOLLOW_UP = (
    "Look over your solution above once more. If a step is wrong, give a corrected solution; if all is right, give it "
    f"again. {BOX_IT}"
)
"""The user's second turn of self-correction."""
FEEDBACK = (
    "Go through your solution above step by step and say what is wrong with it, or that nothing is. Do not solve the "
    "problem anew yet."
)
"""The user's second turn of a refinement."""
REVISION = f"Now give the solution again, with all that you found put right. {BOX_IT}"
"""The user's third turn of a refinement."""
CHOICE = (
    "Compare the two solutions of this problem: where they differ, say which of them is wrong and why. If both are "
    f"wrong, correct them. {BOX_IT}"
)
"""What follows two solutions, one of which must be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A response group with the reader of its form."""

    group: ResponseGroup
    read: Callable[[str], Reading]
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Goes to the tokenizer's `apply_chat_template`, where the chat template, not the instruction, asks for it."""

    def problem_of(self, completion: str) -> str | None:
        """What is wrong with the form of a response, or None."""
        return self.read(completion).problem


def make_format(
    name: str,
    prefix: str,
    instruction: str,
    read: Callable[[str], Reading],
    *,
    may_think: bool = False,
    **more: Any,
) -> Format:
    """A format whose answer is what its reader reads; a reader raises `CannotBuild` for what is malformed.

    With `may_think` a thought may be in front of it all.
    """

    def reading(completion: str) -> Reading:
        text = completion.strip()
        if not group.matches(text):
            text = (split_thought(text).answer if may_think else plain_thoughts(text)).strip()
        if not group.matches(text):
            return malformed(f"does not open with {prefix!r}")
        try:
            return read(text)
        except CannotBuild as error:
            return malformed(str(error))

    group = ResponseGroup(
        name=name, prefix=prefix, instruction=instruction, extract_answer=lambda completion: reading(completion).answer
    )
    return Format(group=group, read=reading, **more)


def one_attempt(text: str) -> Reading:
    """A solution without blocks that boxes one answer."""
    if marker := MARKER.search(text):
        raise CannotBuild(f"{marker[0]} has no place here")
    if THINK in text or END_THINK in text:
        raise CannotBuild("a thought has no place here")
    answer = one_box(text, "the response")
    return Reading(attempts=(answer,), answer=answer)


def _tagged(text: str, tags: Sequence[str]) -> tuple[list[str], str]:
    blocks, rest = split_blocks(text)
    if [tag for tag, _ in blocks] != list(tags):
        found = ", ".join(tag for tag, _ in blocks) or "none"
        raise CannotBuild(f"the blocks should be {', '.join(tags)}; they are {found}")
    return [body for _, body in blocks], rest


def _voting(text: str) -> Reading:
    blocks, rest = split_blocks(text)
    if any(tag != "TRIAL" for tag, _ in blocks):
        raise CannotBuild("a block that is not a trial has no place here")
    attempts = tuple(one_box(body, f"trial {i}") for i, (_, body) in enumerate(blocks, start=1))
    answer = one_box(rest, "the text after the trials")
    *trials, final = representatives([*attempts, answer])
    problem = broken_rule(trials, final)
    return malformed(problem, attempts) if problem else Reading(attempts=attempts, answer=answer)


def broken_rule(attempts: Sequence[str], final: str) -> str | None:
    """How a vote breaks the rule: stop at the third equal answer and give it; without one, after eight, any of them.

    Example:
        >>> broken_rule(["1", "2", "1", "1"], "1") is None, broken_rule(["1", "2"], "1")
        (True, 'stops after 2 trials without consensus')
    """
    counts: Counter[str] = Counter()
    for used, answer in enumerate(attempts, start=1):
        counts[answer] += 1
        if counts[answer] == CONSENSUS:
            if used < len(attempts):
                return f"continues after the consensus of trial {used}"
            return None if final == answer else "its final answer is not the consensus"
    if len(attempts) != MAX_TRIALS:
        more = "stops" if len(attempts) < MAX_TRIALS else "goes on"
        return f"{more} after {len(attempts)} trials without consensus"
    return None if final in counts else "its final answer is not from any of its trials"


def _adaptive(text: str) -> Reading:
    return _voting(text) if text.startswith("[TRIAL]") else one_attempt(text)


def _two_attempts(text: str) -> Reading:
    (first, second), rest = _tagged(text, ("ATTEMPT", "REVISION"))
    if rest:
        raise CannotBuild("there is text after [/REVISION]")
    attempts = (one_box(first, "the attempt"), one_box(second, "the revision"))
    return Reading(attempts=attempts, answer=attempts[1])


def _reflected(text: str) -> Reading:
    (draft, _), rest = _tagged(text, ("DRAFT", "REFLECTION"))
    first, answer = one_box(draft, "the draft"), one_box(rest, "the text after the reflection")
    return Reading(attempts=(first,), answer=answer)


def _debated(text: str) -> Reading:
    blocks, rest = split_blocks(text)
    if len(blocks) < 2 or any(tag != "VOICE" for tag, _ in blocks):
        raise CannotBuild("a debate has two or more voices and no other blocks")
    attempts = tuple(one_box(body, f"voice {i}") for i, (_, body) in enumerate(blocks, start=1))
    return Reading(attempts=attempts, answer=one_box(rest, "the verdict"))


def _thought(text: str) -> Reading:
    if text.count(THINK) != 1 or text.count(END_THINK) != 1:
        raise CannotBuild(f"{THINK} and {END_THINK} occur once each; a thought that is not closed gives no answer")
    thought, _, rest = text.partition(END_THINK)
    if not thought.removeprefix(THINK).strip():
        raise CannotBuild("the thought is empty")
    answer = one_box(rest, "the text after the thought")
    return Reading(attempts=(answer,), answer=answer)


def _unthought(text: str) -> Reading:
    thought, closed, rest = text.partition(END_THINK)
    if not closed or thought.removeprefix(THINK).strip() or THINK in rest or END_THINK in rest:
        raise CannotBuild("there is a thought where there should be none")
    answer = one_box(rest, "the response")
    return Reading(attempts=(answer,), answer=answer)


COT = make_format(
    "standard", "Solution:", f"Begin with `Solution:` and solve the problem step by step. {BOX_IT}", one_attempt
)
"""One attempt, step by step: the standard response group."""
SEQUENTIAL_VOTING = make_format(
    "sequential_voting",
    "[TRIAL]",
    "Solve the problem several times over, each time from scratch. Write each attempt as [TRIAL] ... [/TRIAL], step by "
    "step, with its answer in \\boxed{}, and do not refer to earlier attempts. As soon as three attempts agree, stop "
    "and give their answer in \\boxed{}. If there is no such agreement after eight attempts, give the most plausible "
    "of their answers in \\boxed{}.",
    _voting,
)
"""Several attempts in one response, until three agree: the paper's extended response group."""
ADAPTIVE = make_format(
    "adaptive",
    "",
    "Judge first how hard the problem is. If it is easy, begin with `Solution:` and solve it once, step by step. "
    f"Otherwise: {SEQUENTIAL_VOTING.group.instruction} In both cases, the last \\boxed{{}} holds the final answer.",
    _adaptive,
)
"""All instructions in one: the policy judges how hard the problem is, and answers once or votes."""
THINKING_OFF = make_format(
    "thinking_off",
    f"{THINK}\n\n{END_THINK}\n\n",
    BOX_IT,
    _unthought,
    template_options={"enable_thinking": False},
)
"""A hybrid model answers with an empty thought."""
THINKING_ON = make_format("thinking_on", f"{THINK}\n", BOX_IT, _thought, template_options={"enable_thinking": True})
"""A hybrid model thinks first."""

DIRECT = make_format(
    "direct",
    "Answer:",
    f"Without thinking first: begin with `Answer:` and give the solution at once. {BOX_IT}",
    one_attempt,
)
"""The counterpart of `thinking_on` where the policy chooses: `thinking_off` opens with `<think>` too."""
EFFORT_LOW = make_format(
    "effort_low",
    "Quickly:",
    f"With little effort: begin with `Quickly:` and give the result in a few words. {BOX_IT}",
    one_attempt,
    may_think=True,
    template_options={"reasoning_effort": "low"},
)
"""A result in a few words."""
EFFORT_MEDIUM = make_format(
    "effort_medium",
    "Steps:",
    f"With some effort: begin with `Steps:` and show the main steps. {BOX_IT}",
    one_attempt,
    may_think=True,
    template_options={"reasoning_effort": "medium"},
)
"""The main steps."""
EFFORT_HIGH = make_format(
    "effort_high",
    "Carefully:",
    f"With great effort: begin with `Carefully:`, work out every step and check the result another way. {BOX_IT}",
    one_attempt,
    may_think=True,
    template_options={"reasoning_effort": "high"},
)
"""Every step, with a check of the result."""
SELF_CORRECTION = make_format(
    "self_correction",
    "[ATTEMPT]",
    "Solve the problem as [ATTEMPT] ... [/ATTEMPT] with the answer in \\boxed{}. Then look for mistakes in it and "
    "write a corrected solution as [REVISION] ... [/REVISION] with the answer in \\boxed{}.",
    _two_attempts,
)
"""An attempt, then a corrected one."""
REFLECTION = make_format(
    "reflection",
    "[DRAFT]",
    "Write a solution as [DRAFT] ... [/DRAFT] with its answer in \\boxed{}, then what could be wrong with it as "
    f"[REFLECTION] ... [/REFLECTION], then the final solution. {BOX_IT}",
    _reflected,
)
"""A draft, what may be wrong with it, and the final solution."""
DEBATE = make_format(
    "debate",
    "[VOICE]",
    "Let two or more people argue about the solution, each of them as [VOICE] ... [/VOICE] with an answer in "
    f"\\boxed{{}}; later ones may answer earlier ones. Then give a verdict. {BOX_IT}",
    _debated,
)
"""Two or more voices, then a verdict."""

FORMATS = {
    f.group.name: f
    for f in (COT, SEQUENTIAL_VOTING, ADAPTIVE, THINKING_OFF, THINKING_ON, DIRECT, EFFORT_LOW, EFFORT_MEDIUM,
              EFFORT_HIGH, SELF_CORRECTION, REFLECTION, DEBATE)
}  # fmt: skip
"""Every shipped format by its name; take two or more whose openings differ."""


def for_programs(group: ResponseGroup) -> ResponseGroup:
    r"""A shipped response group where the answer is a program: asked for and read in a fenced block, not in a box.

    Raises:
        IbpoError: for a group that boxes several answers: programs are not compared with one another.

    Example:
        >>> for_programs(DIRECT.group).extract_answer("Answer:\n```python\nx = 1\n```")
        'x = 1'
    """
    instructions = {name: form.group.instruction.replace(BOX_IT, PROGRAM_IT) for name, form in FORMATS.items()}
    fit = [name for name, instruction in instructions.items() if "\\boxed" not in instruction]
    if group.name not in fit:
        raise IbpoError(
            f"response group {group.name}: compares boxed answers, and programs are none; take one of {', '.join(fit)}"
        )
    return replace(group, instruction=instructions[group.name], extract_answer=last_program)


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
    """Build a response of one attempt, for formats that open by a word: standard, levels of effort."""
    return _checked(form, f"{form.group.prefix} {solution.strip()}", [one_box(solution, "the solution")])


def build_voting(solutions: Sequence[str]) -> str:
    r"""Build sequential voting from independent solutions, stopped by the rule; without consensus, the plurality wins.

    Raises:
        CannotBuild: where a solution has no clear answer, or too few are given for the rule to stop.
    """
    answers = [one_box(solution, f"trial {i}") for i, solution in enumerate(solutions, start=1)]
    if not answers:
        raise CannotBuild("a vote needs solutions")
    groups = representatives(answers)
    final, used = vote(groups)
    trials = [f"[TRIAL]\n{solution.strip()}\n[/TRIAL]" for solution in solutions[:used]]
    agreed = Counter(groups[:used])[final]
    verdict = f"{agreed} of {used} trials agree: \\boxed{{{final}}}"
    return _checked(SEQUENTIAL_VOTING, "\n".join([*trials, verdict]), answers[:used], final)


def build_correction(first: str, second: str) -> str:
    """Build a self-correction in one response: an attempt, then the corrected one."""
    answers = [one_box(first, "the attempt"), one_box(second, "the revision")]
    text = f"[ATTEMPT]\n{first.strip()}\n[/ATTEMPT]\n[REVISION]\n{second.strip()}\n[/REVISION]"
    return _checked(SELF_CORRECTION, text, answers)


def build_reflection(draft: str, reflection: str, final: str) -> str:
    """Build a reflection: a draft, what may be wrong with it, and the final solution."""
    text = f"[DRAFT]\n{draft.strip()}\n[/DRAFT]\n[REFLECTION]\n{reflection.strip()}\n[/REFLECTION]\n{final.strip()}"
    return _checked(REFLECTION, text, [one_box(draft, "the draft")], one_box(final, "the final solution"))


def build_debate(voices: Sequence[str], verdict: str) -> str:
    """Build a debate: two or more voices and a verdict."""
    answers = [one_box(voice, f"voice {i}") for i, voice in enumerate(voices, start=1)]
    text = "\n".join([*(f"[VOICE]\n{voice.strip()}\n[/VOICE]" for voice in voices), verdict.strip()])
    return _checked(DEBATE, text, answers, one_box(verdict, "the verdict"))


def build_thinking(thought: str, solution: str) -> str:
    """Build a thought in tags, then the solution; an empty thought makes the response that does not think."""
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
