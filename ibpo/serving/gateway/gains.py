r"""What would each response group gain on this request? Asks the caller, a router, or the policy itself.

`find_gains` asks the sources of `model.choose` in order; the first that knows is believed. No source can break the
budget: gains only decide who gets what there is. A source that fails costs nobody the answer: the next one is asked.

The policy itself is asked by a probe, one token with its log-probabilities. What all openings begin with is forced
(appended to the prompt), and the next token distinguishes the response groups:

    p_g = sum of the probabilities of the tokens that begin the rest of g's opening,

divided by the sum over all response groups that have an opening, where more than one has. Which token begins an opening
is asked of the upstream once (`OpeningTokens`): every letter begins some word. Where the openings together are unlikely
(below `LEAST_MASS`), their ratio says nothing, and the probe has failed. The probe's token is charged with the answer:
`Gains.probe_tokens`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from ibpo import routing
from ibpo.errors import IbpoError
from ibpo.serving.gateway.openai_request import OpenAIRequest, can_set, encode, with_prefix
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings

GROUP_HEADER = "x-ibpo-response-group"
GAIN_HEADER = "x-ibpo-gain"
ROUTER_SECONDS = 5.0
"""Longest wait for a router; without its gains the settings count."""
PROBE_FIELDS = ("model", "messages", "prompt", "chat_template_kwargs", "tools", "tool_choice", "user", "priority")
"""Fields of the request that the probe takes along: what decides the prompt, and who pays."""

LEAST_MASS = 0.05
"""Least probability of several openings together for their ratio to mean anything."""
MOST_LOGPROB = 1e-3
"""What rounding may leave of a probability of 1."""
MAX_KNOWN_MODELS, MAX_MODEL_NAME = 256, 256

SendProbe = Callable[[bytes], Awaitable[bytes]]
"""Sends a probe upstream; returns the answer's body. `TimeoutError`: it may have been answered all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """Response group -> gain, and the source that predicted it."""

    by_group: Mapping[str, float]
    source: str
    """`caller`, `router`, `probe`, or `default`: the groups' own `gain`."""
    only: str = ""
    """The one response group that the caller wants, if that is the standard one: it is everybody's right."""
    probe_tokens: int = 0
    """Tokens that were generated to find the gains: part of what this request costs."""
    tokens: Mapping[str, float] = field(default_factory=dict)
    """Response group -> completion tokens, where a router predicts them."""


class NoAnswerYet(IbpoError):
    """The upstream could not say: out of reach, or too busy. Later it may."""


