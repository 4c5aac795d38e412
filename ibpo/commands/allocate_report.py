"""What `ibpo allocate` prints and writes: a table to act on, the choices, the chosen rows, a summary, a picture."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ibpo.commands.allocate_answer import Line, Part
from ibpo.data import Labels, LogColumns, LogReader, LogRows
from ibpo.errors import IbpoError
from ibpo.runs import atomic_file, write_text_atomic

CHUNK = 100_000
"""Problems that are turned into lines of JSON at a time."""


def print_part(console: Console, title: str, part: Part, lines: list[Line]) -> None:
    """The table of one part, and who gets what by the shown column."""
    reward, unit = part.columns["reward"], part.columns["cost"]
    num_rows = int(part.count.sum())
    table = Table(title=f"{title}: {len(part.problems):,} problems, {num_rows:,} responses", title_justify="left")
    mean_cost, mean_reward = part.cost.mean(0), part.reward.mean(0)
    by_cost = np.argsort(mean_cost, kind="stable").tolist()
    names = [part.groups[g] for g in by_cost]
    heads = ["budget", "allowed", "spent", reward, "random mix", "gain", "of dearest", "in sample", "price x 1000"]
    for head in [*heads, *names]:
        table.add_column(head, justify="left" if head == "budget" else "right")
    dearest = mean_reward[by_cost[-1]]
    now = part.now()
    table.add_row("as logged", "", _amount(now[1]), f"{now[0]:.3f}")
    for g, name in zip(by_cost, names, strict=True):
        of_dearest = f"{mean_reward[g] / dearest:.1%}" if dearest else ""
        shares = ["1.00" if name == other else "" for other in names]
        row = [f"always {name}", "", _amount(mean_cost[g]), f"{mean_reward[g]:.3f}", "", "", of_dearest, "", ""]
        table.add_row(*row, *shares)
    best = np.lexsort((part.cost, -part.reward))[:, 0]
    spent = float(np.take_along_axis(part.cost, best[:, None], 1).mean())
    table.add_row(
        "no budget", "", _amount(spent), "", "", "", "", f"{part.reward.max(1).mean():.3f}", "0",
        *(f"{np.mean(best == g):.2f}" for g in by_cost),
    )  # fmt: skip
    table.add_section()
    for line in lines:
        table.add_row(*_row(part, line, dearest), *_shares(part, line, by_cost))
    honest = (
        f"spent ({unit} per problem), {reward} ± standard error by problem, and gain over the best random mix of "
        "response groups at the same cost: all on the half of the responses that did not decide."
    )
    optimistic = "Not held out: 'in sample' values the choices on the responses that made them, which is optimistic."
    table.caption = (
        f"{honest if any(line.held_out for line in lines) else optimistic} Price: what one more unit of the budgeted "
        f"cost adds to the total {reward}, x 1000. Price and shares: of the allocation that all responses decide."
    )
    table.caption_justify = "left"
    console.print(table)
    for line in lines:
        if line.why:
            console.print(f"{line.question.label}: {line.why}", markup=False, soft_wrap=True)
    if part.shown is not None:
        _print_shown(console, part, lines, by_cost)


def _row(part: Part, line: Line, dearest: float) -> list[str]:
    allowed = ", ".join(_amount(float(x.at_most)) if x.at_most is not None else "" for x in line.limits)
    if line.allocation is None:
        return [line.question.label, allowed, "not possible", "", "", "", "", "", ""]
    held = line.held_out
    price = ", ".join(f"{1000 * p:.3g}" for p in line.allocation.price)
    if held is None:
        spent = float(np.take_along_axis(part.cost, line.pick[:, None], 1).mean())
        in_sample = line.allocation.objective / len(part.problems)
        return [line.question.label, allowed, _amount(spent), "", "", "", "", f"{in_sample:.3f}", price]
    return [
        line.question.label,
        allowed,
        _amount(held.spent),
        f"{held.reward:.3f} ± {held.reward_stderr:.3f}",
        f"{held.random_mix:.3f}",
        f"{held.gain:+.3f} ± {held.gain_stderr:.3f}",
        f"{held.reward / dearest:.1%}" if dearest else "",
        f"{held.in_sample:.3f}",
        price,
    ]


def _shares(part: Part, line: Line, by_cost: list[int]) -> list[str]:
    return [f"{np.mean(line.pick == g):.2f}" if line.allocation else "" for g in by_cost]


def _print_shown(console: Console, part: Part, lines: list[Line], by_cost: list[int]) -> None:
    assert part.shown is not None
    column = part.columns["show"]
    for line in lines:
        if line.allocation is None or line.question.times != 1:
            continue
        console.print(f"who gets what under {line.question.label}, by {column}", markup=False, soft_wrap=True)
        table = Table()
        for head in (column, "problems", *(part.groups[g] for g in by_cost)):
            table.add_column(head, justify="left" if head == column else "right")
        for value in sorted(part.shown.names):
            here = part.shown.code == part.shown.names.index(value)
            if not here.any():
                continue
            table.add_row(value, str(int(here.sum())), *(f"{np.mean(line.pick[here] == g):.2f}" for g in by_cost))
        console.print(table)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_files(
    out: Path,
    path: Path,
    names: LogColumns,
    answers: list[tuple[Part, list[Line]]],
    *,
    on_error: Literal["fail", "skip"],
    num_bad: int,
) -> None:
    """choices.jsonl (a problem and a budget a line), rows.jsonl (the chosen rows), summary.json, frontier.png."""
    _write_lines(
        out / "choices.jsonl", (row for part, lines in answers for line in lines for row in _choices(part, line))
    )
    _write_lines(out / "rows.jsonl", _chosen_rows(path, names, answers, on_error))
    whole = {
        "log": path.name,
        "by": names.by,
        "bad_rows": num_bad,
        "parts": [_summary(part, lines) for part, lines in answers],
    }
    write_text_atomic(out / "summary.json", json.dumps(whole, indent=2) + "\n")
    for part, lines in answers:
        file = out / (f"frontier_{_file_name(part.name)}.png" if part.name else "frontier.png")
        _draw(file, part, lines)


def _file_name(name: str) -> str:
    return "".join(x if x.isalnum() or x in ".-" else "_" for x in name)


def _draw(file: Path, part: Part, lines: list[Line]) -> None:
    """The frontier on the log's cost, with the budget that was asked, where it is one on that cost."""
    asked = [x for line in lines if line.question.times == 1 for x in line.limits]
    budgets = [float(x.at_most) for x in asked if x.group is None and x.at_most is not None]
    names = {"cost_name": f"{part.columns['cost']} per problem", "value_name": f"{part.columns['reward']}, in sample"}
    temporary = file.with_name(f".{file.name}")
    try:
        part.frontier().plot(temporary.with_suffix(".png"), budget=budgets[0] if len(budgets) == 1 else None, **names)
        os.replace(temporary, file)
    except IbpoError as error:
        typer.echo(f"no picture: {error}", err=True)


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    """JSON lines one by one: the whole file or what was there."""
    with atomic_file(path) as file:
        file.writelines(lines)


