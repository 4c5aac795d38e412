"""A policy whose answers are given: how long they are and how often they are right, by response group and level."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from ibpo.config import nearest
from ibpo.errors import IbpoError
from ibpo.rollouts import Request, Sampled
from ibpo.types import Problem, ResponseGroup, Rollout

FORMS: tuple[Callable[[str], str], ...] = (
    lambda answer: f"The answer is {answer}",
    lambda answer: f"<answer>{answer}</answer>",
    lambda answer: f"</think>\n<answer>{answer}</answer>",
    lambda answer: f"</think><answer>{answer}",
    lambda answer: f"<answer>{answer}",
    lambda answer: f"\\boxed{{{answer}}}",
    lambda answer: f"</think>\n\\boxed{{{answer}}}",
    lambda answer: f"</think>\n{answer}",
    lambda answer: f"{answer}</answer>",
    lambda answer: f"{answer}}}",
    lambda answer: answer,
)
"""Ways to write an answer; of a response group's the one that its own reader reads."""
WORDS = ("then", "so", "we", "add", "the", "next", "term", "and", "keep", "it")
_NORMAL = NormalDist()

Accuracy = float | Mapping[str, float]
"""One number, or a number per level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeAnswer:
    """One answer of a fake policy."""

    response_group: str
    text: str
    """What follows a forced prefix."""
    answer: str
    """The answer that the text gives."""
    right: bool
    tokens: int
    """Completion tokens."""
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FakePolicy:
    """Answers at once, always the same: a sampler for code that uses one, and what `upstream` and `responses` stand on.

    Whether an answer is right, and how long it is, are drawn by a hash of seed, problem, response group and number:
    answers do not depend on what was asked before. Lengths are log-normal, as those of models are.

    Args:
        tokens: Response group -> mean completion tokens, the cheapest first.
        accuracy: Response group -> how often it is right: one number, or one per level.
        spread: Standard deviation of the logarithm of the lengths; 0: each answer takes exactly the mean.
        choice: How often the policy, left to choose, answers by each group; empty: all equally often.
        response_groups: Your own response groups, by the names above: answers open with their prefixes, and are
            written so that their readers read them.
        problems: What it knows the right answers of; a server is asked with the prompt alone.
        max_tokens: Longer answers are cut off there: `finish_reason` is "length", and they are wrong.
        seed: Seed of all draws.

    Raises:
        IbpoError: A response group without a number, or a number that cannot be.

    Example:
        >>> policy = FakePolicy(tokens={"short": 20, "long": 300}, accuracy={"short": 0.2, "long": 1.0}, spread=0)
        >>> problem = Problem(problem_id="p", prompt="What is 2 + 2?", answer="4")
        >>> answer = policy.answer(problem, "long")
        >>> answer.tokens, answer.right, answer.text.endswith("The answer is 4")
        (300, True, True)
    """

    tokens: Mapping[str, float] = field(default_factory=lambda: {"standard": 120.0, "extended": 900.0})
    accuracy: Mapping[str, Accuracy] = field(
        default_factory=lambda: {
            "standard": {"1": 0.95, "2": 0.8, "3": 0.55, "4": 0.3, "5": 0.15},
            "extended": {"1": 0.96, "2": 0.93, "3": 0.85, "4": 0.7, "5": 0.5},
        }
    )
    spread: float = 0.4
    choice: Mapping[str, float] = field(default_factory=dict[str, float])
    response_groups: Sequence[ResponseGroup] = ()
    problems: Sequence[Problem] = ()
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tokens:
            raise IbpoError("tokens: name at least one response group, e.g. {'standard': 120, 'extended': 900}")
        for name, mean in self.tokens.items():
            if not (math.isfinite(mean) and mean >= 1):
                raise IbpoError(f"tokens: {name} is {mean!r}; it must be at least 1")
            if name not in self.accuracy:
                raise IbpoError(f"accuracy: no number for response group {name!r}; give one, e.g. {{{name!r}: 0.5}}")
        for name, given in self.accuracy.items():
            self._check(name, "accuracy")
            for value in given.values() if isinstance(given, Mapping) else [given]:
                if not 0 <= value <= 1:
                    raise IbpoError(f"accuracy: {name} is {value!r}; it must be in [0, 1]")
        for name, value in self.choice.items():
            self._check(name, "choice")
            if not (math.isfinite(value) and value >= 0):
                raise IbpoError(f"choice: {name} is {value!r}; it must be at least 0")
        if self.choice and not sum(self.choice.values()) > 0:
            raise IbpoError("choice: all are 0; give at least one response group a number above 0")
        for group in self.response_groups:
            self._check(group.name, "response_groups")
        if not (math.isfinite(self.spread) and self.spread >= 0):
            raise IbpoError(f"spread: is {self.spread!r}; it must be at least 0")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise IbpoError(f"max_tokens: is {self.max_tokens!r}; it must be at least 1, or None")

    def _check(self, name: str, where: str) -> None:
        if name not in self.tokens:
            raise IbpoError(f"{where}: tokens names no response group {name!r}; {nearest(name, self.tokens)}")

    @property
    def groups(self) -> list[str]:
        """Names of the response groups, the cheapest first as given."""
        return [*self.tokens]

    def accuracy_of(self, group: str, level: str = "") -> float:
        """How often a response group is right on a level; its mean over the levels where it has no number for this one.

        Raises:
            IbpoError: There is no such response group.
        """
        self._check(group, "response group")
        given = self.accuracy[group]
        if not isinstance(given, Mapping):
            return float(given)
        return float(given[level]) if level in given else sum(given.values()) / len(given)

    def choose(self, problem: Problem, number: int = 0) -> str:
        """The response group that the policy answers by when nobody forces one."""
        weights = [self.choice.get(name, 0.0) for name in self.tokens] if self.choice else [1.0] * len(self.tokens)
        left = self._draw("choice", problem.problem_id, number) * sum(weights)
        for name, weight in zip(self.tokens, weights, strict=True):
            left -= weight
            if left < 0:
                return name
        return [name for name, weight in zip(self.tokens, weights, strict=True) if weight > 0][-1]

    def answer(
        self, problem: Problem, response_group: str = "", number: int = 0, *, max_tokens: int | None = None
    ) -> FakeAnswer:
        """One answer.

        Args:
            problem: Whose `problem_id` and `level` decide the draws.
            response_group: "": the policy chooses.
            number: Which of the problem's answers; other numbers get other answers.
            max_tokens: The request's own limit, beside the policy's.

        Raises:
            IbpoError: There is no such response group.
        """
        group = response_group or self.choose(problem, number)
        accuracy, key = self.accuracy_of(group, problem.level), (group, problem.problem_id, number)
        right = self._draw("right", *key) < accuracy
        mean, draw = self.tokens[group], self._draw("length", *key)
        # exp(sigma z - sigma^2 / 2) has the mean 1.
        tokens = max(1, round(mean * math.exp(self.spread * _NORMAL.inv_cdf(draw) - self.spread**2 / 2)))
        limit = min((limit for limit in (max_tokens, self.max_tokens) if limit is not None), default=tokens)
        cut = tokens > limit
        answer = problem.answer if right else _wrong(problem.answer)
        end, is_whole = ("", False) if cut else self._written(group, answer)
        num_words = 0 if is_whole else max(min(tokens, limit) - len(end.split()), 0)
        words = [WORDS[i % len(WORDS)] for i in range(num_words)]
        # A token counts as a word, and the ending as as many.
        text = " ".join([*words, end] if end else words)
        return FakeAnswer(
            response_group=group,
            text=text,
            answer="" if cut else answer,
            right=right and not cut,
            tokens=min(tokens, limit),
            prompt_tokens=num_prompt_tokens(problem.prompt),
            finish_reason="length" if cut else "stop",
        )

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `ibpo.rollouts.Sampler`: usable wherever a sampler is.

        Example:
            >>> [sampled] = FakePolicy().sample_requests([Request(problem=problems(1)[0], number=0)])
            >>> sampled.rollout.finish_reason, sampled.num_completion_tokens == len(sampled.rollout.completion.split())
            ('stop', True)
        """
        for request in requests:
            group = request.response_group or self._group_of_prefix(request.prefix)
            try:
                found = self.answer(request.problem, group, request.number)
            except IbpoError as error:
                yield error
                continue
            rollout = Rollout(
                problem_id=request.problem.problem_id,
                prompt_token_ids=(),
                completion_token_ids=(),
                completion=(request.prefix or self._prefix(found.response_group)) + found.text,
                finish_reason=found.finish_reason,
            )
            yield Sampled(
                request=request,
                rollout=rollout,
                num_prompt_tokens=found.prompt_tokens,
                num_completion_tokens=found.tokens,
            )

    def find(self, prompt: str) -> Problem:
        """The problem that a prompt is about; one of its own, with the answer 42, where it is none of `problems`."""
        for problem in self.problems:
            own = problem.prompt if isinstance(problem.prompt, str) else str(problem.prompt[-1]["content"])
            if own and own in prompt:
                return problem
        return Problem(problem_id=prompt, prompt=prompt, answer="42")

    def _group_of_prefix(self, prefix: str) -> str:
        return next((group.name for group in self.response_groups if prefix and group.prefix == prefix), "")

    def _prefix(self, name: str) -> str:
        return next((group.prefix for group in self.response_groups if group.name == name), "")

    def _written(self, name: str, answer: str) -> tuple[str, bool]:
        """The answer as the group's reader reads it, and whether nothing may stand before it."""
        group = next((group for group in self.response_groups if group.name == name), None)
        if group is None:
            return FORMS[0](answer), False
        for before in (f"{WORDS[0]} ", ""):
            for form in FORMS:
                if group.extract_answer(f"{group.prefix}{before}{form(answer)}") == answer:
                    return form(answer), not before
        return FORMS[0](answer), False  # of a group that has no reader

    def _draw(self, *key: object) -> float:
        """In (0, 1), the same for the same key."""
        digest = hashlib.blake2b(repr((self.seed, *key)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 0.5) / 2**64


def num_prompt_tokens(prompt: object) -> int:
    """About as many as a tokenizer makes: four letters each."""
    text = prompt if isinstance(prompt, str) else " ".join(str(m.get("content", "")) for m in prompt)  # pyright: ignore
    return max(1, len(text) // 4)


def _wrong(answer: str) -> str:
    """Another answer of the same kind.

    Example:
        >>> _wrong("41"), _wrong("Paris")
        ('42', 'not Paris')
    """
    return str(int(answer) + 1) if answer.strip().lstrip("-").isdecimal() else f"not {answer}"


def problems(num: int, *, levels: int = 5, seed: int = 0) -> list[Problem]:
    """Sums with their answers, the levels in turn: level 1 has two terms, each further level one more.

    Args:
        num: How many.
        levels: From "1", the easiest.
        seed: Other seeds give other sums.

    Example:
        >>> [(problem.level, problem.prompt, problem.answer) for problem in problems(2)]
        [('1', 'What is 45 + 9?', '54'), ('2', 'What is 6 + 97 + 30?', '133')]
    """
    if num < 0 or levels < 1:
        raise IbpoError(f"problems: num is {num!r} and levels {levels!r}; give at least 0 and 1")
    found: list[Problem] = []
    for i in range(num):
        level = i % levels + 1
        digest = hashlib.blake2b(repr((seed, i)).encode(), digest_size=32).digest()
        terms = [1 + digest[j % 32] * 98 // 255 for j in range(level + 1)]
        text = f"What is {' + '.join(map(str, terms))}?"
        found.append(Problem(problem_id=f"sum-{i}", prompt=text, answer=str(sum(terms)), level=str(level)))
    return found
