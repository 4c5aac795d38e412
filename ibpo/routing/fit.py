"""Learn a router from a log: ridge regression of gains and costs on cheap features of the prompts.

Letters: P problems, G response groups.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibpo import __version__
from ibpo.allocation import GroupMeans
from ibpo.data import (
    NUM_PEEKED,
    Log,
    LogColumns,
    LogError,
    Source,
    find_alike,
    identifier_of,
    lookup,
    read_log,
    read_log_rows,
    read_number,
)
from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError
from ibpo.routing.encoder import Encoder
from ibpo.routing.features import FloatArray, bends, hashed, read_prompt
from ibpo.routing.neighbours import leave_one_out, unit_rows
from ibpo.routing.router import MOST_NUMBER, Embed, Router, Scores, bend, raw_features

PROMPTS = ("prompt", "question", "problem", "messages", "input")
"""Column names that are tried, in order, for the prompt."""
MIN_PROBLEMS = 10
"""Problems to learn from."""
_ALPHAS = tuple(10.0**k for k in range(-2, 7))
_TEXT_SCALES = (0.0, 1.0, 4.0, 16.0)
"""By what the hashed n-grams are multiplied next to standardised counts: how cheap their weights are."""
_MOST_COMPARED = 2000
"""Problems on which the penalties are compared; the cost of that is cubic."""
_MOST_EMBEDDED = 1000
"""Problems on which an encoder's depths are compared: they are embedded once for each."""
_SMALLEST_COST = 0.05
"""An expected cost is at least this part of the response group's mean."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoutedLog:
    """Mean reward and cost of every problem and response group, and what a router may see of the problem."""

    problems: list[str]
    """P ids, sorted. One that comes again is one problem: it is left out, drawn and held out as a whole."""
    groups: tuple[str, ...]
    """From the cheapest on average to the most expensive."""
    reward: FloatArray
    """`[P, G]` mean."""
    cost: FloatArray
    """`[P, G]` mean."""
    count: FloatArray
    """`[P, G]` number of responses, at least 1."""
    prompts: list[str]
    """P texts; empty ones where there is no prompt column."""
    numbers: dict[str, list[float]]
    """Column -> P numbers, each the same in all of the problem's rows."""
    columns: dict[str, str]
    """Field -> column."""
    left_out: int
    """Problems without a response of every response group, or, where bad rows are left out, without a prompt."""
    log: Log
    """The rows of the problems kept."""
    bad_rows: tuple[str, ...] = ()
    """What was wrong with the rows that were left out."""

    def alike(self) -> NDArray[np.int64]:
        """`[P]` numbers, equal where prompts are, and where one goes on from another, as turns of a conversation do.

        What is learned from one tells the other, whatever their ids. Ids count where there is no prompt, and where
        prompts are fewer than a quarter of the problems: then they name kinds of problems, and what is learned of a
        kind is what a router is for.
        """
        by_prompt = any(self.prompts) and 4 * len(set(self.prompts)) >= len(set(self.problems))
        begins = {name: name for name in self.problems}
        if by_prompt:
            begins.clear()
            turns: list[str] = []  # each begins with the one before it
            texts = sorted({f"{prompt}\n" for prompt in self.prompts})
            for place, text in enumerate(texts):
                while turns and not text.startswith(turns[-1]):
                    turns.pop()
                begins[text[:-1]] = turns[0] if turns else text
                # What more than half of them begin with, such as a system message alone, is no conversation.
                if 2 * (bisect_left(texts, text + chr(sys.maxunicode)) - place) <= len(texts):
                    turns.append(text)
        number: dict[str, int] = {}
        names = self.prompts if by_prompt else self.problems
        return np.array([number.setdefault(begins[x], len(number)) for x in names])

    def draws(self, num: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Places of the problems of so many bootstrap draws; those that are `alike` are drawn together."""
        alike, rng = self.alike(), np.random.default_rng(seed)
        by_number, times = np.argsort(alike, kind="stable"), np.bincount(alike)
        first = np.cumsum(times) - times
        for _ in range(num):
            some = rng.integers(len(times), size=len(times))
            before = np.cumsum(times[some]) - times[some]
            yield by_number[np.repeat(first[some] - before, times[some]) + np.arange(times[some].sum())]

    def take(self, keep: Sequence[int]) -> RoutedLog:
        """Only these problems; `log` stays whole."""
        rows = np.asarray(keep, int)
        return replace(
            self,
            problems=[self.problems[i] for i in rows],
            reward=self.reward[rows],
            cost=self.cost[rows],
            count=self.count[rows],
            prompts=[self.prompts[i] for i in rows],
            numbers={name: [values[i] for i in rows] for name, values in self.numbers.items()},
        )


def read_routed_log(
    path: Path,
    *,
    columns: LogColumns,
    prompt: str | None = None,
    numbers: Sequence[str] = (),
    part: str | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    join: Sequence[Path] = (),
) -> RoutedLog:
    """Read a log as `ibpo allocate` does, with its prompts.

    Args:
        path: A log as for `ibpo.data.read_log`.
        columns: Which columns hold what.
        prompt: Column with the prompt, as text or chat messages; None: guessed, and left out where `numbers` are given
            and there is none.
        numbers: Columns with numbers that are known before answering.
        part: Value of the column `columns.by` to take; None: the only one.
        on_error: At a bad row "fail", or "skip" it.
        join: Other tables, whose columns are added to the rows with the same identifier.

    Raises:
        IbpoError: Names file, row, field and fix.
    """
    whole = read_log(path, columns, on_error=on_error, join=join)
    log = whole.one_part(part, path)
    means = GroupMeans.from_arrays(log.reward, log.problem, log.response_group, log.cost)
    if len(means.response_groups) < 2:
        raise IbpoError(
            f"{path}: column {log.columns['response_group']!r} has one response group, {means.response_groups[0]}; a "
            "router chooses between at least two; name another column with --columns response_group=COLUMN"
        )
    full = np.flatnonzero(np.array((means.count > 0).all(axis=1)))
    if not len(full):
        raise IbpoError(
            f"{path}: no problem of column {log.columns['problem']!r} has a response of every response group; log "
            "every problem with every one, or name the problem's column with --columns problem=COLUMN"
        )
    names = [str(means.problems[i]) for i in full.tolist()]
    of_part = (log.columns["by"], part) if part is not None and "by" in log.columns else None
    rows = _Rows(path=path, columns=log.columns, of_part=of_part, skips=on_error == "skip", join=tuple(join))
    prompt_column, prompts, seen = _read_prompts(rows, prompt, numbers, set(names))
    if on_error == "skip" and (prompt_column or numbers):  # all rows of a problem may lack what is asked for
        known = [prompts] * bool(prompt_column) + list(seen.values())
        kept_P = np.array([all(name in one for one in known) for name in names])
        if not kept_P.any():
            raise IbpoError(f"{path}: no problem has a prompt and numbers that can be read; correct these columns")
        full, names = full[kept_P], [name for name, is_kept in zip(names, kept_P.tolist(), strict=True) if is_kept]
    order = np.argsort(means.mean_cost[full].mean(axis=0), kind="stable")
    kept = set(names)
    return RoutedLog(
        problems=names,
        groups=tuple(means.response_groups[g] for g in order.tolist()),
        reward=means.mean_reward[full][:, order],
        cost=means.mean_cost[full][:, order],
        count=means.count[full][:, order].astype(np.float64),
        prompts=[prompts[name] if prompt_column else "" for name in names],
        numbers={column: [seen[column][name] for name in names] for column in numbers},
        columns=log.columns | ({"prompt": prompt_column} if prompt_column else {}),
        left_out=len(means.problems) - len(full),
        log=log.rows([i for i, name in enumerate(log.problem) if name in kept]),
        bad_rows=whole.bad_rows,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The rows of a part of a log, read again for what `ibpo.data.read_log` does not keep.

    Attributes:
        path: The log.
        columns: Field -> column, of which the problem's and the reward's count.
        of_part: Column and value of the rows that count; None: all.
        skips: Whether bad rows are left out.
        join: As for `read_routed_log`.
    """

    path: Path
    columns: Mapping[str, str]
    of_part: tuple[str, str] | None
    skips: bool
    join: tuple[Path, ...]

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        # A source of its own for each pass: one remembers which samples it has seen.
        source = Source(path=self.path, problem=self.columns["problem"], reward=self.columns["reward"])
        for place, row in read_log_rows(source, join=self.join):
            if isinstance(row, LogError):
                continue  # read_log has complained, or was asked not to
            if self.of_part is None or identifier_of(lookup(row, self.of_part[0])) == self.of_part[1]:
                yield place, row


def _read_prompts(
    rows: _Rows, prompt: str | None, numbers: Sequence[str], wanted: set[str]
) -> tuple[str, dict[str, str], dict[str, dict[str, float]]]:
    """The prompt's column ("": none), problem -> prompt, and column -> problem -> number.

    Args:
        rows: The log's.
        prompt: As for `read_routed_log`.
        numbers: As for `read_routed_log`.
        wanted: The problems.
    """
    path, problem = rows.path, rows.columns["problem"]
    column, prompts = _prompt_column(rows, prompt, bool(numbers)), dict[str, str]()
    known: dict[str, dict[str, float]] = {name: {} for name in numbers}
    for place, row in rows:
        name = identifier_of(lookup(row, problem))
        if name not in wanted:
            continue
        place = f"{place}, column"
        for number in numbers:
            if lookup(row, number) is None and number not in row:
                there = ", ".join(map(repr, row))
                raise IbpoError(f"{place} {number!r}: there is none; name one of {there} with --number, once for each")
            try:
                value = read_number(lookup(row, number))
            except (KeyError, TypeError, ValueError, OverflowError):
                value = math.nan
            if not math.isfinite(value) and rows.skips:
                continue
            if not math.isfinite(value):
                raise IbpoError(f"{place} {number!r}: {lookup(row, number)!r} is not a finite number; fill it in")
            if abs(value) > MOST_NUMBER:
                raise IbpoError(f"{place} {number!r}: {value:g} is above {MOST_NUMBER:g}; give it in a larger unit")
            if (before := known[number].setdefault(name, value)) != value:
                raise IbpoError(
                    f"{path}, column {number!r}: holds {before:g} and {value:g} for problem {name!r}, so that it is "
                    "not known before answering; give --number what is the same for all answers to a problem"
                )
        if not column:
            continue
        value = lookup(row, column)
        if value in (None, "") and rows.skips:
            continue
        if value is None or value == "":
            raise IbpoError(
                f"{place} {column!r}: no prompt; fill it in, or name another column with --columns prompt=COLUMN"
            )
        try:
            text = read_prompt(value)
        except IbpoError as error:
            raise IbpoError(f"{place} {column!r}: {error}") from None
        if prompts.setdefault(name, text) != text:
            raise IbpoError(f"{place} {column!r}: problem {name!r} has another prompt than before; correct its id")
    return column, prompts, known


def _prompt_column(log: _Rows, prompt: str | None, has_numbers: bool) -> str:
    """The column of the prompts, by the first rows: any of them may lack its own. "": there is none."""
    rows = [row for _, row in islice(log, NUM_PEEKED)]
    names = ", ".join(map(repr, dict.fromkeys(name for row in rows for name in row)))
    if prompt is not None:
        if all(lookup(row, prompt) is None for row in rows):
            raise IbpoError(f"{log.path}: no column {prompt!r}; name one of {names} with --columns prompt=COLUMN")
        return prompt
    partly = ""
    for name in PROMPTS:
        columns = [column for row in rows if (column := find_alike(row, name)) is not None and row[column]]
        if columns and len(columns) == len(rows):
            return columns[0]
        partly = partly or next(iter(columns), "")
    if partly or has_numbers:
        return partly
    raise IbpoError(
        f"{log.path}: no column with the prompt ({', '.join(map(repr, PROMPTS))}); name it with "
        f"--columns prompt=COLUMN, or columns of numbers with --number; there are {names}"
    )


def embedder(endpoint: Endpoint, batch_size: int = 64) -> Embed:
    """A function that embeds prompts by a server's `/v1/embeddings`.

    Args:
        endpoint: Its address and model.
        batch_size: Prompts in one request.
    """

    def embed(prompts: Sequence[str]) -> FloatArray:
        batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
        found: dict[int, list[list[float]]] = {}
        for place, rows in endpoint.map(endpoint.embed, batches):
            if isinstance(rows, IbpoError):
                raise rows
            found[place] = rows
        return np.array([row for place in sorted(found) for row in found[place]], float)

    return embed


def fit_router(
    table: RoutedLog,
    *,
    embedded: FloatArray | None = None,
    embedding: Mapping[str, str] | None = None,
    source: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Router:
    r"""Learn expected gains and costs.

    Targets are, per problem, the mean reward of each response group less that of the cheapest, and the mean costs as
    parts of the response group's mean. For each target a ridge regression on the bent and standardised counts and on
    the hashed n-grams (`Router`) whose penalty (1e-2 to 1e6) and weight of the n-grams (0, 1, 4, 16) are those of the
    least leave-one-problem-out error. A large penalty means: nothing was found, and the mean is predicted.

    With embeddings, each target's prediction is w times the regression's and 1 - w times the mean over the k nearest
    problems (k of `ibpo.routing.neighbours.NUM_NEIGHBOURS`), w in [0, 1] that of the least leave-one-out error; 1,
    unless that lowers the error by more than two standard errors of the difference.

    Args:
        table: The log.
        embedded: `[P, E]` embeddings of its prompts.
        embedding: Where they come from: `base_url` and `model`.
        source: Provenance to keep.
        report: Held-out figures to keep.
        seed: Decides which 2,000 problems penalties are compared on, where there are more.

    Raises:
        IbpoError: Fewer than 10 problems, or scikit-learn is missing.
    """
    try:
        import sklearn
        from sklearn.linear_model import Ridge
    except ModuleNotFoundError:
        raise IbpoError("fitting a router needs scikit-learn: pip install 'ibpo[router]'") from None
    if len(table.problems) < MIN_PROBLEMS:
        raise IbpoError(f"{len(table.problems)} problems; a router needs at least {MIN_PROBLEMS} to learn from")
    uses_text = "prompt" in table.columns
    bend_at, bend_of, centre, scale, standard = _standardise(table, embedded)
    mean_cost = table.cost.mean(axis=0)
    unit, target = _targets(table)
    text: Any = hashed(table.prompts) if uses_text else None
    few = np.sort(np.random.default_rng(seed).choice(len(target), min(len(target), _MOST_COMPARED), replace=False))
    alike = table.alike()[few]
    scales, alphas, residual = _least_error(standard, text, target, few, alike)
    unit_near, num_near, weight = np.zeros((0, 0)), np.zeros(target.shape[1]), np.ones(target.shape[1])
    explained = {"ridge": (residual**2).mean(axis=0)}
    if embedded is not None and len({table.problems[i] for i in few.tolist()}) == len(few):
        unit_near = unit_rows(embedded)
        first = np.unique(alike, return_index=True)[1]  # a prompt that comes again would be its own neighbour
        num_near, near_residual = leave_one_out(unit_near[few[first]], target[few[first]])
        weight = _blend(residual[first], near_residual)
        num_near[weight == 1] = 0
        explained["neighbours"] = (near_residual**2).mean(axis=0)
        explained["both"] = ((weight * residual[first] + (1 - weight) * near_residual) ** 2).mean(axis=0)
    spread = target[few].var(axis=0) * (len(few) / (len(few) - 1)) ** 2  # the mean's leave-one-out error
    dense = np.zeros((standard.shape[1], target.shape[1]))
    sparse = np.zeros((text.shape[1] if text is not None and scales.any() else 0, target.shape[1]))
    intercept = np.zeros(target.shape[1])
    for by in np.unique(scales).tolist():
        which = np.flatnonzero(scales == by)
        penalty: Any = alphas[which]  # one per target: its annotation says float
        ridge = Ridge(alpha=penalty, tol=1e-8).fit(_joined(standard, text, by), target[:, which])
        found = weight[which] * np.atleast_2d(ridge.coef_).T
        dense[:, which], intercept[which] = found[: len(dense)], weight[which] * ridge.intercept_
        if by:
            sparse[:, which] = by * found[len(dense) :]
    size = len(table.groups)
    for array in (dense, sparse):
        array[:, size - 1 :] *= unit
    intercept[size - 1 :] *= unit
    near_target, gain = target * (1 - weight), target[:, : size - 1]
    near_target[:, size - 1 :] *= unit
    return Router(
        groups=table.groups,
        cost_name=table.columns["cost"],
        number_names=tuple(table.numbers),
        uses_text=uses_text,
        embedding=dict(embedding or {}),
        arrays={
            "bends": bend_at,
            "bend_of": bend_of,
            "centre": centre,
            "scale": scale,
            "dense": dense,
            "text": sparse,
            "intercept": intercept,
            "range": np.stack([gain.min(axis=0), gain.max(axis=0)]),
            "floor": _SMALLEST_COST * mean_cost,
            "near": unit_near if num_near.any() else np.zeros((0, 0)),
            "near_target": near_target if num_near.any() else np.zeros((0, len(num_near))),
            "num_near": num_near,
        },
        source={
            **(source or {}),
            "num_problems": len(set(table.problems)),
            "num_responses": round(table.count.sum()),
            "penalties": alphas.tolist(),
            "means": [*(table.reward[:, 1:] - table.reward[:, :1]).mean(axis=0).tolist(), *mean_cost.tolist()],
            "text_scales": scales.tolist(),
            "neighbours": num_near.astype(int).tolist(),
            "explained": {name: _explained(error, spread) for name, error in explained.items()},
            "seed": seed,
            "ibpo": __version__,
            "scikit_learn": sklearn.__version__,
            "numpy": np.__version__,
        },
        report=dict(report or {}),
    )


def choose_layers(table: RoutedLog, encoder: Encoder, *, seed: int = 0) -> int:
    r"""How many of an encoder's layers a router should look at: the fewest that predict as well as any number of them.

    For each depth the targets of `fit_router` are regressed on the counts, the hashed n-grams and the embedding that
    the encoder has there. A problem's loss is its squared leave-one-problem-out residual in units of each target's
    variance, averaged over the targets. Taken is the fewest layers whose mean loss is at most one standard error of
    the paired difference above the least (Breiman et al. 1984, section 3.4.3). The last layers of a sentence encoder
    are trained to tell what a text is about; how hard it is, earlier ones may know better.

    Args:
        table: The log, with prompts.
        encoder: Whole.
        seed: Decides which 1,000 problems are compared on, where there are more.
    """
    size = len(table.problems)
    few = np.sort(np.random.default_rng(seed).choice(size, min(size, _MOST_EMBEDDED), replace=False))
    table = table.take(few.tolist())
    target = _targets(table)[1]
    varies, alike = target.var(axis=0) > 0, table.alike()
    if not varies.any() or not alike.any():  # all are one problem
        return 0
    target = target[:, varies]
    text, every = hashed(table.prompts), np.arange(len(target))
    loss: list[FloatArray] = []
    for num_layers in range(encoder.num_layers + 1):
        standard = _standardise(table, encoder.cut(num_layers).embed(table.prompts))[-1]
        residual = _least_error(standard, text, target, every, alike)[2]
        of_row = (residual**2 / target.var(axis=0)).mean(axis=1)
        loss.append(np.bincount(alike, of_row) / np.bincount(alike))  # copies of a prompt are one problem
    best = min(loss, key=lambda some: float(some.mean()))
    apart = [some - best for some in loss]
    return next(i for i, some in enumerate(apart) if some.mean() <= some.std(ddof=1) / math.sqrt(len(some)))


def _targets(table: RoutedLog) -> tuple[FloatArray, FloatArray]:
    """The unit `[G]` of each response group's cost, and `[P, T]` gains over the cheapest and costs in these units."""
    mean_cost = table.cost.mean(axis=0)
    unit = np.where(mean_cost > 0, mean_cost, 1.0)
    return unit, np.hstack([table.reward[:, 1:] - table.reward[:, :1], table.cost / unit])


def _standardise(
    table: RoutedLog, embedded: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Where the features bend and which, their means and scales, and the features `[P, F]` bent and standardised."""
    raw = raw_features(table.prompts, list(table.numbers), table.numbers, "prompt" in table.columns, embedded)
    num_bent = raw.shape[1] - (0 if embedded is None else embedded.shape[1])
    places = [(column, at) for column in range(num_bent) for at in bends(raw[:, column]).tolist()]
    bend_of, bend_at = np.array([c for c, _ in places], float), np.array([at for _, at in places], float)
    bent = bend(raw, bend_at, bend_of)
    centre, scale = bent.mean(axis=0), bent.std(axis=0)
    scale[scale <= 1e-12] = 1.0
    return bend_at, bend_of, centre, scale, (bent - centre) / scale


def as_mix(router: Router) -> Router:
    """A router that predicts the same for every prompt: the mean gains and costs of what it was fitted on."""
    arrays = dict(router.arrays)
    arrays["dense"], arrays["text"] = np.zeros_like(arrays["dense"]), np.zeros((0, arrays["text"].shape[1]))
    arrays["intercept"] = np.array(router.source["means"])
    arrays["near"], arrays["near_target"] = np.zeros((0, 0)), arrays["near_target"][:0]
    arrays["num_near"] = np.zeros_like(arrays["num_near"])
    return replace(router, arrays=arrays)


def scores_of(router: Router, table: RoutedLog, embedded: FloatArray | None = None) -> Scores:
    """The router's scores of a log's problems, with embeddings that are known already."""
    if embedded is not None:
        router = replace(router, embed=lambda _: embedded)
    return router.scores(table.prompts, table.numbers)


def _joined(standard: FloatArray, text: Any, by: float) -> Any:
    """Both blocks side by side; without n-grams dense."""
    from scipy import sparse

    if text is None or not by:
        return standard
    return sparse.hstack([sparse.csr_matrix(standard), by * text], format="csr")


def _least_error(
    standard: FloatArray, text: Any, target: FloatArray, few: NDArray[np.int64], problem: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per target the weight of the n-grams and the penalty of the least leave-one-out error, and its residuals."""
    best = np.full(target.shape[1], np.inf)
    scales, alphas, residual = np.zeros(target.shape[1]), np.zeros(target.shape[1]), np.zeros(target[few].shape)
    target_few, dense_gram = target[few], standard[few] @ standard[few].T
    text_gram = None if text is None else (text[few] @ text[few].T).toarray()
    for by in _TEXT_SCALES if text is not None else (0.0,):
        gram = dense_gram if text_gram is None or not by else dense_gram + by * by * text_gram
        for alpha, left in _leave_one_out(gram, target_few, problem):
            error = (left**2).mean(axis=0)
            better = error < best * (1 - 1e-9)
            best[better], scales[better], alphas[better] = error[better], by, alpha
            residual[:, better] = left[:, better]
    return scales, alphas * len(target) / len(few), residual


def _blend(ridge: FloatArray, near: FloatArray) -> FloatArray:
    """The regression's weight `[T]` from both leave-one-out residuals `[P, T]`."""
    apart = near - ridge
    size = np.maximum((apart**2).sum(axis=0), 1e-300)
    weight = np.clip((near * apart).sum(axis=0) / size, 0.0, 1.0)
    won = ridge**2 - (weight * ridge + (1 - weight) * near) ** 2
    sure = won.mean(axis=0) > 2 * won.std(axis=0) / math.sqrt(max(1, len(won) - 1))
    return np.where(sure, weight, 1.0)


def _explained(error: FloatArray, spread: FloatArray) -> list[float | None]:
    """Per target the part of the variance that is explained on problems left out; None: not to be said."""
    return [
        round(1 - e / s, 4) if s > 0 and math.isfinite(e) else None
        for e, s in zip(error.tolist(), spread.tolist(), strict=True)
    ]


def _leave_one_out(
    gram: FloatArray, target: FloatArray, problem: NDArray[np.int64] | None = None
) -> list[tuple[float, FloatArray]]:
    r"""Per penalty the residuals `[P, T]` when each problem is predicted by the others.

    Kernel ridge regression with an intercept: with the centred Gram matrix K = Q diag(d) Q' and S the smoother
    Q diag(d / (d + alpha)) Q' + 1/n, the residuals of a problem B left out are (I - S_BB)^-1 (y - S y)_B.

    Args:
        gram: `[P, P]`.
        target: `[P, T]`.
        problem: `[P]` which rows are of one problem; None: each is one.
    """
    size = len(gram)
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(centred)
    values = np.maximum(values, 0.0)
    turned, middle = vectors.T @ target, target.mean(axis=0)
    blocks = [] if problem is None else [np.flatnonzero(problem == i) for i in range(int(problem.max()) + 1)]
    blocks = [rows for rows in blocks if len(rows) > 1]
    found = []
    for alpha in _ALPHAS:
        shrunk = values / (values + alpha)
        left = target - vectors @ (shrunk[:, None] * turned) - middle
        own = (vectors**2) @ shrunk + 1 / size
        residual = left / np.maximum(1e-9, 1 - own)[:, None]
        for rows in blocks:
            kept = np.eye(len(rows)) - (vectors[rows] * shrunk) @ vectors[rows].T - 1 / size
            residual[rows] = np.linalg.lstsq(kept, left[rows], rcond=1e-9)[0]
        found.append((alpha, residual))
    return found
