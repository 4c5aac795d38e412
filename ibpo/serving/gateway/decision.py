"""The gateway's decision: which response group a request gets, what is reserved for it, and what it is charged.

Decide, reserve, settle: `Decider.decide` and `Decider.end` are all of it, and know nothing of HTTP. `Governor` puts
them into `ibpo serve`, and `ibpo.serving.plugins` into proxies of others:

    the body as read -> gains -> candidates -> decide and reserve -> (the answer) -> settle or cancel

A response group is one way of answering, e.g. with short or extended reasoning; the standard group is the cheapest. A
budget bounds a mean per request, of tokens or of answers by one group. What must be known before anything is changed:

1. **The reserve is what the body allows.** The bound on what a budget can be overspent is a theorem about reserves
   (docs/explanation/why-budgets-hold.md): no answer may cost more than was reserved for it. `make_candidate` reserves
   `max_tokens_of` x the number of answers, and `set_group` writes the same number under every name of the cap.
2. **A reservation ends once.** After `decide`, every way out (an answer, an error, a broken stream, a caller that is
   gone, a bug) leads through `end`: that is why the caller has a `finally`. A second end does nothing; one that is
   missing holds its reserve back from everybody until the reservation is stale.
3. **Only what cost nothing is cancelled**: the upstream gave an error, or no answer, or a cache had it. All else is
   settled at the upstream's usage as far as the body allowed it, else at the text that came, else at what was expected;
   never at 0 because nothing is known, or callers who disconnect early would get reasoning for nothing.
4. **One request, one reservation**, which counts as many requests as it asks for answers. Retries are made below the
   decision. What the probe generated is charged with the answer that it was generated for.
5. **A budget costs nobody the answer.** Where it is used up, and where its store cannot be used, the request gets the
   standard group. The first is decided by the controller; the second is `ibpo_unbudgeted_total`, and is not counted.
6. **A caller decides its gain, and nothing else about the budget.** The tenant is that of its key, the slice one of the
   policy's that the key allows. No header can open an account but a session's, which only takes away, and none of its
   text goes into labels.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ibpo.errors import IbpoError
from ibpo.prices import TokenUse
from ibpo.serving.controller import BudgetPolicy, Candidate
from ibpo.serving.gateway.async_controller import AsyncController, OpenReservation
from ibpo.serving.gateway.escalation import FirstAnswer
from ibpo.serving.gateway.gains import GainPredictor, Gains, OpeningTokens, SendProbe, find_gains
from ibpo.serving.gateway.learning import Learner
from ibpo.serving.gateway.money import (
    MOST_PROMPT_TOKENS,
    Bill,
    Biller,
    measure_prompt,
    read_prompt,
    refused_prompt,
)
from ibpo.serving.gateway.openai_request import OWN_HEADERS, OpenAIRequest, can_set, check_size, max_tokens_of
from ibpo.serving.gateway.quotas import SESSION, SESSION_HEADER, Quota, Quotas
from ibpo.serving.gateway.savings import Comparison, most_expensive
from ibpo.serving.gateway.settings import DEFAULT_TOKENS, GroupSettings, Keys, ModelSettings, Settings
from ibpo.serving.gateway.telemetry import GroupLengths, Metrics, RequestLog, RequestRecord
from ibpo.serving.gateway.usage import AnswerCost, StreamUsage
from ibpo.serving.lengths import Length, Lengths

SLICE_HEADER = f"{OWN_HEADERS}slice"
LEAST_LEARNED = 4.0
"""Least cap of a caller's own, in parts of the expected length: lengths are learned from answers with at least that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided for one request: it is open until `Decider.end`."""

    request: OpenAIRequest
    model: ModelSettings
    group: GroupSettings
    """The response group that it gets; the body has to say so (`openai_request.set_group`)."""
    gains: Gains
    reservation: OpenReservation | None
    """None: the store could not be used."""
    most: int | None
    """Tokens that the body allows all answers together; None: there is no cap."""
    record: RequestRecord
    """What became of it, for `Decider.end`; an outcome that nobody writes stays `disconnected`, which is settled."""
    usage: StreamUsage
    """Reads the answer, where that is a stream."""
    bill: Bill | None = None
    """What was known of its cost in money; None: no prices and no conversations matter here."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """What first answers have cost that another group's answer comes on top of; see `escalation.py`."""
    comparison: Comparison | None = None
    """The most expensive response group that it could have had; None: it had no choice."""


