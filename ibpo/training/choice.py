r"""Choice first: IBPO with the bodies frozen, so that responses that were sampled once stay on-policy.

    hidden states of the prompts, cached  +  responses of each group, judged
      ->  the lower level, once, over all problems      (`ibpo.training.lower_level`)
      ->  its KL projection on the policy's choice      (`project`)
      ->  a plain model whose output matrix differs in one row per response group

The policy chooses its group g by the first token v_g of the response, with h(x) the last hidden state of the prompt and
W the output matrix:

    pi(g | x) = exp((W_vg + D_g) . h(x)) / sum_v exp((W_v + D_v) . h(x)),        D_v = 0 except for the openings v_g.

Only D is trained: G rows. So nothing has to be sampled again: gains do not move while the choice is trained, one lower
level holds for the whole training, and its projection is a regularised multinomial regression that is solved outright,

    min_D  - (1/P) sum_i log pi(z_i | x_i) + l2 / 2 |D|^2,        z the allocation's groups,

on hidden states scaled to unit size. The strength l2 and a factor on D are those with the largest Lagrangian

    (1/P) sum_i sum_g pi(g | x_i) (u_ig - price_g)

on problems that had no say in the fit (five folds), and an intercept per group makes the shares the allocation's, on
prompts without answers where there are any, else on left-out ones.
Under a budget of tokens that binds, it then moves along the groups' mean costs until the expected tokens (a regression
on the features) are the budget: a choice that is less sharp than the allocation pays for longer responses.

D counts behind every token of a response, too. There it would make openings likely in the middle, or unlikely where
they belong ("####" opens an answer and ends a solution). So the rows that the model gets (`into_rows`) are fitted to
the choice that was found on prompts, and within responses to q_0, what the model says there without them:

    min_D  (1/P) sum_i KL(found_i || q_D,i) + c (1/M) sum_t KL(q_0,t || q_D,t) + l2 / 2 |D|^2.

This is ours; it stands where weighted SFT is in `ibpo.training.trainer` (Yu et al. 2025, section 3.2), for the
opening tokens alone.

Letters: P problems, R responses, G response groups, H width of the model, D features, M tokens within bodies.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp, softmax
from transformers.cache_utils import DynamicCache, DynamicLayer

from ibpo.errors import IbpoError
from ibpo.responses import EncodedGroups
from ibpo.rollouts import pad_left
from ibpo.runs import atomic_path
from ibpo.training.lower_level import Batch, LowerLevel, Selection, group_means, ridge
from ibpo.training.reference_model import features_of

FloatArray = NDArray[np.float64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""l2 that are tried."""
FACTORS = (1.0, 2.0, 4.0)
"""On the fitted D: an allocation is a yes or no, and what the regression leaves undecided is paid for."""
NUM_FOLDS = 5
LEAST_SHARE = 1e-4
MOST_ROUNDS = 200
BODIES_WEIGHT = 100.0
"""c, the weight of bodies relative to prompts (`into_rows`); it costs the choice almost nothing (docs/log.md)."""
ROWS_STRENGTH = 1e-4
"""l2 of the rows that are written: what is found needs no more shrinking."""
MOST_OFF = 0.02
"""Distance of a model's logits from its output matrix's, in parts of the largest: more is not rounding."""
PROMPTS_AT_ONCE = 16
LEAST_SHARED = 64
"""Tokens that all prompts begin with, from which on they are read once for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceStates:
    """What the choice is trained on: all that the frozen model says of P prompts."""

    features: FloatArray
    """[P, D]: what gains are regressed on (`ibpo.training.reference_model.prompt_features`)."""
    hidden: FloatArray
    """[P, H]: the last hidden state of the prompt, as the output matrix sees it."""
    opening: FloatArray
    """[P, G]: logits of the groups' first tokens."""
    rest: FloatArray
    """[P]: log of the sum of exp of all other logits."""

    def shares(self, delta: FloatArray | None = None) -> FloatArray:
        """pi(g | x) with rows D [G, H] added to the output matrix: float [P, G]; the rest up to 1 opens no group."""
        logits = self.opening if delta is None else self.opening + self.hidden @ delta.T
        return softmax(np.concatenate([logits, self.rest[:, None]], 1), axis=1)[:, :-1]

    def some(self, index: NDArray[np.intp]) -> ChoiceStates:
        """Those of these prompts."""
        return ChoiceStates(**{name: getattr(self, name)[index] for name in self.__slots__})

    def save(self, path: Path) -> None:
        """Write them down, in single precision; a crash leaves no part of a file."""
        arrays = {name: getattr(self, name).astype(np.float32) for name in self.__slots__}
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> ChoiceStates:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name].astype(float) for name in cls.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class _SharedStart:
    """What all prompts begin with, a system message or examples: read once, its keys and values are repeated."""

    num_tokens: int
    """0: too few to be worth it, or the model's cache is none that can be repeated."""
    cache: Any = None
    layers: Sequence[torch.Tensor] = ()
    """Each [1, num_tokens, H]."""

    @classmethod
    def of(cls, model: Any, prompts: Sequence[Sequence[int]]) -> _SharedStart:
        low, high = min(map(tuple, prompts)), max(map(tuple, prompts))  # all others are between them
        num_tokens = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
        num_tokens = min(num_tokens, min(map(len, prompts)) - 1)
        if num_tokens < LEAST_SHARED or len(prompts) == 1:
            return cls(num_tokens=0)
        ids = torch.tensor([low[:num_tokens]], device=model.device)
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True, logits_to_keep=1, use_cache=True)
        cache = out.past_key_values
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return cls(num_tokens=0)
        return cls(num_tokens=num_tokens, cache=cache, layers=out.hidden_states[1:])

    def read(
        self, model: Any, rows: Sequence[Sequence[int]], pad_token_id: int, keep: int = 1
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """States behind each layer [P, T, H], logits of the last `keep` tokens [P, keep, V], and the mask [P, T]."""
        ids, mask = (x.to(model.device) for x in pad_left([row[self.num_tokens :] for row in rows], pad_token_id))
        asked: dict[str, Any] = {"input_ids": ids, "output_hidden_states": True, "logits_to_keep": keep}
        if self.num_tokens:
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(rows))
            mask = torch.cat([mask.new_ones(len(rows), self.num_tokens), mask], 1)
            # Padding stands between what is shared and what follows: positions do not count it.
            position = (mask.cumsum(1) - 1)[:, self.num_tokens :]
            asked |= {"past_key_values": cache, "use_cache": True, "position_ids": position}
        with torch.no_grad():
            out = model(attention_mask=mask, **asked)
        layers = list(out.hidden_states[1:])
        if self.num_tokens:
            pairs = zip(self.layers, layers, strict=True)
            layers = [torch.cat([start.expand(len(rows), -1, -1), own], 1) for start, own in pairs]
        return layers, out.logits, mask