def _choices(part: Part, line: Line) -> Iterator[str]:
    head = f'{{"part": {json.dumps(part.name)}, "budget": {json.dumps(line.question.label)}, "problem": '
    groups = [f', "response_group": {json.dumps(name)}, "mean_reward": ' for name in part.groups]
    for first in range(0, len(line.pick), CHUNK):
        rows = slice(first, first + CHUNK)
        pick = line.pick[rows].astype(np.int64)[:, None]
        values = (np.take_along_axis(table[rows], pick, 1)[:, 0].tolist() for table in (part.reward, part.cost))
        for problem, g, reward, cost in zip(_ids(part.problems[rows]), pick[:, 0].tolist(), *values, strict=True):
            yield f'{head}{problem}{groups[g]}{reward!r}, "mean_cost": {cost!r}}}\n'


def _ids(problems: Any) -> list[str]:
    """Ids as JSON strings."""
    if isinstance(problems, np.ndarray):
        return [f'"{x}"' for x in problems.tolist()]
    return [json.dumps(str(x)) for x in problems]


def _chosen_rows(
    path: Path, names: LogColumns, answers: list[tuple[Part, list[Line]]], on_error: Literal["fail", "skip"]
) -> Iterator[str]:
    """The second pass: the log's rows whose response group was chosen for their problem under the budget as asked."""
    parts = {part.name: (part, [x for x in lines if x.question.times == 1 and x.allocation]) for part, lines in answers}
    for block in LogReader(path, names, on_error=on_error).blocks():
        for name, rows in block.by_part():
            if name in parts:
                yield from _written(
                    rows.take(np.flatnonzero(_is_chosen(rows, *parts[name]))), name if names.by else None
                )


