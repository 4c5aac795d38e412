"""Sampling from servers and engines: any OpenAI-compatible server, and vLLM's offline engine.

Servers: vLLM, SGLang, llama.cpp, `transformers serve`, or a vendor's. The offline engine was run with vLLM 0.32 on a
CPU, not on a GPU; it is written against vLLM's source as of 2026: `LLM.generate(prompts,
sampling_params, *, use_tqdm)`, prompts as `{"prompt_token_ids": [...]}`, one `SamplingParams` each, answers in the
order of the prompts, each with `outputs[0].token_ids` (end of sequence included) and `.finish_reason` (`stop`,
`length`, `abort`).

Where no folder holds a served model's tokenizer and chat template here, the server itself is asked: vLLM has
`/tokenize` (texts, and chats as its template renders them) and `/detokenize`; llama.cpp's server has `/apply-template`
next to them. What they say is what the model sees, whatever template the server was started with.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ibpo.endpoint import Endpoint, LimitName, NotServed, Reply
from ibpo.errors import IbpoError
from ibpo.responses import END_THINK, THINK, family_of, offer, plain_thoughts, split_thought
from ibpo.rollouts.sampler import PromptWriter, Request, Sampled, as_sampled, asked_groups, rollout_of_ids, seed_of
from ibpo.types import ResponseGroup

Forcing = Literal["render", "prefill", "none"]
"""How a prefix is forced on a server: see `EndpointSampler`."""
CLOSED = f"\n{END_THINK}\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSampler:
    """Samples responses of a served policy, `endpoint.num_concurrent` at a time.

    How a prefix is forced depends on the server: `render` (any server with `/completions`) writes the chat template
    out here, by `writer`, and lets the server continue prompt and prefix, as token ids where it takes them;
    `prefill` (vLLM, SGLang) sends the prefix as an unfinished assistant message, of which most templates of hybrid
    models make another prompt (docs/reference/response-groups.md); `none` refuses requests with a prefix. The reply's
    text never holds the prefix, the rollout's completion always does.
    """

    endpoint: Endpoint
    max_tokens: int
    """Most tokens of the completion after the prefix: servers do not count what is forced.

    In what is returned a prefix that went as tokens counts as the completion's, as everywhere else."""
    temperature: float | None = 1.0
    """None: the server's own."""
    seed: int | None = 0
    """Every request gets a seed of its own out of it; None where the server knows no seeds."""
    response_groups: Sequence[ResponseGroup] = ()
    """Whose instructions the prompt carries; a request of one response group carries that one's alone."""
    forcing: Forcing = "prefill"
    writer: PromptWriter | None = None
    """Writes prompts and prefixes as token ids, by the model's own tokenizer, for `forcing="render"`."""
    render_all: bool = True
    """False: render only where a prefix is forced; the server renders the other requests itself, as chats."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More options of the request (`top_p`, `extra_body`, ...)."""
    ids: TokenIds = field(default_factory=lambda: TokenIds())
    """Whether the server takes token ids."""
    limit: LimitName = field(default_factory=lambda: LimitName())
    """What the server calls `max_tokens`."""

    def __post_init__(self) -> None:
        if self.forcing == "render" and self.writer is None:
            raise IbpoError("forcing='render': needs a writer, which writes the chat template out")
        if self.max_tokens < 1:
            raise IbpoError(f"max_tokens: must be at least 1, got {self.max_tokens}")

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`."""
        for _, outcome in self.endpoint.map(self.sample, requests):
            yield outcome

    def messages(self, request: Request) -> list[dict[str, str]]:
        """The prompt of a request, instructions in front of the problem."""
        prompt = offer(asked_groups(request, self.response_groups), request.problem.prompt, chat=True)
        assert not isinstance(prompt, str)
        return prompt

    def sample(self, request: Request) -> Sampled:
        """One response.

        Raises:
            NotServed: where the server did nothing for it; else an IbpoError.
        """
        options = dict(self.options)
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.seed is not None:
            options["seed"] = seed_of(request, self.seed)
        try:
            reply, lead, num_forced = self.limit.ask(
                self.max_tokens, lambda limit: self._ask(request, {**limit, **options})
            )
        except NotServed as error:
            raise type(error)(f"problem {request.problem.problem_id}: {error}", error.status) from None
        except IbpoError as error:
            raise IbpoError(f"problem {request.problem.problem_id}: {error}") from None
        openings = [group.prefix for group in asked_groups(request, self.response_groups) if group.prefix]
        completion, beside = join_thought(reply, lead, openings)
        misread = bool(reply.reasoning) and not reply.text and not (split_thought(completion).text or "").strip()
        return as_sampled(
            request,
            completion,
            reply.finish_reason,
            # A forced prefix is the response's, as in training; the server counts it as the prompt's.
            # One that reports fewer than were sent counts something else, or nothing.
            None if (sent := reply.prompt_tokens) is None or sent < num_forced else sent - num_forced,
            None if reply.completion_tokens is None else reply.completion_tokens + num_forced,
            0 if misread else reply.reasoning_tokens,
            beside,
        )

    def _has_special_marks(self, tokenizer: Any) -> bool:
        """Whether what marks a thought or a response group are special tokens, which servers take out of texts."""
        family = family_of(tokenizer)
        if family.think != THINK:
            return True
        marks = "".join((family.think, family.end_think, *(group.prefix for group in self.response_groups)))
        return any(token in marks for token in getattr(tokenizer, "all_special_tokens", ()))

    def _ask(self, request: Request, options: dict[str, Any]) -> tuple[Reply, str, int]:
        """The reply, what the prompt already holds of the response, and how many of its tokens were forced."""
        if self.forcing == "render" and self.writer is not None and (request.prefix or self.render_all):
            prompt, forced, lead = self.writer.asked(request)
            text = lead + (str(self.writer.tokenizer.decode(forced)) if forced else "")
            more = {"skip_special_tokens": False} if self._has_special_marks(self.writer.tokenizer) else {}
            sent = {key: value for key, value in options.get("extra_body", {}).items() if key not in OF_CHATS}
            options["extra_body"] = {**sent, **more}
            ids = [*prompt, *forced]
            whole = ids if self.ids.are_taken(self.endpoint) else text_of(ids, self.writer.tokenizer)
            return self.endpoint.complete(whole, **options), text, len(forced)
        messages = self.messages(request)
        if not request.prefix:
            return self.endpoint.chat(messages, **options), "", 0
        if self.forcing == "none":
            raise IbpoError(f"a prefix {request.prefix!r} must be forced; set forcing to 'render' or 'prefill'")
        more = {"continue_final_message": True, "add_generation_prompt": False}
        options["extra_body"] = {**options.get("extra_body", {}), **more}
        chat = [*messages, {"role": "assistant", "content": request.prefix}]
        return self.endpoint.chat(chat, **options), request.prefix, 0


@dataclass(frozen=True, slots=True)
class JoinedSampler:
    """Sends the requests of several samplers of one endpoint in one queue.

    One sampler after the other leaves a server idle while it writes the last, longest response of each.
    """

    endpoint: Endpoint
    sampler_of: Mapping[str, EndpointSampler]
    """Key of each request -> whose it is."""

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`."""
        for _, outcome in self.endpoint.map(lambda request: self.sampler_of[request.key].sample(request), requests):
            yield outcome


class TokenIds:
    """Whether a server takes token ids as a prompt: vLLM, SGLang and llama.cpp do, `transformers serve` takes texts.

    Asked once, by a response of one token, before the first request that is written as ids. A server that is busy or
    not there has not said no: its texts would be other tokens.
    """

    def __init__(self) -> None:
        self._lock, self._taken = threading.Lock(), None

    def are_taken(self, endpoint: Endpoint) -> bool:
        """Ask, or remember what was answered."""
        with self._lock:
            if self._taken is None:
                try:
                    replace(endpoint, max_retries=0).complete([0], max_tokens=1)
                    self._taken = True
                except IbpoError as error:  # of a server that is not there the first real request says so
                    self._taken = isinstance(error, NotServed) and error.status in UNKNOWN
            return self._taken


UNKNOWN = (None, 401, 403, 404, 409, 429, 503)
"""Statuses that say nothing about the prompt of a request: not reached, the key, the address, busy."""


def text_of(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of a prompt without its begin-of-sequence token, which servers add to texts."""
    return str(tokenizer.decode(list(ids))).removeprefix(tokenizer.bos_token or "")


