"""What every sampler is asked and answers, how prompts are written out, and how rollouts become scored responses.

One way for training, evaluation and the rest; with the scripted sampler for tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ibpo.errors import IbpoError
from ibpo.responses import (
    THINK,
    Opening,
    apply_template,
    encode_opening,
    family_of,
    find_group,
    is_by_effort,
    offer,
    open_response,
    render,
    saying_refusals,
    split_thought,
    translate,
)
from ibpo.rewards import Candidate, Judge
from ibpo.types import Problem, Prompt, ResponseGroup, Rollout, ScoredResponse


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request for one response."""

    problem: Problem
    number: int
    """Which of the problem's responses; with the problem's id and the response group it names the rollout."""
    response_group: str = ""
    prefix: str = ""
    """Text that opens the response, forced; "": the policy opens it as it likes."""
    wording: str = ""
    """Whatever else shapes what the policy is asked (instructions, template options); samplers do not read it."""

    @property
    def asked(self) -> str:
        """A short hash of prompt, prefix and wording: a stored response answers this request only if it is the same."""
        text = json.dumps([self.problem.prompt, self.prefix, self.wording])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def key(self) -> str:
        """Names the response: what a store keeps it under."""
        return f"{self.problem.problem_id}\t{self.response_group}\t{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A response with the tokens that it took; its completion begins with the forced prefix."""

    request: Request
    rollout: Rollout
    num_prompt_tokens: int | None
    """None, as of the completion, where a server does not report them."""
    num_completion_tokens: int | None
    num_thinking_tokens: int | None = None
    """The thinking's part of the completion tokens, where a server counts it separately."""
    reasoning: str = ""
    """The thought, kept next to the completion of a response that was to open by a word and thought first."""

    @classmethod
    def of_rollout(cls, request: Request, rollout: Rollout) -> Sampled:
        """A response whose token ids are known."""
        return cls(
            request=request,
            rollout=rollout,
            num_prompt_tokens=len(rollout.prompt_token_ids),
            num_completion_tokens=len(rollout.completion_token_ids),
        )


class Sampler(Protocol):
    """Samples responses; in any order, each as soon as it is there."""

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """One outcome per request: a response, or the error that the request met; the others go on."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedSampler:
    """Answers by a function; with a limit of words that truncates as a limit of tokens would.

    Example:
        >>> problem = Problem(problem_id="p", prompt="1 + 1 =", answer="2")
        >>> [sampled] = ScriptedSampler(answer=lambda r: "it is 2").sample_requests(
        ...     [Request(problem=problem, number=0)]
        ... )
        >>> sampled.rollout.completion, sampled.rollout.finish_reason
        ('it is 2', 'stop')
    """

    answer: Callable[[Request], str]
    """Request -> what follows its prefix."""
    max_tokens: int = 1_000_000
    """Words of a completion, prefix included."""

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`; an `IbpoError` of the function is the request's outcome."""
        for request in requests:
            try:
                text = request.prefix + self.answer(request)
            except IbpoError as error:
                yield error
                continue
            words = text.split()
            cut = len(words) > self.max_tokens
            yield as_sampled(
                request,
                " ".join(words[: self.max_tokens]) if cut else text,
                "length" if cut else "stop",
                len(str(request.problem.prompt).split()),
                min(len(words), self.max_tokens),
            )


def as_sampled(
    request: Request,
    completion: str,
    finish_reason: str,
    num_prompt_tokens: int | None,
    num_completion_tokens: int | None,
    num_thinking_tokens: int | None = None,
    reasoning: str = "",
) -> Sampled:
    """A response whose token ids are not known, as servers give it."""
    rollout = Rollout(
        problem_id=request.problem.problem_id,
        prompt_token_ids=(),
        completion_token_ids=(),
        completion=completion,
        finish_reason=finish_reason,
    )
    return Sampled(
        request=request,
        rollout=rollout,
        num_prompt_tokens=num_prompt_tokens,
        num_completion_tokens=num_completion_tokens,
        num_thinking_tokens=num_thinking_tokens,
        reasoning=reasoning,
    )


