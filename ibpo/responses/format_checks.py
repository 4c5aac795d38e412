"""Can these response groups be distinguished, forced and read with this tokenizer and chat template?

Users of other trainers lost weeks to what is checked here: a chat template that opens the thought itself, or drops it
from what is trained on; two response groups that open with the same token, so that the choice between them is never
learned; markers that are special tokens and vanish when a completion is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from ibpo.errors import IbpoError
from ibpo.responses.families import PLAIN, THINK, Family, Options, split_thought
from ibpo.responses.formats import (
    ADAPTIVE,
    DIRECT,
    Format,
    build_correction,
    build_debate,
    build_reflection,
    build_single,
    build_thinking,
    build_voting,
)
from ibpo.responses.groups import encode_opening, offer
from ibpo.responses.openings import (
    apply_template,
    default_system_prompt,
    family_of,
    is_by_effort,
    open_response,
    prefilled,
    render,
    spell,
    translate,
    written,
)
from ibpo.responses.switches import check_options, same_prompts, say_options

NO_OPTIONS: Options = {}
PROBLEM = "What is 3 + 4?"
SOLUTION = "3 and 4 more make 7, so the answer is \\boxed{7}."
SECOND = "Counting on from 4: 5, 6, 7. That gives \\boxed{7}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["error", "warning", "note"]
    subject: str
    """The response group or groups, or `template`."""
    text: str


def sample_response(form: Format) -> str:
    """A well-formed response; for a user's own response group its prefix and a solution."""
    name = form.group.name
    built = {
        "sequential_voting": lambda: build_voting([SOLUTION, SECOND, SOLUTION]),
        "adaptive": lambda: build_single(SOLUTION),
        "self_correction": lambda: build_correction(SECOND, SOLUTION),
        "reflection": lambda: build_reflection(SECOND, "Did I count right? Yes.", SOLUTION),
        "debate": lambda: build_debate([SOLUTION, SECOND], SOLUTION),
        "thinking_on": lambda: build_thinking("3 and 4 make 7.", SOLUTION),
        "thinking_off": lambda: build_thinking("", SOLUTION),
    }
    plain = f"{form.group.prefix} {SOLUTION}"
    if name in built:
        text = built[name]()
        return text if form is ADAPTIVE or text.startswith(form.group.prefix) else plain
    return plain


def check_formats(
    forms: Sequence[Format], tokenizer: Any, options: Options = NO_OPTIONS, *, where: str = "trl.chat_template_kwargs"
) -> list[Finding]:
    """Findings about these response groups with this tokenizer (transformers'), errors first.

    Args:
        forms: the response groups.
        tokenizer: of the model.
        options: of the chat template, with which every prompt is rendered.
        where: they are written: `template` in the recipe of a cold start.
    """
    found = [
        *_openings(forms, tokenizer),
        *(finding for form in forms for finding in _tokens(form, tokenizer)),
        *_misreadings(forms),
        *_template(forms, tokenizer, options, where),
    ]
    if tokenizer.eos_token_id is None:
        text = "the tokenizer has no end-of-sequence token: responses would never end; set eos_token"
        found.append(Finding(level="error", subject="tokenizer", text=text))
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.level))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _openings(forms: Sequence[Format], tokenizer: Any) -> list[Finding]:
    found = []
    family = family_of(tokenizer)
    for form in forms:
        if not form.group.prefix:
            text = "has no opening of its own: it can neither be chosen nor forced, only asked for"
            found.append(Finding(level="warning", subject=form.group.name, text=text))
        elif not _ids(tokenizer, form.group.prefix):
            text = f"its opening {form.group.prefix!r} has no token in this vocabulary; choose other words"
            found.append(Finding(level="error", subject=form.group.name, text=text))
    for a, b in combinations([form for form in forms if form.group.prefix], 2):
        names = f"{a.group.name}, {b.group.name}"
        ours, theirs = (_ids(tokenizer, spell(form.group.prefix, family)) for form in (a, b))
        alike = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), None)
        if all(is_by_effort(form.template_options, family) for form in (a, b)):
            text = (
                "asked for by the template's words of effort; their openings are not forced, as the model thinks first"
            )
            found.append(Finding(level="note", subject=names, text=text))
        elif alike is None:
            text = (
                f"one opening begins like the other ({len(ours)} and {len(theirs)} tokens): nobody can distinguish them"
            )
            found.append(Finding(level="error", subject=names, text=text))
        elif alike:
            shared = tokenizer.decode(ours[:alike])
            fix = "let one begin with another word"
            if a.group.prefix.startswith(THINK) and b.group.prefix.startswith(THINK):
                fix = (
                    f"keep `thinking_on`, and take `{DIRECT.group.name}` for the other, which opens with "
                    f"{DIRECT.group.prefix!r} and has no thought; render prompts with thinking on, or the template "
                    "writes the empty thought itself"
                )
            text = (
                f"both open with {shared!r}; they differ from token {alike + 1} on. The trainer weighs the "
                "first token, so "
                f"the choice would not be learned: {fix}"
            )
            found.append(Finding(level="error", subject=names, text=text))
        else:
            first = tokenizer.decode(ours[:1]), tokenizer.decode(theirs[:1])
            found.append(Finding(level="note", subject=names, text=f"distinguished by their first tokens {first}"))
    return found


