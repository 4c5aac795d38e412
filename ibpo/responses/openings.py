r"""How a response is opened behind a chat template: what the template has written, and what is left to force.

A template may write a part of the response itself: the opening of a thought (`<think>\n`), or a thought that is
closed already. A prefix that is forced behind it without looking opens a thought twice, or stands inside of one. So
each prefix is rendered here as the model will see it, in the marks of its family, and only what the template has not
written is forced. The same function serves `ibpo groups check`, `ibpo eval`, the cold start and servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibpo.responses.families import END_THINK, PLAIN, THINK, Family, Options, find_family
from ibpo.responses.templates import apply_template
from ibpo.responses.thoughts import FOREIGN

SENTINEL = "What is 3 + 4?"
Message = Mapping[str, str]
SWITCHES: tuple[tuple[Options, Options], ...] = (
    ({"enable_thinking": True}, {"enable_thinking": False}),
    ({"thinking": True}, {"thinking": False}),
    ({"reasoning": True}, {"reasoning": False}),
    ({"thinking_mode": "enabled"}, {"thinking_mode": "disabled"}),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
)
"""What is tried on a template of no known family."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """A prompt and how the response to it begins.

    The policy sees `prompt + forced`; its response is `lead + forced` and what it writes.
    """

    prompt: str
    forced: str
    """What is left to force of the prefix."""
    lead: str
    """What the prompt already holds of the response."""
    how: str = ""
    """What was done to the prompt beyond the template's own, for the reader of a check; "" where nothing was."""


def family_of(tokenizer: Any) -> Family:
    """The family of a tokenizer's chat template; one of no known family is read by trying the known switches."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several, by name
        template = template.get("default", "")
    if not template:
        return PLAIN
    known = find_family(template)
    return known if known is not PLAIN else _probed(tokenizer, template)


PROBED: dict[str, Family] = {}


def _probed(tokenizer: Any, template: str) -> Family:
    if template not in PROBED:
        PROBED[template] = _probe(tokenizer)
    return PROBED[template]


def _probe(tokenizer: Any) -> Family:
    user = [{"role": "user", "content": SENTINEL}]
    for on, off in SWITCHES:
        try:
            rendered = [render(tokenizer, user, options) for options in (on, off)]
        except Exception:  # a template refuses a value in its own words
            continue
        if rendered[0] != rendered[1]:
            tails = [text.rpartition(SENTINEL)[2] for text in rendered]
            marks = next((found for tail in tails if (found := _marks(tail))), None)
            family = replace(PLAIN, on=on, off=off)
            return family if marks is None else replace(family, think=marks[0], end_think=marks[1])
    try:
        marks = _marks(render(tokenizer, user, {}).rpartition(SENTINEL)[2])
    except Exception:  # a template that renders nothing: whoever asks by it is told
        return PLAIN
    return PLAIN if marks is None else replace(PLAIN, on={}, think=marks[0], end_think=marks[1])


def _marks(tail: str) -> tuple[str, str] | None:
    pairs = [(THINK, END_THINK), *((think, end) for think, end, _, _ in FOREIGN if think.startswith(("<", "[")))]
    return next(((think, end) for think, end in pairs if tail.rstrip().endswith((think, end))), None)


def render(tokenizer: Any, messages: Sequence[Message], options: Options) -> str:
    """The prompt's text as the chat template writes it, up to where the policy begins."""
    return apply_template(tokenizer, messages, tokenize=False, add_generation_prompt=True, **options)