def seed_of(request: Request, seed: int) -> int:
    """A seed of the request's own, so that a rerun asks for the same and different numbers differ: below 2^31.

    Example:
        >>> problem = Problem(problem_id="p", prompt="", answer="")
        >>> len({seed_of(Request(problem=problem, number=i), 0) for i in range(100)})
        100
    """
    digest = hashlib.blake2b(f"{seed}\t{request.key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def asked_groups(request: Request, response_groups: Sequence[ResponseGroup]) -> list[ResponseGroup]:
    """Whose instructions the prompt carries: the request's own response group's, or all where it leaves the choice."""
    return [group for group in response_groups if request.response_group in ("", group.name)]


def encode_prompt(tokenizer: Any, prompt: Prompt, template_options: Mapping[str, Any] | None = None) -> list[int]:
    """A prompt's token ids: the same in training, evaluation, the cold start and `ibpo calibrate`, and as TRL has them.

    Args:
        tokenizer: one of transformers.
        prompt: text, which gets the special tokens that the tokenizer adds (a beginning-of-sequence token, for many);
            or chat messages, whose template writes all of them.
        template_options: of the chat template.

    Raises:
        IbpoError: where the template refuses the prompt.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    options = dict(template_options or {})
    with saying_refusals(tokenizer):
        made = apply_template(tokenizer, prompt, add_generation_prompt=True, return_dict=True, **options)
    return list(made["input_ids"])


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptWriter:
    """Prompts as a model's tokenizer and chat template write them."""

    tokenizer: Any
    """A tokenizer of transformers."""
    response_groups: Sequence[ResponseGroup] = ()
    offer_all: bool = False
    """Carry every response group's instruction, whatever the request asks: as in training, where the policy chooses."""
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    adapt: bool = False
    """Ask as this model is asked by itself: switches in the words of its family, thinking on or off as the prefix says.
    Otherwise exactly as the options say, as in training."""

    def prompt(self, request: Request) -> Prompt:
        """Chat messages where there is a chat template, else text."""
        asked = self.response_groups if self.offer_all else asked_groups(request, self.response_groups)
        return offer(asked, request.problem.prompt, chat=bool(self.tokenizer.chat_template))

    def render(self, prompt: Prompt) -> str:
        """The prompt as one text; a chat template opens the assistant's turn."""
        if isinstance(prompt, str):
            return prompt
        if not self.tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in prompt) + "\n"  # or a prefix would stick to the prompt
        with saying_refusals(self.tokenizer):
            return render(self.tokenizer, prompt, self.options)

    @property
    def options(self) -> Mapping[str, Any]:
        """Arguments of the chat template."""
        return translate(self.template_options, family_of(self.tokenizer)) if self.adapt else self.template_options

    def opening(self, request: Request) -> Opening:
        """The prompt, what is forced behind it, and what it already holds of the response."""
        prompt, prefix = self.prompt(request), request.prefix
        if isinstance(prompt, str) or not self.tokenizer.chat_template:
            return Opening(prompt=self.render(prompt), forced=prefix, lead="")
        if self.adapt and is_by_effort(self.template_options, family_of(self.tokenizer)):
            prefix = ""
        with saying_refusals(self.tokenizer):
            opened = open_response(self.tokenizer, prompt, prefix, self.options, adapt=self.adapt)
        own = next((g.prefix for g in self.response_groups if g.name == request.response_group), "")
        if prefix or opened.lead or not split_thought(own).closed or THINK not in own:
            return opened
        # Asked for an answer without thought: where the prompt holds the closed thought, the response begins with it.
        forced = open_response(self.tokenizer, prompt, own, self.options)
        return replace(opened, lead=forced.lead) if forced.prompt == opened.prompt else opened

    def prompt_ids(self, prompt: Prompt, rendered: str | None = None) -> list[int]:
        """Token ids of a prompt, `rendered` by default by `render`: a template writes all special tokens itself."""
        text = self.render(prompt) if rendered is None else rendered
        if isinstance(prompt, str) or not self.tokenizer.chat_template:
            return encode_prompt(self.tokenizer, text)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def asked(self, request: Request) -> tuple[list[int], list[int], str]:
        """Token ids of prompt and forced prefix, and the text that the prompt already holds of the response."""
        opened = self.opening(request)
        prompt = self.prompt_ids(self.prompt(request), opened.prompt)
        return prompt, list(encode_opening(opened.forced, self.tokenizer)), opened.lead


