"""Logs of what servers answered, as OpenAI's API, gateways and tracing tools store them, as rows of ours.

Each `convert_*` takes the good rows of one file and hands on those that are responses: beside what was there `effort`,
`model`, `problem_id` or `prompt`, `tokens`, `thinking_tokens`, `finish_reason`, `completion` and `reward`, as far as
they are known. Requests that failed are counted, not handed on.
"""

# A log holds anything.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ibpo.data.fields import (
    PROBLEM_NAMES,
    USAGES,
    Json,
    first_of,
    known,
    lookup,
    prompt_counts,
    read_object,
    read_prompt,
    read_text,
    read_usage,
)
from ibpo.data.files import LINES, NUM_PEEKED, LogError, Row, Source, data_files, kind_of, parse_json, read_rows

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
"""Words for an effort that stand in identifiers of requests."""
EFFORT_WORD = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(EFFORTS)})(?![a-z0-9])")
SAMPLE = re.compile(r"(?i)(?<![a-z0-9])(sample|attempt|trial|repeat|rep|run|seed|try|epoch)[ _=#-]?\d{1,3}(?![a-z0-9])")
"""What counts the responses of a request: `sample3`."""


GEMINI_THINKING = ("generationConfig.thinkingConfig", "config.thinkingConfig", "config.thinking_config")


def read_completion(answer: Any) -> Json:
    """What an answer of an OpenAI-compatible server (chat, completions, responses), Anthropic's or Gemini's says."""
    model = first_of(answer, "model", "modelVersion", "model_version")
    effort = first_of(answer, "reasoning.effort", "reasoning_effort")
    found: Json = {**read_usage(first_of(answer, *USAGES)), **known(model=model, effort=effort)}
    choices = answer.get("choices")
    if isinstance(choices, list) and choices:
        message = choices[0].get("message") or {}
        found["completion"] = read_text(message.get("content") if message else choices[0].get("text"))
        found |= known(finish_reason=choices[0].get("finish_reason"))
    elif isinstance(answer.get("output"), list):  # of /v1/responses
        said = [item for item in answer["output"] if isinstance(item, dict) and item.get("type") == "message"]
        found["completion"] = "".join(read_text(item.get("content")) for item in said)
        cut = first_of(answer, "incomplete_details.reason")
        found["finish_reason"] = cut or "stop"
    elif isinstance(answer.get("candidates"), list):
        parts = lookup(answer, "candidates.0.content.parts") or []
        found["completion"] = read_text([part for part in parts if not first_of(part, "thought")])
        found |= known(finish_reason=first_of(answer, "candidates.0.finishReason", "candidates.0.finish_reason"))
    elif "content" in answer:  # of /v1/messages
        found["completion"] = read_text(answer["content"])
        found |= known(finish_reason=answer.get("stop_reason"))
    return found


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
    return known(prompt=read_prompt(asked), messages=messages, model=first_of(asked, "model"), effort=effort)


def split_ids(ids: Sequence[str]) -> Callable[[str], tuple[str, str]] | None:
    """How identifiers of requests name problem and effort: `q17-low`, `low/q17/0`; None where they do not.

    Args:
        ids: Of several requests.

    Returns:
        identifier -> (problem, effort): the part that is an effort's word in all of them, and the other parts; a last
        part that is a small number behind it counts the responses.

    Example:
        >>> split_ids(["q1-low", "q1-high"])("q1-low")
        ('q1', 'low')
    """
    for sign in ("|", "/", ":", "__", "--", "_", "-", "."):
        parts = [text.split(sign) for text in ids]
        fewest = min(map(len, parts), default=0)
        if fewest < 2:
            continue
        for at in (*range(fewest), *range(-fewest, 0)):  # counted from either end, for problems' names have parts too
            if {one[at].lower() for one in parts} <= set(EFFORTS) and len({one[at] for one in parts}) > 1:
                behind = {len(one) - at % len(one) - 1 for one in parts}
                counts = behind == {1} and all(re.fullmatch(r"\d{1,3}", one[-1]) for one in parts)

                def split(text: str, sign: str = sign, at: int = at, counts: bool = counts) -> tuple[str, str]:
                    one = text.split(sign)
                    if not -len(one) <= at < len(one):
                        return text, ""
                    at %= len(one)
                    rest = one[:at] + ([] if counts else one[at + 1 :])
                    return sign.join(x for x in rest if not SAMPLE.fullmatch(x)), one[at]

                return split
    if ids and all(len(EFFORT_WORD.findall(text)) == 1 for text in ids) and len(set(map(_effort_in, ids))) > 1:
        return lambda text: (SAMPLE.sub("", EFFORT_WORD.sub("", text)), _effort_in(text))
    return None


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
    asked: dict[str, Json] = {}
    for other in file.parent.iterdir():
        if other != file and kind_of(other) == "jsonl":
            mine = _inputs(other)
            if differ := next((name for name in mine if asked.get(name, mine[name]) != mine[name]), ""):
                raise LogError(
                    f"{other}: asks custom_id {differ!r} otherwise than another file of its folder; give each batch, "
                    "input and output, a folder of its own, such as effort=low/"
                )
            asked |= mine
    if asked:
        source.note(f"joined to {len(asked)} requests of the batch's input by custom_id")
    if not source.custom_ids:  # of all outputs, for one may hold a single effort, or begin with one
        outputs = data_files(source.path) if source.path.is_dir() else [file]
        source.custom_ids.extend(chain.from_iterable(map(_answered, outputs)))
    split = split_ids(source.custom_ids)
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
        yield place, one


