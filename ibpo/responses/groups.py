"""Response groups out of a recipe: how the answer is read, what the prompt says, how responses open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ibpo.config import ResponseGroupConfig
from ibpo.errors import IbpoError
from ibpo.responses.families import THINK, plain_thoughts
from ibpo.responses.openings import family_of, spell
from ibpo.responses.readers import answer_reader
from ibpo.types import Prompt, ResponseGroup


def build_response_groups(configs: Sequence[ResponseGroupConfig]) -> list[ResponseGroup]:
    """Make response groups from their tables in a recipe, the standard one first.

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
    """Check that every response group can give a program, where the answers are programs.

    Raises:
        IbpoError: for one that reads boxes or numbers, whose responses would all score 0.
    """
    for config in configs:
        if config.answer != "code" and not config.answer.startswith("after:"):
            raise IbpoError(
                f"response_group.{config.name}.answer: {config.answer!r} does not read programs, "
                "and this task's answers are programs; write code"
            )


def find_group(completion: str, groups: Sequence[ResponseGroup]) -> ResponseGroup | None:
    """The response group of a list that a completion belongs to; None where it opens like none of them.

    See `ResponseGroup.matches` for what belonging means; where several prefixes match, the longest one counts.

    Example:
        >>> once, twice = ResponseGroup(name="once", prefix="Step"), ResponseGroup(name="twice", prefix="Step by step")
        >>> find_group("Step by step: ...", [once, twice]).name
        'twice'
    """
    plain = plain_thoughts(completion)
    found = [group for group in groups if _belongs(completion, plain, group)]
    return max(found, key=lambda group: len("".join(group.prefix.split())), default=None)


def belongs(completion: str, group: ResponseGroup) -> bool:
    """`ResponseGroup.matches`, also where the family's marks of a thought are others than the prefix's.

    Example:
        >>> belongs("[THINK]3 + 4[/THINK]7", ResponseGroup(name="on", prefix="<think>"))
        True
        >>> mine = ResponseGroup(name="on", prefix="[THINK]")
        >>> [belongs(text, mine) for text in ("[THINK]3 + 4[/THINK]7", "<think>3 + 4</think>7", "[THINK][/THINK]7")]
        [True, True, False]
    """
    return _belongs(completion, plain_thoughts(completion), group)


def _belongs(completion: str, plain: str, group: ResponseGroup) -> bool:
    """`belongs`, of a completion whose `plain_thoughts` are known."""
    prefix = plain_thoughts(group.prefix)
    if prefix.lstrip().startswith(THINK):  # in whatever marks it is written: one definition of a thought
        return replace(group, prefix=prefix).matches(plain)
    return group.matches(completion) or (plain != completion and group.matches(plain))


CONTINUATIONS = ("\n", "\n\n", " ", ":", ".", ",")
"""What commonly follows a prefix, and what tokenizers merge its end with."""


def stable_prefix(prefix: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
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


def encode_prefix(prefix: str, tokenizer: Any) -> tuple[int, ...]:
    """The token ids that are forced where a response is to open with this text; none for an empty text.

    The text is spelled in the marks of the model's family (`ibpo.responses.openings`): `<think>` as it opens its
    thoughts, a word behind what opens its answers. Training, `ibpo eval`, the cold start and `ibpo calibrate` all force
    these ids (see `stable_prefix`), so that what was learned is what is measured.

    Args:
        prefix: a response group's.
        tokenizer: one of transformers.
    """
    return encode_opening(spell(prefix, family_of(tokenizer)), tokenizer)


@lru_cache(maxsize=64)
def encode_opening(text: str, tokenizer: Any) -> tuple[int, ...]:
    """`encode_prefix` of a text that is spelled already."""
    if not text:
        return ()
    return tuple(stable_prefix(text, lambda longer: tokenizer(longer, add_special_tokens=False)["input_ids"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedGroups:
    """Response groups as a tokenizer writes and reads them; `encode_groups` makes it."""

    groups: Sequence[ResponseGroup]
    prefix_ids: Sequence[list[int]]
    """What is forced where a response of each group is wanted."""
    tokenizer: Any

    @property
    def names(self) -> list[str]:
        """Names of the response groups."""
        return [group.name for group in self.groups]

    def index_of(self, completion_ids: Sequence[int]) -> int:
        """Index of the response group that a completion belongs to, -1 for none: `find_group` of the decoded ids."""
        group = find_group(self._decode(completion_ids), self.groups)
        return -1 if group is None else next(i for i, one in enumerate(self.groups) if one is group)

    def num_opening_tokens(self, completion_ids: Sequence[int]) -> int:
        """How many of a completion's tokens choose its response group: at least one.

        Those that would have been forced, where the completion begins with them. Where it opens in other tokens (a
        blank first, another spelling), as many as it takes until the prefix is complete. One for a response of no
        group.
        """
        index = self.index_of(completion_ids)
        if index < 0:
            return 1
        forced = self.prefix_ids[index]
        if list(completion_ids[: len(forced)]) == forced:
            return len(forced)
        group = self.groups[index]
        lengths = range(1, len(completion_ids))
        return next((n for n in lengths if belongs(self._decode(completion_ids[:n]), group)), len(completion_ids))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def encode_groups(groups: Sequence[ResponseGroup], tokenizer: Any) -> EncodedGroups:
    """Response groups in a tokenizer's ids, after checking that the policy's choice can be forced and read.

    Raises:
        IbpoError: where a prefix has no token or does not survive the tokenizer, or where two groups open with the same
            token, so that the choice between them could be neither read nor learned.
    """
    prefix_ids: list[list[int]] = []
    opened: dict[int, str] = {}
    for group in groups:
        key = f"response_group.{group.name}.prefix"
        ids = list(encode_prefix(group.prefix, tokenizer))
        if not ids:
            raise IbpoError(f"{key}: {group.prefix!r} has no token in this model's vocabulary; choose other words")
        if ids[0] in opened:
            family = family_of(tokenizer)
            own = family.at_once and spell(group.prefix, family).startswith((family.at_once, family.think))
            fix = (
                f"every response of this family ({family.name}) begins so, whatever the prefix; its efforts are chosen "
                "by `ibpo route` and `ibpo serve`"
                if own
                else "let one of them begin with another word"
            )
            raise IbpoError(
                f"{key}: opens with the same token as that of {opened[ids[0]]}; the first tokens must differ, or the "
                f"policy's choice of a group cannot be read: {fix}"
            )
        spelled = spell(group.prefix, family_of(tokenizer))
        whole = tokenizer.decode(tokenizer(spelled, add_special_tokens=False)["input_ids"])
        if not belongs(whole, group):
            raise IbpoError(
                f"{key}: {group.prefix!r} comes back from this model's tokenizer as {whole!r}, so that no response "
                "would be recognised; choose other words"
            )
        opened[ids[0]] = group.name
        prefix_ids.append(ids)
    return EncodedGroups(groups=tuple(groups), prefix_ids=prefix_ids, tokenizer=tokenizer)


def messages_before(system: str, examples: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """What a recipe puts in front of each problem: `data.system`, and `data.examples` as turns of the chat.

    Example:
        >>> [message["role"] for message in messages_before("Add.", [{"problem": "1 + 1", "reply": "2"}])]
        ['system', 'user', 'assistant']
    """
    messages = [{"role": "system", "content": system}] if system else []
    for example in examples:
        messages.append({"role": "user", "content": example["problem"]})
        messages.append({"role": "assistant", "content": example["reply"]})
    return messages


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