def _is_chosen(rows: LogRows, part: Part, lines: list[Line]) -> NDArray[np.bool_]:
    place = part.find(rows.problem)
    group = np.array([part.groups.index(x) if x in part.groups else -1 for x in rows.response_group.names])
    group_R = group[rows.response_group.code]
    chosen = np.zeros(len(rows), bool)
    for line in lines:
        chosen |= line.pick[place] == group_R
    return chosen & (place >= 0)


def _written(rows: LogRows, part: str | None) -> Iterator[str]:
    """The rows as lines of JSON; by hand, for `json.dumps` of a dictionary takes five times as long."""
    by = "" if part is None else f', "by": {json.dumps(part)}'
    shown = [""] * len(rows)
    if rows.shown is not None:
        shown = _of_code(rows.shown, [f', "show": {json.dumps(x)}' for x in rows.shown.names])
    groups = [f', "response_group": {json.dumps(x)}, "reward": ' for x in rows.response_group.names]
    fields = (
        _ids(rows.problem),
        _of_code(rows.response_group, groups),
        rows.reward.tolist(),
        rows.cost.tolist(),
        shown,
    )
    for problem, group, reward, cost, of_row in zip(*fields, strict=True):
        yield f'{{"problem": {problem}{group}{reward!r}, "cost": {cost!r}{by}{of_row}}}\n'


def _of_code(labels: Labels, written: list[str]) -> list[str]:
    return [written[code] for code in labels.code.tolist()]


def _summary(part: Part, lines: list[Line]) -> dict[str, Any]:
    now, mean_cost, mean_reward = part.now(), part.cost.mean(0).tolist(), part.reward.mean(0).tolist()
    return {
        "part": part.name,
        "columns": part.columns,
        "num_problems": len(part.problems),
        "num_responses": int(part.count.sum()),
        "as_logged": {"mean_reward": now[0], "mean_cost": now[1]},
        "always": {
            group: {"mean_cost": c, "mean_reward": r}
            for group, c, r in zip(part.groups, mean_cost, mean_reward, strict=True)
        },
        "no_budget": {"mean_reward_in_sample": float(part.reward.max(1).mean())},
        "budgets": [_line_summary(part, line) for line in lines],
    }


def _line_summary(part: Part, line: Line) -> dict[str, Any]:
    limits = [{"name": x.name, "at_most": _float(x.at_most), "at_least": _float(x.at_least)} for x in line.limits]
    head = {"budget": line.question.label, "times": float(line.question.times), "limits": limits}
    if line.allocation is None:
        return {**head, "infeasible": line.why}
    allocation = line.allocation
    for x, spent, price in zip(limits, allocation.spent.tolist(), allocation.price.tolist(), strict=True):
        x.update(spent=spent, price=price)
    share = np.bincount(line.pick, minlength=len(part.groups)) / len(part.problems)
    return {
        **head,
        "mean_reward_in_sample": allocation.objective / len(part.problems),
        "objective": allocation.objective,
        "upper_bound": allocation.upper_bound,
        "status": allocation.status,
        "rule": allocation.rule,
        "share": dict(zip(part.groups, share.tolist(), strict=True)),
        "held_out": None if line.held_out is None else _json_numbers(asdict(line.held_out)),
    }


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _json_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined number is null."""
    return {key: None if value != value else value for key, value in row.items()}