OF_CHATS = ("chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""Fields of a chat that mean nothing where the prompt is token ids."""


def join_thought(reply: Reply, forced: str, openings: Sequence[str]) -> tuple[str, str]:
    r"""A server's reply as the one text that the policy wrote, whether the server separates the thought or not.

    The text is the one that a server without reasoning parser gives: `<think>`, thought, `</think>`, answer. Where the
    response was to open by a word and the policy thought first, the thought is kept next to the answer instead. A
    parser calls all of an answer reasoning where the prompt ends in a closed thought or a word, or the policy opens by
    a word itself, as it waits for an end of the thought that does not come: there the reasoning is the answer.

    Args:
        reply: of the server.
        forced: the prefix that was forced; the reply does not hold it.
        openings: prefixes of the response groups that were asked for; none for a bare prompt.

    Returns:
        The completion, forced prefix included, and the thought where it is not in it.

    Example:
        >>> said = {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 9, "reasoning_tokens": None}
        >>> reply = Reply(text="7", reasoning="3 + 4", **said)
        >>> join_thought(reply, "", ["<think>"]), join_thought(reply, "", ["Answer:"])
        (('<think>\n3 + 4\n</think>\n\n7', ''), ('7', '3 + 4'))
    """
    text, thought = reply.text, reply.reasoning
    unended = not text and (reply.finish_reason != "stop" or bool(reply.stopped_by))
    inside = split_thought(forced).closed is False
    if forced and not inside:
        return (forced + (f"{thought}{END_THINK}{text}" if thought and text else thought + text)), ""
    if forced:
        return forced + (f"{thought.lstrip()}{'' if unended else CLOSED}{text}" if thought else text), ""
    plain = [plain_thoughts(opening).lstrip() for opening in openings]
    at_once = len(plain) == 1 and plain[0].startswith(THINK) and split_thought(plain[0]).closed
    words = ["".join(opening.split()) for opening in plain if opening and not opening.startswith(THINK)]
    if not text and ((at_once and not unended) or any("".join(thought.split()).startswith(word) for word in words)):
        text, thought = thought, ""
    if thought:
        whole = f"{THINK}\n{thought.strip()}{'' if unended else CLOSED}{text}"
    else:
        whole = plain_thoughts(text)
        if END_THINK in whole and THINK not in whole:
            whole = f"{THINK}\n{whole.lstrip()}"
    parts = split_thought(whole)
    opens_thought = not plain or any(opening.startswith(THINK) for opening in plain)
    if parts.text is None and at_once:
        return plain[0] + whole.lstrip(), ""  # the prompt holds the closed thought
    if opens_thought or parts.text is None or not parts.answer.strip():
        return whole, ""
    return parts.answer.lstrip(), parts.text.strip()


class VLLMSampler:
    """Answers requests by an offline engine, `batch_size` at a time; the engine schedules within a batch.

    Every request has a seed of its own. The prefix is forced as the last tokens of the prompt, and its tokens count
    for `max_tokens` and for the completion's length, as they do with transformers.
    """

    def __init__(
        self,
        llm: Any,
        make_params: Callable[..., Any],
        writer: PromptWriter,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 1024,
        max_model_len: int | None = None,
    ) -> None:
        """Take an engine; `load_vllm` makes one.

        Args:
            llm: the engine.
            make_params: `vllm.SamplingParams`.
            writer: writes the prompts, with the same tokenizer.
            max_tokens: of a completion, prefix included.
            temperature: 0 is greedy.
            seed: of all requests.
            batch_size: what a kill can lose at most.
            max_model_len: the engine's; longer prompts are refused one by one instead of all together.
        """
        self.llm, self.make_params, self.writer = llm, make_params, writer
        self.max_tokens, self.temperature = max_tokens, temperature
        self.seed, self.batch_size, self.max_model_len = seed, batch_size, max_model_len

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`."""
        for start in range(0, len(requests), self.batch_size):
            yield from self._sample(requests[start : start + self.batch_size])

    def _sample(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        asked: list[tuple[Request, list[int], list[int], str]] = []
        for request in requests:
            prompt, prefix, lead = self.writer.asked(request)
            where = f"problem {request.problem.problem_id}"
            if len(prefix) >= self.max_tokens:
                yield IbpoError(f"{where}: its prefix of {len(prefix)} tokens leaves none of {self.max_tokens}")
            elif self.max_model_len is not None and len(prompt) + self.max_tokens > self.max_model_len:
                yield IbpoError(
                    f"{where}: {self.max_tokens} tokens after the {len(prompt)} of the prompt exceed the engine's "
                    f"{self.max_model_len}; raise max_model_len or leave the problem out"
                )
            else:
                asked.append((request, prompt, prefix, lead))
        if not asked:
            return
        try:
            outputs = self.llm.generate(
                [{"prompt_token_ids": [*prompt, *prefix]} for _, prompt, prefix, _ in asked],
                [self._params(request, prefix) for request, _, prefix, _ in asked],
                use_tqdm=False,
            )
        except ValueError as error:  # a request that the engine refuses stops its whole batch
            said = next(iter(str(error).splitlines()), "")[:200]
            yield from (IbpoError(f"problem {request.problem.problem_id}: refused: {said}") for request, *_ in asked)
            return
        for (request, prompt, prefix, lead), output in zip(asked, outputs, strict=True):
            yield self._sampled(request, prompt, prefix, lead, output.outputs[0])

    def _params(self, request: Request, prefix: list[int]) -> Any:
        # The least that says it all: some platforms refuse an option even at its default. `load_vllm` keeps the
        # model's generation_config out, so what is not said is the full distribution.
        return self.make_params(
            temperature=self.temperature, max_tokens=self.max_tokens - len(prefix), seed=seed_of(request, self.seed)
        )

    def _sampled(self, request: Request, prompt: list[int], prefix: list[int], lead: str, output: Any) -> Sampled:
        ids = [*prefix, *output.token_ids]
        # "abort" and whatever else is not a response that ended by itself.
        ends = ids[-1:] if output.finish_reason == "stop" else ()
        named = request.problem.problem_id
        rollout = rollout_of_ids(self.writer.tokenizer, named, prompt, ids, eos_token_ids=ends, lead=lead)
        return Sampled.of_rollout(request, rollout)


def load_vllm(path: str, *, dtype: str = "auto", max_model_len: int | None = None, seed: int = 0) -> tuple[Any, Any]:
    """Load an offline engine on one GPU, and `vllm.SamplingParams`; code that comes with a model is not run.

    Raises:
        IbpoError: where vLLM is not installed or its engine does not start.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise IbpoError(
            f"sampling by vLLM needs it: pip install vllm, in an environment of its own ({error}); "
            "or serve the model by vLLM and sample by engine = 'endpoint'"
        ) from None
    try:
        llm = vllm.LLM(
            model=path,
            dtype=dtype,
            max_model_len=max_model_len,
            seed=seed,
            trust_remote_code=False,
            generation_config="vllm",  # not the model's own: its top_p, top_k and penalties
        )
    except Exception as error:  # whatever a driver, the memory or the model brings up
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise IbpoError(f"{path}: vLLM's engine does not start: {said}") from None
    return llm, vllm.SamplingParams


class ServerTokenizer:
    """A tokenizer for `PromptWriter` that asks the server; answers are remembered.

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

    @property
    def bos_token(self) -> str:
        """What the server puts in front of a text; "" for nothing."""
        bare = self("a")["input_ids"]
        if self.kind == "vllm":
            whole = self._ask("tokenize", prompt="a", add_special_tokens=True)["tokens"]
        else:
            whole = self._ask("tokenize", content="a", add_special=True, parse_special=True)["tokens"]
        return self.decode(whole[: whole.index(bare[0])]) if bare and bare[0] in whole else ""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of token ids, special tokens included."""
        if not ids:
            return ""
        return str(self._ask("detokenize", tokens=list(ids))["prompt" if self.kind == "vllm" else "content"])

    def _ask(self, path: str, **fields: Any) -> dict[str, Any]:
        asked = {"model": self.endpoint.model, **fields}
        key = f"{path} {json.dumps(asked)}"
        if key not in self._known:
            self._known[key] = self.endpoint.fetch(f"/{path}", asked, seconds=self._seconds)
        return self._known[key]


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
            told = endpoint.fetch({"vllm": "/tokenizer_info", "llama.cpp": "/props"}[kind], seconds=seconds)
            if isinstance(template := told.get("chat_template"), str) and template:
                tokenizer.chat_template = template
        return tokenizer
    return None
