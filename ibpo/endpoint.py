"""A client of any server that speaks OpenAI's protocol: retries with back-off, bounded concurrency, a bill.

The samplers and the judge by language model share it. Retries, back-off and `Retry-After` are the openai package's.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import Request, urlopen

from ibpo.errors import IbpoError
from ibpo.usage import as_count, read_tokens

Item = TypeVar("Item")
Result = TypeVar("Result")
REFUSALS = (400, 413, 422)
"""Status codes that say that the request is at fault, and not the server, the key or the address."""
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""What httpx calls it, whose successors the openai package may use."""
PASSED_ON = (408, 502, 504)
"""Status codes of gateways that got no answer in time: whether the server behind them worked is unknown."""


ENDED = (
    "stop", "eos", "eos_token", "eog", "end", "end_turn", "end_of_turn", "endoftext", "stop_sequence", "stop_token",
    "stop_str", "stop_string", "word", "complete", "completed", "finished", "finish", "done",
)  # fmt: skip
CUT = (
    "length", "max_tokens", "max_token", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length",
    "model_length", "length_limit", "token_limit", "limit", "context_length", "context_length_exceeded",
    "model_context_window_exceeded", "time_limit", "incomplete",
)  # fmt: skip
"""What servers call an end of a response's own, and one that a limit cut off: OpenAI, vLLM, SGLang, llama.cpp, TGI, and
the vendors behind them. Compared without case."""

OF_A_LIMIT = frozenset(("length", "max", "maximum", "limit", "truncated", "truncation", "capped", "budget", "cutoff"))
OF_AN_END = frozenset(("stop", "stopped", "eos", "eot", "eom", "end", "ended", "finished", "complete", "completed"))
OF_NEITHER = frozenset((
    "error", "filter", "filtered", "safety", "refusal", "abort", "aborted", "cancel", "cancelled", "canceled", "tool",
    "tools", "function", "call", "calls", "pause", "timeout", "repetition", "rate", "user", "not", "no", "un",
))  # fmt: skip
"""What the words of other names say; a name with one of `OF_NEITHER` says neither."""


class NotServed(IbpoError):
    """The server did nothing for this request, as its status says, or was not reached: it costs nothing."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RefusedRequest(NotServed):
    """The server answers, but not this request: too long, of a forbidden content, or with an unknown option."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One completion of a server."""

    text: str
    finish_reason: str
    """`stop`, or `length` where it was cut off (`as_finish_reason`); else the server's own word, neither of the two."""
    reasoning: str = ""
    """The thought, where the server separates it from the answer."""
    stopped_by: str = ""
    """The stop string that ended it, where the server says so."""
    prompt_tokens: int | None
    """None, as of the completion, where the server does not report its usage."""
    completion_tokens: int | None
    reasoning_tokens: int | None
    """The completion tokens of the thinking; None where the server does not count them separately."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What requests have cost so far."""

    num_requests: int = 0
    num_retries: int = 0
    num_failures: int = 0
    num_unmetered: int = 0
    """Replies whose usage the server did not report: what they cost is unknown, and in none of the sums below."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the unit of the prices; the least that it can be where replies are unmetered."""


