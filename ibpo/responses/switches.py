"""Which options of a chat template make a model answer at once or think, and whether they do.

Whoever asks for response groups by options alone (`ibpo serve --by`, a recipe's `trl.chat_template_kwargs`) gets
nothing where a template does not know them: templates ignore what they do not know. So options are said here in the
words of the template's family, rendered, and refused where they make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from ibpo.errors import IbpoError
from ibpo.responses.families import FAMILIES, Family, Options
from ibpo.responses.openings import SENTINEL, SWITCHES, family_of, open_response, prefilled, render, spell, written

By = Literal["thinking", "effort"]
USER = [{"role": "user", "content": SENTINEL}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """How a model is asked for two groups by options of its chat template alone."""

    standard: Options
    extended: Options
    family: str
    by: By
    """What the two differ in; another than was asked for where the family does not have that."""


def say_options(options: Options | None) -> str:
    """Options as a reader writes them.

    Example:
        >>> say_options({"enable_thinking": False}), say_options({})
        ('enable_thinking=False', 'no option')
    """
    return ", ".join(f"{key}={value}" for key, value in (options or {}).items()) or "no option"


def find_switch(tokenizer: Any, by: By) -> Switch:
    """The options with which a model answers at once, or with little effort, and those with which it thinks.

    Thinking on and off, or the family's least and greatest word of effort; where it has the other one only, that.
    Both are rendered, so that they make two prompts.

    Args:
        tokenizer: the model's; one of transformers, or `ibpo.rollouts.ServerTokenizer`.
        by: what is preferred.

    Raises:
        IbpoError: where no option does anything, with the reason.
    """
    family = family_of(tokenizer)
    words = list(family.efforts)
    found: dict[By, tuple[Options, Options] | None] = {
        "thinking": (family.off, family.on) if family.off and family.on is not None else None,
        "effort": (family.efforts[words[0]], family.efforts[words[-1]]) if len(words) > 1 else None,
    }
    for way in sorted(found, key=lambda way: way != by):
        pair = found[way]
        if pair is None:
            continue
        with suppress(Exception):  # what a template refuses, in its own words
            if render(tokenizer, USER, pair[0]) != render(tokenizer, USER, pair[1]):
                return Switch(standard=pair[0], extended=pair[1], family=family.name, by=way)
    raise IbpoError(f"the model's chat template ({family.name}) {_why_not(family)}")


def _why_not(family: Family) -> str:
    if family.system_off:
        return f"is switched by {family.system_off!r} in the system message alone"
    if family.on is not None:
        return "thinks before every answer and has no option that switches it"
    return "has no option that switches thinking"


def check_options(tokenizer: Any, options: Options, where: str) -> None:
    """Check that a chat template takes the options of a recipe that switch thinking.

    Only what some family is switched by is looked at (`enable_thinking`, `thinking`, `reasoning_effort`, ...).

    Raises:
        IbpoError: for one that the template refuses or ignores, with what it takes.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    known = _known_values()
    if not any(key in known for key in options):
        return
    family = family_of(tokenizer)
    try:
        asked = render(tokenizer, USER, options)
    except Exception as error:
        raise IbpoError(f"{where}: the chat template refuses it: {_first(error)}; {_ways(family)}") from None
    for key, value in options.items():
        rest = {name: other for name, other in options.items() if name != key}
        if key in known and not _differs(tokenizer, asked, rest, key, [v for v in known[key] if v != value]):
            raise IbpoError(f"{where}.{key}: the chat template ({family.name}) ignores it; {_ways(family)}")


def _differs(tokenizer: Any, asked: str, rest: Options, key: str, others: list[Any]) -> bool:
    for more in ({}, *({key: other} for other in others)):
        with suppress(Exception):  # another family's word
            if render(tokenizer, USER, {**rest, **more}) != asked:
                return True
    return False