def rollout_of_ids(
    tokenizer: Any,
    problem_id: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    *,
    eos_token_ids: Collection[int],
    lead: str = "",
) -> Rollout:
    """Make a rollout from the token ids that a model gave, the forced prefix included.

    It ended by itself if its last token is one of `eos_token_ids`, which is left out of the text. All other special
    tokens stay in the text, as they may be what marks a response group. `lead` is what the prompt already holds of the
    response, such as a thought that the chat template opens: it is in the text, not in the tokens.
    """
    ended = bool(completion_ids) and completion_ids[-1] in eos_token_ids
    body = list(completion_ids[:-1] if ended else completion_ids)
    return Rollout(
        problem_id=problem_id,
        prompt_token_ids=tuple(prompt_ids),
        completion_token_ids=tuple(completion_ids),
        completion=lead + str(tokenizer.decode(body, skip_special_tokens=False)),
        finish_reason="stop" if ended else "length",
    )


def rollout_of_row(row: Mapping[str, Any]) -> Rollout:
    """Make a rollout from a row of `RolloutStore`; a served one has no token ids."""
    return Rollout(
        problem_id=row["problem_id"],
        prompt_token_ids=tuple(row.get("prompt_token_ids") or ()),
        completion_token_ids=tuple(row.get("completion_token_ids") or ()),
        completion=row["completion"],
        finish_reason=row["finish_reason"],
    )


def score(
    rollouts: Sequence[Rollout],
    problems: Sequence[Problem],
    response_groups: Sequence[ResponseGroup],
    judge: Judge,
    *,
    asked: Sequence[str] = (),
    read_other: Callable[[str], str | None] | None = None,
) -> list[ScoredResponse]:
    """Find the response group of each rollout, read its answer as that group's answers are read, and judge it.

    A truncated response gives no answer and earns nothing; the judge still sees it, and may name what it violates.

    Args:
        rollouts: N of them.
        problems: the problem of each.
        response_groups: the groups that a rollout may belong to (`ibpo.responses.find_group`).
        judge: of the answers.
        asked: for each rollout the name of the group that it was asked for, which it then counts for however it opens;
            "": the policy chose, and the completion tells. By default the completion always tells.
        read_other: reads the answers of responses that belong to no group; by default these give none.

    Returns:
        In the order of the rollouts.
    """
    by_name = {group.name: group for group in response_groups}
    groups: list[ResponseGroup | None] = []
    candidates: list[Candidate] = []
    for rollout, problem, name in zip(rollouts, problems, asked or [""] * len(rollouts), strict=True):
        group = by_name[name] if name else find_group(rollout.completion, response_groups)
        read = group.extract_answer if group else read_other
        answer = read(rollout.completion) if read and rollout.finish_reason == "stop" else None
        groups.append(group)
        candidates.append(
            Candidate(
                problem=problem,
                completion=rollout.completion,
                predicted_answer=answer,
                finish_reason=rollout.finish_reason,
            )
        )
    return [
        ScoredResponse(
            rollout=rollout,
            response_group=group.name if group else "",
            predicted_answer=candidate.predicted_answer,
            reward=judgement.reward if rollout.finish_reason == "stop" else 0.0,
            cost=float(len(rollout.completion_token_ids) or "nan"),
            reason=judgement.reason,
            violations=judgement.violations,
        )
        for rollout, group, candidate, judgement in zip(
            rollouts, groups, candidates, judge.judge(candidates), strict=True
        )
    ]