@dataclass(kw_only=True)
class Endpoint:
    """A model behind a server.

    Example:
        >>> Endpoint(base_url="http://127.0.0.1:8000/v1", model="my-model").bill.cost
        0.0
    """

    base_url: str
    """Down to the version: `http://127.0.0.1:8000/v1`."""
    model: str
    api_key: str = "none"
    """Never read from the environment here: a key must not go to a server that it was not meant for."""
    num_concurrent: int = 16
    """Requests in flight at a time."""
    max_retries: int = 5
    """After 408, 409, 429, 5xx, a time-out or a lost connection, waiting longer each time."""
    timeout_seconds: float = 600.0
    price_per_million: tuple[float, float] = (0.0, 0.0)
    """Prompt tokens, completion tokens; where prices differ with cached prompts this is an upper bound."""
    bill: Bill = field(default_factory=Bill, init=False)
    _client: Any = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Reply:
        """One answer to chat messages; `options` go to the server (`max_tokens`, `temperature`, `extra_body`, ...).

        Raises:
            IbpoError: where the server refuses or cannot be reached, retries included.
        """
        completion = self._call("chat", messages=list(messages), **options)
        return self._reply(completion, lambda choice: _parts(choice.message))

    def complete(self, prompt: str | Sequence[int], **options: Any) -> Reply:
        """One continuation of a text, or of token ids; see `chat`."""
        completion = self._call("completions", prompt=prompt if isinstance(prompt, str) else list(prompt), **options)
        return self._reply(completion, lambda choice: (choice.text or "", ""))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """An embedding of each text; see `chat`."""
        reply = self._call("embeddings", input=list(texts), encoding_format="float")
        try:
            rows = sorted(reply.data, key=lambda row: row.index)
            found = [[float(x) for x in row.embedding] for row in rows]
            good = [row.index for row in rows] == list(range(len(texts))) and len({len(row) for row in found}) <= 1
            if not (good and all(math.isfinite(x) for row in found for x in row)):
                raise TypeError
        except (AttributeError, TypeError, ValueError, OverflowError):
            self._charge(num_failures=1)
            raise IbpoError(
                f"{self.base_url}: the reply holds no embedding of every text; is {self.model!r} an embedding model?"
            ) from None
        tokens = _read_usage(getattr(reply, "usage", None))[0] or 0
        self._charge(num_requests=1, prompt_tokens=tokens, cost=tokens * self.price_per_million[0] / 1e6)
        return found

    def fetch(self, path: str, fields: Mapping[str, Any] | None = None, *, seconds: float) -> dict[str, Any]:
        """The JSON object that the server has besides OpenAI's protocol, in one try.

        Args:
            path: Behind `base_url`; one that begins with a slash is behind the server's root, without `/v1`.
            fields: Sent as JSON; None: asked by GET.
            seconds: Longest wait.

        Raises:
            IbpoError: No answer, or another one than an object.
        """
        base = self.base_url.rstrip("/")
        url = f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"
        body = None if fields is None else json.dumps(fields).encode()
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            with urlopen(Request(url, body, headers), timeout=seconds) as answer:
                reply = _whole(json.load(answer))
        except (OSError, ValueError, HTTPException, RecursionError) as error:
            raise IbpoError(f"{url}: {error}") from None
        if not isinstance(reply, dict):
            raise IbpoError(f"{url}: the reply is not a JSON object")
        return reply

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[int, Result | IbpoError]]:
        """Apply a function to all items, `num_concurrent` at a time; yields (position, result) as they are done.

        An item is taken when there is room for it, in the thread of the caller.

        An item's `IbpoError` is yielded in its place: one refused request does not stop the others. Requests that are
        not begun yet are dropped where the caller stops iterating, or at an interrupt: then what is in flight, which is
        paid for and waited for, is yielded before the interrupt is raised; a second one is raised at once.
        """
        left = iter(enumerate(items))
        running: dict[Future[Result], int] = {}
        interrupt: KeyboardInterrupt | None = None
        with ThreadPoolExecutor(self.num_concurrent) as threads:
            while True:
                while not interrupt and len(running) < self.num_concurrent and (item := next(left, None)) is not None:
                    running[threads.submit(function, item[1])] = item[0]
                if not running and interrupt:
                    raise interrupt
                if not running:
                    return
                try:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt as error:
                    if interrupt:
                        raise
                    interrupt = error
                    continue
                for future in done:
                    position = running.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, IbpoError):
                        raise error
                    yield position, future.result() if error is None else error

    def _call(self, kind: str, **options: Any) -> Any:
        import openai

        with self._lock:
            if self._client is None:
                self._client = openai.OpenAI(
                    base_url=self.base_url,
                    api_key=self.api_key,
                    max_retries=self.max_retries,
                    timeout=self.timeout_seconds,
                )
        kinds = {"chat": self._client.chat.completions, "embeddings": self._client.embeddings}
        api = kinds.get(kind, self._client.completions)
        try:
            raw = api.with_raw_response.create(model=self.model, **options)
            completion = raw.parse()
        except openai.OpenAIError as error:
            self._charge(num_failures=1)
            raise _failure(error, f"{self.base_url}: {_why(error, self.model)}") from None
        except (ValueError, RecursionError) as error:
            self._charge(num_failures=1)
            raise IbpoError(f"{self.base_url}: the reply cannot be read: {error}; is this an OpenAI server?") from None
        what, name = ("embedding", "data") if kind == "embeddings" else ("completion", "choices")
        if not getattr(completion, name, None):
            self._charge(num_failures=1)
            said = getattr(completion, "error", None)  # some relays send errors with status 200
            said = said.get("message") if isinstance(said, dict) else said
            why = f", but an error: {' '.join(said.split())[:200]}" if isinstance(said, str) else ""
            raise IbpoError(f"{self.base_url}: the reply holds no {what}{why or '; is this an OpenAI server?'}")
        self._charge(num_retries=raw.retries_taken)
        return completion

    def _reply(self, completion: Any, parts_of: Callable[[Any], tuple[Any, str]]) -> Reply:
        try:
            choice, usage = completion.choices[0], completion.usage
            (text, thought), finish_reason = parts_of(choice), choice.finish_reason
            prompt, completed, reasoning = _read_usage(usage)
            if not isinstance(text, str):
                raise TypeError
        # The openai package does not check what it reads.
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            self._charge(num_failures=1)
            raise IbpoError(f"{self.base_url}: the reply holds no completion; is this an OpenAI server?") from None
        if completed == 0 and (text or thought):  # some servers say 0 where they count nothing
            completed = None
        if prompt is None or completed is None:
            self._charge(num_requests=1, num_unmetered=1)
        else:
            cost = (prompt * self.price_per_million[0] + completed * self.price_per_million[1]) / 1e6
            self._charge(num_requests=1, prompt_tokens=prompt, completion_tokens=completed, cost=cost)
        if not (isinstance(finish_reason, str) and finish_reason):
            self._charge(num_failures=1)
            raise IbpoError(
                f"{self.base_url}: the reply has no finish_reason, so it looks like one that was cut off; "
                "use a server that gives one"
            )
        return Reply(
            text=_whole(text),
            finish_reason=as_finish_reason(finish_reason),
            reasoning=_whole(thought),
            stopped_by=stopped_by if isinstance(stopped_by := getattr(choice, "stop_reason", None), str) else "",
            prompt_tokens=prompt,
            completion_tokens=completed,
            reasoning_tokens=reasoning,
        )

    def _charge(self, **more: float) -> None:
        with self._lock:
            before = {name: getattr(self.bill, name) for name in Bill.__dataclass_fields__}
            self.bill = Bill(**{name: value + more.get(name, 0) for name, value in before.items()})  # pyright: ignore[reportArgumentType]


