"""Logs of what servers answered, as OpenAI's API, gateways and tracing tools store them, as rows of ours.

Each `convert_*` takes the good rows of one file and hands on those that are responses: besides what was there `effort`,
`model`, `problem_id` or `prompt`, `tokens`, `thinking_tokens`, `finish_reason`, `completion` and `reward`, as far as
they are known. Requests that failed are counted, not handed on; one with several answers becomes a row for each.
"""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ibpo.data.fields import (
    PROBLEM_NAMES,
    USAGES,
    Json,
    first_of,
    known,
    lookup,
    parse_cell,
    prompt_counts,
    read_object,
    read_prompt,
    read_text,
    read_usage,
    read_user_turns,
)
from ibpo.data.files import (
    LINES,
    NUM_PEEKED,
    UNREADABLE,
    LogError,
    Row,
    Source,
    data_files,
    kind_of,
    open_text,
    parse_json,
    read_document,
    read_rows,
)
from ibpo.prices import CACHE_READ, CACHE_WRITTEN

EFFORTS = (
    "none",
    "minimal",
    "low",
    "medium",
    "high",
    "xhigh",
    "max",
    "default",
    "thinking",
    "think",
    "nothink",
    "direct",
)
"""Words for an effort that are in identifiers of requests."""
EFFORT_WORD = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(EFFORTS)})(?![a-z0-9])")
COUNTERS = ("sample", "attempt", "trial", "repeat", "rep", "run", "seed", "try", "epoch")
SAMPLE = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(COUNTERS)})[ _=#-]?\d{{1,3}}(?![a-z0-9])")
"""What counts the responses of a request: `sample3`."""
SMALL = re.compile(r"\d{1,3}")
NUMBER = re.compile(r"(?<!\d)(?!(?:19|20)\d\d(?!\d))\d+")
"""A number that is no year."""
PROBLEMS = "what is numbered in custom_id are problems"
"""Begins the note that says so; without one, the last number counts the responses to a problem."""
ANSWERED = ("custom_id", "request_id", "trace_id", "traceId", "response_id", "id")
"""Identifiers of a request."""
REWARDS = ("reward", "correct", "is_correct", "score", "accuracy", "acc", "passed")
"""What rewards are called that a reader takes without being told."""
SPENT = re.compile(r"(?i)token|usage|cost|spend|spent")
ALLOWED = re.compile(r"(?i)max|min_|limit|budget|per_")
"""Numbers that a request's answers spent together, by their names, and such that bound them or are prices."""
TEXTS = ("prompt", "completion", "input", "output", "content", "text")
"""Where texts are, which may look like anything."""


GEMINI_THINKING = ("generationConfig.thinkingConfig", "config.thinkingConfig", "config.thinking_config")


def read_completion(answer: Any) -> Json:
    """What an answer of an OpenAI-compatible server (chat, completions, responses), Anthropic's or Gemini's says.

    Where a request has several answers it is the first, with the tokens of all; see `each_answer`.
    """
    model = first_of(answer, "model", "modelVersion", "model_version")
    effort = first_of(answer, "reasoning.effort", "reasoning_effort")
    found: Json = {**read_usage(first_of(answer, *USAGES)), **known(model=model, effort=effort)}
    choices = choices_of(answer)
    if choices:
        found |= _read_choice(choices[0])
    elif isinstance(answer.get("output"), list):  # of /v1/responses
        said = [item for item in answer["output"] if isinstance(item, dict) and item.get("type") == "message"]
        found["completion"] = "".join(read_text(item.get("content")) for item in said)
        cut = first_of(answer, "incomplete_details.reason")
        found["finish_reason"] = cut or "stop"
    elif isinstance(answer.get("candidates"), list):  # an empty one: Gemini refused
        found["completion"] = ""
    elif "content" in answer:  # of /v1/messages
        found["completion"] = read_text(answer["content"])
        found |= known(finish_reason=answer.get("stop_reason"))
    return found


def choices_of(answer: Any) -> list[Json]:
    """The answers to one request: several where it asked for them (`n`, `candidateCount`); none for other servers."""
    return next((answer[name] for name in ("choices", "candidates") if isinstance(answer.get(name), list)), [])


def _read_choice(choice: Json) -> Json:
    """Text and end of one of them."""
    message = choice.get("message") or {}
    if message or "content" not in choice:
        text = read_text(message.get("content") if message else choice.get("text"))
    else:
        parts = lookup(choice, "content.parts") or []
        text = read_text([part for part in parts if not first_of(part, "thought")])
    return {"completion": text} | known(finish_reason=first_of(choice, "finish_reason", "finishReason"))


def _own_tokens(choice: Json) -> int | None:
    """The tokens of one of several answers, where the log counts or lists them."""
    said = first_of(choice, "tokenCount", "token_count")
    listed = first_of(choice, "token_ids", "logprobs.content", "logprobs.tokens")
    return said if isinstance(said, int) else len(listed) if isinstance(listed, list) else None


def each_answer(row: Json, choices: Sequence[Json], source: Source) -> Iterator[Json]:
    """A row for each answer to one request, of the row that a request with one answer would be.

    A server counts the tokens of all answers together, so each gets its share of them and of the money, equal as far as
    the answers are not counted one by one; so is the prompt. Rewards are a list, one for each answer: a
    single one says not which of them it is of, or whether it is of a vote among all, and is taken out. Identifiers of
    the request get the answer's number, so a table of rewards that has one for them all is not joined either.

    Example:
        >>> row = {"request_id": "r", "reward": [0, 1], "tokens": 40, "usage": {"completion_tokens": 40}}
        >>> found = each_answer(row, [{"text": "a"}, {"text": "b"}], Source(path=Path("log")))
        >>> [(one["request_id"], one["reward"], one["tokens"], one["completion"]) for one in found]
        [('r#0', 0, 20, 'a'), ('r#1', 1, 20, 'b')]
    """
    number = len(choices)
    if number < 2:
        yield row
        return
    source.note(
        "of requests with several answers each is a row, at its share of the request's tokens and money (equal, as far "
        "as the log does not count them one by one); identifiers of the request end in #0, #1, ... there"
    )
    own = [tokens for choice in choices if (tokens := _own_tokens(choice)) is not None]
    for i, choice in enumerate(choices):
        found = _share(row, i, choices, source)
        found |= {name: f"{row[name]}#{i}" for name in ANSWERED if row.get(name) not in (None, "")}
        share = found.get("tokens")
        if len(own) == number and isinstance(share, int | float) and sum(own) <= share * number:
            found["tokens"] = _whole(own[i] + share - sum(own) / number)  # what is counted for all, thoughts, is shared
        said = _read_choice(choice)
        yield found | {name: value for name, value in said.items() if value or name in row}


def _share(value: Any, i: int, choices: Sequence[Json], source: Source, spent: bool = False) -> Any:
    """What a row of a request, or a value in it, says of the answer of this number."""
    if value is choices:
        return [choices[i]]
    if isinstance(value, str) and value[:1] == "{" and (cell := read_object(value)):
        made = _share(cell, i, choices, source, spent)
        return value if made == cell else made
    if isinstance(value, dict):
        found: Json = {}
        for name, inner in value.items():
            if _plain(name) in map(_plain, REWARDS):
                listed = parse_cell(inner) if isinstance(inner, str) and inner[:1] == "[" else inner
                if isinstance(listed, list) and len(listed) == len(choices):
                    found[name] = listed[i]
                elif inner not in (None, ""):
                    source.note(
                        f"{name} left out where it is one for several answers, for it says not of which: give a list "
                        "of them, or join a table with request_id (ID#0, ID#1, ...) and reward"
                    )
            elif name in TEXTS and not spent:
                found[name] = inner
            else:
                of_spent = (spent or SPENT.search(str(name)) is not None) and not ALLOWED.search(str(name))
                found[name] = _share(inner, i, choices, source, of_spent)
        return found
    if spent and isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value):
        value = float(value)
    return _whole(value / len(choices)) if spent and isinstance(value, int | float) and value is not True else value