def _answered(file: Path) -> list[str]:
    """The identifiers of the requests that a batch's output answers."""
    rows = (row for _, row in read_rows(file) if not isinstance(row, LogError)) if kind_of(file) in LINES else iter(())
    first = next(rows, None)
    if first is None or not is_batch(first) or _is_input(first):
        return []
    answers = ((row, first_of(row, "response.body", "result.message")) for row in chain([first], rows))
    return [str(row.get("custom_id")) for row, answer in answers if answer and not lookup(answer, "error")]


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
    if _is_answer(row):  # the fields of its request may stand beside its own
        return row.get("request") or row.get("input") or (row if row.get("messages") else {}), row
    answer = next(
        (row[name] for name in ("response", "completion", "output", "result") if _is_answer(row.get(name))), None
    )
    return next((row[name] for name in ("request", "body", "input", "params", "kwargs") if row.get(name)), {}), answer


def is_pair(row: Json) -> bool:
    """A response, alone or beside its request."""
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
            **known(prompt=read_prompt(asked) or None),
        }
        one |= read_completion(answer)
        effort = read_request(asked).get("effort") if isinstance(asked, dict) else None
        one |= known(effort=effort or first_of(about, "effort", "reasoning_effort", "response_group", "group"))
        own = first_of(row, *PROBLEM_NAMES, *(["id"] if answer is not row or "candidates" in row else []))
        one |= known(reward=first_of(about, "reward", "correct", "score"))
        yield place, one | known(problem_id=own or first_of(about, *PROBLEM_NAMES, "id"))


# --- Gateways and observability: LiteLLM, Langfuse, Helicone, OpenTelemetry ---


def is_litellm(row: Json) -> bool:
    """A row of the table LiteLLM_SpendLogs."""
    return {"request_id", "spend", "startTime"} <= set(row)


