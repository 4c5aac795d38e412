"""What a request's prompt says, and how it is written out for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ibpo.responses.groups import encode_prefix, offer
from ibpo.rollouts.sampler import Request
from ibpo.types import Prompt, ResponseGroup


def asked_groups(request: Request, response_groups: Sequence[ResponseGroup]) -> list[ResponseGroup]:
    """Whose instructions the prompt carries: the request's own response group's, or all where it leaves the choice."""
    return [group for group in response_groups if request.response_group in ("", group.name)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptWriter:
    """Prompts as a model's tokenizer and chat template write them."""

    tokenizer: Any
    """Of transformers."""
    response_groups: Sequence[ResponseGroup] = ()
    offer_all: bool = False
    """Carry every response group's instruction, whatever the request asks: as in training, where the policy chooses."""
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])

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
        return self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True, **self.template_options
        )

    def ids(self, request: Request) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of the forced prefix."""
        text = self.render(self.prompt(request))
        prompt = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return list(prompt), list(encode_prefix(request.prefix, self.tokenizer))


def renderer(writer: PromptWriter) -> Callable[[list[dict[str, str]]], str]:
    """For `EndpointSampler.render`."""
    return lambda messages: writer.render(messages)
