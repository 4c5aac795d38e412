"""The gateway's decision: which response group a request gets, what is reserved for it, and what it is charged.

`Governor.answer` is the life of one governed request, and this file follows it from top to bottom:

    read the body -> gains -> candidates -> decide and reserve -> send and pass the answer on -> settle or cancel

A response group is one way of answering, e.g. with short or extended reasoning; the standard group is the cheapest. A
budget bounds a mean per request, of tokens or of answers by one group. What must be known before anything is changed:

1. **The reserve is what the body allows.** The bound on what a budget can be overspent is a theorem about reserves
   (docs/serving.md): no answer may cost more than was reserved for it. `make_candidate` reserves `max_tokens_of` x the
   number of answers, and `write_body` writes the same number under every name of the cap.
2. **A reservation ends once.** After `_reserve`, every way out (an answer, an error, a broken stream, a caller that is
   gone, a bug) leads through `_end`, hence the `finally`. A second end would do nothing; one that is missing holds its
   reserve back from everybody until the reservation is stale.
3. **Only what cost nothing is cancelled**: the upstream gave an error, or no answer. All else is settled at the
   upstream's usage as far as the body allowed it, else at the text that came, else at what was expected; never at 0
   because nothing is known, or callers who disconnect early would get reasoning for nothing.
4. **One request, one reservation**, which counts as many requests as it asks for answers. Retries are made inside
   `Upstream.call`, below the decision. What the probe generated is charged with the answer that it was generated for.
5. **A budget costs nobody the answer.** Where it is used up, and where its store cannot be used, the request gets the
   standard group. The first is decided by the controller; the second is `ibpo_unbudgeted_total`, and is not counted.
6. **A caller decides its gain, and nothing else about the budget.** The tenant is that of its key, the slice one of the
   policy's that the key allows. No header can open an account, and none of its text goes into labels.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from aiohttp import web
from multidict import CIMultiDict

from ibpo.errors import IbpoError
from ibpo.responses import split_thought
from ibpo.serving.controller import BudgetPolicy, Candidate
from ibpo.serving.gateway.async_controller import AsyncController, OpenReservation
from ibpo.serving.gateway.gains import GainPredictor, Gains, OpeningTokens, find_gains
from ibpo.serving.gateway.openai_request import (
    Api,
    OpenAIRequest,
    Refusal,
    can_set,
    check_size,
    max_tokens_of,
    read_request,
    write_body,
)
from ibpo.serving.gateway.proxy import OWN_HEADERS, Upstream, UpstreamFault, pass_headers, relay_stream
from ibpo.serving.gateway.settings import DEFAULT_TOKENS, GroupSettings, Keys, ModelSettings, Settings
from ibpo.serving.gateway.telemetry import GroupLengths, Metrics, RequestLog, RequestRecord
from ibpo.serving.gateway.usage import StreamUsage, read_cost

SLICE_HEADER = f"{OWN_HEADERS}slice"
MAX_PROBE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Governor:
    """Answers the requests that a budget governs (`openai_request.PATHS`)."""

    settings: Settings
    controller: AsyncController
    upstream: Upstream
    metrics: Metrics
    log: RequestLog
    router: GainPredictor | None = None
    """Predicts gains."""
    lengths: GroupLengths = field(default_factory=GroupLengths)
    keys: Keys | None = None
    """The tenants'; None: nobody needs a key here, and nobody is a tenant."""

    async def answer(self, http_request: web.BaseRequest, data: bytes, tenant: str, *, api: Api) -> web.StreamResponse:
        """Decide, ask the upstream, pass the answer on, and end the reservation once, whatever happens in between.

        Args:
            http_request: The caller's.
            data: Its body, complete.
            tenant: Who asks; "" belongs to nobody.
            api: Which of the governed APIs it is.

        Raises:
            Refusal: A body or header that cannot be read, or an upstream that gave no answer.
        """
        record = RequestRecord(request_id=secrets.token_hex(16), tenant=tenant, began=time.perf_counter())
        # What is asked for, and what would each response group gain? Nothing is reserved yet: an error costs nothing.
        try:
            request = read_request(data, api=api)
            model = self.settings.model_of(request.model)
            check_size(request, model.response_group, self.settings.limits)
            path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
            headers = self.upstream.headers_for(http_request.headers, governed=True, anthropic=api == "messages")
            gains = await find_gains(
                request,
                http_request.headers,
                model,
                router=self.router,
                send_probe=lambda body: self._send_probe(body, headers, path),
                opening_tokens=self.opening_tokens,
                on_failure=lambda source: self.metrics.failures.labels(source).inc(),
            )
        except IbpoError as error:
            raise Refusal(400, "bad_request", str(error)) from None
        # Which groups compete for this request, and which of them has the budget room for at today's price?
        groups = choose_groups(request, model, gains)
        budgets = self.controller.policy.budgets
        candidates = [make_candidate(request, group, gains, budgets) for group in groups.values()]
        reservation = await self._reserve(candidates, record, http_request.headers, request.num_answers)
        # From here on nothing but `finally` ends the reservation.
        most: int | None = None
        usage = StreamUsage(strip=request.stream and model.include_usage and not request.wants_usage)
        try:
            group = groups[reservation.response_group] if reservation else next(iter(groups.values()))
            record.response_group, record.source, record.gains = group.name, gains.source, gains.by_group
            cap = max_tokens_of(request, group)
            most = None if cap is None else cap * request.num_answers
            if request.hides_thinking or group.reasoning_effort:
                record.expected_unseen = expected_tokens(request, group, gains)
            if reservation is not None:
                record.price, record.balance = reservation.price, reservation.balance
            record.fields |= {"model": model.name, "stream": request.stream}
            if self.settings.log_bodies:
                record.fields["body"] = request.body
            self.metrics.count_decision(record)
            body = write_body(request, group, model)
            # A prefix that opens no thought, or closes one, is followed by an answer.
            at_once = api == "chat" and bool(group.prefix) and split_thought(group.prefix).closed
            return await self._forward(http_request, headers, body, record, usage, at_once=at_once)
        except IbpoError as error:
            record.outcome, record.status = "failed", 400
            raise Refusal(400, "bad_request", str(error)) from None
        finally:
            if usage.reasoning:
                record.fields["thinking_tokens"] = usage.reasoning
            self._end(record, reservation, gains, usage, most)
            if record.outcome == "answered" and (usage.reasoning or len(model.response_group) > 1):
                self._check_group(record, model, usage.reasoning, request.num_answers)

    @cached_property
    def opening_tokens(self) -> OpeningTokens:
        """What this process knows of the upstream's tokenizer; asked with no caller's key."""
        headers = self.upstream.headers_for(CIMultiDict(), governed=True)
        return OpeningTokens(lambda body: self._send_probe(body, headers, "/tokenize"))

    async def _send_probe(self, body: bytes, headers: CIMultiDict[str], path: str) -> bytes:
        """One try, and an answer that is not whole is none."""
        try:
            answer = await self.upstream.call("POST", path, headers, body, most=MAX_PROBE_BYTES, retries=0)
        except UpstreamFault as fault:
            raise IbpoError(f"the probe failed: {fault.kind}") from None
        if not answer.complete or answer.status != 200:
            answer.close()
            raise IbpoError(f"the probe failed: status {answer.status}")
        return answer.head

    async def _reserve(
        self, candidates: Sequence[Candidate], record: RequestRecord, caller: Mapping[str, str], num_answers: int
    ) -> OpenReservation | None:
        """Decide; None where the store cannot be used: then the request gets the standard response group."""
        named = caller.get(SLICE_HEADER, "")
        if self.keys is not None:
            named = self.keys.slice_of(record.tenant, named)
        # A slice that the policy does not know is none: a caller must not open accounts.
        slice_name = named if named in self.controller.policy.slices else ""
        try:
            return await self.controller.decide(
                candidates,
                request_id=record.request_id,
                tenant=record.tenant,
                slice_name=slice_name,
                num_requests=num_answers,
            )
        except IbpoError as error:
            self.metrics.failures.labels("store").inc()
            self.metrics.unbudgeted.inc()
            self.log.write("store_failed", request_id=record.request_id, message=str(error))
            return None

    async def _forward(
        self,
        http_request: web.BaseRequest,
        headers: CIMultiDict[str],
        body: bytes,
        record: RequestRecord,
        usage: StreamUsage,
        *,
        at_once: bool,
    ) -> web.StreamResponse:
        """Ask the upstream and pass its answer on; `record` and `usage` keep what became of it, for `_end`.

        An exception that says nothing leaves the outcome at `disconnected`: so it is settled, not cancelled.
        """
        limits, added = self.settings.limits, budget_headers(record)
        try:
            answer = await self.upstream.call(
                "POST", http_request.raw_path, headers, body, most=limits.max_buffered_bytes
            )
        except UpstreamFault as fault:
            record.outcome, record.status = "cut" if fault.began else "failed", fault.status
            cause = "did not answer in time" if fault.kind == "timeout" else "cannot be reached"
            message = f"the upstream {cause}; try again later"
            raise Refusal(fault.status, f"upstream_{fault.kind}", message, added) from None
        record.retries, record.status = answer.num_retries, answer.status
        self.metrics.count_first_byte(record)
        try:
            shown = pass_headers(answer.headers)
            shown.extend(added)
            if answer.num_retries and answer.status >= 400:
                shown["x-should-retry"] = "false"  # it has been: the caller's client need not multiply that
            is_answer = 200 <= answer.status < 300
            is_read = is_answer and answer.can_decode
            if is_answer and not is_read:
                self.metrics.failures.labels("encoding").inc()
            if answer.complete:
                record.outcome = "answered" if is_answer else "failed"
                whole = answer.decoded(limits.max_buffered_bytes) if is_read else None
                if whole is None:
                    record.is_unread = is_read
                    return web.Response(status=answer.status, headers=shown, body=answer.head)
                self._read_cost(whole, record, usage)
                restored = restore_content(whole) if at_once else None
                if restored is None:
                    return web.Response(status=answer.status, headers=shown, body=answer.head)
                self.metrics.failures.labels("misplaced").inc()
                for name in ("Content-Length", "Content-Encoding"):
                    shown.popall(name, None)
                return web.Response(status=answer.status, headers=shown, body=restored)
            record.is_unread = is_answer and not answer.is_stream
            is_read &= answer.is_stream
            if is_read:
                for name in ("Content-Length", "Content-Encoding"):  # the usage may be taken out
                    shown.popall(name, None)
            response, record.outcome = await relay_stream(
                http_request, answer, shown, limits.body_seconds, usage if is_read else None
            )
            if not is_answer:
                record.outcome = "failed"
            elif is_read and usage.failed and record.outcome in ("answered", "cut"):
                record.outcome = "cut" if usage.total else "failed"
            elif is_read and record.outcome == "answered" and not usage.finished and not usage.is_counted:
                # Not every server says [DONE]; one that ended in good order without a word of its cost is suspect.
                record.outcome = "cut"
            return response
        finally:
            answer.close()

    def _check_group(self, record: RequestRecord, model: ModelSettings, reasoning: int, num_answers: int) -> None:
        """Tell the operator where a response group does not do what it is for."""
        group = next(group for group in model.response_group if group.name == record.response_group)
        limit = group.max_thinking_tokens
        if limit is not None and reasoning > limit * num_answers:
            # A thought without the marker that the upstream looks for is not limited.
            self.metrics.failures.labels("thinking").inc()
        if record.counted == "usage" and record.tokens is not None:
            standard = model.response_group[0].name
            caution = self.lengths.add(model.name, standard, group.name, record.tokens / num_answers)
            if caution:
                self.metrics.failures.labels("group").inc()
                self.log.write("caution", message=caution)

    def _read_cost(self, body: bytes, record: RequestRecord, usage: StreamUsage) -> None:
        """Note what an answer without streaming cost, and whether it is one."""
        cost = read_cost(body)
        usage.reasoning = cost.reasoning
        if cost.tokens is not None and (cost.tokens > 0 or not cost.text_tokens):
            record.tokens, record.counted = cost.tokens, "usage"
        else:
            record.tokens = cost.text_tokens or None
        if cost.failed:
            record.outcome = "cut" if record.tokens else "failed"

    def _end(
        self,
        record: RequestRecord,
        reservation: OpenReservation | None,
        gains: Gains,
        usage: StreamUsage,
        most: int | None,
    ) -> None:
        """Settle or cancel, count, and write the line; no more than `most` tokens are believed."""
        if record.tokens is None and record.outcome != "failed":
            record.tokens = usage.total
            if usage.is_counted:
                record.counted = "usage"
            elif record.is_unread and most is not None:
                # A caller can make an answer as long as it likes, with log-probabilities of every token.
                self.metrics.failures.labels("usage").inc()
                record.tokens, record.counted = most, "reserve"
            elif (
                record.outcome != "answered"
                and record.expected_unseen is not None
                and not usage.saw_thinking
                and (record.tokens or 0) < record.expected_unseen
            ):
                # Whoever leaves before the usage comes may have seen only what came after the thinking.
                record.tokens = None
        if record.tokens is not None and record.tokens > (most or self.settings.limits.max_answer_tokens):
            if record.counted == "usage":
                self.metrics.failures.labels("usage").inc()
                self.log.write("usage_refused", request_id=record.request_id, tokens=record.tokens, most=most)
                record.counted = "reserve"
            record.tokens = most
        if reservation is not None:
            if record.outcome == "failed":
                self.controller.cancel(reservation, {"tokens": float(gains.probe_tokens)})
            elif record.tokens is None:
                self.controller.settle(reservation, None)
            else:
                self.controller.settle(reservation, {"tokens": record.tokens + gains.probe_tokens})
        self.metrics.count(record)
        self.log.write_request(record)


