"""`ibpo allocate`: what a budget buys on a log of scored responses."""

import json
import sys
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ibpo.allocation.cells import ResponseCells
from ibpo.allocation.exact import allocate
from ibpo.allocation.holdout import HoldoutRow, holdout_value
from ibpo.allocation.log_file import Log, read_log
from ibpo.allocation.problem import Allocation, Budget, FloatArray, share
from ibpo.errors import IbpoError
from ibpo.runs import write_text_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class Dial:
    """One `--budget`: what is limited (the log's cost, or the share of a response group) and to how much."""

    text: str
    name: str
    amount: Fraction
    percent: bool

    @classmethod
    def parse(cls, text: str) -> "Dial":
        """Read NAME=NUMBER or NAME=NUMBER%."""
        name, equals, number = text.partition("=")
        percent = number.strip().endswith("%")
        try:
            amount = Fraction(number.strip().removesuffix("%")) / (100 if percent else 1)
        except (ValueError, ZeroDivisionError):
            amount = Fraction(-1)
        if not equals or not name.strip() or amount < 0:
            raise IbpoError(
                f"--budget {text}: needs NAME=NUMBER or NAME=PERCENT%, e.g. tokens=2000, tokens=25% or extended=30%"
            )
        return cls(text=text, name=name.strip(), amount=amount, percent=percent)

    def resolve(self, log: Log, cells: ResponseCells) -> tuple[FloatArray, Budget]:
        """The cost of each response `[R]` and the mean allowed per problem, for this part of the log."""
        if self.name in ("tokens", "cost", log.columns["cost"]):
            mean_cost = cells.mean_cost.mean(0)
            way = float(mean_cost.min() + float(self.amount) * (mean_cost.max() - mean_cost.min()))
            return log.cost, way if self.percent else self.amount
        if self.name not in cells.response_groups:
            known = ", ".join(cells.response_groups)
            raise IbpoError(f"--budget {self.text}: no response group {self.name!r}; name tokens or one of {known}")
        if self.amount > 1:
            raise IbpoError(f"--budget {self.text}: a share is at most 1; did you mean {self.name}={self.amount}%?")
        return share(log.response_group, self.name), self.amount


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One budget's answer for one part of the log."""

    dial: Dial
    budget: float
    allocation: Allocation
    pick: list[int]
    reward: float
    held_out: HoldoutRow | None

    def shares(self, response_groups: list[str]) -> dict[str, float]:
        """Share of problems that each response group gets when the whole log decides."""
        count = np.bincount(self.pick, minlength=len(response_groups)) / len(self.pick)
        return dict(zip(response_groups, count.tolist(), strict=True))