def _tokens(form: Format, tokenizer: Any) -> list[Finding]:
    family = family_of(tokenizer)
    name, prefix, response = form.group.name, spell(form.group.prefix, family), spell(sample_response(form), family)
    own_marks = family.think.strip() != THINK  # special tokens of the family, which ibpo keeps in the text
    found = []
    ids = _ids(tokenizer, response)
    for text, part in ((prefix, "its opening"), (response, "a response")):
        whole = tokenizer.decode(_ids(tokenizer, text), clean_up_tokenization_spaces=False)
        visible = tokenizer.decode(_ids(tokenizer, text), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if whole.strip() != text.strip():
            said = f"{part} does not survive the tokenizer: {text[:40]!r} comes back as {whole[:40]!r}"
            found.append(Finding(level="error", subject=name, text=said))
            break
        if visible.strip() != text.strip() and not own_marks:
            said = (
                f"{part} holds special tokens, which vanish when completions are decoded without them, as trainers "
                "do: use markers that are plain text"
            )
            found.append(Finding(level="error", subject=name, text=said))
            break
    opening = list(encode_opening(prefix, tokenizer))
    if opening and ids[: len(opening)] != opening:
        said = (
            f"what would be forced, tokens {opening}, does not open a response, which begins with the tokens "
            f"{ids[: len(opening)]}: forced and chosen responses would differ; let the prefix end with a word"
        )
        found.append(Finding(level="warning", subject=name, text=said))
    return found


def _misreadings(forms: Sequence[Format]) -> list[Finding]:
    found = []
    for form in forms:
        response = sample_response(form)
        matching = [f.group.name for f in forms if f.group.prefix and f.group.matches(response)]
        if len(matching) > 1:
            text = f"a response of {form.group.name} opens like those of {', '.join(matching)}"
            found.append(Finding(level="error", subject=form.group.name, text=text))
        for other in forms:
            if other is not form and other is not ADAPTIVE and form is not ADAPTIVE:
                answer = other.group.extract_answer(response)
                if answer is not None and other.problem_of(response) is None and other.group.matches(response):
                    text = f"a response of {form.group.name} is read as one of {other.group.name}: {answer!r}"
                    found.append(Finding(level="error", subject=form.group.name, text=text))
    return found


def _template(forms: Sequence[Format], tokenizer: Any, options: Options, where: str) -> list[Finding]:
    if not tokenizer.chat_template:
        text = "the tokenizer has no chat template: prompts are plain text"
        return [Finding(level="note", subject="template", text=text)]
    found: list[Finding] = []
    family = family_of(tokenizer)
    user = {"role": "user", "content": offer([], PROBLEM, chat=True)[-1]["content"]}  # pyright: ignore[reportArgumentType]
    try:
        check_options(tokenizer, options, where)
        plain = render(tokenizer, [user], options)
    except IbpoError as error:
        return [Finding(level="error", subject="template", text=str(error))]
    except Exception as error:
        text = f"it cannot render a user's message: {type(error).__name__}: {str(error)[:300]}"
        return [Finding(level="error", subject="template", text=text)]
    if PROBLEM not in plain:
        found.append(Finding(level="error", subject="template", text="the user's message is not in the prompt"))
    if family is not PLAIN:
        ways = [
            f"{word} by {say_options(options)}" for word, options in (("on", family.on), ("off", family.off)) if options
        ]
        switch = ", ".join(ways) or "has no switch"
        text = f"family {family.name}: thinking {switch}; a thought opens with {family.think!r}"
        found.append(Finding(level="note", subject="template", text=text))
    if system := default_system_prompt(tokenizer):
        text = f"where a chat has no system message it adds its own: {system[:60]!r}; data.system sets another"
        found.append(Finding(level="note", subject="template", text=text))
    wrote, is_open = written(tokenizer, [user], options, family)
    thinking = [form for form in forms if form.group.prefix.lstrip().startswith(THINK)]
    if is_open:
        text = (
            f"its prompt ends inside an open thought ({wrote!r}): in training, responses do not begin with their own "
            f"opening; take {family.think.strip()!r} out of the template's generation prompt: the policy writes it, or "
            f"{DIRECT.group.prefix!r}"
        )
        found.append(Finding(level="error", subject="template", text=text))
    elif wrote and any(not split_thought(form.group.prefix).closed for form in thinking):
        fix = f"{say_options(family.on)} under {where} switches it on" if family.on else "it has no switch"
        text = f"its prompt ends in a closed thought ({wrote!r}): in training, no response can think; {fix}"
        found.append(Finding(level="error", subject="template", text=text))
    for form in forms:
        found += _asked(form, tokenizer, user, family, options)
        if family is PLAIN or form not in thinking:
            found += _kept(form, tokenizer, user, options)
    return [*found, *_same(forms, tokenizer, family)]


def _asked(form: Format, tokenizer: Any, user: Mapping[str, str], family: Family, given: Options) -> list[Finding]:
    """How the group is asked for: by the template's options, with its prefix forced here, and through a server."""
    name, prefix, options = form.group.name, form.group.prefix, {**given, **translate(form.template_options, family)}
    found: list[Finding] = []
    try:
        base, asked = render(tokenizer, [user], given), render(tokenizer, [user], options)
        opened = open_response(tokenizer, [user], prefix, options, adapt=True)
    except Exception as error:
        text = f"the template refuses {say_options(options)}: {str(error)[:100]}"
        return [Finding(level="error", subject=name, text=text)]
    if form.template_options:
        wanted, tail = say_options(form.template_options), asked.rpartition(PROBLEM)[2]
        if not _has_effect(form, tokenizer, user, family):
            text = f"the template ignores {wanted}: only the instruction asks for it"
            found.append(Finding(level="note", subject=name, text=text))
        elif (wrote := written(tokenizer, [user], options, family)[0]) and not base.endswith(wrote):
            text = (
                f"with {say_options(options)} the template writes {wrote.strip()!r} into the prompt: then it is the "
                "caller's choice, not the policy's. Render without it and let the response open with it"
            )
            found.append(Finding(level="warning", subject=name, text=text))
        else:
            text = f"the template honours {say_options(options) if options else wanted}: {tail[-60:]!r}"
            found.append(Finding(level="note", subject=name, text=text))
    if not prefix or is_by_effort(form.template_options, family):
        return found
    wants = opened.prompt + opened.forced
    done = f" ({opened.how})" if opened.how else ""
    text = f"forced, the response opens behind {wants.rpartition(PROBLEM)[2]!r}{done}"
    found.append(Finding(level="note", subject=name, text=text))
    try:
        served = prefilled(tokenizer, [user], prefix, options)
    except Exception as error:
        served = f"an error: {str(error)[:60]}"
    if served != wants:
        text = (
            f"a server that continues an assistant's message makes {served.rpartition(PROBLEM)[2]!r} of it: force it "
            "by token ids through /v1/completions, as `ibpo eval` does"
        )
        found.append(Finding(level="warning", subject=name, text=text))
    return found


def _has_effect(form: Format, tokenizer: Any, user: Mapping[str, str], family: Family) -> bool:
    """Whether another value of the group's own options makes another prompt."""
    others = {"enable_thinking": [True, False], "reasoning_effort": ["low", "high"]}
    texts: set[str] = set()
    for key, value in form.template_options.items():
        for other in others.get(key, [value]):
            with suppress(Exception):  # a word that the template refuses
                texts.add(render(tokenizer, [user], translate({key: other}, family)))
    return len(texts) > 1


def _same(forms: Sequence[Format], tokenizer: Any, family: Family) -> list[Finding]:
    """Groups that are asked for by options which render the same prompt."""
    options = {form.group.name: translate(form.template_options, family) for form in forms if form.template_options}
    try:
        pairs = same_prompts(tokenizer, {name: ("", sent) for name, sent in options.items()})
    except Exception:  # said of the group itself
        return []
    text = "their options render the same prompt: asked for by these alone, as a gateway does, they do not differ"
    return [Finding(level="warning", subject=f"{a}, {b}", text=text) for a, b in pairs]


def _kept(form: Format, tokenizer: Any, user: Mapping[str, str], options: Options) -> list[Finding]:
    """Whether the template keeps a response that is rendered as a message."""
    name, response = form.group.name, sample_response(form)
    found: list[Finding] = []
    for later, when in (([], "as the last message"), ([user], "in an earlier turn")):
        messages = [user, {"role": "assistant", "content": response}, *later]
        try:
            text = apply_template(tokenizer, messages, tokenize=False, **options)
        except Exception as error:
            said = f"the template cannot render a response {when}: {str(error)[:100]}"
            found.append(Finding(level="error", subject=name, text=said))
            continue
        if response.strip() not in text:
            lost = "its thought" if THINK in response and SOLUTION in text else "a part of it"
            said = f"the template drops {lost} from a response {when}: train on the text, not on messages"
            level = "error" if not later else "warning"
            found.append(Finding(level=level, subject=name, text=said))
    return found
