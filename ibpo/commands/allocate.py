"""`ibpo allocate`: what a budget buys on a log of scored responses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibpo.budget import cost_text
from ibpo.commands.completion import keys
from ibpo.commands.options import LOG_FIELDS, Columns, OnError, PricesFile, read_pairs
from ibpo.errors import IbpoError
from ibpo.terminal import PIPED, plain_console, print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from ibpo.evaluation import Answer, LogPart


EVERY = 5.0
"""Seconds between lines of progress, where stderr is no terminal."""


def allocate_command(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG [TABLE]...",
            help="Scored responses, a row each: JSON lines, JSON, CSV, Parquet or Arrow, a file or folder; or the log "
            "of a server or harness. The columns of further tables, such as rewards, are added to the "
            "rows with the same identifier.",
        ),
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            autocompletion=keys("tokens", "money"),
            help="tokens=2000: mean tokens per problem; money=0.002: mean money per problem, in the currency of "
            "--prices; 0.5x: half of what the log spends; tokens=25%range: 25 percent of the way from the cheapest "
            "response group to the most expensive; extended=30%: largest share of the problems for that response "
            "group, in percent of the problems; 'extended>=10%': smallest share. Repeated budgets hold together; half "
            "and twice of them are answered too. Default: 0.5x, 25%range, 50%range and 75%range.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that splits the log; each part is solved on its own.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column (level, domain) by which to show which problems get which response group."
        ),
    ] = None,
    columns: Columns = None,
    prices: PricesFile = None,
    num_splits: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=0,
            max=100_000,
            help="Where responses repeat, choices are valued on unseen halves of them: how many random halvings. 0: "
            "hold nothing out. Default: 100; fewer for many problems.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Seed of the halvings.")] = 0,
    on_error: OnError = "fail",
    stream: Annotated[
        bool, typer.Option(help="Read the log in two passes, for one larger than memory; nothing is held out.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="More columns: prices, shares, the mixture of the same cost.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is in summary.json as JSON, and no tables.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for choices.jsonl, summary.json, rows.jsonl and frontier.png. Default: nothing is written.",
        ),
    ] = None,
) -> None:
    """Say which response group each problem should get under a budget, and what that is worth."""
    from ibpo.budget import costs_named
    from ibpo.data import LogColumns
    from ibpo.evaluation import answer_questions, questions, read_parts, summarise_parts, write_files
    from ibpo.prices import read_prices
    from ibpo.runs import check_out

    holdout = False if num_splits == 0 else None  # None: where responses repeat
    if stream and num_splits:
        raise IbpoError(
            "--num-splits: halving takes all responses of a problem at once, which --stream never holds; leave out "
            "--stream, or hold out on a sample of the log's problems"
        )
    log, *join = logs
    questions(budget or [])  # complain before any reading
    if out is not None:
        check_out(out, is_folder=True)
    named = read_pairs(columns or (), LOG_FIELDS, "--columns")
    names = LogColumns(**named, by=by, show=show, prices=read_prices(prices) if prices else None)
    with _bar(f"reading {log.name}") as progress:
        found = read_parts(log, names, on_error=on_error, join=join, stream=stream, say=say, progress=progress)
    for note in found.notes:
        say(note)
    for field, column in found.guessed.items():
        if column not in ("problem_id", "response_group", "reward", "tokens"):  # which are no guess
            say(f"{field.replace('_', ' ')}: column '{column}' (--columns {field}=... names another)")
    if found.bad_rows:
        say(f"{len(found.bad_rows)} bad rows left out, the first: {found.bad_rows[0]}")
    asked = questions(budget or [], cost=costs_named(found.parts[0].columns["cost"])[0])
    for part in found.parts:  # complain before any solving
        for question in asked:
            question.limits_on(part)
    console = plain_console(width=160 if wide else PIPED)
    all_answers: list[tuple[LogPart, list[Answer]]] = []
    # What one of several parts cannot keep is said in its row, and the others are solved all the same.
    of_parts = asked if len(found.parts) == 1 else [replace(question, was_asked=False) for question in asked]
    for part in found.parts:
        answers = answer_questions(
            part, of_parts, holdout=holdout, num_splits=num_splits, seed=seed, say=say, progress=_split_counter
        )
        if not as_json:
            _print_part(console, f"{by} = {part.name}" if by else log.name, part, answers, wide=wide)
        all_answers.append((part, answers))
    for question, *rows in zip(asked, *(answers for _, answers in all_answers), strict=True):
        if question.was_asked and question.times == 1 and not any(answer.allocation for answer in rows):
            why = f"{found.parts[0].name}: {rows[0].why.removeprefix('not possible: ')}"
            raise IbpoError(f"--budget {question.label}: cannot be kept in any part; {why}")
    num_bad = len(found.bad_rows)
    if as_json:
        typer.echo(json.dumps(summarise_parts(log, by, all_answers, num_bad=num_bad), indent=2))
    if out is None:
        say("nothing is written: --out FOLDER for choices, chosen rows, summary, picture")
    else:
        write_files(out, log, names, all_answers, on_error=on_error, join=join, num_bad=num_bad, say=say)


def _print_part(console: Console, title: str, part: LogPart, answers: list[Answer], *, wide: bool) -> None:
    """What to do, then the table of one part, and who gets what by the shown column."""
    import numpy as np

    from ibpo.evaluation import verdicts

    for text in verdicts(part, [answer for answer in answers if answer.question.times == 1]):
        console.print(text, markup=False, highlight=False)
        console.print()
    reward, unit = part.columns["reward"], part.columns["cost"]
    num_rows = int(part.count.sum())
    mean_cost, mean_reward = part.cost.mean(0), part.reward.mean(0)
    by_cost = np.argsort(mean_cost, kind="stable").tolist()
    names = [part.groups[g] for g in by_cost]
    heads = ["budget", "allowed", "spent", reward, "mixture", "gain"]
    heads += ["same cost", "gain there", "of most expensive", "price x 1000", *names] if wide else []
    most_expensive = mean_reward[by_cost[-1]]
    now = part.now()
    above = [["as logged", "", cost_text(now[1]), f"{now[0]:.3f}"]]
    for g, name in zip(by_cost, names, strict=True):
        of_most = f"{mean_reward[g] / most_expensive:.1%}" if most_expensive else ""
        shares = ["1.00" if name == other else "" for other in names]
        row = [f"always {name}", "", cost_text(mean_cost[g]), f"{mean_reward[g]:.3f}", "", ""]
        above.append([*row, *(["", "", of_most, "", *shares] if wide else [])])
    best = np.lexsort((part.expected_cost, -part.expected_reward))[:, 0]
    spent = float(np.take_along_axis(part.expected_cost, best[:, None], 1).mean())
    shares = [f"{np.mean(best == g):.2f}" for g in by_cost]
    above.append(["no budget", "", cost_text(spent), "", "", "", *(["", "", "", "0", *shares] if wide else [])])
    below = [
        [*_row(part, answer), *(_more(part, answer, most_expensive, by_cost) if wide else [])] for answer in answers
    ]
    title = f"{title}: {len(part.problems):,} problems, {num_rows:,} responses"
    print_table(console, heads, [*above, None, *below], title=title)
    held_out = any(answer.held_out for answer in answers)
    caption = (
        f"spent ({unit} per problem) and {reward} ± standard error: on responses that did not decide. mixture: the "
        "best that does not look at the problems, inside the same budget; gain over it."
        if held_out
        else f"Not held out: {reward} is what the choices expect of another response."
        if part.within.any()
        else f"Not held out, and one answer each: {reward} is that of the answers that decided, which is optimistic."
    )
    console.print(caption, markup=False, highlight=False)
    for answer in answers:
        if answer.why and answer.question.times != 1:  # else it is a verdict above
            console.print(f"{answer.question.label}: {answer.why}", markup=False, soft_wrap=not console.is_terminal)
    if part.shown is not None:
        _print_shown(console, part, answers, by_cost)


def _row(part: LogPart, answer: Answer) -> list[str]:
    import numpy as np

    from ibpo.evaluation import as_shown

    allowed = ", ".join(cost_text(float(x.at_most)) if x.at_most is not None else "" for x in answer.limits)
    held = answer.held_out
    if answer.allocation is None:
        return [answer.question.label, allowed, "not possible", "", "", ""]
    mixture = "" if answer.mixture is None else f"{answer.mixture @ part.reward.mean(0):.3f}"
    if held is None:
        spent = float(np.take_along_axis(part.expected_cost, answer.pick[:, None], 1).mean())
        expected = answer.allocation.objective / len(part.problems)
        return [answer.question.label, allowed, cost_text(spent), f"{expected:.3f}", mixture, ""]
    held = as_shown(part, held)
    # On the problems that the choice was valued on, as the choice is.
    mixture = "" if held.mixture is None else f"{held.mixture:.3f}"
    gain = "" if held.mixture_gain is None else f"{held.mixture_gain:+.3f} ± {held.mixture_gain_stderr:.3f}"
    return [
        answer.question.label,
        allowed,
        cost_text(held.spent),
        f"{held.reward:.3f} ± {held.reward_stderr:.3f}",
        mixture,
        gain,
    ]


def _more(part: LogPart, answer: Answer, most_expensive: float, by_cost: list[int]) -> list[str]:
    """The columns of `--wide`."""
    import numpy as np

    from ibpo.evaluation import as_shown

    if answer.allocation is None:
        return []
    held = answer.held_out and as_shown(part, answer.held_out)
    same = ["", "", ""]
    if held is not None:
        of_most = f"{held.reward / most_expensive:.1%}" if most_expensive else ""
        same = [f"{held.random_mix:.3f}", f"{held.gain:+.3f} ± {held.gain_stderr:.3f}", of_most]
    price = ", ".join(f"{1000 * p:.3g}" for p in answer.allocation.price)
    return [*same, price, *(f"{np.mean(answer.pick == g):.2f}" for g in by_cost)]


def _print_shown(console: Console, part: LogPart, answers: list[Answer], by_cost: list[int]) -> None:
    import numpy as np

    from ibpo.evaluation import natural

    assert part.shown is not None
    column = part.columns["show"]
    for answer in answers:
        if answer.allocation is None or answer.question.times != 1:
            continue
        rows: list[list[str]] = []
        for value in sorted(part.shown.names, key=natural):
            here = part.shown.code == part.shown.names.index(value)
            if here.any():
                shares = (f"{np.mean(answer.pick[here] == g):.2f}" for g in by_cost)
                rows.append([value, f"{int(here.sum()):,}", *shares])
        title = f"who gets what under {answer.question.label}, by {column}"
        print_table(console, [column, "problems", *(part.groups[g] for g in by_cost)], rows, title=title)


class _bar:
    """A count of rows on stderr: one that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if len(label) > 36:
            label = f"{label[:33]}..."  # the numbers behind it are never cut
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:,} rows"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(label, total=None)
        self._line = None if console.is_terminal else _Lines()
        self._label = label

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return self._show

    def _show(self, rows: int) -> None:
        self._progress.update(self._task, completed=rows)
        if self._line is not None:
            self._line.say(f"{self._label}: {rows:,} rows")

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    """Lines on stderr, at most one in `EVERY` seconds, none before the first of them are over."""

    def __init__(self) -> None:
        self._next = time.monotonic() + EVERY

    def say(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            say(text)


def _split_counter(label: str) -> Callable[[int, int], None]:
    """Counts splits on stderr: in place on a terminal, a line now and then elsewhere."""
    lines = None if sys.stderr.isatty() else _Lines()

    def show(done: int, total: int) -> None:
        if lines is not None:
            lines.say(f"{label}: split {done} of {total}")
        elif done % 10 == 0 or done == total:
            end = "\r\033[K" if done == total else ""
            print(f"\r{label}: split {done} of {total}{end}", end="", file=sys.stderr, flush=True)

    return show