def _known_values() -> dict[str, list[Any]]:
    """What families are switched by: option -> its values in the table, each once."""
    found: dict[str, list[Any]] = {}
    rows = [options for family in FAMILIES for options in (family.on, family.off, *family.efforts.values())]
    for options in (*rows, *(one for pair in SWITCHES for one in pair)):
        for key, value in (options or {}).items():
            values = found.setdefault(key, [])
            values += [] if any(value == seen and type(value) is type(seen) for seen in values) else [value]
            if isinstance(value, bool) and (not value) not in values:
                values.append(not value)
    return found


def _ways(family: Family) -> str:
    """What a family takes, as the fix in an error."""
    ways = [f"{say_options(family.off)} or {say_options(family.on)}"] if family.off and family.on is not None else []
    if family.efforts:
        ways.append(" or ".join(say_options(options) for options in family.efforts.values()))
    return f"this family takes {', and '.join(ways)}" if ways else f"leave it out: the template {_why_not(family)}"


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def check_trainable(tokenizer: Any, prompt: Any, prefixes: Mapping[str, str], options: Options, where: str) -> None:
    """Check that responses to a training prompt can open with the prefixes of their groups, as the template is.

    In training a prefix goes where the template stops. A thought that the template has opened there would be opened
    twice, and behind one that it has closed no response can think.

    Args:
        tokenizer: one of transformers.
        prompt: of the data set; what is no chat has no template.
        prefixes: name of a response group -> its prefix.
        options: of the chat template.
        where: the options' name in what the user wrote.

    Raises:
        IbpoError: names the response group, what the template writes, and the fix.
    """
    if isinstance(prompt, str) or not getattr(tokenizer, "chat_template", None):
        return
    check_options(tokenizer, options, where)
    family = family_of(tokenizer)
    try:
        wrote, is_open = written(tokenizer, prompt, options, family)
    except Exception:  # said where prompts are written
        return
    for name, prefix in prefixes.items() if wrote else ():
        if not spell(prefix, family).lstrip().startswith(family.think.strip()):
            continue
        on = f"set {where} to {say_options(family.on)}, or " if family.on and not is_open else ""
        state = "inside an open thought" if is_open else "behind a closed thought"
        raise IbpoError(
            f"response_group.{name}.prefix: the chat template ({family.name}) ends its prompts {state} ({wrote!r}), "
            f"where {prefix!r} would open another; {on}take {wrote.strip()!r} out of the template's generation prompt, "
            "so that the policy writes it"
        )


def same_prompts(tokenizer: Any, groups: Mapping[str, tuple[str, Options]]) -> list[tuple[str, str]]:
    """Pairs of response groups whose prompts are the same text, so that the choice between them does nothing.

    For whoever asks for groups by a switch: the gateway at its start, `ibpo groups check`.

    Args:
        tokenizer: one of transformers, with a chat template.
        groups: name -> (prefix, arguments of the chat template), as they are sent.
    """
    texts: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name, (prefix, options) in groups.items():
        opening = open_response(tokenizer, USER, prefix, options)
        text = opening.prompt + opening.forced
        pairs += [(other, name) for other, seen in texts.items() if seen == text]
        texts[name] = text
    return pairs


def served_cautions(tokenizer: Any, groups: Mapping[str, tuple[str, Options]]) -> list[str]:
    """What is wrong with response groups that a server is asked for, one line each; empty where all is well.

    For a gateway's start: a request of each group is rendered as the server renders it. Options that a template does
    not know are ignored silently, so two groups may be one; a prefix may be put into another prompt than it should.

    Args:
        tokenizer: the served model's; one of transformers, or `ibpo.rollouts.ServerTokenizer`.
        groups: name -> (prefix that the server continues, arguments of the chat template), as they are sent.
    """
    family = family_of(tokenizer)
    found: list[str] = []
    texts: dict[str, str] = {}
    for name, (prefix, options) in groups.items():
        try:
            wanted = open_response(tokenizer, USER, prefix, options)
            text = prefilled(tokenizer, USER, prefix, options) if prefix else render(tokenizer, USER, options)
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
