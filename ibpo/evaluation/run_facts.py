"""What a run's folder says besides its responses: what was run, and how share and price moved in training."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibpo.budget import parse_budget_entry, write_name
from ibpo.config import ResponseGroupConfig
from ibpo.data import files_below
from ibpo.responses import build_response_groups, messages_before
from ibpo.rollouts import settings_of
from ibpo.types import ResponseGroup

Json = dict[str, Any]
SAMPLED = ("model", "max_tokens", "temperature", "top_p", "forced")
"""Settings of a run by which its responses are of another policy than those of another run; not its seed or server."""
LAST_PART = 0.1
"""The share in training is the mean over this last part of the steps."""
POLICY = re.compile(r"ibpo-([0-9.]+)__sampled")
"""A demo run's policy that was trained to keep a budget, choosing by itself."""


def budget_of(stem: str) -> float | None:
    """The budget that a demo run's file of responses should keep.

    Example:
        >>> budget_of("ibpo-0.25__sampled"), budget_of("ibpo-0.25__standard"), budget_of("raft__sampled")
        (0.25, None, None)
    """
    found = POLICY.fullmatch(stem)
    return float(found[1]) if found else None


def trained_policy(model: str) -> Json | None:
    """Budget, steps and command of the `ibpo train` run whose policy a folder `RUN/model` holds; None for any other.

    Returns:
        `group` (the response group that the budget bounds), `budget`, `steps` (`step`, `share`, `price`), `run`. None
        too where the recipe bounds no share of one response group, or several.
    """
    run = Path(model).expanduser().resolve().parent
    try:
        table = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        names = [group["name"] for group in table["response_group"]]
        keys = set(map(write_name, names))
        budgets = [parse_budget_entry(key, amount) for key, amount in table["budget"].items()]
        shares = {budget.name: float(budget.amount) for budget in budgets if budget.key in keys}
        metrics = run / "metrics.jsonl"  # a policy that was moved to its budget has none
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if len(shares) != 1:
        return None
    [(group, budget)] = shares.items()
    return {"group": group, "budget": budget, "steps": _steps(rows, group), "run": str(run)}


def policy_and_task(path: Path) -> tuple[Json, str]:
    """Who answered what in a run's table of responses: the settings that distinguish policies, and the task.

    A run of `ibpo eval` says it in `eval.json`, any other run in its store's settings; a policy that was trained
    is identified by its run. Empty where nothing is known, e.g. for a table that was copied out of its run.

    Args:
        path: The run's folder, or the table in it.
    """
    folder = path if path.is_dir() else path.parent
    settings = sampled_with(path)
    if isinstance(settings, dict) and settings.get("model"):
        policy = {name: settings.get(name) for name in SAMPLED} | {"forced": bool(settings.get("forced"))}
        if settings.get("weights"):  # wherever they are stored
            policy["model"] = settings["weights"]
        return policy, str(settings.get("task") or "")
    is_demo = run_tables(path) if path.is_dir() else folder.name == "responses" and "__" in path.name
    if is_demo or (folder / "config.toml").is_file():
        return {"run": str(folder.resolve())}, ""
    return {}, ""


def sampled_with(path: Path) -> Any:
    """All settings with which the responses of a run's folder, or of a table in it, were sampled."""
    folder = path if path.is_dir() else path.parent
    about = _read(folder / "eval.json")
    return about.get("settings") if isinstance(about, dict) else settings_of(folder / "rollouts.jsonl")


def asked_by(model: str) -> tuple[list[ResponseGroup], Json, list[dict[str, str]]]:
    """How the policy of a folder `RUN/model` was asked in training: groups, options of the template, messages before.

    Nothing of all this for any other model.
    """
    run = Path(model).expanduser().resolve().parent
    try:
        table = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        configs = [ResponseGroupConfig.model_validate(group) for group in table["response_group"]]
        options = dict(table.get("trl", {}).get("chat_template_kwargs") or {})
        data = table.get("data", {})
        before = messages_before(str(data.get("system", "")), data.get("examples", []))
        return build_response_groups(configs), options, before
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return [], {}, []