class OpeningTokens:
    """The first tokens of openings by the upstream's own tokenizer: `/tokenize` of vLLM and llama.cpp.

    Args:
        ask: Sends a body to that path; returns the answer's body, and raises `IbpoError` where there is none.
    """

    def __init__(self, ask: SendProbe) -> None:
        self._ask = ask
        self._known: dict[str, dict[str, frozenset[str]]] = {}

    async def of(self, model: str, openings: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """Response group -> tokens that begin its opening, with and without a space before it; {}: not to be known.

        Args:
            model: As the caller wrote it.
            openings: Response group -> text.
        """
        known = self._known.get(model)
        if known is None:
            known = {}
            try:
                for group, text in openings.items():
                    known[group] = frozenset([await self._first(model, space + text.lstrip()) for space in ("", " ")])
            except (NoAnswerYet, TimeoutError):
                return {}  # to be asked again
            except IbpoError:
                known = {}  # such a server has no tokenizer to ask
            if len(self._known) < MAX_KNOWN_MODELS and len(model) <= MAX_MODEL_NAME:
                self._known[model] = known
        return known

    async def _first(self, model: str, text: str) -> str:
        """The first token of a text that is more than white space, without the space before it."""
        asked = {"model": model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        asked |= {"content": text, "add_special": False, "parse_special": True, "with_pieces": True}  # llama.cpp
        said = await self._ask(encode(asked))
        try:
            answer = json.loads(said)
            pieces = list(map(str, answer.get("token_strs") or [row["piece"] for row in answer["tokens"]]))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pieces = []
        for piece in pieces:
            # As vocabularies write spaces and line breaks.
            plain = piece.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\n").lstrip()
            if plain:
                return plain
        raise IbpoError("the upstream's /tokenize gives no text of its tokens")


async def find_gains(
    request: OpenAIRequest,
    headers: Mapping[str, str],
    model: ModelSettings,
    *,
    router: GainPredictor | None,
    send_probe: SendProbe,
    opening_tokens: OpeningTokens,
    on_failure: Callable[[str], None],
) -> Gains:
    """The gains by the first source of `model.choose` that knows them.

    Args:
        request: What is asked for.
        headers: The caller's.
        model: Its table.
        router: If there is one.
        send_probe: Asks the upstream for the probe's token.
        opening_tokens: Knows the first tokens of the openings.
        on_failure: Called with `router` or `probe` where one failed; the next source is asked then.

    Raises:
        IbpoError: A header of the caller that cannot be read.
    """
    defaults = {group.name: group.gain for group in model.response_group}
    if len(defaults) == 1:
        return Gains(by_group=defaults, source="default")
    probe_tokens = 0
    for source in model.choose:
        if source == "caller":
            found = read_gain_headers(headers, model)
            if found is not None:
                return replace(found, probe_tokens=probe_tokens)
        elif source == "router" and router is not None:
            try:
                # Features or an embedding take their time: not in the event loop.
                async with asyncio.timeout(ROUTER_SECONDS):
                    scores = await asyncio.to_thread(router.gain, request.body)
                gains, tokens = _known_scores(scores, defaults)
            except Exception:  # foreign code: whatever it does, the request is answered
                on_failure("router")
                continue
            if gains:
                return Gains(by_group=defaults | gains, source="router", tokens=tokens, probe_tokens=probe_tokens)
        elif source == "probe":
            body = write_probe(request, model)
            if body is None:
                continue
            is_sent = False
            try:
                async with asyncio.timeout(model.probe.seconds):
                    first = await opening_tokens.of(request.model, split_openings(model)[1])
                    is_sent = True
                    answer = await send_probe(body)
                probe_tokens = 1  # generated, whatever it says
                chances = read_opening_probabilities(answer, request, model, first)
            except TimeoutError:
                probe_tokens = int(is_sent)  # the upstream may have generated it all the same
                on_failure("probe")
                continue
            except IbpoError:
                on_failure("probe")
                continue
            standard = model.response_group[0].name
            return Gains(by_group=defaults | chances | {standard: 0.0}, source="probe", probe_tokens=probe_tokens)
    return Gains(by_group=defaults, source="default", probe_tokens=probe_tokens)


def read_gain_headers(headers: Mapping[str, str], model: ModelSettings) -> Gains | None:
    """What the caller's headers say: the response group that is wanted, or what the extended one would gain.

    The standard (first) response group is given to whoever asks for it. Any other competes with gain 1: it is given
    where budget and price allow, so no caller can break the budget.

    Raises:
        IbpoError: An unknown response group, or no number in [0, 1].

    Example:
        >>> groups = [{"name": "standard"}, {"name": "extended"}]
        >>> model = ModelSettings.model_validate({"name": "*", "response_group": groups})
        >>> read_gain_headers({"x-ibpo-gain": "0.3"}, model).by_group
        {'standard': 0.0, 'extended': 0.3}
    """
    names = [group.name for group in model.response_group]
    wanted = headers.get(GROUP_HEADER)
    if wanted is not None:
        if wanted not in names:
            raise IbpoError(f"header {GROUP_HEADER}: no such response group; name one of {', '.join(names)}")
        gains = {name: float(name == wanted) for name in names}
        return Gains(by_group=gains, source="caller", only=wanted if wanted == names[0] else "")
    text = headers.get(GAIN_HEADER)
    if text is None:
        return None
    gains = dict.fromkeys(names, 0.0)
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        if not equals:
            name = names[1] if len(names) == 2 else ""
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in gains or not 0 <= value <= 1:
            example = "0.7" if len(names) == 2 else f"{names[1]}=0.2, {names[-1]}=0.7"
            raise IbpoError(f"header {GAIN_HEADER}: needs gains in [0, 1], e.g. {example}")
        gains[name] = value
    return Gains(by_group=gains, source="caller")


class PredictedGains(NamedTuple):
    """What a router predicts of one request; response groups that are left out keep what the settings say."""

    gain: Mapping[str, float]
    """Response group -> predicted gain."""
    tokens: Mapping[str, float] = {}
    """Response group -> predicted completion tokens."""


class GainPredictor(Protocol):
    """Predicts gains. Called from threads, several requests at a time; an error costs nobody the answer."""

    def gain(self, request: Mapping[str, Any]) -> PredictedGains:
        """Predict.

        Args:
            request: The JSON body of a chat or completion request, as the caller wrote it.
        """
        ...


class FittedRouter:
    """A router of `ibpo route fit` on live requests; one that needs embeddings brings the server that makes them.

    Args:
        fitted: Its costs are taken as completion tokens if their column's name says tokens.
        place: Where it came from, for errors.

    Raises:
        IbpoError: A router that needs more than a request holds.
    """

    def __init__(self, fitted: routing.Router, place: str) -> None:
        self.first = dict(fitted.first)
        """Not empty: it decides once answers of the standard group are there (`escalation.py`), by `gain_after`."""
        beside = [name for name in fitted.number_names if name not in routing.SHOWN or not fitted.first]
        if beside:
            names = ", ".join(beside)
            raise IbpoError(
                f"{place}: needs the numbers {names} with each prompt, which requests do not have; fit it without them"
            )
        if fitted.embedding and fitted.embed is None:
            raise IbpoError(f"{place}: needs embeddings; give the server that makes them to ibpo.routing.load_router")
        self._fitted = fitted
        self._predicts_tokens = "token" in fitted.cost_name.lower()
        self.groups = fitted.groups
        """The response groups that it knows."""

    def gain(self, request: Mapping[str, Any]) -> PredictedGains:
        """See `GainPredictor`."""
        if self.first:
            return PredictedGains({})  # of the prompt alone it knows nothing
        return self._predict(request, {})

    def gain_after(self, request: Mapping[str, Any], shown: Mapping[str, float]) -> PredictedGains:
        """What the other groups gain over the standard group's answer, and the tokens that they cost more.

        Args:
            request: As for `gain`.
            shown: What `ibpo.routing.read_shown` returns.
        """
        found = self._predict(request, {name: [shown[name]] for name in self.first["shown"]})
        standard = found.tokens.get(self.groups[0], 0.0)
        return PredictedGains(found.gain, {name: max(0.0, cost - standard) for name, cost in found.tokens.items()})

    def _predict(self, request: Mapping[str, Any], numbers: Mapping[str, list[float]]) -> PredictedGains:
        prompt = next(request[name] for name in ("messages", "prompt", "input") if name in request)
        scores = self._fitted.scores([prompt], numbers)
        gain = dict(zip(self.groups, map(float, scores.gain[0]), strict=True))
        if not self._predicts_tokens:
            return PredictedGains(gain)
        return PredictedGains(gain, dict(zip(self.groups, map(float, scores.cost[0]), strict=True)))


def _known_scores(scores: PredictedGains, names: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Gains and tokens of the model's own response groups.

    Raises:
        ValueError: A number that is not finite, or tokens below 0.
    """
    gains = {name: float(scores.gain[name]) for name in names if name in scores.gain}
    tokens = {name: float(scores.tokens[name]) for name in names if name in scores.tokens}
    if not all(map(math.isfinite, [*gains.values(), *tokens.values()])) or min(tokens.values(), default=0.0) < 0:
        raise ValueError("a router's score is not finite")
    return gains, tokens


def split_openings(model: ModelSettings) -> tuple[str, dict[str, str]]:
    """What all openings begin with, which the probe forces, and how each response group goes on.

    Example:
        >>> groups = [{"name": "a", "prefix": "# Short"}, {"name": "b", "prefix": "# Long"}]
        >>> split_openings(ModelSettings.model_validate({"name": "*", "response_group": groups}))
        ('#', {'a': ' Short', 'b': ' Long'})
    """
    openings = {group.name: text for group in model.response_group if (text := group.opening or group.prefix)}
    first, last = min(openings.values(), default=""), max(openings.values(), default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = first[:same] if len(openings) > 1 else ""
    # Back to the end of a word or a tag: what is forced must not cut a token in two.
    shared = re.sub(r"[^\s>\]]*$", "", shared).rstrip()
    return shared, {name: text[len(shared) :] for name, text in openings.items()}


def write_probe(request: OpenAIRequest, model: ModelSettings) -> bytes | None:
    """The request that asks for one token; None for several prompts, token ids instead of text, and other APIs."""
    shared, _ = split_openings(model)
    if request.api not in ("chat", "completions"):
        return None
    if not can_set(request, GroupSettings(name="probe", prefix="x")) or isinstance(request.body.get("prompt"), list):
        return None
    body: dict[str, Any] = {key: request.body[key] for key in PROBE_FIELDS if key in request.body}
    if shared:
        body |= with_prefix(request, shared)
    body |= {"max_tokens": 1, "temperature": 1.0}
    if request.chat:
        return encode({**body, "logprobs": True, "top_logprobs": model.probe.top_logprobs})
    return encode({**body, "logprobs": model.probe.top_logprobs})


def read_opening_probabilities(
    answer: bytes,
    request: OpenAIRequest,
    model: ModelSettings,
    first_tokens: Mapping[str, frozenset[str]] | None = None,
) -> dict[str, float]:
    """Response group -> probability of its opening.

    Args:
        answer: The probe's.
        request: What is asked for.
        model: Its table.
        first_tokens: Response group -> tokens that begin its opening. Where they are not known: those that begin with
            it, and the longest that it begins with, if that is more than a letter.

    Raises:
        IbpoError: The answer holds no log-probabilities, or the openings too little of the probability.

    Example:
        >>> from ibpo.serving.gateway.openai_request import read_request
        >>> groups = [{"name": "standard"}, {"name": "extended", "opening": "<think>"}]
        >>> model = ModelSettings.model_validate({"name": "*", "response_group": groups})
        >>> answer = b'{"choices": [{"logprobs": {"top_logprobs": [{" <think>": -0.1, " So": -2.35}]}}]}'
        >>> read_opening_probabilities(answer, read_request(b'{"prompt": "1 + 1 ="}', "completions"), model)
        {'extended': 0.905}
    """
    try:
        logprobs = json.loads(answer)["choices"][0]["logprobs"]
        if request.chat:
            top = [(str(row["token"]), float(row["logprob"])) for row in logprobs["content"][0]["top_logprobs"]]
        else:
            top = [(str(token), float(value)) for token, value in logprobs["top_logprobs"][0].items()]
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        top = []
    if not top or not all(logprob <= MOST_LOGPROB for _, logprob in top):  # nor is a missing number one
        raise IbpoError("the probe's answer holds no log-probabilities")
    # Openings and tokens are compared without the space before them: whether there is one depends on the template.
    openings = {name: text.lstrip() for name, text in split_openings(model)[1].items()}
    tokens = [token.lstrip() for token, _ in top]
    begins = {
        name: (first_tokens or {}).get(name) or _likely_first_tokens(text, tokens) for name, text in openings.items()
    }
    chances = dict.fromkeys(openings, 0.0)
    for token, (_, logprob) in zip(tokens, top, strict=True):
        fitting_groups = [name for name, first in begins.items() if token in first]
        if len(fitting_groups) == 1:
            chances[fitting_groups[0]] += math.exp(min(0.0, logprob))
    total = sum(chances.values())
    if len(chances) > 1:
        if total < LEAST_MASS:
            raise IbpoError(f"the openings hold {total:.3f} of the next token's probability: their ratio says nothing")
        chances = {name: chance / total for name, chance in chances.items()}
    return {name: min(1.0, chance) for name, chance in chances.items()}


def _likely_first_tokens(opening: str, tokens: Sequence[str]) -> frozenset[str]:
    """Those of some tokens by which an opening may begin, where its own first token is not known.

    Example:
        >>> sorted(_likely_first_tokens("Solution", ["S", "So", "Sol", "Solution:", "A"]))
        ['Sol', 'Solution:']
    """
    whole = {token for token in tokens if token.startswith(opening)}
    parts = [token for token in tokens if token and opening.startswith(token)]
    longest = max(parts, key=len, default="")
    if longest and (len(longest) > 1 or not longest.isalnum()):
        whole.add(longest)
    return frozenset(whole)
