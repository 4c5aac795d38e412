r"""How a response is opened behind a chat template: what the template has written, and what is left to force.

A template may write a part of the response itself: the opening of a thought (`<think>\n`), or a thought that is
closed already. A prefix that is forced behind it without looking opens a thought twice, or is inside of one. So
each prefix is rendered here as the model will see it, in the marks of its family, and only what the template has not
written is forced. The same function serves `ibpo groups check`, `ibpo eval`, the cold start and servers.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from ibpo.errors import IbpoError
from ibpo.responses.families import END_THINK, FAMILIES, FOREIGN, PLAIN, THINK, Family, Options, find_family

MAX_SECONDS = 10.0
"""Most CPU seconds for one prompt, which takes milliseconds."""

_ENDLESS: set[str] = set()
"""Templates that have not come to an end once; they are not tried again."""


class EndlessTemplate(IbpoError):
    """A chat template that does not end in time."""


class _OutOfTime(BaseException):
    """No `except Exception` on the way catches it."""


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    """`tokenizer.apply_chat_template`, which must end within `MAX_SECONDS`.

    Jinja's sandbox keeps a template from the machine and not from looping; so its loop is interrupted from outside.
    Not limited is the memory that it takes until then.

    Args:
        tokenizer: one of transformers.
        messages: of the chat.
        **options: of `apply_chat_template`, those of the template among them.

    Raises:
        EndlessTemplate: it took longer.
        Exception: what the template or transformers refuse, in their words.
    """
    template = str(getattr(tokenizer, "chat_template", ""))
    try:
        if template in _ENDLESS:
            raise _OutOfTime
        with _limited(MAX_SECONDS):
            return tokenizer.apply_chat_template(list(messages), **options)
    except _OutOfTime:
        _ENDLESS.add(template)
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise EndlessTemplate(
            f"{name}: the chat template did not end after {MAX_SECONDS:g} CPU seconds with one prompt: it "
            "loops forever; fix it (chat_template.jinja or tokenizer_config.json), or take another tokenizer"
        ) from None


@contextmanager
def saying_refusals(tokenizer: Any) -> Iterator[None]:
    """Turn what a chat template refuses (a system message, turns that do not alternate) into an `IbpoError`.

    Raises:
        IbpoError: in the template's words, with the fix.
    """
    try:
        yield
    except IbpoError:
        raise
    except Exception as error:
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise IbpoError(
            f"{name}: the chat template refuses the prompt: {said[:200]}; leave out what it does not support "
            "(data.system, data.examples), or change the template"
        ) from None


def _limited(seconds: float) -> Any:
    is_main = threading.current_thread() is threading.main_thread()
    return _by_signal(seconds) if is_main and hasattr(signal, "setitimer") else _by_watcher(seconds)


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    """The process's own clock strikes: this interrupts long sums, too, and is nearly free."""

    def strike(signum: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGVTALRM, strike)
    # Again and again: one may be lost where no exception can be raised.
    before = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *before)
        signal.signal(signal.SIGVTALRM, handler)


@contextmanager
def _by_watcher(seconds: float) -> Iterator[None]:
    """In another thread than the main one, where Python takes no signals: a second thread raises in this one."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread, lock, is_over = threading.get_ident(), threading.Lock(), threading.Event()
    clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else time.CLOCK_MONOTONIC
    end = time.clock_gettime(clock) + seconds

    def watch() -> None:
        while not is_over.wait(seconds / 4):
            with lock:
                if not is_over.is_set() and time.clock_gettime(clock) > end:
                    raise_in(ctypes.c_ulong(thread), ctypes.py_object(_OutOfTime))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            is_over.set()
            raise_in(ctypes.c_ulong(thread), None)  # one that has not arrived yet


SENTINEL = "What is 3 + 4?"
Message = Mapping[str, str]
SWITCHES: tuple[tuple[Options, Options], ...] = (
    ({"enable_thinking": True}, {"enable_thinking": False}),
    ({"thinking": True}, {"thinking": False}),
    ({"reasoning": True}, {"reasoning": False}),
    *((family.on, family.off) for family in FAMILIES if family.on is not None and family.off),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
)
"""What is tried on a template of no known family, in this order."""
EFFORTS: tuple[Mapping[str, Options], ...] = tuple(
    sorted((family.efforts for family in FAMILIES), key=lambda words: (len(words), "high" in words), reverse=True)
)
"""Words of effort that are tried: the fullest scales first, and the common words first, as some templates take any."""


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
    efforts = next((words for words in EFFORTS if _are_words(tokenizer, words)), {})
    family = replace(PLAIN, efforts=efforts) if efforts else PLAIN
    for on, off in SWITCHES:
        tails = _tails(tokenizer, on, off)
        if tails is None or len({*tails}) == 1 or _echoes(tails, on, off):
            continue
        marks = next((found for tail in tails if (found := _marks(tail.rpartition(SENTINEL)[2]))), None)
        family = replace(family, on=on, off=off)
        return family if marks is None else replace(family, think=marks[0], end_think=marks[1])
    tails = _tails(tokenizer, {})
    marks = None if tails is None else _marks(tails[0].rpartition(SENTINEL)[2])
    return family if marks is None else replace(family, on={}, think=marks[0], end_think=marks[1])


def _tails(tokenizer: Any, *ways: Options) -> list[str] | None:
    """A prompt rendered in several ways; None where the template refuses one of them in its own words."""
    user = [{"role": "user", "content": SENTINEL}]
    try:
        return [render(tokenizer, user, options) for options in ways]
    except Exception:
        return None


def _are_words(tokenizer: Any, efforts: Mapping[str, Options]) -> bool:
    """Whether each word of effort makes a prompt of its own."""
    if len(efforts) < 2:
        return False
    texts = _tails(tokenizer, *efforts.values())
    return texts is not None and len({*texts}) == len(texts)


def _echoes(texts: Sequence[str], on: Options, off: Options) -> bool:
    """Whether two prompts differ only in the words that they were asked with: then the template takes any word.

    Example:
        >>> _echoes(["Effort: high", "Effort: none"], {"effort": "high"}, {"effort": "none"})
        True
    """
    words = [str(value) for options in (on, off) for value in options.values()]
    return len(words) == 2 and texts[0].replace(words[0], words[1]) == texts[1]


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
    """The system message that a chat template adds where a chat has none; "" where it adds none."""
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

    Raises:
        IbpoError: where the template refuses the prompt.
    """
    if isinstance(messages, str) or not getattr(tokenizer, "chat_template", None):
        return []
    notes: list[str] = []
    with saying_refusals(tokenizer):
        wrote, is_open = written(tokenizer, messages, options, family_of(tokenizer))
    if messages[0]["role"] != "system" and (system := default_system_prompt(tokenizer)):
        notes.append(f"the chat template adds its own system message: {system[:60]!r}; data.system sets another")
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