@dataclass(frozen=True, kw_only=True)
class Decider:
    """Decides the requests that a budget governs (`openai_request.PATHS`), and books what they cost."""

    settings: Settings
    controller: AsyncController
    metrics: Metrics
    log: RequestLog
    router: GainPredictor | None = None
    """Predicts gains."""
    lengths: GroupLengths = field(default_factory=GroupLengths)
    keys: Keys | None = None
    """The tenants'; None: nobody needs a key here, and nobody is a tenant."""
    learner: Learner | None = None
    """Corrects gains by the outcomes of earlier answers."""
    expected_lengths: Lengths = field(default_factory=Lengths)
    """Learns how long answers are, by response group and prompt."""
    biller: Biller | None = None
    """Knows prices and conversations; None: there are none."""
    quotas: Quotas | None = None
    """Knows the totals of sessions and of the calendar; None: there are none."""

    async def decide(
        self,
        request: OpenAIRequest,
        caller: Mapping[str, str],
        tenant: str,
        *,
        send_probe: SendProbe,
        opening_tokens: OpeningTokens,
        first: FirstAnswer | None = None,
    ) -> Decision:
        """Which response group does a request get? Its cost is reserved from then on.

        Args:
            request: What is asked for.
            caller: The caller's headers.
            tenant: Who asks; "" belongs to nobody.
            send_probe: Asks the upstream for the probe's token.
            opening_tokens: Knows the first tokens of the openings.
            first: An answer of the standard group that is there already, and what the others gain over it.

        Raises:
            IbpoError: A request that asks for too much, or a header that cannot be read. Nothing is reserved then.
        """
        asked = time.perf_counter()
        began = asked if first is None else first.began
        record = RequestRecord(request_id=secrets.token_hex(16), tenant=tenant, began=began)
        # What would each response group gain? Nothing is reserved yet: an error costs nothing.
        model = self.settings.model_of(request.model)
        check_size(request, model.response_group, self.settings.limits)
        now = self.controller.clock.time()
        # Before a probe is sent: a header that cannot be read is refused, and nothing has been generated.
        quotas = [] if self.quotas is None else self.quotas.find(caller, tenant, now)
        if first is not None:
            gains = first.gains
        else:
            gains = await find_gains(
                request,
                caller,
                model,
                router=self.router,
                send_probe=send_probe,
                opening_tokens=opening_tokens,
                on_failure=lambda source: self.metrics.failures.labels(source).inc(),
            )
            if self.learner is not None:
                gains = self.learner.correct(record.request_id, model, gains)
        # Which groups compete for this request, and which of them has the budget room for at today's price?
        groups = choose_groups(request, model, gains)
        # Where all budgets are on shares nothing depends on how long answers are.
        counts = any(budget.response_group is None for budget in self.controller.policy.budgets)
        size = measure_prompt(request.body) if counts else 0
        bill = None if self.biller is None else self.biller.begin(request, caller, tenant, now, size)
        candidates = [self._make_candidate(request, model, group, gains, size, bill) for group in groups.values()]
        comparison = None
        if len(candidates) > 1:
            comparison = most_expensive(
                {name: row.cost["tokens"] for name, row in zip(groups, candidates, strict=True)}
                if counts and "tokens" in candidates[0].cost
                else {name: _at_most(request, group, gains) for name, group in groups.items()}
            )
        spent: dict[str, float] = {}
        if first is not None and first.answer:
            spent = self._first_cost(first, 0, request, model, bill)
            candidates = [after_first(candidate, first, spent) for candidate in candidates]
        elif first is not None:
            candidates = [_times(candidate, len(first.tokens)) for candidate in candidates]
        reservation = await self._reserve(candidates, record, caller, request.num_answers, quotas)
        # From here on nothing but `end` ends the reservation.
        group = groups[reservation.response_group] if reservation else next(iter(groups.values()))
        if first is not None and group.name == first.group.name:  # its answer is the first one
            spent = self._first_cost(first, 1, request, model, bill)
        if first is not None:
            self._check_first(first, record, first.costs[first.group.name == group.name :], request)
        if first is not None and spent.get("tokens"):
            record.fields["first_tokens"] = spent["tokens"]
            is_reported = first.costs[0].tokens is not None
            self.metrics.count_first(record.tenant, first.group.name, spent["tokens"], is_reported)
        record.response_group, record.source, record.gains = group.name, gains.source, gains.by_group
        cap = max_tokens_of(request, group)
        if counts:
            name, guess = f"{model.name}/{group.name}", expected_tokens(request, group, gains) / request.num_answers
            # An answer that the caller has cut short does not tell how long answers are.
            known = self.expected_lengths.expect(name, size, guess).mean
            if cap is None or cap == group.max_tokens or cap >= LEAST_LEARNED * known:
                self.expected_lengths.begin(record.request_id, name, size=size, guess=guess)
        if request.hides_thinking or group.reasoning_effort:
            record.expected_unseen = expected_tokens(request, group, gains)
        if reservation is not None:
            record.price, record.balance = reservation.price, reservation.balance
            record.quota_left = reservation.quota_left
            if reservation.used_up:
                record.fields["used_up"] = list(reservation.used_up)
            if SESSION in reservation.quota_left:
                account = next(quota.account for quota in quotas if quota.kind == SESSION)
                self.metrics.count_session(account, reservation.quota_left[SESSION], SESSION in reservation.used_up)
            if reservation.propensity < 1:
                record.fields["propensity"] = reservation.propensity
        if self.learner is not None and first is None:
            self.learner.decided(record.request_id, model, tenant, group.name)
        record.fields |= {"model": model.name, "stream": request.stream}
        if self.settings.log_bodies:
            record.fields["body"] = request.body
        self.metrics.count_decision(record, asked)
        decision = Decision(
            request=request,
            model=model,
            group=group,
            gains=gains,
            reservation=reservation,
            most=None if cap is None else cap * request.num_answers,
            record=record,
            usage=StreamUsage(strip=request.stream and model.include_usage and not request.wants_usage),
            bill=bill,
            spent=spent,
            comparison=comparison,
        )
        if request.stream and counts and reservation is not None:
            decision.usage.on_progress = lambda tokens: self._progress(decision, tokens)
        return decision

    def read_cost(self, decision: Decision, cost: AnswerCost) -> None:
        """Note what an answer without streaming cost, and whether it is one."""
        record, decision.usage.reasoning = decision.record, cost.reasoning
        decision.usage.usages, decision.usage.response_id = list(cost.usages), cost.response_id
        if cost.tokens is not None and (cost.tokens > 0 or not cost.text_tokens):
            record.tokens, record.counted = cost.tokens, "usage"
        else:
            record.tokens = cost.text_tokens or None
        if cost.failed:
            record.outcome = "cut" if record.tokens else "failed"

    def end(self, decision: Decision) -> None:
        """Settle or cancel, count, and write the line; no more than the body allowed is believed."""
        record, usage, most = decision.record, decision.usage, decision.most
        if usage.reasoning:
            record.fields["thinking_tokens"] = usage.reasoning
        is_free = record.outcome in ("failed", "cached")
        if record.tokens is None and not is_free:
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
        largest = most or self.settings.limits.max_answer_tokens * decision.request.num_answers
        if record.tokens is not None and record.tokens > largest:
            if record.counted == "usage":
                self._refuse_usage(record, record.tokens, most)
                record.counted = "reserve"
            record.tokens = most
        reservation, probe_tokens = decision.reservation, decision.gains.probe_tokens
        if reservation is not None:
            if is_free:
                probed = {"tokens": float(probe_tokens)}
                if decision.bill is not None and self.biller is not None:
                    nothing = TokenUse()
                    probed["money"] = self._charge(decision, 0.0, nothing)
                actual = {name: cost + decision.spent.get(name, 0.0) for name, cost in probed.items()}
                if actual.get("money"):
                    self._log_money(record, actual["money"])
                self.controller.cancel(reservation, actual)
            elif record.tokens is None:
                self.controller.settle(reservation, None)
            else:
                actual, prompt = {"tokens": record.tokens + probe_tokens}, None
                if decision.bill is not None and self.biller is not None:
                    prompt = read_prompt(usage.usages)
                    if self.biller.is_priced:
                        self._check_prompt(record, usage.usages)
                    actual["money"] = self._charge(decision, record.tokens, prompt)
                    if record.outcome == "answered":
                        self.biller.learn(
                            decision.bill,
                            decision.request,
                            decision.model,
                            decision.group,
                            tokens=record.tokens,
                            reasoning=min(record.tokens, usage.reasoning),
                            prompt=prompt,
                            response_id=usage.response_id,
                        )
                actual = {name: cost + decision.spent.get(name, 0.0) for name, cost in actual.items()}
                if self.biller is not None and self.biller.is_priced and "money" in actual:
                    self._log_money(record, actual["money"])
                self.controller.settle(reservation, actual)
                if decision.comparison is not None and record.outcome == "answered" and record.counted == "usage":
                    self._compare(decision, decision.comparison, actual, prompt)
        is_whole = record.outcome == "answered" and record.tokens is not None
        each = (record.tokens or 0.0) / decision.request.num_answers
        believed = self.expected_lengths.num_believed
        self.expected_lengths.end(record.request_id, each if is_whole else None)
        if self.expected_lengths.num_believed != believed:
            self.controller.expect_change(decision.group.name)
        if self.learner is not None and record.outcome == "answered" and record.tokens is not None:
            self.learner.ended(record.request_id, decision.model, decision.group.name, each)
        self.metrics.count(record)
        self.log.write_request(record)
        if record.outcome == "answered" and (usage.reasoning or len(decision.model.response_group) > 1):
            self._check_group(record, decision.model, usage.reasoning, decision.request.num_answers)

    @staticmethod
    def _log_money(record: RequestRecord, money: float) -> None:
        record.fields["money"] = float(f"{money:.6g}")

    def _refuse_usage(self, record: RequestRecord, tokens: float, most: int | None) -> None:
        """Tell the operator of a usage that is not believed."""
        self.metrics.failures.labels("usage").inc()
        self.log.write("usage_refused", request_id=record.request_id, tokens=tokens, most=most)

    def _compare(
        self, decision: Decision, comparison: Comparison, actual: Mapping[str, float], prompt: TokenUse | None
    ) -> None:
        """Add an answer to what is known of the savings; see `savings.py`."""
        money = None
        if self.biller is not None and self.biller.is_priced and prompt is not None and "money" in actual:
            money = actual["money"], *self.biller.compare(decision.model, comparison.response_group, prompt)
        name = decision.model.name
        self.metrics.savings.add(name, decision.group.name, comparison, actual["tokens"], money)

    def _make_candidate(
        self,
        request: OpenAIRequest,
        model: ModelSettings,
        group: GroupSettings,
        gains: Gains,
        size: int,
        bill: Bill | None,
    ) -> Candidate:
        """`make_candidate`, with what has been learned of lengths, money, and the conversation, where they matter."""
        guess = expected_tokens(request, group, gains) / request.num_answers
        length = self.expected_lengths.expect(f"{model.name}/{group.name}", size, guess)
        if group.name in gains.tokens:  # a router knows the mean better, and not how far an answer may be from it
            length = Length(guess, guess * length.most / length.mean if length.mean else guess)
        candidate = make_candidate(request, group, gains, self.controller.policy.budgets, length)
        if bill is None or self.biller is None:
            return candidate
        gain = candidate.gain - self.biller.penalty(bill, model, group)
        if not self.biller.is_priced:
            return replace(candidate, gain=gain)
        probed, cap = gains.probe_tokens, max_tokens_of(request, group)
        most = (length.most if cap is None else float(cap)) * request.num_answers
        expected = self.biller.expect(bill, model, group, min(length.mean * request.num_answers, most), probed)
        reserve = {**candidate.reserve, "money": max(expected, self.biller.limit(bill, model, group, most, probed))}
        return replace(candidate, gain=gain, cost={**candidate.cost, "money": expected}, reserve=reserve)

    def _progress(self, decision: Decision, tokens: int) -> None:
        """A stream is being answered: where it is longer than expected, that is booked now."""
        request, record, probed = decision.request, decision.record, decision.gains.probe_tokens
        if decision.reservation is None or tokens < decision.usage.next_progress:
            return
        decision.usage.next_progress = 1.25 * tokens
        each = self.expected_lengths.given(record.request_id, tokens / request.num_answers)
        expected = min(each * request.num_answers, decision.most or math.inf)
        so_far, more = {"tokens": float(tokens)}, {"tokens": expected + probed}
        if decision.bill is not None and self.biller is not None:
            price = decision.model.price_of(decision.group)
            so_far["money"] = 0.0 if price is None else price.of(TokenUse(output=tokens))
            more["money"] = self.biller.expect(decision.bill, decision.model, decision.group, expected, probed)
        for costs in (so_far, more):
            costs |= {name: cost + decision.spent.get(name, 0.0) for name, cost in costs.items()}
        if decision.most is not None:  # by the text it is an estimate: no reason to believe that a cap was not kept
            so_far = {}
        self.controller.progress(decision.reservation, so_far, more)

    def _largest_first(self, first: FirstAnswer, request: OpenAIRequest) -> int:
        """The most tokens of a first answer that are believed."""
        return max_tokens_of(request, first.group) or self.settings.limits.max_answer_tokens

    def _check_first(
        self, first: FirstAnswer, record: RequestRecord, costs: Sequence[AnswerCost], request: OpenAIRequest
    ) -> None:
        """Tell the operator of first answers whose usage is not believed."""
        largest = self._largest_first(first, request)
        for cost in costs:
            if cost.tokens is not None and cost.tokens > largest:
                self._refuse_usage(record, cost.tokens, largest)
            if self.biller is not None and self.biller.is_priced:
                self._check_prompt(record, cost.usages)

    def _check_prompt(self, record: RequestRecord, usages: Iterable[Mapping[str, Any]]) -> None:
        """Tell the operator of a prompt that is not believed."""
        tokens = refused_prompt(usages)
        if tokens is not None:
            self._refuse_usage(record, tokens, MOST_PROMPT_TOKENS)

    def _first_cost(
        self, first: FirstAnswer, begin: int, request: OpenAIRequest, model: ModelSettings, bill: Bill | None
    ) -> dict[str, float]:
        """What the first answers from this one on have cost, by budget, each as far as it is believed."""
        largest = self._largest_first(first, request)
        rows = [(min(tokens, largest), cost) for tokens, cost in zip(first.tokens, first.costs, strict=True)][begin:]
        spent = {"tokens": float(sum(tokens for tokens, _ in rows))}
        if bill is not None and self.biller is not None:
            spent["money"] = sum(
                self.biller.charge(
                    bill,
                    model,
                    first.group,
                    tokens=tokens,
                    reasoning=min(tokens, cost.reasoning),
                    probed=0,
                    prompt=read_prompt(cost.usages),
                )
                for tokens, cost in rows
            )
        return spent

    def _charge(self, decision: Decision, tokens: float, prompt: TokenUse | None) -> float:
        """What an answer of so many tokens has cost in money, the probe included."""
        if decision.bill is None or self.biller is None:
            return 0.0
        return self.biller.charge(
            decision.bill,
            decision.model,
            decision.group,
            tokens=tokens,
            reasoning=min(tokens, decision.usage.reasoning),
            probed=decision.gains.probe_tokens,
            prompt=prompt,
        )

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

    async def _reserve(
        self,
        candidates: Sequence[Candidate],
        record: RequestRecord,
        caller: Mapping[str, str],
        num_answers: int,
        quotas: Sequence[Quota],
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
                quotas=quotas,
            )
        except IbpoError as error:
            self.metrics.failures.labels("store").inc()
            self.metrics.count_uncounted()
            self.log.write("store_failed", request_id=record.request_id, message=str(error))
            return None


