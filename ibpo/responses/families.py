"""Families of hybrid models as data: how each is switched between thinking and answering at once, and in what marks.

A hybrid model thinks or answers at once, and its chat template says which: by an argument, a word of effort, or a text
in the system message. Families differ in the switch, in the marks around a thought, and in what the template already
writes behind the user's message. What a wrong switch does is silent: templates ignore arguments that they do not know.

`FAMILIES` is the table. `find_family` tells the family of a chat template by texts that are in it; a template of no
family is read by trying the known switches on it (`ibpo.responses.openings`). Checked against the templates
themselves by `benchmarks/families.py`, which makes the table in docs/reference/response-groups.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

THINK, END_THINK = "<think>", "</think>"
Options = Mapping[str, Any]
TRL = "trl 1.16.0, chat_templates"
LLAMA = "ggml-org/llama.cpp, models/templates, as in llama-cpp-python 0.3.36"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What models of one family have in common."""

    name: str
    signs: tuple[str, ...] = ()
    """Texts that are all in the family's chat template; of several that fit, the first family of the table counts."""
    without: tuple[str, ...] = ()
    """Texts that are not in it."""
    think: str = THINK
    """What opens a thought."""
    end_think: str = END_THINK
    to_answer: str = ""
    """What is written between the end of a thought and the answer."""
    at_once: str = ""
    """What opens an answer without a thought, where the template does not write it itself."""
    on: Options | None = None
    """Arguments of the chat template with which the model thinks; None: none does."""
    off: Options | None = None
    """Arguments with which it answers at once; None: no argument does."""
    system_on: str = ""
    system_off: str = ""
    """Texts of the system message that do so."""
    efforts: Mapping[str, Options] = field(default_factory=dict[str, Options])
    """Words of effort that the template takes, the least first, with their arguments."""
    writes_on: str = ""
    """What the template writes of the response itself, behind the header of its turn, with `on`."""
    writes_off: str = ""
    """The same with `off`."""
    prefill: bool = False
    """Whether a server that continues an assistant's message (`continue_final_message`) renders any prefix as it is."""
    source: str = LLAMA
    date: str = "2026-11-29"


def _thinking(name: str, *signs: str, key: str = "enable_thinking", **more: Any) -> Family:
    return Family(name=name, signs=signs, **{"on": {key: True}, "off": {key: False}, **more})


def _words(key: str, *words: str, **more: Any) -> dict[str, Options]:
    return {word: {key: word, **more} for word in words}


