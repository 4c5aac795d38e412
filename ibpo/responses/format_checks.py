"""Can these response groups be told apart, forced and read with this tokenizer and chat template?

Users of other trainers lost weeks to what is checked here: a chat template that opens the thought itself, or drops it
from what is trained on; two response groups that open with the same token, so that the choice between them is never
learned; markers that are special tokens and vanish when a completion is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from ibpo.responses.formats import (
    ADAPTIVE,
    DIRECT,
    END_THINK,
    THINK,
    Format,
    build_correction,
    build_debate,
    build_reflection,
    build_single,
    build_thinking,
    build_voting,
)
from ibpo.responses.groups import encode_prefix, offer

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


def check_formats(forms: Sequence[Format], tokenizer: Any) -> list[Finding]:
    """Findings about these response groups with this tokenizer (transformers'), errors first."""
    found = [
        *_openings(forms, tokenizer),
        *(finding for form in forms for finding in _tokens(form, tokenizer)),
        *_misreadings(forms),
        *_template(forms, tokenizer),
    ]
    if tokenizer.eos_token_id is None:
        text = "the tokenizer has no end-of-sequence token: responses would never end; set eos_token"
        found.append(Finding(level="error", subject="tokenizer", text=text))
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.level))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _openings(forms: Sequence[Format], tokenizer: Any) -> list[Finding]:
    found = []
    for form in forms:
        if not form.group.prefix:
            text = "has no opening of its own: it can neither be chosen nor forced, only asked for"
            found.append(Finding(level="warning", subject=form.group.name, text=text))
        elif not _ids(tokenizer, form.group.prefix):
            text = f"its opening {form.group.prefix!r} has no token in this vocabulary; choose other words"
            found.append(Finding(level="error", subject=form.group.name, text=text))
    for a, b in combinations([form for form in forms if form.group.prefix], 2):
        names = f"{a.group.name}, {b.group.name}"
        ours, theirs = _ids(tokenizer, a.group.prefix), _ids(tokenizer, b.group.prefix)
        alike = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), None)
        if alike is None:
            text = (
                f"one opening begins like the other ({len(ours)} and {len(theirs)} tokens): they cannot be told apart"
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
                f"both open with {shared!r}; they part at token {alike + 1}. The trainer weighs the first token, so "
                f"the choice would not be learned: {fix}"
            )
            found.append(Finding(level="error", subject=names, text=text))
        else:
            first = tokenizer.decode(ours[:1]), tokenizer.decode(theirs[:1])
            found.append(Finding(level="note", subject=names, text=f"told apart by their first tokens {first}"))
    return found


def _tokens(form: Format, tokenizer: Any) -> list[Finding]:
    name, prefix, response = form.group.name, form.group.prefix, sample_response(form)
    found = []
    ids = _ids(tokenizer, response)
    for text, part in ((prefix, "its opening"), (response, "a response")):
        whole = tokenizer.decode(_ids(tokenizer, text), clean_up_tokenization_spaces=False)
        visible = tokenizer.decode(_ids(tokenizer, text), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if whole.strip() != text.strip():
            said = f"{part} does not survive the tokenizer: {text[:40]!r} comes back as {whole[:40]!r}"
            found.append(Finding(level="error", subject=name, text=said))
            break
        if visible.strip() != text.strip():
            said = (
                f"{part} holds special tokens, which vanish when completions are decoded without them, as trainers "
                "do: use markers that are plain text"
            )
            found.append(Finding(level="error", subject=name, text=said))
            break
    opening = list(encode_prefix(prefix, tokenizer))
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


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)


def _template(forms: Sequence[Format], tokenizer: Any) -> list[Finding]:
    if not tokenizer.chat_template:
        text = "the tokenizer has no chat template: prompts are plain text"
        return [Finding(level="note", subject="template", text=text)]
    found = []
    user = {"role": "user", "content": offer([], PROBLEM, chat=True)[-1]["content"]}  # pyright: ignore[reportArgumentType]
    try:
        plain = _render(tokenizer, [user], add_generation_prompt=True)
    except Exception as error:
        text = f"it cannot render a user's message: {type(error).__name__}: {str(error)[:100]}"
        return [Finding(level="error", subject="template", text=text)]
    if PROBLEM not in plain:
        found.append(Finding(level="error", subject="template", text="the user's message is not in the prompt"))
    tail = plain.rpartition(PROBLEM)[2]
    if THINK in tail and END_THINK not in tail:
        text = (
            f"its prompt ends inside an open thought ({tail[-30:]!r}): responses do not begin with their own opening; "
            f"take {THINK!r} out of the template's generation prompt: the policy writes it, or {DIRECT.group.prefix!r}"
        )
        found.append(Finding(level="error", subject="template", text=text))
    for form in forms:
        name, response = form.group.name, sample_response(form)
        found += _options(form, tokenizer, user, plain)
        for later, when in (([], "as the last message"), ([user], "in an earlier turn")):
            try:
                text = _render(tokenizer, [user, {"role": "assistant", "content": response}, *later])
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


def _options(form: Format, tokenizer: Any, user: Mapping[str, str], plain: str) -> list[Finding]:
    if not form.template_options:
        return []
    name = form.group.name
    said = ", ".join(f"{key}={value}" for key, value in form.template_options.items())
    other = {key: (not value if isinstance(value, bool) else None) for key, value in form.template_options.items()}
    mine = _render(tokenizer, [user], add_generation_prompt=True, **form.template_options)
    theirs = _render(tokenizer, [user], add_generation_prompt=True, **other)
    if mine == theirs:
        text = f"the template ignores {said}: only the instruction asks for it"
        return [Finding(level="note", subject=name, text=text)]
    prefix = form.group.prefix.strip()
    if prefix and mine.rstrip().endswith(prefix) and not plain.rstrip().endswith(prefix):
        text = (
            f"with {said} the template writes {prefix!r} into the prompt: then it is the caller's choice, not the "
            "policy's. Render without it and let the response open with it"
        )
        return [Finding(level="warning", subject=name, text=text)]
    return [Finding(level="note", subject=name, text=f"the template honours {said}")]