def read_states(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    groups: EncodedGroups,
    temperature: float = 1.0,
) -> ChoiceStates:
    """Read prompts once: their features, last hidden states, and logits of the first tokens.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids of P prompts.
        groups: the response groups, whose first tokens differ.
        temperature: at which the policy is sampled; states and logits are divided by it.

    Raises:
        IbpoError: A model whose logits are not its output matrix times the states, but for a factor.
    """
    first = [prefix[0] for prefix in groups.prefix_ids]
    parts: list[tuple[np.ndarray, ...]] = []
    order = np.argsort([len(ids) for ids in prompts], kind="stable")
    shared = _SharedStart.of(model, prompts)
    scale: float | None = None
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = [list(prompts[i]) for i in order[start : start + PROMPTS_AT_ONCE]]
        layers, logits, mask = shared.read(model, some, tokenizer.pad_token_id or 0)
        scale = _scale_of_logits(model, layers[-1][:, -1], logits[:, -1]) if scale is None else scale
        logits = logits[:, -1].double().cpu().numpy() / temperature
        opening = logits[:, first]
        logits[:, first] = -np.inf
        hidden = layers[-1][:, -1].double().cpu().numpy() * (scale / temperature)
        parts.append((features_of(layers, mask), hidden, opening, logsumexp(logits, axis=1)))
    back = np.argsort(order)
    features, hidden, opening, rest = (np.concatenate(one)[back] for one in zip(*parts, strict=True))
    return ChoiceStates(features=features, hidden=hidden, opening=opening, rest=rest)