class LimitName:
    """What a server calls the most tokens of a completion: OpenAI's reasoning models refuse `max_tokens`."""

    OTHER = "max_completion_tokens"

    def __init__(self) -> None:
        self.name = "max_tokens"

    def ask(self, most: int, function: Callable[[dict[str, int]], Result]) -> Result:
        """Ask with the name that is known to be taken, and with the other one where the server says so."""
        name = self.name
        try:
            return function({name: most})
        except RefusedRequest as error:
            if name == self.OTHER or self.OTHER not in str(error):
                raise
        self.name = self.OTHER
        return function({self.OTHER: most})


def read_api_key(path: str | Path | None, place: str) -> str:
    """The key of a server from a text file; "none" where no file is named or it is empty.

    Args:
        path: The file, `~` allowed; None or "": there is none.
        place: The option or field that names it, for the error.

    Raises:
        IbpoError: The file cannot be read; never shows what is in it.

    Example:
        >>> read_api_key(None, "--api-key-file")
        'none'
    """
    if path is None or path == "":
        return "none"
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip() or "none"
    except (OSError, UnicodeDecodeError):
        raise IbpoError(f"{place}: {path}: cannot be read; name a text file with the key") from None


@lru_cache(maxsize=1024)  # a log says the same few words in every row
def as_finish_reason(said: str) -> str:
    """`stop` for whatever says that a response ended by itself, `length` where a limit cut it; else the word as it is.

    Example:
        >>> [as_finish_reason(word) for word in ("eos_token", "MAX_TOKENS", "content_filter")]
        ['stop', 'length', 'content_filter']
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", said.strip())
    word = re.sub(r"[\W_]+", "_", spaced.rpartition(".")[2]).strip("_").lower().removeprefix("finish_reason_")
    if word in ENDED or word in CUT:
        return "stop" if word in ENDED else "length"
    words = set(word.split("_"))  # of a name that nobody listed, what its words say
    if words & OF_NEITHER:
        return said
    return "length" if words & OF_A_LIMIT else "stop" if words & OF_AN_END else said


def _whole(said: Any) -> Any:
    r"""What a server said, with a question mark where a text was cut in the middle of a character.

    No file or further request, as to a judge, could hold half of one.

    Example:
        >>> _whole({"content": "cut \ud83d"})
        {'content': 'cut ?'}
    """
    return json.loads(json.dumps(said, ensure_ascii=False).encode("utf-8", "replace"))


def _parts(message: Any) -> tuple[Any, str]:
    """Answer and thought of a message: `content`, and `reasoning` (vLLM), `reasoning_content` or `reasoning_details`.

    Content may come in parts, of which some are thoughts (Mistral, Anthropic): `{"type": "thinking", "thinking": ...}`.
    The answer is there and is paid for: odd parts next to it lose no response.
    """
    content = message.content
    fields = (getattr(message, name, None) for name in ("reasoning", "reasoning_content", "thinking"))
    thoughts = [text for text in fields if isinstance(text, str) and text][:1]
    if not thoughts:  # OpenRouter and MiniMax: parts, of which some are encrypted
        thoughts = [_text_of(getattr(message, "reasoning_details", None))]
    if isinstance(content, list):
        kinds = [part.get("type", "text") if isinstance(part, dict) else "text" for part in content]
        parts = [(kind, _text_of(part)) for kind, part in zip(kinds, content, strict=True)]
        thoughts += [text for kind, text in parts if kind in ("thinking", "reasoning")]
        content = "".join(text for kind, text in parts if kind in ("text", "output_text"))
    return content or "", "".join(thoughts)


def _text_of(part: Any) -> str:
    """The text of a part of a message, which may be made of parts itself."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(_text_of(one) for one in part)
    if not isinstance(part, dict):
        return ""
    inner = next((part[key] for key in ("text", "thinking", "reasoning", "summary") if part.get(key)), "")
    return _text_of(inner)


