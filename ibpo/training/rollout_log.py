"""The rollout log: every response of every step, what it was worth, and whether it was chosen; written, read, replayed.

One Parquet shard a step, whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibpo.budget import parse_budget_entry
from ibpo.data import files_below
from ibpo.errors import IbpoError
from ibpo.runs import atomic_path
from ibpo.training.budgets import BudgetTerm
from ibpo.training.lower_level import LEAST_GAIN, OF_RESPONSES, members, solve_within

if TYPE_CHECKING:
    from ibpo.training.monitoring import StepView

METADATA = b"ibpo"
"""Key of the run's settings in the metadata of every shard."""
NEEDED = ("step", "problem_id", "level", "response_group", "reward", "utility", "tokens", "chosen")
PRICE = "price:"
"""What the column of a budget's price begins with."""
MIN_GAIN = "min_gain:"
"""What the column of a response group's least gain begins with."""
SLICE = "slice:"
"""What the column of a budget's slice begins with, where the log has a column of that name for something else."""


# -- written by the trainer ---------------------------------------------------------------------------------------


def log_settings(args: Any, names: Sequence[str]) -> dict[str, Any]:
    """What `ibpo replay` has to know besides the candidates; goes into the metadata of every shard."""
    price = args.price or ("batch" if args.utility in OF_RESPONSES else "running")
    return {
        "response_groups": list(names),
        "budget": dict(args.budget or {}),
        "utility": args.utility,
        "min_gain": args.min_gain,
        "window": args.window if price == "running" else 1,
    }


class RolloutLog:
    """Writes `step-000012.parquet` files; a shard is whole or absent, and a repeated step replaces its shard.

    A row per response: what it is (`problem_id`, `level`, `response_group`, `tokens`, `finish_reason`, `violations`),
    what it earned (`score` as the reward functions gave it, null where none applied and the response was left out;
    `reward` as the allocation saw it: 0 if truncated or violating), what it was worth (`margin` over the other groups'
    mean reward on its prompt, null where none was sampled; `utility`, which decided), `price:KEY` of each budget,
    `min_gain:GROUP` of each group, `chosen`, and its weights in the update.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IbpoError(f"rollout_log_dir: {directory}: no folder can be made there ({error.strerror})") from None
        self.directory, self.settings = directory, settings

    def begin(self, step: int) -> None:
        """Remove the shards of this step and later ones: of another training, or of a future that a resume undoes."""
        for path in self.directory.glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) >= step:
                path.unlink()

    def append(self, step: int, view: StepView, weights: np.ndarray) -> None:
        """Record the candidates of one step; `weights` [R, 3]: of prefix, completion and KL penalty."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names, selection, rows = view.names, view.selection, view.rows
        columns = {
            "step": np.full(len(rows), step),
            "prompt": view.batch.prompt,
            "problem_id": [row["problem_id"] for row in rows],
            "level": [row["level"] for row in rows],
            "response_group": [names[row["response_group"]] if row["response_group"] >= 0 else "" for row in rows],
            "score": pa.array(view.score, from_pandas=True),
            "reward": view.batch.reward,
            "margin": pa.array(view.margin, from_pandas=True),
            "utility": selection.utility,
            "tokens": [row["tokens"] for row in rows],
            "finish_reason": [row["finish_reason"] for row in rows],
            "violations": pa.array([row["violations"] for row in rows], pa.list_(pa.string())),
            **{
                f"{PRICE}{term.key}": np.full(len(rows), price)
                for term, price in zip(view.budgets, selection.price, strict=True)
            },
            **{
                f"{MIN_GAIN}{name}": np.full(len(rows), least)
                for name, least in zip(names, selection.min_gain, strict=True)
            },
            "chosen": selection.chosen,
            "prefix_loss_weight": weights[:, 0],
            "completion_loss_weight": weights[:, 1],
            "kl_weight": weights[:, 2],
        }
        for column in sorted({term.column for term in view.budgets} - {"", "level", "problem_id"}):
            columns[f"{SLICE}{column}" if column in columns else column] = [row["slices"][column] for row in rows]
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(self.settings).encode()})
        path = self.directory / f"step-{step:06d}.parquet"
        with atomic_path(path) as partial:
            pq.write_table(table, partial)