def outcome_of_stream(usage: StreamUsage) -> str:
    """What became of a stream that came to its end, by what it said."""
    if usage.failed:
        return "cut" if usage.total else "failed"
    # Not every server says [DONE]; one that ended in good order and reports no cost is suspect.
    return "answered" if usage.finished or usage.is_counted else "cut"


def choose_groups(request: OpenAIRequest, model: ModelSettings, gains: Gains) -> dict[str, GroupSettings]:
    """The response groups that compete for a request, by name; the standard one always does.

    Another that cannot be set in the request does not compete: else it would be reserved as extended and answered as
    standard. A standard group that cannot be set has only the cap: without it the others would be given
    whatever the budget says.
    """
    standard = model.response_group[0]
    if not can_set(request, standard):
        kept = {"max_tokens": standard.max_tokens, "tokens": standard.tokens, "price": standard.price}
        standard = GroupSettings(name=standard.name, **kept)
    if gains.only:
        return {standard.name: standard}
    others = [group for group in model.response_group[1:] if can_set(request, group)]
    return {group.name: group for group in (standard, *others)}


def make_candidate(
    request: OpenAIRequest,
    group: GroupSettings,
    gains: Gains,
    budgets: Sequence[BudgetPolicy],
    length: Length | None = None,
) -> Candidate:
    """A response group as the controller sees it: gain, expected cost, and reserve: the most that it can cost.

    With n answers, a cap of c tokens on each, t tokens expected of each (by the router, else `length`, else by the
    settings), and q that the probe has generated, the cost is min(t, c) n + q and the reserve c n + q. Without a cap
    there is no bound: what one answer in twenty exceeds is reserved, if a length is given, else what is expected.

    Example:
        >>> from ibpo.serving.gateway.openai_request import read_request
        >>> request = read_request(b'{"max_tokens": 100, "n": 2}')
        >>> long, gains = GroupSettings(name="long", tokens=5000), Gains(by_group={"long": 1.0}, source="caller")
        >>> candidate = make_candidate(request, long, gains, [BudgetPolicy(name="tokens", mean=9.0)])
        >>> candidate.gain, candidate.cost, candidate.reserve
        (1.0, {'tokens': 200.0}, {'tokens': 200.0})
    """
    gain = gains.by_group.get(group.name, group.gain)
    if all(budget.response_group is not None for budget in budgets):
        return Candidate(response_group=group.name, gain=gain)  # shares cost 1 or 0: the controller knows
    expected, cap = expected_tokens(request, group, gains), max_tokens_of(request, group)
    if length is not None:
        expected = length.mean * request.num_answers
    if cap is None:
        cost = {"tokens": expected + gains.probe_tokens}
        above = {} if length is None else {"tokens": max(length.most, length.mean) * request.num_answers}
        reserve = {name: tokens + gains.probe_tokens for name, tokens in above.items()}
        return Candidate(response_group=group.name, gain=gain, cost=cost, reserve=reserve)
    most = float(cap * request.num_answers)
    cost = {"tokens": min(expected, most) + gains.probe_tokens}
    reserve = {"tokens": most + gains.probe_tokens}
    return Candidate(response_group=group.name, gain=gain, cost=cost, reserve=reserve)