def choose_groups(request: OpenAIRequest, model: ModelSettings, gains: Gains) -> dict[str, GroupSettings]:
    """The response groups that compete for a request, by name; never empty.

    A group that cannot be set in the request does not compete: else it would be reserved as extended and answered as
    standard. Where none is left, the request gets the standard group's cap, and nothing else is set.
    """
    groups = {group.name: group for group in model.response_group if can_set(request, group)}
    if gains.only in groups:
        return {gains.only: groups[gains.only]}
    if groups:
        return groups
    standard = model.response_group[0]
    capped = GroupSettings(name=standard.name, max_tokens=standard.max_tokens, tokens=standard.tokens)
    return {standard.name: capped}


def make_candidate(
    request: OpenAIRequest, group: GroupSettings, gains: Gains, budgets: Sequence[BudgetPolicy]
) -> Candidate:
    """A response group as the controller sees it: gain, expected cost, and reserve: the most that it can cost.

    With n answers, a cap of c tokens on each, t tokens expected of each (by the router, else by the settings), and q
    that the probe has generated, the cost is min(t, c) n + q and the reserve c n + q. Without a cap there is no bound:
    the controller reserves what it expects.

    Example:
        >>> request = read_request(b'{"max_tokens": 100, "n": 2}', chat=True)
        >>> long, gains = GroupSettings(name="long", tokens=5000), Gains(by_group={"long": 1.0}, source="caller")
        >>> candidate = make_candidate(request, long, gains, [BudgetPolicy(name="tokens", mean=9.0)])
        >>> candidate.gain, candidate.cost, candidate.reserve
        (1.0, {'tokens': 200.0}, {'tokens': 200.0})
    """
    gain = gains.by_group.get(group.name, group.gain)
    if all(budget.response_group is not None for budget in budgets):
        return Candidate(response_group=group.name, gain=gain)  # shares cost 1 or 0: the controller knows
    expected, cap = expected_tokens(request, group, gains), max_tokens_of(request, group)
    if cap is None:
        return Candidate(response_group=group.name, gain=gain, cost={"tokens": expected + gains.probe_tokens})
    most = float(cap * request.num_answers)
    cost = {"tokens": min(expected, most) + gains.probe_tokens}
    reserve = {"tokens": most + gains.probe_tokens}
    return Candidate(response_group=group.name, gain=gain, cost=cost, reserve=reserve)