# -- read ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutTable:
    """P prompts of all steps, in their order, from G response groups; NaN where a group was not sampled."""

    names: list[str]
    """Names of the response groups, the standard one first."""
    settings: dict[str, Any]
    """As the trainer wrote them; empty for logs of older versions."""
    step: np.ndarray
    """int [P]."""
    utility: np.ndarray
    """float [P, G]: the largest of the group's responses (utilities of groups are the same for all of them)."""
    reward: np.ndarray
    """float [P, G]: mean."""
    tokens: np.ndarray
    """float [P, G]: mean."""
    chosen_group: np.ndarray
    """int [P]: of the response that the run chose; -1 where it chose none."""
    price: Mapping[str, np.ndarray]
    """Key of a budget -> float [P], in that step; of the run's first one alone in logs of older versions."""
    min_gain: np.ndarray
    """float [P, G]: what each group had to promise in that step; of older versions what their settings say."""
    columns: Mapping[str, np.ndarray]
    """Column -> text [P]: `level`, `problem_id` and what budgets were sliced by."""


def find_rollout_log(run: Path) -> Path:
    """The folder of a run's shards: itself, its `rollout_log` (`ledger`, in older versions), or the only one below.

    Raises:
        IbpoError: for none, or several: names them.
    """
    if not run.exists():
        raise IbpoError(f"{run}: there is no such run; name its folder, e.g. runs/gsm8k_smoke")
    for place in (run, run / "rollout_log", run / "ledger"):
        if place.is_dir() and any(place.glob("step-*.parquet")):
            return place
    shards = (file for file in files_below(run) if file.match("step-*.parquet")) if run.is_dir() else ()
    below = sorted({shard.parent for shard in shards})
    if len(below) == 1:
        return below[0]
    if not below:
        raise IbpoError(f"{run}: holds no rollout log (step-*.parquet); set rollout_log_dir, as `ibpo train` does")
    listed = ", ".join(str(place.parent) for place in below[:12])
    raise IbpoError(f"{run}: holds {len(below)} rollout logs; name one of {listed}")


def read_rollout_log(directory: Path) -> RolloutTable:
    """All shards of a rollout log.

    Raises:
        IbpoError: names the shard and what is wrong with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted(directory.glob("step-*.parquet"))
    tables: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for shard in shards:
        try:
            table = pq.read_table(shard)
        except (pa.ArrowInvalid, OSError):
            raise IbpoError(f"{shard}: is not a Parquet file; remove it, or resume the run") from None
        missing = [name for name in NEEDED if name not in table.column_names]
        if missing or not table.num_rows:
            raise IbpoError(f"{shard}: is not a shard of a rollout log: no column {', '.join(missing) or 'has rows'}")
        settings = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        tables.append({name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names})
        _add_least_gains(tables[-1], settings)
    if not all("prompt" in table for table in tables):
        _number_prompts(tables)
    first = np.cumsum([0, *(int(table["prompt"].max()) + 1 for table in tables)])
    prompt = np.concatenate([table["prompt"] + start for table, start in zip(tables, first, strict=False)])
    # A run that an older version began has fewer columns there.
    common = set.intersection(*(set(table) for table in tables)) - {"violations"}
    rows = {name: np.concatenate([table[name] for table in tables]) for name in sorted(common)}
    names = settings.get("response_groups") or _by_length(rows)
    number = {name: g for g, name in enumerate(names)}
    group = np.array([number.get(name, -1) for name in rows["response_group"]])
    num_prompts, known = int(first[-1]), group >= 0
    cell = prompt[known] * len(names) + group[known]
    size = num_prompts * len(names)
    count = np.bincount(cell, minlength=size)
    utility = np.full(size, -np.inf)
    np.maximum.at(utility, cell, rows["utility"][known].astype(float))
    with np.errstate(invalid="ignore"):
        reward, tokens = (
            np.bincount(cell, rows[name][known].astype(float), size) / count for name in ("reward", "tokens")
        )
    utility[count == 0] = np.nan
    chosen = np.full(num_prompts, -1)
    picked = rows["chosen"].astype(bool)
    chosen[prompt[picked]] = group[picked]
    head = np.unique(prompt, return_index=True)[1]
    slices = {name: name for name in rows if name in ("level", "problem_id") or _is_slice(settings, name)}
    slices |= {name.removeprefix(SLICE): name for name in rows if name.startswith(SLICE)}
    return RolloutTable(
        names=list(names),
        settings=settings,
        step=rows["step"][head].astype(int),
        utility=utility.reshape(num_prompts, -1),
        reward=reward.reshape(num_prompts, -1),
        tokens=tokens.reshape(num_prompts, -1),
        chosen_group=chosen,
        min_gain=np.stack([_least_gain(rows, g, name)[head] for g, name in enumerate(names)], 1),
        price={key: rows[name][head].astype(float) for key, name in _prices(settings, rows).items()},
        columns={column: rows[name][head].astype(str) for column, name in slices.items()},
    )


def _prices(settings: dict[str, Any], rows: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Budget -> its price's column."""
    if "price" in rows:
        return {next(iter(settings.get("budget", {})), "budget"): "price"}
    return {name.removeprefix(PRICE): name for name in rows if name.startswith(PRICE)}