def _plain(name: Any) -> str:
    return re.sub(r"[\W_]+", "", str(name)).casefold()


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def read_request(asked: Any) -> Json:
    """What a request to such a server asks: its prompt, model and effort."""
    effort = first_of(
        asked,
        "reasoning_effort",
        "reasoning.effort",
        "output_config.effort",
        "chat_template_kwargs.reasoning_effort",
        "extra_body.reasoning_effort",
        "thinking.budget_tokens",
        "reasoning.max_tokens",
        *(f"{at}.{level}" for at in GEMINI_THINKING for level in ("thinkingLevel", "thinking_level", "thinkingBudget",
                                                                  "thinking_budget")),
    )  # fmt: skip
    switch = first_of(asked, "chat_template_kwargs.enable_thinking", "extra_body.chat_template_kwargs.enable_thinking",
                      "thinking.type")  # fmt: skip
    if effort is None and switch is not None:
        effort = "thinking" if switch in (True, "enabled", "adaptive") else "none"
    several = asked.get("messages") if isinstance(asked, dict) else None
    messages = several if isinstance(several, list) and len(several) > 1 else None
    return known(
        prompt=read_prompt(asked),
        user_turns=read_user_turns(asked),
        messages=messages,
        model=first_of(asked, "model"),
        effort=effort,
    )


class Asked(NamedTuple):
    """What a request of a batch asked, as far as its log says."""

    custom_id: str
    prompt: str = ""
    """Prompt of the batch's input; "" where the input is not there."""
    folder: str = ""
    model: str = ""
    num_tokens: int = 0
    """Tokens of the prompt, as the answer reports them; 0 where it does not, or where they include a tool's output."""


class Parts(NamedTuple):
    """What an identifier names."""

    whole: str
    """All but the effort."""
    stem: str
    """The same without what looks like a counter of responses: a last number, `sample3`."""
    effort: str


class Layout(NamedTuple):
    """How identifiers are put together."""

    read: Callable[[str], Parts]
    usual: bool = False
    """Whether a last number stands where responses are usually counted: behind the effort, or all of it behind one."""
    worded: bool = False
    """Whether a word says what is counted: `sample3`."""


def split_ids(ids: Sequence[str], *, counted: bool | None = None) -> Callable[[str], tuple[str, str]] | None:
    """How identifiers of requests name problem and effort: `q17-low`, `low/q17/0`; None where they do not.

    Args:
        ids: Identifiers of several requests.
        counted: Whether a last small number counts the responses to a problem, else it is a part of the problem; None:
            as far as the identifiers tell (`count_responses`).

    Returns:
        identifier -> (problem, effort): the part that is an effort's word in all of them, and the other parts, of which
        at least one stays.

    Example:
        >>> split_ids(["q1-low", "q1-high"])("q1-low")
        ('q1', 'low')
        >>> split = split_ids(["low/q17/0", "low/q17/1", "high/q17/0"])
        >>> split("low/q17/1"), split("high/3")
        (('q17', 'low'), ('3', 'high'))
    """
    layout = _layout(ids)
    if layout is None:
        return None
    if counted is None:
        counted = count_responses([Asked(name) for name in ids])[0]

    def split(text: str) -> tuple[str, str]:
        found = layout.read(text)
        return found.stem if counted else found.whole, found.effort

    return split


