r"""With which probability would the policy open each response group? One token, read off its log-probabilities.

What all openings begin with is forced (appended to the prompt), and the next token tells the response groups apart:

    p_g = sum of the probability of the tokens that begin the rest of g's opening,

divided by the sum over all response groups that have an opening, where more than one has.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.gateway.demand import Demand, encode, usable, with_prefix
from ibpo.serving.gateway.settings import GroupSettings, ModelSettings

KEPT = ("model", "messages", "prompt", "chat_template_kwargs", "tools", "tool_choice", "user", "priority")
"""Fields of the request that the probe takes along: what decides the prompt, and who pays."""


def openings_of(model: ModelSettings) -> tuple[str, dict[str, str]]:
    """What is forced, and how each response group goes on.

    Example:
        >>> groups = [{"name": "a", "prefix": "# Short"}, {"name": "b", "prefix": "# Long"}]
        >>> openings_of(ModelSettings.model_validate({"name": "*", "response_group": groups}))
        ('#', {'a': ' Short', 'b': ' Long'})
    """
    openings = {group.name: group.opening or group.prefix for group in model.response_group}
    given = {name: text for name, text in openings.items() if text}
    first, last = min(given.values(), default=""), max(given.values(), default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = first[:same] if len(given) > 1 else ""
    # Up to the end of a word or a tag: what is forced must not cut a token in two.
    shared = re.sub(r"[^\s>\]]*$", "", shared).rstrip()
    return shared, {name: text[len(shared) :] for name, text in given.items()}


def probe_body(demand: Demand, model: ModelSettings) -> bytes | None:
    """The request that asks for one token; None for several prompts, or token ids instead of text."""
    shared, _ = openings_of(model)
    if not usable(demand, GroupSettings(name="probe", prefix="x")) or isinstance(demand.body.get("prompt"), list):
        return None
    body: dict[str, Any] = {key: demand.body[key] for key in KEPT if key in demand.body}
    if shared:
        body |= with_prefix(demand, shared)
    body |= {"max_tokens": 1, "temperature": 1.0}
    if demand.chat:
        return encode({**body, "logprobs": True, "top_logprobs": model.probe.top_logprobs})
    return encode({**body, "logprobs": model.probe.top_logprobs})


def opening_probabilities(answer: bytes, demand: Demand, model: ModelSettings) -> dict[str, float]:
    """Response group -> probability of its opening.

    Raises:
        IbpoError: The answer holds no log-probabilities.

    Example:
        >>> from ibpo.serving.gateway.demand import read_demand
        >>> groups = [{"name": "standard"}, {"name": "extended", "opening": "<think>"}]
        >>> model = ModelSettings.model_validate({"name": "*", "response_group": groups})
        >>> answer = b'{"choices": [{"logprobs": {"top_logprobs": [{" <think>": -0.1, " So": -2.35}]}}]}'
        >>> opening_probabilities(answer, read_demand(b'{"prompt": "1 + 1 ="}', chat=False), model)
        {'extended': 0.905}
    """
    _, rest = openings_of(model)
    try:
        logprobs = json.loads(answer)["choices"][0]["logprobs"]
        if demand.chat:
            top = [(str(row["token"]), float(row["logprob"])) for row in logprobs["content"][0]["top_logprobs"]]
        else:
            top = [(str(token), float(value)) for token, value in logprobs["top_logprobs"][0].items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise IbpoError("the probe's answer holds no log-probabilities") from None
    if not top:
        raise IbpoError("the probe's answer holds no log-probabilities")
    chances, words = dict.fromkeys(rest, 0.0), {name: text.lstrip() for name, text in rest.items()}
    for token, logprob in top:
        # With or without the space in front: that is the template's affair.
        text = token.lstrip()
        fitting = [name for name, word in words.items() if text and (word.startswith(text) or text.startswith(word))]
        if len(fitting) == 1:
            chances[fitting[0]] += math.exp(min(0.0, logprob))
    total = sum(chances.values())
    if len(chances) > 1 and total > 0:
        chances = {name: chance / total for name, chance in chances.items()}
    return {name: min(1.0, chance) for name, chance in chances.items()}
