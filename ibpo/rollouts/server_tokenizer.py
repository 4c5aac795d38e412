"""A served model's tokenizer and chat template, asked of the server itself, where no folder holds them here.

vLLM has `/tokenize` (texts, and chats as its template renders them) and `/detokenize`; llama.cpp's server has
`/apply-template`, `/tokenize` and `/detokenize`. What they say is what the model sees, whatever template the server was
started with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Literal
from urllib.request import Request, urlopen

from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError


class ServerTokenizer:
    """What prompts are written with (`PromptWriter`), by requests to the server; answers are remembered.

    It stands for a tokenizer of transformers as far as prompts need one: called on a text, `apply_chat_template`,
    `decode`.
    """

    def __init__(self, endpoint: Endpoint, kind: Literal["vllm", "llama.cpp"], seconds: float = 30.0) -> None:
        self.endpoint, self.kind, self._seconds = endpoint, kind, seconds
        self._known: dict[str, Any] = {}
        self.chat_template = f"asked of {endpoint.base_url}, {endpoint.model}"
        """The template's text where the server tells it; else whose it is, and its family is found by rendering."""

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """Token ids of a text, without special tokens of its own."""
        assert not add_special_tokens, "a rendered prompt holds its special tokens already"
        if self.kind == "vllm":
            return {"input_ids": self._ask("tokenize", prompt=text, add_special_tokens=False)["tokens"]}
        return {"input_ids": self._ask("tokenize", content=text, add_special=False, parse_special=True)["tokens"]}

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, tokenize: bool = False, add_generation_prompt: bool = True,
        continue_final_message: bool = False, **options: Any,
    ) -> str:  # fmt: skip
        """The prompt's text."""
        assert not tokenize
        asked: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        if continue_final_message:  # llama.cpp's server continues an assistant's last message by itself
            asked["continue_final_message"] = True
        if self.kind == "vllm":
            tokens = self._ask("tokenize", **asked, chat_template_kwargs=options)["tokens"]
            return self.decode(tokens)
        return str(self._ask("apply-template", **asked, chat_template_kwargs=options)["prompt"])

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of token ids, special tokens included."""
        if not ids:
            return ""
        return str(self._ask("detokenize", tokens=list(ids))["prompt" if self.kind == "vllm" else "content"])

    def _ask(self, path: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps({"model": self.endpoint.model, **fields})
        key = f"{path} {body}"
        if key not in self._known:
            self._known[key] = _send(self.endpoint, path, body.encode(), self._seconds)
        return self._known[key]


def _send(endpoint: Endpoint, path: str, body: bytes | None, seconds: float) -> dict[str, Any]:
    url = f"{endpoint.base_url.rstrip('/').removesuffix('/v1')}/{path}"
    headers = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
    try:
        with urlopen(Request(url, body, headers), timeout=seconds) as answer:
            reply = json.load(answer)
    except (OSError, ValueError, HTTPException) as error:
        raise IbpoError(f"{url}: {error}") from None
    if not isinstance(reply, dict):
        raise IbpoError(f"{url}: the reply is no JSON object")
    return reply


def ask_for_tokenizer(endpoint: Endpoint, seconds: float = 30.0) -> ServerTokenizer | None:
    """The server's own tokenizer; None where it offers none, or one that does not give a text back as it was.

    Args:
        endpoint: the server and its model.
        seconds: longest wait for each answer.
    """
    for kind in ("vllm", "llama.cpp"):
        tokenizer = ServerTokenizer(endpoint, kind, seconds)
        try:
            text = tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2 ="}])
            if "2 + 2 =" not in text or tokenizer.decode(tokenizer(text)["input_ids"]) != text:
                continue
        except (IbpoError, KeyError, TypeError):
            continue
        # vLLM tells it where it is started with --enable-tokenizer-info-endpoint.
        with suppress(IbpoError):
            told = _send(endpoint, {"vllm": "tokenizer_info", "llama.cpp": "props"}[kind], None, seconds)
            if isinstance(template := told.get("chat_template"), str) and template:
                tokenizer.chat_template = template
        return tokenizer
    return None