def _layout(ids: Sequence[str]) -> Layout | None:
    """How identifiers are put together; None where they name no effort, or nothing else."""
    for sign in ("|", "/", ":", "__", "--", "_", "-", "."):
        parts = [text.split(sign) for text in ids]
        fewest = min(map(len, parts), default=0)
        if fewest < 2:
            continue
        for at in (*range(fewest), *range(-fewest, 0)):  # counted from either end, for problems' names have parts too
            efforts = {one[at] for one in parts}
            if {effort.lower() for effort in efforts} <= set(EFFORTS) and len(efforts) > 1:
                rests = [_without(one, at) for one in parts]
                if all(map(any, rests)):
                    return _parted(sign, at, parts, rests)
    sentences = all(len(EFFORT_WORD.findall(text)) == 1 and re.search(r"\w", _find_parts(text).whole) for text in ids)
    if sentences and len(set(map(_effort_in, ids))) > 1:
        return Layout(_find_parts, worded=any(map(SAMPLE.search, ids)))
    return None


def _parted(sign: str, at: int, parts: Sequence[list[str]], rests: Sequence[list[str]]) -> Layout:
    """Parts between signs, of which the one at this place is the effort and the others are the rests."""
    numbered = all(SMALL.fullmatch(rest[-1]) for rest in rests)

    def read(text: str) -> Parts:
        one = text.split(sign)
        if not -len(one) <= at < len(one):
            return Parts(text, text, "")
        rest = _without(one, at)
        kept = [part for part in rest if not SAMPLE.fullmatch(part)]
        if numbered and len(kept) == len(rest) and SMALL.fullmatch(kept[-1]):  # where no word says what counts
            kept = kept[: -2 if _is_worded(kept) else -1]
        whole = sign.join(rest)
        return Parts(whole, sign.join(kept) or whole, one[at])

    first = all(at % len(one) == 0 for one in parts)
    behind = all(at % len(one) == len(one) - 2 for one in parts)
    return Layout(
        read,
        usual=numbered and (first or behind or all(map(_is_worded, rests))),
        worded=any(map(SAMPLE.fullmatch, chain.from_iterable(rests))),
    )


def _without(parts: list[str], at: int) -> list[str]:
    at %= len(parts)
    return parts[:at] + parts[at + 1 :]


def _is_worded(parts: Sequence[str]) -> bool:
    """Whether the last part is said to count: `sample`, `3`."""
    return len(parts) > 1 and parts[-2].lower() in COUNTERS


def _find_parts(text: str) -> Parts:
    """The parts of an identifier that is a sentence."""
    whole = EFFORT_WORD.sub("", text)
    stem = SAMPLE.sub("", whole)
    return Parts(whole, stem if re.search(r"\w", stem) else whole, _effort_in(text))


def count_responses(asked: Sequence[Asked]) -> tuple[bool, str]:
    """Whether what is numbered in identifiers are the responses to a problem, and what to say of it.

    What was asked decides: requests that differ by the number alone ask the same if it counts responses. Without the
    batch's input, prompts of different lengths say that it does not, and the identifiers themselves the rest: the
    number counts responses behind names of problems (`q17-low-0`), and problems behind the name of a data set
    (`gsm8k-low-0`).

    Example:
        >>> ids = ["gsm8k-low-0", "gsm8k-low-1", "gsm8k-high-0", "gsm8k-high-1"]
        >>> count_responses([Asked(name) for name in ids])[0]
        False
        >>> count_responses([Asked(name, prompt="What is 2 + 2?") for name in ids])[0]
        True
    """
    layout = _layout([one.custom_id for one in asked])
    if layout is None:
        return True, ""
    parts = [layout.read(one.custom_id) for one in asked]
    stems = {found.stem for found in parts}
    if all(found.stem == found.whole for found in parts):
        return True, ""
    several: list[list[Asked]] = []
    for folders in ([one.folder for one in asked], [""] * len(asked)):  # a prompt may have a form of its own in each
        alike: dict[tuple[str, ...], dict[str, Asked]] = {}
        for one, found, folder in zip(asked, parts, folders, strict=True):
            alike.setdefault((folder, one.model, found.stem, found.effort), {})[one.custom_id] = one
        several = several or [list(ones.values()) for ones in alike.values() if len(ones) > 1]
    prompts = [[one.prompt for one in ones if one.prompt] for ones in several]
    lengths = [[one.num_tokens for one in ones if one.num_tokens] for ones in several]
    if any(len(set(texts)) > 1 for texts in prompts):
        return False, f"{PROBLEMS}: requests that differ by it alone ask different things"
    if any(len(set(counts)) > 1 for counts in lengths):
        return False, f"{PROBLEMS}: requests that differ by it alone have prompts of different lengths"
    if any(len(texts) > 1 for texts in prompts):
        return True, ""
    if (layout.worded and len(stems) > 1) or (layout.usual and not several):
        return True, ""
    told = ", as far as identifiers tell (the batch's input, in its folder, would tell surely)"
    of_problems = (
        all(re.search(rf"{NUMBER.pattern}$", stem) for stem in stems)
        or len({NUMBER.sub("#", stem) for stem in stems}) < len(stems)
        or len(stems) > max(map(len, several), default=1)
    )
    if (layout.usual or layout.worded) and of_problems:
        return True, f"what is numbered in custom_id are responses to a problem{told}"
    return False, f"{PROBLEMS}{told}"