def training_of(path: Path) -> dict[str, list[Json]]:
    """Part of the report -> steps in training of the policies that a run's folder holds responses of.

    Returns:
        `configuration`, `budget`, `step`, `share`, `price` of each step; a file that cannot be read is left out.
    """
    about = _read(path / "eval.json")
    if isinstance(about, dict) and isinstance(trained := about.get("trained"), dict):
        head = {"configuration": trained["configuration"], "budget": trained["budget"]}
        return {"": [head | step for step in trained["steps"]]}
    found: dict[str, list[Json]] = {}
    every = run_tables(path)
    for file in every:  # EXPERIMENT/seedN/responses/POLICY__sampled.jsonl.gz
        stem = file.name.partition(".jsonl")[0].removesuffix(".parquet")
        policy, budget = stem.removesuffix("__sampled"), budget_of(stem)
        if budget is None:
            continue
        policies = file.parent.parent / "policies"
        rows = _read(policies / policy / "metrics.json")
        # Policies that one trained policy was moved to have no training of their own.
        if isinstance(rows, list) and not (policies / "ibpo").exists():
            head = {"configuration": f"{policy}, sampled", "budget": budget}
            part = part_of(file, every)
            found.setdefault(part, []).extend(head | step for step in _steps(rows, "extended"))
    return found


def run_tables(path: Path) -> list[Path]:
    """The tables of responses in the folder of a demo run; Parquet files of older runs among them."""
    if not path.is_dir():
        return []
    ends = ("responses/*__*.jsonl.gz", "responses/*__*.parquet")
    return sorted(file for file in files_below(path) if any(file.match(end) for end in ends))


def part_of(file: Path, every: Sequence[Path]) -> str:
    """The part of the report that a file of a demo run belongs to: its experiment, and seed where there are several."""
    several = len({one.parts[-3] for one in every}) > 1
    return f"{file.parts[-4]} {file.parts[-3]}" if several else file.parts[-4]


def share_in_training(steps: Sequence[Json], configuration: str) -> float | None:
    """The mean share over the last tenth of the steps; None where nothing of the training is known.

    Example:
        >>> steps = [{"configuration": "c", "step": i, "share": 0.1 * i} for i in range(10)]
        >>> share_in_training(steps, "c"), share_in_training(steps, "d")
        (0.9, None)
    """
    shares = [step["share"] for step in steps if step["configuration"] == configuration]
    last = shares[-max(round(LAST_PART * len(shares)), 1) :]
    return sum(last) / len(last) if last else None


def facts_of(path: Path, name: str = "") -> list[tuple[str, str]]:
    """What an `ibpo eval` run, a demo run or a run of baselines says of itself; nothing where there is none.

    Args:
        path: Its folder.
        name: What it is called; "": as its folder.
    """
    name = name or path.resolve().name
    about = _read(path / "eval.json")
    found: list[tuple[str, str]] = []
    try:
        if isinstance(about, dict):
            calls = about.get("calls") or [about]
            for number, call in enumerate(calls, start=1):
                head = name if len(calls) == 1 else f"{name}, call {number}"
                engine = ", ".join(f"{key} {_plain(value)}" for key, value in call["engine"].items() if value)
                found += [(f"{head}: command", call["command"]), (f"{head}: engine", engine)]
            settings = {k: v for k, v in about["settings"].items() if v is not None and k not in ("model", "task")}
            found.append((f"{name}: settings", ", ".join(f"{k} {_plain(v)}" for k, v in settings.items())))
            found.append((f"{name}: problems", f"{about['num_problems']}, {about['problems_fingerprint']}"))
            if about.get("bill"):
                found.append((f"{name}: bill of all calls", _plain(about["bill"])))
            if trained := about.get("trained"):
                found.append((f"{name}: trained in", f"{trained['run']}, {trained['group']} {trained['budget']}"))
    except (KeyError, TypeError, AttributeError):
        return found
    for file in ("settings.json", "baselines-settings.json"):
        settings = _read(path / file)
        if isinstance(settings, dict):
            found += [(f"{name}: {key.replace('_', ' ')}", _plain(value)) for key, value in settings.items()]
    return found


def _steps(rows: Sequence[Mapping[str, Any]], group: str) -> list[Json]:
    share, price = f"ibpo/share/{group}", f"ibpo/price/{group}"
    return [
        {"step": row["step"], "share": row[share], "price": row.get(price)}
        for row in rows
        if isinstance(row, Mapping) and isinstance(row.get(share), int | float) and "step" in row
    ]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