def after_first(candidate: Candidate, first: FirstAnswer, spent: Mapping[str, float]) -> Candidate:
    """A candidate once the standard group's answer is there: that one costs what it has cost, the others add to it."""
    if candidate.response_group == first.group.name:
        known = {name: spent.get(name, 0.0) for name in candidate.cost}
        return replace(candidate, cost=known, reserve=known)
    cost = {name: value + spent.get(name, 0.0) for name, value in candidate.cost.items()}
    reserve = {name: value + spent.get(name, 0.0) for name, value in candidate.reserve.items()}
    return replace(candidate, cost=cost, reserve=reserve)


def _times(candidate: Candidate, count: int) -> Candidate:
    """A candidate for the standard group's answer that was asked for so many times, and never came."""
    cost, reserve = (
        {name: count * value for name, value in row.items()} for row in (candidate.cost, candidate.reserve)
    )
    return replace(candidate, cost=cost, reserve=reserve)


def _at_most(request: OpenAIRequest, group: GroupSettings, gains: Gains) -> float:
    """Expected completion tokens of all answers that a request asks for, within its cap."""
    expected, cap = expected_tokens(request, group, gains), max_tokens_of(request, group)
    return expected if cap is None else min(expected, float(cap * request.num_answers))


def expected_tokens(request: OpenAIRequest, group: GroupSettings, gains: Gains) -> float:
    """Completion tokens of all answers that a request asks for, by the router, else by the settings."""
    tokens = gains.tokens.get(group.name, DEFAULT_TOKENS if group.tokens is None else group.tokens)
    return tokens * request.num_answers