def _effort_in(text: str) -> str:
    found = EFFORT_WORD.search(text)
    return found[0] if found else ""


# --- OpenAI: batches, pairs of request and response, stored objects ---


def is_batch(row: Json) -> bool:
    """A line of the output or of the input of a batch, of OpenAI's or (`result`) Anthropic's."""
    names = set(row)
    return {"custom_id", "response", "error"} <= names or _is_input(row) or _is_anthropic(row)


def _is_input(row: Json) -> bool:
    return {"custom_id", "body", "url"} <= set(row) or ("custom_id" in row and isinstance(row.get("params"), dict))


def _is_anthropic(row: Json) -> bool:
    return "custom_id" in row and isinstance(lookup(row, "result.type"), str)


def convert_batch(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Outputs of a batch, joined by `custom_id` to the inputs that are in the same folder."""
    peeked = list(islice(rows, NUM_PEEKED))
    if _is_input(peeked[0][1]):
        if file == source.path:
            raise LogError(
                f"{file}: the input of a batch, which has no answers; name its output, or the folder of both"
            )
        return
    asked = _asked_in(file.parent)
    if asked:
        source.note(f"joined to {len(asked)} requests of the batch's input by custom_id")
    if not source.custom_ids:  # of all outputs, for one may hold a single effort, or begin with one
        outputs = data_files(source.path) if source.path.is_dir() else [file]
        folders = {file.parent: asked}
        answered: list[Asked] = []
        for output in outputs:
            if output.parent not in folders:
                folders[output.parent] = _asked_in(output.parent)
            answered += _answered(output, folders[output.parent])
        source.custom_ids.extend(one.custom_id for one in answered)
        counted, note = count_responses(answered)
        source.are_problems = not counted
        if note:
            source.note(note)
    split = split_ids(source.custom_ids, counted=not source.are_problems)
    if split:
        name = source.custom_ids[0]
        source.note("custom_id {} = problem {}, effort {}".format(name, *split(name)))
    for place, row in chain(peeked, rows):
        answer = first_of(row, "response.body", "result.message")
        if not isinstance(answer, dict) or row.get("error") or answer.get("error") or _failed(row.get("response")):
            source.left_out["failed requests"] += 1
            continue
        name = str(row["custom_id"])
        one: Json = {**row, "request_id": name, **asked.get(name, {})}
        found = read_completion(answer)
        one |= {key: value for key, value in found.items() if key not in ("model", "effort") or key not in one}
        if split:
            one["problem_id"], effort = split(name)
            one.setdefault("effort", effort)
        elif "prompt" not in one:
            one["problem_id"] = name
        for found in each_answer(one, choices_of(answer), source):
            yield place, found


def _asked_in(folder: Path) -> dict[str, Json]:
    """What the batches' inputs in a folder ask, by `custom_id`."""
    asked: dict[str, Json] = {}
    for other in folder.iterdir():
        if kind_of(other) in LINES:
            mine = _inputs(other)
            if differ := next((name for name in mine if asked.get(name, mine[name]) != mine[name]), ""):
                raise LogError(
                    f"{other}: asks custom_id {differ!r} in another way than another file of its folder; give "
                    "each batch, "
                    "input and output, a folder of its own, such as effort=low/"
                )
            asked |= mine
    return asked


def _answered(file: Path, asked: dict[str, Json]) -> Iterator[Asked]:
    """The requests that a batch's output answers."""
    is_text = kind_of(file) in (*LINES, "json")
    rows = (row for _, row in read_rows(file) if not isinstance(row, LogError)) if is_text else iter(())
    first = next(rows, None)
    if first is None or not is_batch(first) or _is_input(first):
        return
    for row in chain([first], rows):
        answer = first_of(row, "response.body", "result.message")
        if answer and not lookup(answer, "error"):
            name = str(row.get("custom_id"))
            length = sum(prompt_counts(first_of(answer, *USAGES)).values()) if not lookup(answer, "tools") else 0
            yield Asked(
                name,
                prompt=first_of(asked.get(name), "user_turns", "prompt") or "",
                folder=str(file.parent),
                model=str(lookup(answer, "model")),
                num_tokens=length,
            )


def _failed(response: Any) -> bool:
    status = lookup(response, "status_code")
    return isinstance(status, int) and status >= 400


def _inputs(file: Path) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for _, row in read_rows(file):
        if isinstance(row, LogError) or not _is_input(row):
            return found
        found[str(row["custom_id"])] = read_request(first_of(row, "body", "params"))
    return found


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and (
        value.get("object") in ("chat.completion", "text_completion", "response")
        or ("usage" in value and ("choices" in value or "output" in value or "stop_reason" in value))
        or ("candidates" in value and ("usageMetadata" in value or "usage_metadata" in value))
    )


def _pair_of(row: Json) -> tuple[Any, Any]:
    """(request, response) of a row that holds both, or is the response itself."""
    if _is_answer(row):  # the fields of its request may be next to its own
        return row.get("request") or row.get("input") or (row if row.get("messages") else {}), row
    answer = next(
        (row[name] for name in ("response", "completion", "output", "result") if _is_answer(row.get(name))), None
    )
    return next((row[name] for name in ("request", "body", "input", "params", "kwargs") if row.get(name)), {}), answer


def is_pair(row: Json) -> bool:
    """A response, alone or next to its request."""
    return _pair_of(row)[1] is not None


def convert_pairs(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Problem, effort and reward may be among the row's own fields or in the metadata."""
    for place, row in rows:
        asked, answer = _pair_of(row)
        if answer is None or answer.get("error"):
            source.left_out["failed requests"] += 1
            continue
        about = answer.get("metadata") or (asked.get("metadata") if isinstance(asked, dict) else None) or {}
        one: Json = {
            **row,
            "request_id": first_of(answer, "id", "responseId", "response_id"),
            **known(prompt=read_prompt(asked) or None, user_turns=read_user_turns(asked)),
        }
        one |= read_completion(answer)
        effort = read_request(asked).get("effort") if isinstance(asked, dict) else None
        one |= known(effort=effort or first_of(about, "effort", "reasoning_effort", "response_group", "group"))
        # A batch of Gemini calls its requests by a key.
        own = first_of(row, *PROBLEM_NAMES, *(["id", "key"] if answer is not row or "candidates" in row else []))
        one |= known(reward=first_of(about, "reward", "correct", "score"))
        one |= known(problem_id=own or first_of(about, *PROBLEM_NAMES, "id"))
        for found in each_answer(one, choices_of(answer), source):
            yield place, found


# --- Gateways and observability: LiteLLM, Langfuse, Helicone, OpenTelemetry ---


ANSWERS_NOTHING = re.compile(
    r"_?a?(?:embedding|rerank|moderation|search|speech|transcription|image_\w+|\w*(?:batch|file)\w*)"
)
"""Kinds of calls in LiteLLM's spend log in which no model answers a prompt."""


def is_litellm(row: Json) -> bool:
    """A row of the table LiteLLM_SpendLogs, or of the standard log that it sends to buckets and callbacks."""
    return {"request_id", "spend", "startTime"} <= set(row) or {"response_cost", "call_type", "startTime"} <= set(row)


def convert_litellm(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Effort and prompt are in the stored request, if requests are stored; problem and reward in the metadata."""
    for place, row in rows:
        if str(row.get("status") or "success").lower() != "success":
            source.left_out["failed requests"] += 1
            continue
        if str(row.get("cache_hit")).lower() == "true":
            source.left_out["answers from the cache, which cost nothing"] += 1
            continue
        if ANSWERS_NOTHING.fullmatch(str(row.get("call_type"))):
            source.left_out["calls that answer no prompt (embeddings and the like)"] += 1
            continue
        about, whole = row.get("metadata"), {"asked": row.get("proxy_server_request"), "answer": row.get("response")}
        asked = read_request(read_object(first_of(whole, "asked.body", "asked") or row.get("model_parameters")))
        answer = read_object(whole["answer"])
        messages = row.get("messages")
        if messages not in (None, "", "{}", {}, "[]") and "redacted-by-litellm" not in str(messages):
            asked |= known(prompt=read_prompt(messages), user_turns=read_user_turns(messages))
        said = known(prompt=asked.get("prompt") or None, user_turns=asked.get("user_turns"))
        one: Json = {**row, **read_completion(answer), **said}
        if told := read_object(first_of(about, "usage_object", "additional_usage_values")):
            one |= prompt_counts({"prompt_tokens": row.get("prompt_tokens"), **told})
        one |= known(
            request_id=first_of(row, "request_id", "id"),
            cost_usd=first_of(row, "spend", "response_cost"),
            tokens=row.get("completion_tokens"),
            model=row.get("model_group") or row.get("model"),
            thinking_tokens=first_of(
                about,
                "usage_object.completion_tokens_details.reasoning_tokens",
                "additional_usage_values.completion_tokens_details.reasoning_tokens",
            ),
            effort=asked.get("effort") or first_of(about, *_under("effort", "reasoning_effort")),
            problem_id=first_of(about, *_under(*PROBLEM_NAMES)),
            reward=first_of(about, *_under("reward", "score", "correct")),
        )
        for found in each_answer(one, choices_of(answer), source):
            yield place, found


def _under(*names: str) -> list[str]:
    """Where the caller's own fields may be in a spend log's metadata."""
    return [f"{at}{name}" for at in ("spend_logs_metadata.", "requester_metadata.", "") for name in names]


LANGFUSE = {
    "traceId": ("trace_id",),
    "usageDetails": ("usage_details",),
    "modelParameters": ("model_parameters",),
    "model": ("provided_model_name",),
    "totalCost": ("total_cost", "calculatedTotalCost"),
}
"""Column of an export of the page -> what the programming interface and the export to a bucket call it."""


def is_langfuse(row: Json) -> bool:
    """A row of an export of observations or of traces."""
    names = set(row)
    of_trace = {"timestamp", "userId", "sessionId", "input", "output"} <= names
    return {"usageDetails", "traceId"} <= names or {"usage_details", "trace_id"} <= names or of_trace


def convert_langfuse(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Reward = the score named by --metric, else the first numeric one; the scores are columns of lists."""
    peeked = list(islice(rows, NUM_PEEKED))
    columns = dict.fromkeys(name for _, row in peeked for name in row)
    # One for all rows: those that it was not given for have no reward, rather than another score.
    first = next((str(x) for x in columns if any(_mean_score(row.get(x)) is not None for _, row in peeked)), "")
    for place, row in chain(peeked, rows):
        row = {name: first_of(row, *others) for name, others in LANGFUSE.items() if name not in row} | row
        if (row.get("type") or "GENERATION") != "GENERATION":
            source.left_out["observations in which no model answers (spans, events, tools)"] += 1
            continue
        if row.get("level") == "ERROR":
            source.left_out["failed requests"] += 1
            continue
        about, tags = read_object(row.get("metadata")), str(row.get("tags") or row.get("traceTags") or "")
        tag = next((word for word in EFFORTS if re.search(rf"\b{word}\b", tags)), None)
        scores = {str(name): score for name, value in row.items() if (score := _mean_score(value)) is not None}
        name = source.metric or first
        if name in scores and not source.reward:
            others = f" of {', '.join(scores)} (--columns reward=NAME names another)" if len(scores) > 1 else ""
            source.note(f"reward = score {name}{others}")
        if row["usageDetails"] is None:
            source.note("an export of traces holds no tokens: export the observations")
        one = (
            row
            | scores
            | read_usage(_whole_input(read_object(row.get("usageDetails"))))
            | known(
                request_id=row["id"],
                trace_id=row["traceId"],
                effort=first_of(row, "modelParameters.reasoning_effort", "modelParameters.reasoning.effort")
                or first_of(about, "effort", "reasoning_effort")
                or tag,
                problem_id=first_of(about, *PROBLEM_NAMES),
                cost_usd=row.get("totalCost") or None,
                prompt=read_prompt(row.get("input")) or None,
                user_turns=read_user_turns(row.get("input")),
                completion=read_text(first_of(row, "output.content") or row.get("output")) or None,
                reward=scores.get(name),
            )
        )
        said, asked = _messages(row.get("output")), lookup(row, "modelParameters.n")
        choices = [{"message": answer} for answer in said] if isinstance(said, list) and asked == len(said) else []
        for found in each_answer(one, choices, source):
            yield place, found


def _whole_input(usage: Json) -> Json:
    """The usage with the kinds of tokens of the prompt that are no cache's (`input_audio_tokens`) among `input`."""
    kinds = [name for name, count in usage.items() if name.startswith("input_") and isinstance(count, int | float)
             and name not in ("input_tokens", *CACHE_READ, *CACHE_WRITTEN)]  # fmt: skip
    return usage | (
        {"input": usage["input"] + sum(usage[name] for name in kinds)} if kinds and "input" in usage else {}
    )


def _mean_score(value: Any) -> float | None:
    """The mean of a list of numbers from 0 to 1, or of a cell that holds one."""
    if isinstance(value, str) and re.fullmatch(r"\[[\d., ]+\]", value):
        value = parse_json("", value)
    numbers = value if isinstance(value, list) else []
    if not numbers or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers):
        return None
    return sum(numbers) / len(numbers)


def is_helicone(row: Json) -> bool:
    """A row of an export of requests."""
    return {"request_properties", "completion_tokens", "response_status"} <= set(row)


def convert_helicone(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Problem, effort and reward may be among the custom properties, whose names are written with capitals."""
    for place, row in rows:
        status = str(row.get("response_status") or "")
        if status.isdigit() and int(status) >= 400:
            source.left_out["failed requests"] += 1
            continue
        about = {str(name).lower(): value for name, value in read_object(row.get("request_properties")).items()}
        asked, answer = read_request(read_object(row.get("request_body"))), read_object(row.get("response_body"))
        one = (
            row
            | read_completion(answer)
            | asked
            | known(
                request_id=row.get("request_id") or row.get("response_id"),
                model=row.get("model"),
                effort=asked.get("effort") or first_of(about, "effort", "reasoning_effort"),
                tokens=row.get("completion_tokens") or None,
                cost_usd=row.get("cost_usd") or None,
                problem_id=first_of(about, *PROBLEM_NAMES),
                reward=first_of(about, "reward", "score", "correct"),
            )
        )
        for found in each_answer(one, choices_of(answer), source):
            yield place, found


# --- OpenTelemetry: spans by the semantic conventions for generative AI, as the SDK or the collector writes them ---


OLDER = {
    "gen_ai.request.model": ("llm.model_name",),
    "gen_ai.usage.output_tokens": ("gen_ai.usage.completion_tokens", "llm.usage.completion_tokens",
                                   "llm.token_count.completion"),
    "gen_ai.usage.input_tokens": ("gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt"),
    "gen_ai.usage.cache_read.input_tokens": ("gen_ai.usage.cache_read_input_tokens",
                                             "llm.token_count.prompt_details.cache_read"),
    "gen_ai.response.finish_reasons": ("gen_ai.completion.0.finish_reason", "llm.finish_reason"),
}  # fmt: skip
"""Attribute of the conventions -> what it is called in older ones and in OpenInference's."""
ANSWERING = ("chat", "text_completion", "completion", "generate_content", "llm")
"""Kinds of spans in which a model answers."""


def is_otel(row: Json) -> bool:
    """A span of the SDK's console exporter, or a batch of the collector's file exporter.

    The first span of a file need not be of a model: a call's own connection ends before it.
    """
    attributes, context = row.get("attributes"), row.get("context")
    of_console = isinstance(context, dict) and {"trace_id", "span_id"} <= set(context) and "parent_id" in row
    return is_otlp(row) or (isinstance(attributes, dict) and (of_console or _is_of_model(attributes)))


def _is_of_model(attributes: Json) -> bool:
    """Whether a span is of a model's work, rather than of the application around it."""
    of_model = attributes.get("openinference.span.kind") in ("LLM", "EMBEDDING")
    return of_model or any(str(name).startswith("gen_ai.") for name in attributes)


def is_otlp(document: Any) -> bool:
    """A batch of spans or logs, as the collector's file exporter writes it."""
    return isinstance(document, dict) and ("resourceSpans" in document or "resourceLogs" in document)


def convert_otel(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Group = an attribute that ends in `effort`, else the model; reward = the evaluation event of the span.

    Where there are several evaluations it is the one named by --metric, else the first; the others are columns.
    """
    for place, one, choices in _once_each(_responses_of(rows, source, file), source):
        for found in each_answer(one, choices, source):
            yield place, found


def _responses_of(rows: Iterator[Row], source: Source, file: Path) -> Iterator[tuple[str, Json, list[Json]]]:
    """The spans in which a model answered, and the answers of each."""
    if file.parent not in source.evaluations:  # read once, however many files of spans are there
        scores: dict[str, Json] = {}
        for other in sorted(file.parent.iterdir()):
            for row in _otel_batches(other):
                for key, values in _evaluations(row).items():
                    scores.setdefault(key, {}).update(values)
        source.evaluations[file.parent] = scores
    scores, wanted = source.evaluations[file.parent], source.metric
    for place, row in rows:
        for span in _spans(row):
            about: Json = span["attributes"]
            if not _is_of_model(about):
                source.left_out["spans without attributes gen_ai.*, which are not of a model"] += 1
                continue
            about = {name: value for name, others in OLDER.items()
                     if (value := first_of(about, *others)) is not None} | about  # fmt: skip
            model = first_of(about, "gen_ai.request.model", "gen_ai.response.model")
            kind = first_of(about, "gen_ai.operation.name", "llm.request.type", "openinference.span.kind")
            answers = model is not None if kind is None else str(kind).lower() in ANSWERING
            failed = "error.type" in about or str(lookup(span, "status.code")) in ("2", "STATUS_CODE_ERROR")
            if answers and (failed or lookup(span, "status.status_code") == "ERROR"):
                source.left_out["failed requests"] += 1
                continue
            if not answers:
                source.left_out["spans in which no model answers a prompt (agents, tools, embeddings)"] += 1
                continue
            told = read_usage({"completion_tokens": about.get("gen_ai.usage.output_tokens")})
            told |= prompt_counts(
                {
                    "prompt_tokens": about.get("gen_ai.usage.input_tokens"),
                    "cache_read_input_tokens": about.get("gen_ai.usage.cache_read.input_tokens"),
                    "cache_creation_input_tokens": about.get("gen_ai.usage.cache_creation.input_tokens"),
                }
            )
            ends = _messages(about.get("gen_ai.response.finish_reasons"))
            said = first_of(about, "gen_ai.output.messages") or _numbered(about, "completion", "output_messages")
            asked = first_of(about, "gen_ai.input.messages") or _numbered(about, "prompt", "input_messages")
            request = first_of(about, "gen_ai.response.id", "output.value.id")
            mine = _evaluations(span) | scores
            keys = [str(key) for key in (request, span["span_id"]) if key is not None]
            mine = next((mine[key] for key in keys if key in mine), {})
            wanted = wanted or next(iter(mine), "")
            if len(mine) > 1 and not source.reward:
                names = ", ".join(sorted(mine))
                source.note(f"reward = evaluation {wanted} of {names} (--columns reward=NAME names another)")
            one = (
                {name: value for name, value in mine.items() if name not in span}
                | span
                | told
                | known(
                    request_id=request,
                    trace_id=span["trace_id"],
                    model=model,
                    effort=_ending(about, "reasoning_effort", "reasoning.effort", "reasoning.level", "effort")
                    or read_request(read_object(about.get("llm.invocation_parameters"))).get("effort"),
                    problem_id=_ending(about, *(f".{name}" for name in PROBLEM_NAMES)),
                    thinking_tokens=_ending(
                        about, "reasoning.output_tokens", "reasoning_tokens", "completion_details.reasoning"
                    ),
                    finish_reason=ends[0] if isinstance(ends, list) and ends else ends,
                    prompt=_said(asked, last=True) or None,
                    user_turns=read_user_turns(asked),
                    messages=_chat(about, asked),
                    completion=_said(said, last=False) or None,
                    reward=mine.get(wanted),
                )
            )
            yield place, one, _generations(ends, said)


def _once_each(spans: Iterator[tuple[str, Json, list[Json]]], source: Source) -> Iterator[tuple[str, Json, list[Json]]]:
    """The responses of spans, each once: two instrumentations of one call write a span each, one inside of the other.

    The one of them that says the effort is kept, else the first; the other fills what it lacks.
    """
    held: dict[tuple[Any, Any], tuple[str, Json, list[Json]]] = {}
    seen: set[tuple[Any, Any]] = set()
    for place, one, choices in spans:
        key = one["trace_id"], one.get("request_id") or one["span_id"] or place
        if key in seen:
            source.left_out["spans of a response that another span of its trace has too"] += 1
            if key in held:
                kept, other = held[key], (place, one, choices)
                if "effort" in one and "effort" not in kept[1]:
                    kept, other = other, kept
                more = {name: other[1][name] for name in ("problem_id", "reward", "prompt", "completion")
                        if name in other[1]}  # fmt: skip
                held[key] = kept[0], more | kept[1], kept[2]
            continue
        seen.add(key)
        held[key] = place, one, choices
        if len(held) > NUM_PEEKED:  # they end one right after the other
            yield held.pop(next(iter(held)))
    yield from held.values()


def _otel_batches(file: Path) -> Iterator[Json]:
    """What a file next to the spans may hold of their evaluations: objects of JSON."""
    kind = kind_of(file)
    if kind in LINES:
        yield from (row for _, row in read_rows(file) if not isinstance(row, LogError))
    elif kind == "json":
        document: Any = None
        with suppress(LogError, *UNREADABLE), open_text(file) as opened:  # it need not be theirs
            document = read_document(file, opened.read())
        yield from (row for row in (document if isinstance(document, list) else [document]) if isinstance(row, dict))


def _generations(ends: Any, said: Any) -> list[Json]:
    """The answers of a span that got several: each has a reason why it ended, and a message where texts are stored."""
    messages = _messages(said)
    if not isinstance(ends, list) or (isinstance(messages, list) and len(messages) not in (0, len(ends))):
        return []
    texts = [_said([one], last=False) for one in messages] if isinstance(messages, list) else []
    return [{"text": text, "finish_reason": end} for text, end in zip(texts or [""] * len(ends), ends, strict=True)]


def _spans(row: Json) -> Iterator[Json]:
    """The spans of a row, their attributes as an object."""
    if "attributes" in row and "resourceSpans" not in row:
        about = row.get("context") or row
        yield {
            **row,
            "trace_id": first_of(about, "trace_id", "traceId"),
            "span_id": first_of(about, "span_id", "spanId"),
        }
    for batch in row.get("resourceSpans") or ():
        for scope in batch.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                yield {**span, "attributes": _attributes(span), "trace_id": span.get("traceId"),
                       "span_id": span.get("spanId")}  # fmt: skip


def _attributes(one: Json) -> Json:
    """OTLP's list of keys and typed values, as an object."""
    listed = one.get("attributes")
    if isinstance(listed, dict):
        return listed
    return {str(pair["key"]): _value(pair.get("value")) for pair in listed or () if "key" in pair}


def _value(value: Any) -> Any:
    """A typed value of OTLP; whole numbers are texts there."""
    if not isinstance(value, dict):
        return value
    if "intValue" in value:
        return int(value["intValue"])
    if "arrayValue" in value:
        return [_value(one) for one in lookup(value, "arrayValue.values") or ()]
    return next(iter(value.values()), None)


def _evaluations(row: Json) -> dict[str, Json]:
    """Id of the response or of the span -> name of the evaluation -> score, of the events of a batch or a span."""
    logs = (log for batch in row.get("resourceLogs") or () for scope in batch.get("scopeLogs") or ()
            for log in scope.get("logRecords") or ())  # fmt: skip
    found: dict[str, Json] = {}
    for event in chain(logs, row.get("events") or ()):
        about = _attributes(event)
        score = about.get("gen_ai.evaluation.score.value")
        if score is not None:
            of_span = event.get("spanId") or first_of(row, "span_id", "context.span_id")
            key = first_of(about, "gen_ai.response.id") or of_span
            if key is None:
                continue  # nobody knows of which answer
            found.setdefault(str(key), {})[str(about.get("gen_ai.evaluation.name") or "evaluation")] = score
    return found


def _ending(about: Json, *ends: str) -> Any:
    """The value of the first attribute whose name is one of these, or ends in it."""
    return next((about[name] for end in ends for name in about if name == end or name.endswith(end)), None)


def _messages(said: Any) -> Any:
    """Messages, of which an attribute may hold the JSON."""
    if isinstance(said, str) and said[:1] == "[":
        try:
            return parse_json("", said)
        except LogError:
            return said
    return said


def _numbered(about: Json, *heads: str) -> list[Json]:
    """Messages whose parts are attributes of their own, as in older conventions and in OpenInference's.

    Example:
        >>> _numbered({"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Hi"}, "prompt")
        [{'role': 'user', 'content': 'Hi'}]
    """
    found: dict[int, Json] = {}
    for name, value in about.items():
        part = re.fullmatch(rf"(?:gen_ai|llm)\.(?:{'|'.join(heads)})\.(\d+)\.(?:.+\.)?(role|content|text)", name)
        if part and part[2] == "role":
            found.setdefault(int(part[1]), {})["role"] = value
        elif part:
            one = found.setdefault(int(part[1]), {})
            one["content"] = one.get("content", "") + read_text(value)
    return [found[number] for number in sorted(found)]


def _chat(about: Json, asked: Any) -> list[Json] | None:
    """All messages of a request with their contents, where that is more than one text of a user."""
    listed, told = _messages(asked), _said(about.get("gen_ai.system_instructions"), last=False)
    users = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    whole = [{"role": "system", "content": told}] * bool(told)
    whole += [{"role": one.get("role") or "user", "content": first_of(one, "content", "parts")} for one in users]
    return whole if users and len(whole) > 1 else None


def _said(messages: Any, *, last: bool) -> str:
    """The text of the last message, or of all of them; its parts are `{"type": "text", "content": ...}`."""
    messages = _messages(messages)
    if not isinstance(messages, list):
        return "" if messages is None else str(messages)
    chosen = messages[-1:] if last else messages
    return "".join(read_text(first_of(one, "parts", "content")) for one in chosen)
