"""The response groups of a gateway whose file names none, in the words of the served model's family.

`chat_template_kwargs.enable_thinking` and `reasoning_effort` of `low` and `high` are what most clients write, and what
many chat templates ignore or refuse. Where the template can be seen, its own options are sent, and where it has none
the gateway does not start: it would book extended answers that are like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibpo.errors import IbpoError
from ibpo.responses import find_switch, say_options

GROUPS_BY: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}},
        {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "gain": 0.5},
    ],
    "effort": [
        {"name": "standard", "reasoning_effort": "low"},
        {"name": "extended", "reasoning_effort": "high", "gain": 0.5},
    ],
}
"""`ibpo serve --by`: the response groups of every model, where its template cannot be seen."""
EFFORTS = ("low", "medium", "high")
"""Words that every server takes in the field `reasoning_effort`; others refuse more of them."""


def default_groups(by: str, tokenizer: Any | None) -> tuple[list[dict[str, Any]], str]:
    """The standard and the extended response group, and one line on how they are asked for.

    Args:
        by: of `GROUPS_BY`; where the family has no such option, what it has is taken, and the line says so.
        tokenizer: the served model's; one of transformers, or `ibpo.rollouts.ServerTokenizer`. None: it cannot be had.

    Raises:
        IbpoError: where no option of the template makes two groups, with the fix.
    """
    groups = GROUPS_BY[by]
    if tokenizer is None:
        sent = [say_options(row.get("chat_template_kwargs") or _effort(row["reasoning_effort"])) for row in groups]
        return groups, (
            f"standard is asked for by {sent[0]}, extended by {sent[1]}, unchecked: the upstream does not say, or not "
            "yet, how it renders prompts; name the model's folder by --tokenizer"
        )
    try:
        found = find_switch(tokenizer, "effort" if by == "effort" else "thinking")
    except IbpoError as error:
        raise IbpoError(
            f"--by {by}: {error}, so that standard and extended answers would be the same; name response groups in "
            "--config that differ, by max_thinking_tokens or by a prefix that the model was trained with"
        ) from None
    rows = [group | _fields(sent) for group, sent in zip(_named(groups), (found.standard, found.extended), strict=True)]
    lacks = {"thinking": "no switch of thinking", "effort": "no words of effort"}
    line = (
        f"standard is asked for by {say_options(found.standard)}, extended by {say_options(found.extended)}, as the "
        f"chat template ({found.family}) has it"
    )
    return rows, line + (f"; it has {lacks[by]}" if found.by != by else "")


def _named(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("name", "gain") if key in row} for row in groups]


def _effort(word: str) -> dict[str, Any]:
    return {"reasoning_effort": word}


def _fields(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a group's fields: for the template, and where it is a word that every server knows, the field too.

    Some servers render certain models (gpt-oss) by the field alone, and `/v1/responses` has no options of templates.
    """
    word = sent.get("reasoning_effort")
    return {"chat_template_kwargs": dict(sent)} | (_effort(word) if word in EFFORTS else {})