EMPTY = "<think>\n\n</think>\n\n"
FAMILIES = (
    _thinking("Qwen3.8", "Unexpected reasoning effort", "<|im_start|>", "enable_thinking", source=TRL,
              efforts=_words("reasoning_effort", "low", "medium", "xhigh"), writes_on="<think>\n", writes_off=EMPTY),
    _thinking("MiniCPM5", "enable_thinking", "<function name=", "<|im_start|>",
              writes_on="<think>\n", writes_off=EMPTY),
    _thinking("Qwen3.5, 3.6, thinking", "<|im_start|>", "enable_thinking is defined and enable_thinking is false",
              "'<think>\\n' }}", source=TRL, writes_on="<think>\n", writes_off=EMPTY),
    _thinking("Qwen3.5, not thinking", "<|im_start|>", "enable_thinking is defined and enable_thinking is true",
              "'<think>\\n\\n</think>\\n\\n' }}", source=TRL, writes_on="<think>\n", writes_off=EMPTY),
    _thinking("Qwen3", "<|im_start|>", "enable_thinking is defined and enable_thinking is false",
              "'<think>\\n\\n</think>\\n\\n' }}", source=TRL, writes_off=EMPTY),
    _thinking("QwQ (with a switch)", "<|im_start|>", "if not enable_thinking", writes_on="<think>\n",
              writes_off="<think>\n</think>", prefill=True),
    _thinking("DeepSeek R1 (with a switch)", "<\uff5cAssistant\uff5c><think>", "if not enable_thinking",
              writes_on="<think>\n", writes_off="<think>\n</think>"),
    _thinking("DeepSeek V4", "<\uff5cAssistant\uff5c>", "reasoning_effort", key="thinking",
              efforts=_words("reasoning_effort", "high", "max", thinking=True),
              writes_on="<think>", writes_off="</think>"),
    _thinking("DeepSeek V3.1, V3.2", "<\uff5cAssistant\uff5c>", "thinking", "</think>", key="thinking",
              without=("<think>\\n",), writes_on="<think>", writes_off="<think></think>"),
    Family(name="DeepSeek R1, always thinking", signs=("<\uff5cAssistant\uff5c><think>",), on={}, writes_on="<think>\n",
           source=TRL),
    Family(name="gpt-oss", signs=("<|channel|>analysis<|message|>", "reasoning_effort", "<|start|>assistant"),
           think="<|channel|>analysis<|message|>", end_think="<|end|>", on={}, source=TRL,
           to_answer="<|start|>assistant<|channel|>final<|message|>", at_once="<|channel|>final<|message|>",
           efforts=_words("reasoning_effort", "low", "medium", "high")),
    Family(name="muse-glimmer", signs=(" to=self<|message|>",), think=" to=self<|message|>",
           end_think="<|eom|>", to_answer="<|start|>assistant to=user<|message|>", at_once=" to=user<|message|>",
           on={}, efforts=_words("reasoning_strength", "low", "high"), source=TRL),
    _thinking("GLM-4.5, 4.6", "<|assistant|>", "/nothink", writes_off="<think></think>"),
    _thinking("GLM-4.7", "<|assistant|>", "enable_thinking", "clear_thinking", writes_on="<think>",
              writes_off="</think>"),
    _thinking("Kimi K3", "thinking_effort", "<|open|>", key="thinking", think="<|open|>think<|sep|>",
              end_think="<|close|>think<|sep|>", to_answer="<|open|>response<|sep|>",
              at_once="<|open|>response<|sep|>", efforts=_words("thinking_effort", "low", "high", "max"),
              writes_on="<|open|>think<|sep|>", writes_off="<|open|>response<|sep|>"),
    Family(name="Kimi K2 Thinking", signs=("<|im_middle|>", "</think>"), on={}),
    _thinking("MiniMax M3", "<mm:think>", on={"thinking_mode": "enabled"}, off={"thinking_mode": "disabled"},
              think="<mm:think>", end_think="</mm:think>", writes_on="<mm:think>", writes_off="</mm:think>"),
    Family(name="MiniMax M2", signs=("]~b]ai", "<think>"), on={}, writes_on="<think>\n"),
    _thinking("Gemma 4, large", "<|channel>thought\\n<channel|>", "enable_thinking",
              think="<|channel>thought\n", end_think="<channel|>", writes_off="<|channel>thought\n<channel|>"),
    _thinking("Gemma 4, small", "<|think|>", "<|turn>", "enable_thinking", think="<|channel>thought\n",
              end_think="<channel|>", source=TRL),
    _thinking("Nemotron 3", "truncate_history_thinking", "enable_thinking", source=TRL,
              efforts={"low": {"low_effort": True}, "medium": {"medium_effort": True}, "high": {"low_effort": False}},
              writes_on="<think>\n", writes_off="<think></think>", prefill=True),
    Family(name="Nemotron Nano v2", signs=("<SPECIAL_11>", "/no_think"), on={}, system_on="/think",
           system_off="/no_think", writes_on="<think>\n"),
    Family(name="Seed-OSS", signs=("<seed:cot_budget_reflect>",), think="<seed:think>", end_think="</seed:think>",
           on={"thinking_budget": -1}, off={"thinking_budget": 0},
           efforts={str(n): {"thinking_budget": n} for n in (512, 4096)},
           writes_off="<seed:think>\n<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly "
           "start answering the question.</seed:cot_budget_reflect>\n</seed:think>"),
    _thinking("SmolLM3", "<|im_start|>", "/no_think", "enable_thinking", system_on="/think", system_off="/no_think",
              writes_off="<think>\n\n</think>\n", prefill=True),
    _thinking("Granite 3.3", "<|start_of_role|>", "thinking", "<response>", key="thinking", prefill=True),
    _thinking("Hy3", "should be no_think/low/high", on={"reasoning_effort": "high"},
              off={"reasoning_effort": "no_think"},
              think="<think:opensource>", end_think="</think:opensource>",
              efforts=_words("reasoning_effort", "low", "high"), writes_on="<think:opensource>",
              writes_off="<think:opensource></think:opensource>"),
    Family(name="Solar Open", signs=("<|begin|>assistant", "reasoning_effort"), think="<|think|>", end_think="<|end|>",
           to_answer="<|begin|>assistant<|content|>", at_once="<|content|>", on={"reasoning_effort": "high"},
           off={"reasoning_effort": "minimal"}, efforts=_words("reasoning_effort", "low", "high"),
           writes_off="<|think|><|end|><|begin|>assistant"),
    _thinking("Cohere2 MoE", "<|START_THINKING|>", "<|START_TEXT|>", key="reasoning", think="<|START_THINKING|>",
              end_think="<|END_THINKING|>", to_answer="<|START_TEXT|>", at_once="<|START_TEXT|>",
              writes_on="<|START_THINKING|>", writes_off="<|START_THINKING|><|END_THINKING|>"),
    _thinking("Command R7B", "<|START_THINKING|>", "enable_thinking", think="<|START_THINKING|>",
              end_think="<|END_THINKING|>", to_answer="<|START_RESPONSE|>", at_once="<|START_RESPONSE|>",
              writes_off="<|START_THINKING|><|END_THINKING|>"),
    _thinking("Ling 3", "<role>ASSISTANT", "enable_thinking", writes_on="<think>", writes_off="<think></think>"),
    _thinking("Laguna", "<assistant>", "enable_thinking", "</think>", writes_on="<think>", writes_off="</think>"),
    _thinking("Spark 2.5", "<|Bot|>", "enable_thinking", writes_on="<think>", writes_off="</think>"),
    _thinking("Bielik 3", "<|im_start|>", "enable_thinking", "Bielik", writes_on="<think>\n"),
    _thinking("Reka Edge", "<sep>", "enable_thinking", writes_on="<think>\n"),
    _thinking("Apertus", "<|assistant_start|>", "enable_thinking", think="<|inner_prefix|>",
              end_think="<|inner_suffix|>"),
    Family(name="Apriel 1.6", signs=("Here are my reasoning steps", "[BEGIN FINAL RESPONSE]"), on={},
           think="Here are my reasoning steps:\n", end_think="[BEGIN FINAL RESPONSE]",
           writes_on="Here are my reasoning steps:\n"),
    Family(name="Ministral 3 Reasoning, Magistral", signs=("[THINK]",), think="[THINK]", end_think="[/THINK]", on={}),
    Family(name="StepFun 3.5", signs=("<|im_start|>assistant\\n<think>\\n",), on={}, writes_on="<think>\n"),
)  # fmt: skip
"""The known families, special ones before general ones."""
PLAIN = Family(name="unknown")
"""A template of no known family."""


@lru_cache(maxsize=256)
def find_family(template: str) -> Family:
    """The family of a chat template, by the texts that are in it; `PLAIN` for one of none.

    Example:
        >>> find_family("... {{ '<mm:think>' }} ...").off
        {'thinking_mode': 'disabled'}
    """
    for family in FAMILIES:
        if all(sign in template for sign in family.signs) and not any(text in template for text in family.without):
            return family
    return PLAIN


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
    """What follows the thought, or all of the response; "" after a thought without end."""


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
        if end_think in body and think not in body:
            thought, _, rest = body.partition(end_think)
            answer = _unmarked(rest, think)
            if answer != rest or end_think not in OF_ANYTHING:
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
