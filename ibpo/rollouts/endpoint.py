"""Sampling from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, or a vendor's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ibpo.endpoint import Endpoint, Reply
from ibpo.errors import IbpoError
from ibpo.responses.groups import offer
from ibpo.rollouts.prompts import asked_groups
from ibpo.rollouts.sampler import Request, Sampled, as_sampled, seed_of
from ibpo.types import ResponseGroup

Forcing = Literal["render", "prefill", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSampler:
    """Responses of a served policy, `endpoint.num_concurrent` at a time.

    How a prefix is forced depends on the server: `render` (any server with `/completions`) writes the chat template
    out here, by `render`, and lets the server continue prompt and prefix as text; `prefill` (vLLM, SGLang) sends the
    prefix as an unfinished assistant message; `none` refuses requests with a prefix. The reply's text never holds the
    prefix, the rollout's completion always does.
    """

    endpoint: Endpoint
    max_tokens: int
    """Of the completion after the prefix: servers do not count what is forced."""
    temperature: float = 1.0
    seed: int | None = 0
    """Every request gets a seed of its own out of it; None where the server knows no seeds."""
    response_groups: Sequence[ResponseGroup] = ()
    """Whose instructions the prompt carries; a request of one response group carries that one's alone."""
    forcing: Forcing = "prefill"
    render: Callable[[list[dict[str, str]]], str] | None = None
    """Chat messages -> the prompt's text, e.g. by a tokenizer's `apply_chat_template`; for `forcing="render"`."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More options of the request (`top_p`, `extra_body`, ...)."""

    def __post_init__(self) -> None:
        if self.forcing == "render" and self.render is None:
            raise IbpoError("forcing='render': needs render, which writes the chat template out")
        if self.max_tokens < 1:
            raise IbpoError(f"max_tokens: must be at least 1, got {self.max_tokens}")

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`."""
        for _, outcome in self.endpoint.map(self._sample, requests):
            yield outcome

    def messages(self, request: Request) -> list[dict[str, str]]:
        """The prompt of a request, instructions in front of the problem."""
        prompt = offer(asked_groups(request, self.response_groups), request.problem.prompt, chat=True)
        assert not isinstance(prompt, str)
        return prompt

    def _sample(self, request: Request) -> Sampled:
        options: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.options}
        if self.seed is not None:
            options["seed"] = seed_of(request, self.seed)
        try:
            reply = self._ask(request, options)
        except IbpoError as error:
            raise IbpoError(f"problem {request.problem.problem_id}: {error}") from None
        return as_sampled(
            request,
            request.prefix + reply.text,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.reasoning_tokens,
        )

    def _ask(self, request: Request, options: dict[str, Any]) -> Reply:
        messages = self.messages(request)
        if self.forcing == "render":
            assert self.render is not None
            return self.endpoint.complete(self.render(messages) + request.prefix, **options)
        if not request.prefix:
            return self.endpoint.chat(messages, **options)
        if self.forcing == "none":
            raise IbpoError(f"a prefix {request.prefix!r} is to be forced; set forcing to 'render' or 'prefill'")
        more = {"continue_final_message": True, "add_generation_prompt": False}
        options["extra_body"] = {**options.get("extra_body", {}), **more}
        reply = self.endpoint.chat([*messages, {"role": "assistant", "content": request.prefix}], **options)
        return reply