def allocate_command(
    log: Annotated[Path, typer.Argument(help="Scored responses: .jsonl, .csv (also .gz) or .parquet.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="tokens=2000: mean cost per problem; tokens=25%: that far from the cheapest to the dearest response "
            "group; extended=30%: share of problems for that response group. Repeat for several answers. "
            "Default: tokens at 25%, 50% and 75%.",
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Column that splits the log; each part is solved on its own.")] = None,
    problem: Annotated[str | None, typer.Option(help="Column with the problem's id.")] = None,
    response_group: Annotated[str | None, typer.Option(help="Column with the response group.")] = None,
    reward: Annotated[str | None, typer.Option(help="Column with the reward.")] = None,
    cost: Annotated[str | None, typer.Option(help="Column with the cost.")] = None,
    holdout: Annotated[
        bool | None,
        typer.Option("--holdout/--no-holdout", help="Value choices on unseen halves. Default: if responses repeat."),
    ] = None,
    num_splits: Annotated[int, typer.Option(min=1, help="Random halvings for the held-out values.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the halvings.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for choices.jsonl and summary.json.")] = None,
) -> None:
    """Say which response group each problem should get under a budget, and what that is worth."""
    try:
        dials = [Dial.parse(text) for text in budget or ("tokens=25%", "tokens=50%", "tokens=75%")]
        table = read_log(log, problem=problem, response_group=response_group, reward=reward, cost=cost, by=by)
        for field in table.guessed:
            option = field.replace("_", "-")
            typer.echo(
                f"{field.replace('_', ' ')}: column '{table.columns[field]}' (--{option} names another)", err=True
            )
        console = Console(width=None if sys.stdout.isatty() else 160)
        choices, summary = [], []
        parts = [(name, *_complete(name, part)) for name, part in table.parts().items()]
        for _, part, cells in parts:  # complain before any solving
            for dial in dials:
                dial.resolve(part, cells)
        for name, part, cells in parts:
            lines = _answer(name, part, cells, dials, holdout, num_splits, seed)
            console.print(_table(f"{by} = {name}" if by else log.name, part, cells, lines))
            choices += [row for line in lines for row in _choices(name, cells, line)]
            summary.append(_summary(name, part, cells, lines))
        if out is not None:
            write_text_atomic(out / "choices.jsonl", "".join(json.dumps(row) + "\n" for row in choices))
            whole = {"log": log.name, "by": by, "parts": summary}
            write_text_atomic(out / "summary.json", json.dumps(whole, indent=2) + "\n")
    except IbpoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _complete(name: str, part: Log) -> tuple[Log, ResponseCells]:
    """Only the problems with a response of every response group."""
    cells = ResponseCells.from_arrays(part.reward, part.problem, part.response_group, part.cost)
    place = f"{name}: " if name else ""
    if len(cells.response_groups) < 2:
        raise IbpoError(
            f"{place}column '{part.columns['response_group']}' has one response group, {cells.response_groups[0]}; "
            f"an allocation chooses between at least two; name another column with --response-group"
        )
    return _keep_problems(part, cells, at_least=1, reason=f"{place}problems without a response of every response group")


def _keep_problems(part: Log, cells: ResponseCells, at_least: int, reason: str) -> tuple[Log, ResponseCells]:
    full = np.array((cells.count >= at_least).all(axis=1))
    if full.all():
        return part, cells
    if not full.any():
        raise IbpoError(f"{reason}: all {len(full)}; log every problem with every response group")
    typer.echo(f"{reason}: {int((~full).sum())} of {len(full)} left out", err=True)
    wanted = {name for name, ok in zip(cells.problems, full, strict=True) if ok}
    part = part.rows([i for i, x in enumerate(part.problem) if x in wanted])
    return part, ResponseCells.from_arrays(part.reward, part.problem, part.response_group, part.cost)


def _answer(
    name: str, part: Log, cells: ResponseCells, dials: list[Dial], holdout: bool | None, num_splits: int, seed: int
) -> list[Line]:
    """Allocate each budget on the whole part; value each on held-out halves."""
    place = f"{name}: " if name else ""
    repeated = int((cells.count >= 2).all(1).sum()) >= 2
    if holdout is None and not repeated:
        typer.echo(f"{place}no held-out values: at least 2 responses per problem and response group needed", err=True)
    holdout = repeated if holdout is None else holdout
    thick = part
    if holdout:
        reason = f"{place}held out: problems without 2 responses of every response group"
        thick, _ = _keep_problems(part, cells, at_least=2, reason=reason)
    lines = []
    for dial in dials:
        cost_R, allowed = dial.resolve(part, cells)
        by_cell = ResponseCells.from_arrays(part.reward, part.problem, part.response_group, cost_R)
        num_problems, num_groups = cells.count.shape
        problem = [x for x in cells.problems for _ in range(num_groups)]
        try:
            allocation = allocate(cells.mean_reward.ravel(), problem, by_cell.mean_cost.ravel(), allowed)
            row = None
            if holdout:
                row = holdout_value(
                    thick.reward,
                    thick.problem,
                    thick.response_group,
                    dial.resolve(thick, cells)[0],
                    [allowed],
                    num_splits=num_splits,
                    seed=seed,
                    progress=_progress(f"{place}{dial.text}"),
                )[0]
        except IbpoError as error:
            raise IbpoError(f"{place}--budget {dial.text}: {error}") from None
        pick = allocation.weight.reshape(num_problems, num_groups).argmax(1).tolist()
        lines.append(
            Line(
                dial=dial,
                budget=float(allowed),
                allocation=allocation,
                pick=pick,
                reward=allocation.objective / num_problems,
                held_out=row,
            )
        )
    return lines


def _progress(label: str) -> Any:
    """A line on a terminal's stderr that counts splits; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            end = "\r\033[K" if done == total else ""
            print(f"\r{label}: split {done} of {total}{end}", end="", file=sys.stderr, flush=True)

    return show


def _table(title: str, part: Log, cells: ResponseCells, lines: list[Line]) -> Table:
    """One row per constant policy and per budget; response groups from cheapest to dearest."""
    reward, unit = part.columns["reward"], part.columns["cost"]
    table = Table(title=f"{title}: {len(cells.problems)} problems, {len(part.problem)} responses", title_justify="left")
    mean_cost, mean_reward = cells.mean_cost.mean(0), cells.mean_reward.mean(0)
    by_cost = np.argsort(mean_cost, kind="stable").tolist()
    names = [cells.response_groups[g] for g in by_cost]
    heads = [
        "budget",
        "allowed",
        "spent",
        reward,
        "random mix",
        "gain",
        "of dearest",
        "in sample",
        "price x 1000",
        *names,
    ]
    for head in heads:
        table.add_column(head, justify="left" if head == "budget" else "right")
    dearest = mean_reward[by_cost[-1]]
    for g, name in zip(by_cost, names, strict=True):
        of_dearest = f"{mean_reward[g] / dearest:.1%}" if dearest else ""
        shares = ["1.00" if name == other else "" for other in names]
        row = [f"always {name}", "", _amount(mean_cost[g]), f"{mean_reward[g]:.3f}", "", "", of_dearest, "", ""]
        table.add_row(*row, *shares)
    table.add_section()
    for line in lines:
        held, allocation = line.held_out, line.allocation
        row = [line.dial.text, _amount(line.budget)]
        if held is None:
            row += [_amount(allocation.spent[0]), "", "", "", "", f"{line.reward:.3f}"]
        else:
            row += [_amount(held.spent), f"{held.reward:.3f} ± {held.reward_stderr:.3f}", f"{held.random_mix:.3f}"]
            row += [f"{held.gain:+.3f} ± {held.gain_stderr:.3f}", f"{held.reward / dearest:.1%}" if dearest else ""]
            row += [f"{held.in_sample:.3f}"]
        shares = line.shares(cells.response_groups)
        table.add_row(*row, f"{1000 * allocation.price[0]:.3g}", *(f"{shares[name]:.2f}" for name in names))
    honest = (
        f"spent ({unit}, or share, per problem), {reward} ± standard error by problem, and gain over the best random "
        "mix of response groups at the same cost: all on the half of the responses that did not decide."
    )
    optimistic = "Not held out: 'in sample' values the choices on the responses that made them, which is optimistic."
    table.caption = (
        f"{honest if any(line.held_out for line in lines) else optimistic} Price: what one more unit of the budgeted "
        f"cost adds to the total {reward}, x 1000. Price and shares: of the allocation that all responses decide."
    )
    table.caption_justify = "left"
    return table


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _choices(name: str, cells: ResponseCells, line: Line) -> list[dict[str, Any]]:
    return [
        {
            "part": name,
            "budget": line.dial.text,
            "problem": problem,
            "response_group": cells.response_groups[g],
            "mean_reward": float(cells.mean_reward[p, g]),
            "mean_cost": float(cells.mean_cost[p, g]),
        }
        for p, (problem, g) in enumerate(zip(cells.problems, line.pick, strict=True))
    ]


def _summary(name: str, part: Log, cells: ResponseCells, lines: list[Line]) -> dict[str, Any]:
    return {
        "part": name,
        "columns": part.columns,
        "num_problems": len(cells.problems),
        "num_responses": len(part.problem),
        "always": {
            group: {"mean_cost": float(c), "mean_reward": float(r)}
            for group, c, r in zip(
                cells.response_groups, cells.mean_cost.mean(0), cells.mean_reward.mean(0), strict=True
            )
        },
        "budgets": [
            {
                "budget": line.dial.text,
                "allowed": line.budget,
                "spent": float(line.allocation.spent[0]),
                "mean_reward_in_sample": line.reward,
                "objective": line.allocation.objective,
                "upper_bound": line.allocation.upper_bound,
                "price": float(line.allocation.price[0]),
                "status": line.allocation.status,
                "rule": line.allocation.rule,
                "share": line.shares(cells.response_groups),
                "held_out": _json_numbers(asdict(line.held_out)) if line.held_out else None,
            }
            for line in lines
        ],
    }


def _json_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined number is null."""
    return {key: None if value != value else value for key, value in row.items()}