def budget_headers(record: RequestRecord) -> dict[str, str]:
    """What the gateway adds to each governed answer.

    Example:
        >>> record = RequestRecord(request_id="a", tenant="", began=0.0, response_group="long")
        >>> record.price, record.balance = {"long": 0.25}, {"long": 3.0}
        >>> sorted(budget_headers(record).values())
        ['a', 'long', 'long=0.25', 'long=3']
    """
    added = {f"{OWN_HEADERS}request-id": record.request_id, f"{OWN_HEADERS}response-group": record.response_group}
    for name, values in (("price", record.price), ("budget-left", record.balance)):
        if values is not None:
            # No price where no gain was enough: the number that stands for it means nothing to others.
            known = [f"{budget}={value:.6g}" for budget, value in values.items() if value is not None]
            if known:
                added[OWN_HEADERS + name] = ", ".join(known)
    kinds = record.quota_left
    if SESSION in kinds:
        added[f"{SESSION_HEADER}-left"] = ", ".join(f"{name}={left:.6g}" for name, left in kinds[SESSION].items())
    calendar = [f"{kind} {n}={left:.6g}" for kind, row in kinds.items() if kind != SESSION for n, left in row.items()]
    if calendar:
        added[f"{OWN_HEADERS}calendar-left"] = ", ".join(calendar)
    if record.fields.get("used_up"):
        added[f"{OWN_HEADERS}used-up"] = ", ".join(record.fields["used_up"])
    return added