def expected_tokens(request: OpenAIRequest, group: GroupSettings, gains: Gains) -> float:
    """Completion tokens of all answers that a request asks for, by the router, else by the settings."""
    tokens = gains.tokens.get(group.name, DEFAULT_TOKENS if group.tokens is None else group.tokens)
    return tokens * request.num_answers


def restore_content(body: bytes) -> bytes | None:
    """An answer whose text the upstream's reasoning parser took for a thought, with the text where callers look for it.

    vLLM 0.32 does so with the continuation of a prefix, where the answer is not streamed: a parser that finds no end of
    a thought takes all for one, though the prefix had begun the answer. None: nothing is misplaced.

    Example:
        >>> restore_content(b'{"choices": [{"message": {"content": null, "reasoning": " 7"}}]}')
        b'{"choices": [{"message": {"content": " 7", "reasoning": null}}]}'
    """
    if b'"reasoning' not in body:
        return None
    try:
        answer = json.loads(body)
        messages = [choice["message"] for choice in answer["choices"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    moved = False
    for message in messages:
        name = next((name for name in ("reasoning", "reasoning_content") if message.get(name)), None)
        if name is not None and not message.get("content") and not message.get("tool_calls"):
            message["content"] = message[name]
            for other in ("reasoning", "reasoning_content"):
                if other in message:
                    message[other] = None
            moved = True
    return json.dumps(answer).encode() if moved else None


def budget_headers(record: RequestRecord) -> dict[str, str]:
    """What the gateway adds to each governed answer.

    Example:
        >>> record = RequestRecord(request_id="a", tenant="", began=0.0, response_group="long")
        >>> record.price, record.balance = {"long": 0.25}, {"long": 3.0}
        >>> budget_headers(record)
        {'x-ibpo-response-group': 'long', 'x-ibpo-price': 'long=0.25', 'x-ibpo-budget-left': 'long=3'}
    """
    added = {f"{OWN_HEADERS}response-group": record.response_group}
    for name, values in (("price", record.price), ("budget-left", record.balance)):
        if values is not None:
            # No price where no gain was enough: the number that stands for it means nothing to others.
            known = [f"{budget}={value:.6g}" for budget, value in values.items() if value is not None]
            if known:
                added[OWN_HEADERS + name] = ", ".join(known)
    return added