def _read_usage(usage: Any) -> tuple[int | None, int | None, int | None]:
    """Tokens of the prompt, of the completion, and of the thinking in it; None where a count is not reported.

    The answer is there whatever is in a usage, and is paid for: an odd one loses no response.
    """
    if not hasattr(usage, "model_dump"):
        return None, None, None
    reported = usage.model_dump(warnings=False)
    prompt, other = as_count(reported.get("prompt_tokens")), as_count(reported.get("input_tokens"))
    return other if not prompt and other is not None else prompt, *read_tokens(reported)


def _failure(error: Exception, said: str) -> IbpoError:
    """`NotServed` where it is certain that nothing was done for the request."""
    status = getattr(error, "status_code", None)
    if status in REFUSALS:
        return RefusedRequest(said, status)
    never_sent = type(error.__cause__).__name__ in NEVER_SENT
    if never_sent or (status is not None and status not in PASSED_ON):
        return NotServed(said, status)
    return IbpoError(said)


def _why(error: Exception, model: str) -> str:
    import openai

    said = " ".join(str(error).split())[:200]
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time; raise timeout_seconds or lower num_concurrent"
    if isinstance(error, openai.APIConnectionError):
        return "cannot be reached; start the server, or check the address"
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"the key is refused: {said}; give another api_key"
    if isinstance(error, openai.NotFoundError):
        return f"not found: {said}; check the address, which ends in /v1, and the model's name {model!r}"
    if isinstance(error, openai.RateLimitError):
        return f"too many requests, retries included: {said}; lower num_concurrent or wait"
    return f"{type(error).__name__}: {said}; see the server's log"