def _least_gain(rows: Mapping[str, np.ndarray], group: int, name: str) -> np.ndarray:
    """Least gain of each row; where nothing says so (the oldest logs), 0 and a hair, so that no tie spends."""
    return np.asarray(rows.get(f"{MIN_GAIN}{name}", np.full(len(rows["step"]), LEAST_GAIN * (group > 0))), float)


def _add_least_gains(table: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """What each group had to promise in a shard of a version that did not write it down, by that shard's settings."""
    names = settings.get("response_groups") or []
    least = max(float(settings.get("min_gain") or 0.0), LEAST_GAIN)
    for g, name in enumerate(names):
        table.setdefault(f"{MIN_GAIN}{name}", np.full(len(table["step"]), least * (g > 0)))


def _is_slice(settings: dict[str, Any], column: str) -> bool:
    budgets = [parse_budget_entry(key, amount) for key, amount in settings.get("budget", {}).items()]
    return any(budget.scope is not None and budget.scope.column == column for budget in budgets)


def _by_length(rows: Mapping[str, np.ndarray]) -> list[str]:
    """Older logs do not say which group is the standard one: the shortest responses."""
    names = [name for name in dict.fromkeys(rows["response_group"].tolist()) if name]
    return sorted(names, key=lambda name: rows["tokens"][rows["response_group"] == name].mean())


def _number_prompts(tables: list[dict[str, Any]]) -> None:
    """Older logs do not number the prompts: siblings are together, equally many for each prompt."""
    runs = [len(list(rows)) for table in tables for _, rows in groupby(table["problem_id"].tolist())]
    num_siblings = gcd(*runs)
    for table in tables:
        table["prompt"] = np.arange(len(table["step"])) // num_siblings


# -- replayed under another budget --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The answer of one question."""

    assigned: np.ndarray
    """int [P]: the response group of each prompt; -1 where nothing was sampled."""
    price: np.ndarray
    """float [K budgets]: mean over the steps."""
    num_missed: int
    """Steps in which a budget could not be kept with the step's responses."""


def replay(table: RolloutTable, budgets: Sequence[BudgetTerm], *, window: int, min_gain: float | None) -> Replay:
    """Allocate step by step as the trainer would have: over the last `window` steps, keeping the last one's part.

    Recorded utilities are those of their own step; the trainer regresses older ones again each time, and follows the
    share that the policy really spends. So a replay of the run's own budget comes close to what was chosen, not equal.

    Args:
        table: the run.
        budgets: what may be spent; none: the best of each prompt.
        window: steps, at least 1.
        min_gain: what leaving the standard group must promise; None: what it was in each step.
    """
    steps, start = np.unique(table.step, return_index=True)
    ends = [*start[1:].tolist(), len(table.step)]
    observed = ~np.isnan(table.utility)
    inside = members(budgets, table.columns, len(table.step))
    assigned, prices, num_missed = np.full(len(table.step), -1), [], 0
    for i in range(len(steps)):
        first, last = int(start[max(0, i - window + 1)]), ends[i]
        problem, group = np.nonzero(observed[first:last])
        if not len(problem):
            continue
        least = table.min_gain[start[i]]
        if min_gain is not None:
            least = max(min_gain, LEAST_GAIN) * (np.arange(len(table.names)) > 0)
        utility = table.utility[first:last][problem, group] - least[group]
        tokens = table.tokens[first:last][problem, group]
        weight, price, _, missed = solve_within(budgets, utility, problem, group, tokens, inside[first:last])
        mine = weight & (problem >= start[i] - first)
        assigned[first + problem[mine]] = group[mine]
        prices.append(price)
        num_missed += bool(missed)
    price = np.mean(prices, 0) if prices else np.zeros(len(budgets))
    return Replay(assigned=assigned, price=price, num_missed=num_missed)


def tokens_spent(table: RolloutTable) -> dict[str, float]:
    """What `bind_budgets` takes a run to have spent: mean tokens of its choices, and of its response groups."""
    of_group = _means(table.tokens)
    now = summary(table, table.chosen_group)["tokens"]
    return {"now": now, "cheapest": float(np.nanmin(of_group)), "most_expensive": float(np.nanmax(of_group))}


def _means(values: np.ndarray) -> np.ndarray:
    """`[G]` means over the prompts of which something is known; NaN for a group that was sampled for none of them."""
    known = ~np.isnan(values)
    number = known.sum(0)
    return np.divide(np.where(known, values, 0.0).sum(0), number, out=np.full(len(number), np.nan), where=number > 0)


def summary(table: RolloutTable, assigned: np.ndarray) -> dict[str, Any]:
    """What an assignment is worth: shares, mean reward and tokens of the groups' recorded responses.

    Rewards are those that the choice was made by: optimistic, the more so the fewer responses a cell has. `random_mix`
    gives the same shares to prompts at random.
    """
    has = assigned >= 0
    every = np.flatnonzero(has)
    share = [float(np.mean(assigned[has] == g)) if has.any() else 0.0 for g in range(len(table.names))]
    of_group = _means(table.reward)
    return {
        "num_prompts": len(assigned),
        "share": dict(zip(table.names, share, strict=True)),
        "reward": float(np.nanmean(table.reward[every, assigned[has]])) if has.any() else 0.0,
        "tokens": float(np.nanmean(table.tokens[every, assigned[has]])) if has.any() else 0.0,
        "random_mix": float(sum(part * mean for part, mean in zip(share, of_group.tolist(), strict=True) if part)),
    }


def compare(table: RolloutTable, answer: Replay) -> dict[str, Any]:
    """Compare the run with the replay: overall, by level, and which choices change."""
    both = (table.chosen_group >= 0) & (answer.assigned >= 0)
    before, after = table.chosen_group[both], answer.assigned[both]
    changes = [
        {"from": table.names[a], "to": table.names[b], "share": float(np.mean((before == a) & (after == b)))}
        for a in range(len(table.names))
        for b in range(len(table.names))
        if a != b and np.any((before == a) & (after == b))
    ]
    levels = []
    for level in sorted(set(table.columns["level"].tolist()) - {""}):
        here = table.columns["level"] == level
        part = _part(table, here)
        levels.append(
            {
                "level": level,
                "recorded": summary(part, table.chosen_group[here]),
                "replayed": summary(part, answer.assigned[here]),
            }
        )
    return {
        "recorded": summary(table, table.chosen_group),
        "replayed": summary(table, answer.assigned),
        "changed": float(np.mean(before != after)) if both.any() else 0.0,
        "changes": changes,
        "by_level": levels,
    }


def _part(table: RolloutTable, here: np.ndarray) -> RolloutTable:
    arrays = ("step", "utility", "reward", "tokens", "chosen_group", "min_gain")
    return RolloutTable(
        names=table.names,
        settings=table.settings,
        columns={name: values[here] for name, values in table.columns.items()},
        price={key: values[here] for key, values in table.price.items()},
        **{name: getattr(table, name)[here] for name in arrays},
    )