def translate(options: Options, family: Family) -> Options:
    """The options of a shipped format (`enable_thinking`, `reasoning_effort`) in the words of a family.

    Words of effort go by their rank: the least of the family for `low`, the greatest for `high`. Where a family has no
    such switch, nothing is sent that would be ignored.

    Example:
        >>> qwen = find_family("<|im_start|> enable_thinking Unexpected reasoning effort")
        >>> translate({"reasoning_effort": "high"}, qwen)
        {'reasoning_effort': 'xhigh'}
    """
    if family is PLAIN:
        return options
    found = {key: value for key, value in options.items() if key not in ("enable_thinking", "reasoning_effort")}
    if "enable_thinking" in options:
        found |= (family.on if options["enable_thinking"] else family.off) or {}
    if "reasoning_effort" in options and family.efforts:
        words = list(family.efforts)
        rank = {"low": 0, "medium": len(words) // 2, "high": len(words) - 1}
        word = str(options["reasoning_effort"])
        found |= family.efforts.get(word, {}) if word not in rank else family.efforts[words[rank[word]]]
    return found


def is_by_effort(options: Options, family: Family) -> bool:
    """Whether a group is asked for by a word of effort that the family knows.

    Then the model thinks first, more or less: the group's opening is asked for and not forced.
    """
    return "reasoning_effort" in options and bool(family.efforts)


def spell(prefix: str, family: Family) -> str:
    r"""A prefix in the marks of a family: `<think>` and `</think>` as it writes them, and what opens its answers.

    Example:
        >>> mistral = find_family("[THINK]")
        >>> spell("<think>\n", mistral), spell("<think>\n3 + 4\n</think>\n\nAnswer:", mistral)
        ('[THINK]', '[THINK]3 + 4\n[/THINK]Answer:')
    """
    body = prefix.lstrip()
    if not body or (family.think.strip() == THINK and not family.to_answer):
        return prefix
    if not body.startswith(THINK):
        own = body.startswith((family.think.strip(), family.end_think.strip()))
        return prefix if own or (family.at_once and body.startswith(family.at_once)) else family.at_once + prefix
    inner, closed, rest = body.removeprefix(THINK).partition(END_THINK)
    inner, rest = inner.removeprefix("\n"), rest.lstrip()
    if not closed:
        return family.think + inner
    if inner.strip():
        return family.think + inner + family.end_think + family.to_answer + rest
    if not family.writes_off:
        return family.think + family.end_think + family.to_answer + rest
    behind = family.at_once if rest and not family.writes_off.endswith(family.at_once) else ""
    return family.writes_off + behind + rest


def written(tokenizer: Any, messages: Sequence[Message], options: Options, family: Family) -> tuple[str, bool]:
    """What the template writes of the response itself, and whether that is a thought left open.

    The last message is replaced, so that what it says is not taken for the template's.
    """
    asked = [*messages[:-1], {**messages[-1], "content": SENTINEL}]
    tail = render(tokenizer, asked, options).rpartition(SENTINEL)[2]
    end, think, end_think = tail.rstrip(), family.think.strip(), family.end_think.strip()
    if end.endswith(think):
        return tail[end.rindex(think) :], True
    if family.writes_off and end.endswith(family.writes_off.strip()):
        return tail[end.rindex(family.writes_off.strip()) :], False
    if end.endswith(end_think):
        return tail[tail.index(think) if think in tail else end.rindex(end_think) :], False
    return "", False


def open_response(
    tokenizer: Any, messages: Sequence[Message], prefix: str, options: Options, *, adapt: bool = False
) -> Opening:
    """The prompt, and what is forced behind it so that the response opens with a prefix.

    Args:
        tokenizer: one of transformers, with a chat template.
        messages: the chat, its last message the user's.
        prefix: of a response group; "": the policy opens as it likes.
        options: arguments of the chat template.
        adapt: where the template's own opening and the prefix do not fit, render as the model answers by itself:
            switch its thinking, or close the thought at once. Without it (as in training, where the recipe says what
            the prompt is) the prefix goes where the template stops.
    """
    family = family_of(tokenizer)
    spelled, (at_once, behind), how = spell(prefix, family), _empty_thought(prefix), ""
    thinks = not at_once and spelled.lstrip().startswith(family.think.strip())
    wrote, is_open = written(tokenizer, messages, options, family)
    closed = bool(wrote) and not is_open
    fits = not closed if thinks else closed if at_once else not is_open
    if adapt and prefix and not fits:
        asked = _switched(messages, options, family, on=thinks)
        if asked is not None:
            then, then_open = written(tokenizer, *asked, family)
            if not (then and not then_open) if thinks else not then_open:
                (messages, options), wrote, is_open = asked, then, then_open
                how, closed = f"thinking switched {'on' if thinks else 'off'}", bool(then) and not then_open
    text = render(tokenizer, messages, options)
    if not text.endswith(wrote):
        wrote, is_open, closed = "", False, False
    if not prefix:
        return Opening(prompt=text, forced="", lead=wrote if is_open else "")
    if adapt and at_once and closed:  # in the family's own way
        opens = "" if not behind or wrote.endswith(family.at_once) else family.at_once
        return Opening(prompt=text, forced=opens + behind, lead=at_once, how=how)
    rest = _rest(spelled, wrote)
    if rest == "":
        return Opening(prompt=text, forced="", lead=spelled, how=how)
    if rest is not None:  # the tokenizer has to see the prefix as one text: cut at the seam, its tokens would be others
        return Opening(prompt=text.removesuffix(wrote), forced=spelled, lead="", how=how)
    if adapt and thinks and closed:
        return Opening(prompt=text.removesuffix(wrote), forced=spelled, lead="", how="the closed thought taken out")
    if adapt and not thinks and is_open:
        empty = spell(f"{THINK}\n\n{END_THINK}\n\n", family)
        return Opening(prompt=text.removesuffix(wrote) + empty, forced=spelled, lead="", how="thought closed at once")
    return Opening(prompt=text, forced=spelled, lead="", how=how)


def _empty_thought(prefix: str) -> tuple[str, str]:
    """A prefix that begins with a thought closed at once, as that thought and the rest; ("", prefix) for any other."""
    body = prefix.lstrip()
    inner, closed, rest = body.removeprefix(THINK).partition(END_THINK)
    if not body.startswith(THINK) or not closed or inner.strip():
        return "", prefix
    return body.removesuffix(rest.lstrip()), rest.lstrip()


def _rest(prefix: str, wrote: str) -> str | None:
    """What is left of a prefix behind what the template wrote, white space aside; None where they do not fit."""
    if not wrote:
        return None
    left, at = "".join(wrote.split()), 0
    while left and at < len(prefix):
        if not prefix[at].isspace():
            if prefix[at] != left[0]:
                return None
            left = left[1:]
        at += 1
    return None if left else prefix[at:] if prefix[at:].strip() else ""


def _switched(
    messages: Sequence[Message], options: Options, family: Family, *, on: bool
) -> tuple[Sequence[Message], Options] | None:
    """Messages and options with thinking switched, by an argument or a text in the system message; None without any."""
    more, system = (family.on, family.system_on) if on else (family.off, family.system_off)
    if more:
        return messages, {**options, **more}
    if not system:
        return None
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": system}, *messages], options
    return [{**first, "content": f"{first['content']}\n{system}"}, *messages[1:]], options


def default_system_prompt(tokenizer: Any) -> str:
    """The system message that a chat template puts in where a chat has none; "" for none."""
    mark = "SYSTEM-MESSAGE"
    user = {"role": "user", "content": SENTINEL}
    try:
        bare = render(tokenizer, [user], {}).partition(SENTINEL)[0]
        said = render(tokenizer, [{"role": "system", "content": mark}, user], {}).partition(SENTINEL)[0]
    except Exception:  # a template that knows no system message
        return ""
    before, _, behind = said.partition(mark)
    fits = mark in said and bare.startswith(before) and bare.endswith(behind) and len(bare) > len(before + behind)
    return bare[len(before) : len(bare) - len(behind)].strip() if fits else ""


def prompt_notes(tokenizer: Any, messages: Any, prefixes: Sequence[str], options: Options) -> list[str]:
    """What a chat template does to a run's prompts that nobody asked for, one line each.

    Args:
        tokenizer: one of transformers.
        messages: a prompt of the run; what is no chat gets no notes.
        prefixes: of its response groups.
        options: arguments of the chat template.
    """
    if isinstance(messages, str) or not getattr(tokenizer, "chat_template", None):
        return []
    notes: list[str] = []
    if messages[0]["role"] != "system" and (system := default_system_prompt(tokenizer)):
        notes.append(
            f"the chat template puts in a system message of its own: {system[:60]!r}; data.system sets another"
        )
    wrote, is_open = written(tokenizer, messages, options, family_of(tokenizer))
    starts = "".join(wrote.split())
    if wrote and any(not "".join(prefix.split()).startswith(starts) for prefix in prefixes):
        state = "inside an open thought" if is_open else "behind a closed thought"
        notes.append(
            f"the chat template ends prompts {state} ({wrote!r}), where not every response group opens; see "
            "`ibpo groups check`"
        )
    return notes


def prefilled(tokenizer: Any, messages: Sequence[Message], prefix: str, options: Options) -> str:
    """What a server renders that continues an assistant's message with this prefix (`continue_final_message`).

    Raises:
        Exception: what the template or transformers refuse, in their words.
    """
    chat = [*messages, {"role": "assistant", "content": prefix}]
    return apply_template(
        tokenizer, chat, tokenize=False, add_generation_prompt=False, continue_final_message=True, **options
    )


def same_prompts(tokenizer: Any, groups: Mapping[str, tuple[str, Options]]) -> list[tuple[str, str]]:
    """Pairs of response groups whose prompts are the same text, so that the choice between them does nothing.

    For whoever asks for groups by a switch: the gateway at its start, `ibpo groups check`.

    Args:
        tokenizer: one of transformers, with a chat template.
        groups: name -> (prefix, arguments of the chat template), as they are sent.
    """
    user = [{"role": "user", "content": SENTINEL}]
    texts: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name, (prefix, options) in groups.items():
        opening = open_response(tokenizer, user, prefix, options)
        text = opening.prompt + opening.forced
        pairs += [(other, name) for other, seen in texts.items() if seen == text]
        texts[name] = text
    return pairs


def served_cautions(tokenizer: Any, groups: Mapping[str, tuple[str, Options]]) -> list[str]:
    """What is wrong with response groups that a server is asked for, one line each; empty where all is well.

    For a gateway's start: a request of each group is rendered as the server renders it. Options that a template does
    not know are ignored without a word, so two groups may be one; a prefix may stand in another prompt than it should.

    Args:
        tokenizer: the served model's; one of transformers, or `ibpo.rollouts.ServerTokenizer`.
        groups: name -> (prefix that the server continues, arguments of the chat template), as they are sent.
    """
    user = [{"role": "user", "content": SENTINEL}]
    family = family_of(tokenizer)
    found: list[str] = []
    texts: dict[str, str] = {}
    for name, (prefix, options) in groups.items():
        try:
            wanted = open_response(tokenizer, user, prefix, options)
            text = prefilled(tokenizer, user, prefix, options) if prefix else render(tokenizer, user, options)
        except Exception as error:  # what a template refuses, in its words
            found.append(f"response group {name}: the chat template refuses it: {str(error)[:120]}")
            continue
        if prefix and text != wanted.prompt + wanted.forced:
            found.append(
                f"response group {name}: of its prefix {prefix!r} the chat template makes "
                f"{text.rpartition(SENTINEL)[2]!r}, which is another prompt; send token ids through /v1/completions"
            )
        for other, seen in texts.items():
            if seen == text:
                ways = " / ".join(str(dict(way)) for way in (family.off, family.on) if way)
                fix = (
                    f"the template ({family.name}) is switched by {ways}"
                    if ways
                    else "this template has no such switch"
                )
                found.append(f"response groups {other} and {name} render the same prompt: they do not differ; {fix}")
        texts[name] = text
    return found
