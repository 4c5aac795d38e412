"""`ibpo allocate`: what a budget buys on a log of scored responses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.commands.allocate_answer import Part
    from ibpo.data import LogColumns


def allocate_command(
    log: Annotated[Path, typer.Argument(help="Scored responses: .jsonl, .csv (also .gz) or .parquet.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="tokens=2000: mean cost per problem; tokens=0.5x: half of what the log spends; tokens=25%range: that "
            "far from the cheapest response group to the most expensive; extended=30%: share of problems for that "
            "response group; 'extended>=10%': at least. Repeated budgets hold together; half and twice of them are "
            "answered too. Default: tokens at 25%range, 50%range and 75%range.",
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Column that splits the log; each part is solved on its own.")] = None,
    show: Annotated[
        str | None, typer.Option(help="Column (level, domain) by which to show who gets which response group.")
    ] = None,
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
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="At a bad row: stop, or count it and go on.")
    ] = "fail",
    stream: Annotated[
        bool, typer.Option(help="Read the log in two passes, for one larger than memory; values are in sample.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for choices.jsonl, summary.json, rows.jsonl and frontier.png.")
    ] = None,
) -> None:
    """Say which response group each problem should get under a budget, and what that is worth."""
    from rich.console import Console

    from ibpo.commands.allocate_answer import answer
    from ibpo.commands.allocate_budgets import questions
    from ibpo.commands.allocate_report import print_part, write_files
    from ibpo.data import LogColumns

    try:
        if stream and holdout:
            raise IbpoError(
                "--holdout: halving takes all responses of a problem at once, which --stream never holds; leave out "
                "--stream, or hold out on a sample of the log's problems"
            )
        asked = questions(budget or [])
        names = LogColumns(problem=problem, response_group=response_group, reward=reward, cost=cost, by=by, show=show)
        bad: list[str] = []
        with _bar(f"reading {log.name}") as read:
            if stream:
                parts, guessed = _streamed(log, names, on_error, bad, read)
            else:
                parts, guessed = _in_memory(log, names, on_error, bad, read)
        for field, column in guessed.items():
            option = field.replace("_", "-")
            typer.echo(f"{field.replace('_', ' ')}: column '{column}' (--{option} names another)", err=True)
        if bad:
            typer.echo(f"{len(bad)} bad rows left out, the first: {bad[0]}", err=True)
        for part in parts:  # complain before any solving
            for question in asked:
                part.limits(question)
        console = Console(width=None if sys.stdout.isatty() else 160)
        answers = []
        for part in parts:
            lines = answer(part, asked, holdout=holdout, num_splits=num_splits, seed=seed, progress=_split_counter)
            print_part(console, f"{by} = {part.name}" if by else log.name, part, lines)
            answers.append((part, lines))
        if out is not None:
            write_files(out, log, names, answers, on_error=on_error, num_bad=len(bad))
    except IbpoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _in_memory(
    path: Path, names: LogColumns, on_error: Literal["fail", "skip"], bad: list[str], read: Callable[[int], None]
) -> tuple[list[Part], dict[str, str]]:
    from ibpo.commands.allocate_answer import part_of_log
    from ibpo.data import read_log

    fields = {field: getattr(names, field) for field in ("problem", "response_group", "reward", "cost", "by", "show")}
    table = read_log(path, **fields, on_error=on_error, progress=read)
    bad.extend(table.bad_rows)
    parts = _usable((partial(part_of_log, name, part, _say) for name, part in table.parts().items()), names.by)
    return parts, {field: table.columns[field] for field in table.guessed}


def _streamed(
    path: Path, names: LogColumns, on_error: Literal["fail", "skip"], bad: list[str], read: Callable[[int], None]
) -> tuple[list[Part], dict[str, str]]:
    from ibpo.commands.allocate_answer import part_of_sums
    from ibpo.data import LogReader, sum_parts

    reader = LogReader(path, names, on_error=on_error)
    sums = sum_parts(reader, read)
    bad.extend(reader.bad_rows)
    parts = _usable((partial(part_of_sums, name, x, reader.columns, _say) for name, x in sums.items()), names.by)
    return parts, {field: reader.columns[field] for field in names.guessed}


def _usable(makers: Iterable[Callable[[], Part]], by: str | None) -> list[Part]:
    """The parts of the log; one that leaves nothing to choose is left out aloud, if there are others."""
    parts: list[Part] = []
    wrong: list[str] = []
    for make in makers:
        try:
            parts.append(make())
        except IbpoError as error:
            if by is None:
                raise
            wrong.append(str(error))
    if not parts:
        raise IbpoError(f"--by {by}: nothing to choose in any of {len(wrong)} parts; the first: {wrong[0]}")
    for text in wrong:
        _say(f"part left out: {text}")
    return parts


def _say(text: str) -> None:
    typer.echo(text, err=True)


class _bar:
    """A count of rows on a terminal's stderr; nothing elsewhere."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,} rows"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda rows: self._progress.update(self._task, completed=rows)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _split_counter(label: str) -> Callable[[int, int], None] | None:
    """A line on a terminal's stderr that counts splits; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            end = "\r\033[K" if done == total else ""
            print(f"\r{label}: split {done} of {total}{end}", end="", file=sys.stderr, flush=True)

    return show