def _scale_of_logits(model: Any, hidden: torch.Tensor, logits: torch.Tensor) -> float:
    """S with logits = s W h: 1 but where a model scales them (Granite, Cohere). Rows D of W come in as s D h.

    Args:
        model: a causal language model.
        hidden: [P, H], as the output matrix sees it.
        logits: [P, V].

    Raises:
        IbpoError: They are something else (a soft cap, as Gemma 2 has): rows of W do not add to them.
    """
    with torch.no_grad():
        plain = model.get_output_embeddings()(hidden).double()
    wanted = logits.double()
    scale = float((wanted * plain).sum() / (plain * plain).sum())
    off = float((wanted - scale * plain).abs().max() / wanted.abs().max())
    if off > MOST_OFF or getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        raise IbpoError(
            "this model changes its logits behind the output matrix (a soft cap?), so that a choice cannot be trained "
            "as rows of that matrix: train it with IBPOTrainer, or answer by a threshold (ibpo calibrate --out X.json)"
        )
    return 1.0 if abs(scale - 1.0) < MOST_OFF else scale  # else rounding would be a factor


def read_bodies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    groups: EncodedGroups,
    temperature: float = 1.0,
) -> ChoiceStates:
    """The states behind every token of some responses but the last, where openings stay as likely as they are.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids.
        completions: token ids of a response to each, its opening included.
        groups: the response groups.
        temperature: at which the policy is sampled.

    Returns:
        States as from `read_states`, without features: P is the number of tokens.
    """
    first = [prefix[0] for prefix in groups.prefix_ids]
    parts: list[tuple[np.ndarray, ...]] = []
    shared = _SharedStart.of(model, prompts)
    scale: float | None = None
    for prompt, completion in zip(prompts, completions, strict=True):
        layers, logits, _ = shared.read(model, [[*prompt, *completion]], 0, len(completion))
        scale = _scale_of_logits(model, layers[-1][:, -1], logits[:, -1]) if scale is None else scale
        logits = logits[0, :-1].double().cpu().numpy() / temperature
        opening = logits[:, first]
        logits[:, first] = -np.inf
        hidden = layers[-1][0, len(prompt) : -1].double().cpu().numpy() * (scale / temperature)
        parts.append((hidden, opening, logsumexp(logits, axis=1)))
    hidden, opening, rest = (np.concatenate(one) for one in zip(*parts, strict=True))
    return ChoiceStates(features=np.zeros((len(rest), 0)), hidden=hidden, opening=opening, rest=rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedChoice:
    """What `train_choice` found."""

    delta: FloatArray
    """[G, H]: what is added to the output matrix's rows of the groups' first tokens."""
    selection: Selection
    """The lower level's allocation."""
    share: FloatArray
    """[G]: mean probability of each group on the unlabelled prompts; without them as the fit finds it on problems left
    out, before it is written into rows."""
    tokens: float
    """Expected tokens per prompt on the same; NaN without a budget of tokens."""
    strength: float
    """l2."""
    factor: float
    """On the regression's D."""


def train_choice(
    states: ChoiceStates,
    batch: Batch,
    lower_level: LowerLevel,
    unlabelled: ChoiceStates | None = None,
    bodies: ChoiceStates | None = None,
) -> TrainedChoice:
    """Train the choice alone: solve the lower level over all problems, and fit the choice to the result.

    Args:
        states: of the P prompts.
        batch: the judged responses to them, at least one of each group to each prompt; its `features` are the states'.
        lower_level: budgets, utility and `min_gain`; it takes the batch in.
        unlabelled: of prompts without answers, on which the shares are made the allocation's; None: on the problems
            themselves, each by a fit without it.
        bodies: of tokens within responses (`read_bodies`), where the openings stay as likely as they are; without
            them the model is good for the first token alone.

    Raises:
        IbpoError: A budget of a slice: one price for all prompts of it would have to be known when the model answers.
    """
    sliced = next((term for term in lower_level.budgets if term.column), None)
    if sliced is not None:
        raise IbpoError(
            f"budget {sliced.key}: a choice that is trained alone knows no slices, and would spend in them what pays; "
            "leave this budget out, or train bodies and choice (IBPOTrainer)"
        )
    selection = lower_level.solve(batch, 0)
    num_groups = lower_level.num_groups
    utility = np.zeros((len(states.rest), num_groups))
    known = batch.response_group >= 0
    utility[batch.prompt[known], batch.response_group[known]] = selection.utility[known]
    # u_ig - price_g, and under a budget of tokens - price x tokens_ig
    worth = utility - selection.min_gain
    expected: FloatArray | None = None
    # Tokens come to the budget where it binds; with a share that binds too, they only keep it.
    between = -np.inf, np.inf
    share_binds = any(
        own for term, own in zip(lower_level.budgets, selection.price, strict=True) if term.group is not None
    )
    for term, own, spent in zip(lower_level.budgets, selection.price, selection.spent, strict=True):
        signed = -own if term.at_least else own
        if term.group is not None:
            worth[:, term.group] -= signed
            continue
        expected = _expected_tokens(states, batch, num_groups, unlabelled) if expected is None else expected
        worth -= signed * expected[: len(worth)]
        if own:
            low, high = (spent, np.inf) if term.at_least else (-np.inf, spent)
            between = (low, high) if share_binds else (spent, spent)
    delta, share, tokens, strength, factor = project(
        states, selection.assigned_group, worth, unlabelled, bodies, expected=expected, between=between
    )
    return TrainedChoice(delta=delta, selection=selection, share=share, tokens=tokens, strength=strength, factor=factor)


def _expected_tokens(
    states: ChoiceStates, batch: Batch, num_groups: int, unlabelled: ChoiceStates | None
) -> FloatArray:
    """Tokens of a response of each group by their regression, float [P + prompts without answers, G]."""
    tokens = group_means(batch, num_groups).tokens
    features = states.features
    if unlabelled is not None:
        features = np.concatenate([features, unlabelled.features])
        tokens = np.concatenate([tokens, np.full((len(unlabelled.rest), num_groups), np.nan)])
    return np.maximum(ridge(features.astype(np.float32), tokens), 0.0)


def project(
    states: ChoiceStates,
    assigned: NDArray[np.intp],
    worth: FloatArray,
    unlabelled: ChoiceStates | None = None,
    bodies: ChoiceStates | None = None,
    *,
    expected: FloatArray | None = None,
    between: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[FloatArray, FloatArray, float, float, float]:
    """The rows D whose choice is nearest to an allocation, on problems that had no say in it.

    Args:
        states: of P prompts.
        assigned: int [P]: the allocation's group of each prompt, -1 for none (the prompt is left out of the fit).
        worth: float [P, G]: utility less price, by which l2 and factor are chosen.
        unlabelled: of prompts that the intercepts are set on.
        bodies: of tokens on which openings stay as likely as they are.
        expected: float [P + unlabelled prompts, G]: tokens of a response, where there is a budget of tokens.
        between: where its mean has to lie.

    Returns:
        D [G, H]; the shares [G] and the expected tokens (NaN without `expected`) on unlabelled prompts or else on
        problems left out of the fit; l2 and the factor.
    """
    num_groups = worth.shape[1]
    used = np.flatnonzero(assigned >= 0)
    target = np.bincount(assigned[used], minlength=num_groups) / max(len(used), 1)
    scale = np.sqrt((states.hidden[used] ** 2).mean(0)) + 1e-6
    inputs = states.hidden / scale
    size = len(states.rest) + (0 if unlabelled is None else len(unlabelled.rest))
    expected = np.full((size, num_groups), np.nan) if expected is None else expected
    fold = np.random.default_rng(0).permutation(len(used)) % NUM_FOLDS
    best: tuple[float, float, float, FloatArray] | None = None
    for strength in STRENGTHS:
        # logits of the openings on each problem, by rows that were fitted without it
        shift = np.zeros((len(used), num_groups))
        for k in range(NUM_FOLDS):
            rows = _fit(inputs[used][fold != k], states, used[fold != k], assigned, strength)
            shift[fold == k] = inputs[used][fold == k] @ rows.T
        for factor in FACTORS:
            logits = states.opening[used] + factor * shift
            share = with_shares(logits, states.rest[used], target, expected[used], between)[0]
            value = float((share * worth[used]).sum(1).mean())
            if best is None or value > best[0] + 1e-6:
                best = value, strength, factor, factor * shift
    assert best is not None
    _, strength, factor, shift = best
    rows = factor * _fit(inputs[used], states, used, assigned, strength)
    on = states.some(used)
    if unlabelled is None:
        share, intercept = with_shares(on.opening + shift, on.rest, target, expected[used], between)
        tokens = expected[used]
        prompts = [on]
    else:
        logits = unlabelled.opening + (unlabelled.hidden / scale) @ rows.T
        tokens = expected[len(states.rest) :]
        share, intercept = with_shares(logits, unlabelled.rest, target, tokens, between)
        prompts = [on, unlabelled]
    opening = [one.opening + (one.hidden / scale) @ rows.T + intercept for one in prompts]
    delta = into_rows(prompts, opening, bodies)
    if unlabelled is not None:
        share = unlabelled.shares(delta)
    return delta, share.mean(0), float((share * tokens).sum(1).mean()), strength, factor


def into_rows(
    prompts: Sequence[ChoiceStates], opening: Sequence[FloatArray], bodies: ChoiceStates | None
) -> FloatArray:
    """The rows D that come nearest to wanted logits of the openings on prompts, and to what is there within bodies.

    Args:
        prompts: states of prompts, in parts.
        opening: float [P, G] for each part: the logits that are wanted.
        bodies: of tokens within responses; None: only the prompts count.

    Returns:
        float [G, H].
    """
    hidden = np.concatenate([one.hidden for one in prompts])
    scale = np.sqrt((hidden**2).mean(0)) + 1e-6
    before = np.concatenate([np.column_stack([one.opening, one.rest]) for one in prompts])
    wanted = softmax(np.column_stack([np.concatenate(opening), before[:, -1]]), axis=1)
    terms = [(hidden / scale, before, wanted, 1.0 / len(hidden))]
    if bodies is not None:
        there = np.column_stack([bodies.opening, bodies.rest])
        terms.append((bodies.hidden / scale, there, softmax(there, axis=1), BODIES_WEIGHT / len(there)))
    return _nearest_rows(terms, ROWS_STRENGTH) / scale


def _nearest_rows(terms: Sequence[tuple[FloatArray, FloatArray, FloatArray, float]], strength: float) -> FloatArray:
    """The rows with the least cross-entropy to wanted distributions: float [G, H].

    Args:
        terms: each inputs [N, H], logits that are there [N, G + 1] (the last of all other tokens), the distributions
            that are wanted [N, G + 1], and the weight of a row.
        strength: l2.
    """
    num_groups, width = terms[0][1].shape[1] - 1, terms[0][0].shape[1]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        rows = flat.reshape(num_groups, width)
        value, gradient = strength / 2 * float((rows**2).sum()), strength * rows
        for inputs, there, wanted, weight in terms:
            logits = there.copy()
            logits[:, :-1] += inputs @ rows.T
            log_share = logits - logsumexp(logits, axis=1, keepdims=True)
            value -= weight * float((wanted * log_share).sum())
            gradient = gradient + weight * (np.exp(log_share) - wanted)[:, :-1].T @ inputs
        return value, gradient.ravel()

    start = np.zeros(num_groups * width)
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x.reshape(num_groups, width)


def _fit(
    inputs: FloatArray,
    states: ChoiceStates,
    used: NDArray[np.intp],
    assigned: NDArray[np.intp],
    strength: float,
) -> FloatArray:
    """Multinomial regression of the assigned group on the inputs, added to the logits that are there: float [G, H]."""
    there = np.column_stack([states.opening[used], states.rest[used]])
    return _nearest_rows([(inputs, there, np.eye(there.shape[1])[assigned[used]], 1.0 / len(used))], strength)


def with_shares(
    logits: FloatArray,
    rest: FloatArray,
    target: FloatArray,
    tokens: FloatArray | None = None,
    between: tuple[float, float] = (-np.inf, np.inf),
    weight: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Shift each group's logits so that its mean share is the target's: probabilities [P, G], shifts [G].

    The shifts b minimise the convex (1/P) sum_i w_i logsumexp(logits_i + b) - b . target, whose gradient is the
    difference of the shares. Then along the groups' mean tokens, where the expected ones [P, G] do not lie between the
    two. Weighted by w [P], the shares are those among the weight.
    """
    num_groups = logits.shape[1]
    weight = np.ones(len(logits)) if weight is None else weight
    weight = weight / weight.sum()
    every = np.concatenate([logits, rest[:, None]], 1)
    # Shares of 0, and of 1 with other tokens there, are reached at no shift.
    wanted = np.maximum(target, LEAST_SHARE)
    wanted = wanted / wanted.sum() * (1.0 - LEAST_SHARE * bool(np.isfinite(rest).any()))

    def shares(shift: FloatArray) -> FloatArray:
        every[:, :-1] = logits + shift
        return softmax(every, axis=1)[:, :-1]

    def solved(shift: FloatArray, groups: list[int]) -> FloatArray:
        """The shift of these groups, together, at which they have what is wanted of them."""

        def excess(by: float) -> float:
            moved = shift.copy()
            moved[groups] += by
            return float(weight @ shares(moved)[:, groups].sum(1)) - float(wanted[groups].sum())

        width = 1.0
        while excess(-width) > 0 or excess(width) < 0:
            width *= 2.0
        moved = shift.copy()
        moved[groups] += brentq(excess, -width, width, xtol=1e-10)
        return moved

    # One group after the other and all together, each exactly; where no other token counts, the first one stays.
    shift, others_count = np.zeros(num_groups), bool(np.isfinite(rest).any())
    steps = [[group] for group in range(0 if others_count else 1, num_groups)]
    steps += [list(range(num_groups))] if others_count else []
    for _ in range(MOST_ROUNDS):
        for groups in steps:
            shift = solved(shift, groups)
        if np.abs(weight @ shares(shift) - wanted).max() < 1e-5:
            break
    share = shares(shift)
    if tokens is None:
        return share, shift
    spent = float((share * tokens).sum(1).mean())
    wanted_tokens = float(np.clip(spent, *between))
    if np.isfinite(spent) and wanted_tokens != spent and np.ptp(mean := tokens.mean(0)) > 0:
        # The standard group's logits stay where they are: between groups only differences count.
        direction = (mean - mean[0]) / np.ptp(mean)

        def excess(slope: float) -> float:
            return float((shares(shift - slope * direction) * tokens).sum(1).mean()) - wanted_tokens

        ends = -40.0, 40.0
        slope = brentq(excess, *ends) if excess(ends[0]) > 0 > excess(ends[1]) else 0.0
        shift = shift - slope * direction
        share = shares(shift)
    return share, shift


def choose_by_rows(model: Any, groups: EncodedGroups, delta: FloatArray) -> None:
    """Add D to a model's output matrix, in place; where it is tied to the input embedding, it is untied first.

    Args:
        model: a causal language model.
        groups: the response groups.
        delta: float [G, H].
    """
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    with torch.no_grad():
        for prefix, row in zip(groups.prefix_ids, delta, strict=True):
            head.weight[prefix[0]] += torch.tensor(row, dtype=head.weight.dtype, device=head.weight.device)
