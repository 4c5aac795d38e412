"""Response groups out of a recipe: how the answer is read, what the prompt says, how responses open."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ibpo.config import ResponseGroupConfig
from ibpo.errors import IbpoError
from ibpo.responses.programs import last_program
from ibpo.types import Prompt, ResponseGroup

BRACE = re.compile(r"\\boxed\{|[{}]")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")


def boxed(completion: str) -> str | None:
    r"""What the last `\boxed{...}` holds, braces balanced; an unclosed one counts for nothing.

    Example:
        >>> boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    opened: list[int] = []
    start, end = 0, 0
    for brace in BRACE.finditer(completion):
        if brace[0] != "}":
            opened.append(brace.end() if brace[0] != "{" else 0)
        elif opened and (first := opened.pop()) > start:
            start, end = first, brace.start()
    return completion[start:end].strip() or None


def last_number(completion: str) -> str | None:
    """The last number, thousands separators taken out.

    Example:
        >>> last_number("she pays 3 x $1,250.50.")
        '1250.50'
    """
    found = NUMBER.findall(completion)
    return found[-1].replace(",", "") if found else None


def after(marker: str) -> Callable[[str], str | None]:
    """A reader of the rest of the line after the last `marker`.

    Example:
        >>> after("####")("48 + 24 = 72 #### 72 ")
        '72'
    """

    def read(completion: str) -> str | None:
        _, found, rest = completion.rpartition(marker)
        lines = rest.strip().splitlines()
        return lines[0].strip() if found and lines else None

    return read


def answer_reader(spec: str) -> Callable[[str], str | None]:
    """The reader of a spec: `boxed`, `last_number`, `code` (see `last_program`) or `after:MARKER`.

    Raises:
        IbpoError: for any other spec.
    """
    if spec == "boxed":
        return boxed
    if spec == "last_number":
        return last_number
    if spec == "code":
        return last_program
    kind, colon, marker = spec.partition(":")
    if kind == "after" and colon and marker.strip():
        return after(marker.strip())
    raise IbpoError(f"{spec!r} reads no answer; write boxed, last_number, code or after:MARKER")


def build_response_groups(configs: Sequence[ResponseGroupConfig]) -> list[ResponseGroup]:
    """Response groups, the standard one first.

    Raises:
        IbpoError: for an unknown reader, or an empty prefix or one that opens like another.
    """
    groups = []
    for config in configs:
        key = f"response_group.{config.name}"
        if not config.prefix.strip():
            raise IbpoError(f"{key}.prefix: is empty; write the words that open such a response")
        try:
            reader = answer_reader(config.answer)
        except IbpoError as error:
            raise IbpoError(f"{key}.answer: {error}") from None
        groups.append(
            ResponseGroup(
                name=config.name, prefix=config.prefix, extract_answer=reader, instruction=config.instruction.strip()
            )
        )
    return groups


def check_reads_programs(configs: Sequence[ResponseGroupConfig]) -> None:
    """Whether every response group can give a program, where these are the answers.

    Raises:
        IbpoError: for one that reads boxes or numbers, whose responses would all score 0.
    """
    for config in configs:
        if config.answer != "code" and not config.answer.startswith("after:"):
            raise IbpoError(
                f"response_group.{config.name}.answer: {config.answer!r} reads no program, which is what this task's "
                "answers are; write code"
            )


CONTINUATIONS = ("\n", "\n\n", " ", ":", ".", ",")
"""What commonly follows an opening, and what tokenizers merge its end with."""


def stable_prefix(prefix: str, encode: Callable[[str], list[int]]) -> list[int]:
    r"""The token ids that open a response with this text, whatever follows it.

    A tokenizer may merge the end of the text with what comes next: where `]` and a line break are one token, a model
    that writes `[TRIAL]` and a line break by itself never produces the ids of `[TRIAL]` alone. So the ids are those
    that the text shares with its common continuations. A continuation that changes even the first token is left out:
    there the tokenizer knows whole words only.

    Args:
        prefix: the text.
        encode: text -> ids, without special tokens.

    Example:
        >>> merging = lambda text: [1, 2, 7] if text == "[A]\n" else [1, 2, 3] + [9] * (len(text) - 3)
        >>> stable_prefix("[A]", merging)
        [1, 2]
    """
    stable = list(encode(prefix))
    for continuation in CONTINUATIONS:
        longer = list(encode(prefix + continuation))
        shared = next((i for i, (a, b) in enumerate(zip(stable, longer, strict=False)) if a != b), len(stable))
        shared = min(shared, len(longer))
        if shared:
            stable = stable[:shared]
    return stable


def encode_prefixes(groups: Sequence[ResponseGroup], encode: Callable[[str], list[int]]) -> list[list[int]]:
    """The token ids that open a response of each group; see `stable_prefix`.

    Raises:
        IbpoError: where two groups open with the same token, so that the choice of the group could not be told apart.
    """
    prefixes = [stable_prefix(group.prefix, encode) for group in groups]
    opened: dict[int, str] = {}
    for group, prefix in zip(groups, prefixes, strict=True):
        key = f"response_group.{group.name}.prefix"
        if not prefix:
            raise IbpoError(f"{key}: {group.prefix!r} has no token in this model's vocabulary; choose other words")
        if prefix[0] in opened:
            raise IbpoError(
                f"{key}: opens with the same token as that of {opened[prefix[0]]}; the first tokens must differ: "
                "let one of them begin with another word"
            )
        opened[prefix[0]] = group.name
    return prefixes


def offer(groups: Sequence[ResponseGroup], problem: Prompt, *, chat: bool) -> Prompt:
    """The prompt that leaves the choice of the response group to the policy: all instructions, then the problem.

    Args:
        groups: the response groups; those without instruction add nothing.
        problem: text, or chat messages, whose last one the instructions go in front of.
        chat: whether the policy takes chat messages.

    Example:
        >>> offer([], "1 + 1 =", chat=True)
        [{'role': 'user', 'content': '1 + 1 ='}]
    """
    instructions = [group.instruction for group in groups if group.instruction]
    messages = [{"role": "user", "content": problem}] if isinstance(problem, str) else list(problem)
    last = messages[-1]
    messages[-1] = {**last, "content": "\n\n".join([*instructions, last["content"]])}
    if chat:
        return messages
    text = "\n\n".join(message["content"] for message in messages)
    return f"{text}\n" if instructions else text
