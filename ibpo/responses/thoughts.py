"""Where a response's thought ends and its answer begins, in the marks of every family."""

from __future__ import annotations

from dataclasses import dataclass

from ibpo.responses.families import END_THINK, FAMILIES, THINK

FOREIGN = tuple(
    dict.fromkeys(
        (family.think.strip(), family.end_think.strip(), family.to_answer.strip(), family.at_once.strip())
        for family in FAMILIES
        if family.think != THINK
    )
)
"""Marks other than `<think>`: they open a thought, close it, open the answer behind it, and open an answer alone."""
OF_ANYTHING = ("<|end|>", "<|eom|>")
"""Ends of messages of every kind: they close a thought only where an answer is opened behind them."""
NAMELESS = ("analysis", "assistantfinal")
"""gpt-oss's channels after a server has taken the special tokens out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """A response in its two parts."""

    text: str | None
    """What was thought; None where the response holds no thought."""
    closed: bool
    """False where the thought has no end: it was cut, by a limit of tokens, a budget of thinking or a stop string."""
    answer: str
    """What stands behind the thought, or all of the response; "" behind a thought without end."""


def plain_thoughts(completion: str) -> str:
    r"""The response with its thought between `<think>` and `</think>`, whatever the marks of its family.

    Only marks that open the response count, and one that closes a thought which the prompt had opened; a text with none
    is left as it is.

    Example:
        >>> plain_thoughts("[THINK]3 + 4[/THINK]7"), plain_thoughts("<|channel|>final<|message|>7")
        ('<think>3 + 4</think>7', '7')
        >>> plain_thoughts("<|channel|>analysis<|message|>3 + 4<|end|><|start|>assistant<|channel|>final<|message|>7")
        '<think>3 + 4</think>7'
        >>> plain_thoughts("3 + 4[/THINK]7"), plain_thoughts("3 + 4<|END_THINKING|><|START_RESPONSE|>7")
        ('3 + 4</think>7', '3 + 4</think>7')
    """
    body = completion.lstrip()
    for think, end_think, _, at_once in FOREIGN:
        if body.startswith(think):
            thought, closed, rest = body.removeprefix(think).partition(end_think)
            return f"{THINK}{thought}{END_THINK}{_unmarked(rest, think)}" if closed else f"{THINK}{thought}"
        if at_once and body.startswith(at_once):
            return body.removeprefix(at_once)
    for think, end_think, _, _ in FOREIGN:
        thought, closed, rest = body.partition(end_think)
        answer = _unmarked(rest, think)
        if closed and think not in body and (answer != rest or end_think not in OF_ANYTHING):
            return f"{thought}{END_THINK}{answer}"
    opened, final = NAMELESS
    if body.startswith(opened) and final in body:
        thought, _, rest = body.removeprefix(opened).partition(final)
        return f"{THINK}{thought}{END_THINK}{rest}"
    if body.startswith(opened) and body.removeprefix(opened)[:1].isupper():  # cut before the other channel
        return f"{THINK}{body.removeprefix(opened)}"
    return completion


def _unmarked(answer: str, think: str) -> str:
    """Without the mark that opens an answer in one of the families whose thoughts open so."""
    marks = (mark for own, _, *both in FOREIGN if own == think for mark in both if mark)
    return answer.removeprefix(next((mark for mark in marks if answer.startswith(mark)), ""))


def split_thought(completion: str) -> Thought:
    r"""A response as thought and answer; a closing mark alone closes a thought that the prompt had opened.

    Example:
        >>> split_thought("<think>\n3 + 4</think>7").answer, split_thought("3 + 4\n</think>7").text
        ('7', '3 + 4\n')
        >>> split_thought("<think>\n3 + 4 is 7").closed, split_thought("It is 7").text is None
        (False, True)
    """
    text = plain_thoughts(completion)
    before, closed, answer = text.rpartition(END_THINK)
    if closed and THINK not in answer:
        return Thought(text=before.lstrip().removeprefix(THINK), closed=True, answer=answer)
    if text.lstrip().startswith(THINK) or (closed and THINK in answer):
        return Thought(text=text.lstrip().removeprefix(THINK), closed=False, answer="")
    return Thought(text=None, closed=True, answer=text)