def convert_litellm(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Effort and prompt are in the stored request, if requests are stored; problem and reward in the metadata."""
    for place, row in rows:
        if str(row.get("status") or "success").lower() != "success":
            source.left_out["failed requests"] += 1
            continue
        if str(row.get("cache_hit")).lower() == "true":
            source.left_out["answers from the cache, which cost nothing"] += 1
            continue
        about, whole = row.get("metadata"), {"asked": row.get("proxy_server_request"), "answer": row.get("response")}
        asked = read_request(read_object(first_of(whole, "asked.body", "asked")))
        answer = read_object(whole["answer"])
        messages = row.get("messages")
        prompt = read_prompt(messages) if messages not in (None, "", "{}", {}, "[]") else asked.get("prompt")
        one: Json = {**row, **read_completion(answer), **known(prompt=prompt or None)}
        if told := read_object(first_of(about, "usage_object", "additional_usage_values")):
            one |= prompt_counts({"prompt_tokens": row.get("prompt_tokens"), **told})
        one |= known(
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
        yield place, one


def _under(*names: str) -> list[str]:
    """Where the caller's own fields may stand in a spend log's metadata."""
    return [f"{at}{name}" for at in ("spend_logs_metadata.", "requester_metadata.", "") for name in names]


def is_langfuse(row: Json) -> bool:
    """A row of an export of observations or of traces."""
    return {"usageDetails", "traceId"} <= set(row) or {"timestamp", "userId", "sessionId", "input", "output"} <= set(
        row
    )


def convert_langfuse(rows: Iterator[Row], source: Source, _: Path) -> Iterator[Row]:
    """Reward = the score named by --metric, else the first numeric one; the scores are columns of lists."""
    for place, row in rows:
        if row.get("type", "GENERATION") not in ("GENERATION", ""):
            continue
        if row.get("level") == "ERROR":
            source.left_out["failed requests"] += 1
            continue
        about, tags = read_object(row.get("metadata")), str(row.get("tags") or row.get("traceTags") or "")
        tag = next((word for word in EFFORTS if re.search(rf"\b{word}\b", tags)), None)
        scores = {str(name): score for name, value in row.items() if (score := _mean_score(value)) is not None}
        name = source.metric or next(iter(scores), "")
        if name in scores:
            others = f" of {', '.join(scores)} (--columns reward=NAME names another)" if len(scores) > 1 else ""
            source.note(f"reward = score {name}{others}")
        if "usageDetails" not in row:
            source.note("an export of traces holds no tokens: export the observations")
        yield (
            place,
            row
            | scores
            | read_usage(read_object(row.get("usageDetails")))
            | known(
                request_id=row["id"],
                effort=first_of(row, "modelParameters.reasoning_effort", "modelParameters.reasoning.effort")
                or first_of(about, "effort", "reasoning_effort")
                or tag,
                problem_id=first_of(about, *PROBLEM_NAMES),
                cost_usd=row.get("totalCost") or None,
                prompt=read_prompt(row.get("input")) or None,
                completion=read_text(first_of(row, "output.content") or row.get("output")) or None,
                reward=scores.get(name),
            ),
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
        asked = read_request(read_object(row.get("request_body")))
        yield (
            place,
            row
            | asked
            | known(
                request_id=row.get("request_id") or row.get("response_id"),
                model=row.get("model"),
                effort=asked.get("effort") or first_of(about, "effort", "reasoning_effort"),
                tokens=row.get("completion_tokens") or None,
                cost_usd=row.get("cost_usd") or None,
                problem_id=first_of(about, *PROBLEM_NAMES),
                reward=first_of(about, "reward", "score", "correct"),
            ),
        )


# --- OpenTelemetry: spans by the semantic conventions for generative AI, as the SDK or the collector writes them ---


def is_otel(row: Json) -> bool:
    """A span of the SDK's console exporter, or a batch of the collector's file exporter."""
    attributes = row.get("attributes")
    spans = isinstance(attributes, dict) and any(str(name).startswith("gen_ai.") for name in attributes)
    return spans or "resourceSpans" in row or "resourceLogs" in row


def convert_otel(rows: Iterator[Row], source: Source, file: Path) -> Iterator[Row]:
    """Group = an attribute that ends in `effort`, else the model; reward = the evaluation event of the span."""
    scores: dict[str, Any] = {}
    for other in file.parent.iterdir():
        if kind_of(other) == "jsonl":
            for _, row in read_rows(other):
                scores |= {} if isinstance(row, LogError) else _evaluations(row)
    for place, row in rows:
        for span in _spans(row):
            about: Json = span["attributes"]
            if about.get("gen_ai.operation.name") not in (None, "chat", "text_completion", "generate_content"):
                continue
            failed = "error.type" in about or str(lookup(span, "status.code")) in ("2", "STATUS_CODE_ERROR")
            if failed or lookup(span, "status.status_code") == "ERROR":
                source.left_out["failed requests"] += 1
                continue
            told = read_usage({"completion_tokens": about.get("gen_ai.usage.output_tokens")})
            told |= prompt_counts(
                {
                    "prompt_tokens": about.get("gen_ai.usage.input_tokens"),
                    "cache_read_input_tokens": about.get("gen_ai.usage.cache_read.input_tokens"),
                    "cache_creation_input_tokens": about.get("gen_ai.usage.cache_creation.input_tokens"),
                }
            )
            ends = about.get("gen_ai.response.finish_reasons")
            said = lookup(about, "gen_ai.output.messages")
            mine = {**_evaluations(span), **scores}
            request = about.get("gen_ai.response.id")
            yield (
                place,
                span
                | told
                | known(
                    request_id=request,
                    trace_id=span["trace_id"],
                    model=first_of(about, "gen_ai.request.model", "gen_ai.response.model"),
                    effort=_ending(about, "reasoning_effort", "reasoning.effort", "reasoning.level", "effort"),
                    problem_id=_ending(about, *(f".{name}" for name in PROBLEM_NAMES)),
                    thinking_tokens=_ending(about, "reasoning.output_tokens", "reasoning_tokens"),
                    finish_reason=ends[0] if isinstance(ends, list) and ends else ends,
                    prompt=_said(lookup(about, "gen_ai.input.messages"), last=True) or None,
                    completion=_said(said, last=False) or None,
                    reward=mine.get(str(request), mine.get(span["span_id"])),
                ),
            )


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


def _evaluations(row: Json) -> Json:
    """Id of the response or of the span -> score, of the evaluation events of a batch or a span."""
    logs = (log for batch in row.get("resourceLogs") or () for scope in batch.get("scopeLogs") or ()
            for log in scope.get("logRecords") or ())  # fmt: skip
    found: Json = {}
    for event in chain(logs, row.get("events") or ()):
        about = _attributes(event)
        score = about.get("gen_ai.evaluation.score.value")
        if score is not None:
            found[str(first_of(about, "gen_ai.response.id") or event.get("spanId") or row.get("span_id"))] = score
    return found


def _ending(about: Json, *ends: str) -> Any:
    """The value of the first attribute whose name is one of these, or ends in it."""
    return next((about[name] for end in ends for name in about if name == end or name.endswith(end)), None)


def _said(messages: Any, *, last: bool) -> str:
    """The text of the last message, or of all of them; its parts are `{"type": "text", "content": ...}`."""
    if isinstance(messages, str) and messages[:1] == "[":
        try:
            messages = parse_json("", messages)
        except LogError:
            return messages
    if not isinstance(messages, list):
        return "" if messages is None else str(messages)
    chosen = messages[-1:] if last else messages
    return "".join(read_text(first_of(one, "parts", "content")) for one in chosen)
