"""`ibpo route`: learn from logs which prompts gain by which response group, for models that you cannot train."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.budget import parse_budget
from ibpo.commands.completion import keys
from ibpo.commands.options import (
    LOG_FIELDS,
    Columns,
    EmbedBy,
    OnError,
    PartOfLog,
    PricesFile,
    embed_by,
    open_router,
    read_embed,
    read_pairs,
    read_part,
)
from ibpo.commands.plain_help import PlainCommand, PlainGroup
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console, print_table, say

if TYPE_CHECKING:
    from ibpo.routing import RoutedLog, Router

route_app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="A router for models that you cannot train: gains learned from a log of responses.",
)
CURVE = {"apgr": "APGR", "cpt_50": "CPT(50)", "aiq": "AIQ", "aiq_of_mix": "AIQ of the constant policies"}
FIGURES = ("value", "mix", "oracle", "oracle_unseen", "regret", "regret_of_mix", "gain_over_mix", "captured")


@route_app.command("fit", cls=PlainCommand, epilog="Example: ibpo route fit responses.jsonl --out router.json")
def fit_command(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG [TABLE]...",
            help="Scored responses with their prompts, as for ibpo allocate: .jsonl, .csv, .parquet, a folder, the log "
            "of a server or harness. The columns of further tables are added to the rows with the same identifier.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the router is written, a JSON file.")] = Path(
        "router.json"
    ),
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            autocompletion=keys("tokens"),
            help="Judge the router at extended=30% (largest share, in percent of the problems) or tokens=2000 (mean "
            "tokens per problem); repeat. Default: three token budgets.",
        ),
    ] = None,
    part: PartOfLog = None,
    columns: Columns = None,
    prices: PricesFile = None,
    number: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column with a number that is known before answering, e.g. a level; repeat."
        ),
    ] = None,
    embed: EmbedBy = None,
    first_answers: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=0,
            max=2,
            help="Escalation: so many answers of the cheapest response group are made first, and what they show (with "
            "2: also whether they agree) decides whether a more expensive one is bought. 0: decide before any answer.",
        ),
    ] = 0,
    folds: Annotated[
        int, typer.Option(metavar="NUMBER", min=2, help="Number of parts of the problems for the held-out figures.")
    ] = 5,
    draws: Annotated[
        int, typer.Option(metavar="NUMBER", min=10, max=100_000, help="Number of bootstrap draws for the intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Seed of folds and draws.")] = 0,
    on_error: OnError = "fail",
) -> None:
    """Learn each response group's gain and cost from prompts, and say what that is worth on unseen problems."""
    from ibpo.data import LogColumns
    from ibpo.prices import read_prices
    from ibpo.routing import (
        as_escalation,
        as_mix,
        check_routed,
        default_budgets,
        escalation_verdict,
        evaluate_router,
        fit_router,
        judge_curve,
        judge_escalation,
        read_first_answers,
        read_routed_log,
        save_router,
        score_unseen,
        verdict,
    )
    from ibpo.runs import check_out, digest_file

    log, *join = logs
    check_out(out)
    check_apart(out, *logs, prices)
    named = read_pairs(columns or (), (*LOG_FIELDS, "prompt"), "--columns")
    prompt, (by, value) = named.pop("prompt", None), read_part(part)
    names = LogColumns(**named, by=by, prices=read_prices(prices) if prices else None)
    table = read_routed_log(
        log, columns=names, prompt=prompt, numbers=number or (), part=value, on_error=on_error, join=join
    )
    for note in table.log.notes:
        say(note)
    if table.bad_rows:
        say(f"{len(table.bad_rows)} bad rows left out, the first: {table.bad_rows[0]}")
    if table.left_out:
        lacking = "a response of every response group" + (", or a prompt" if on_error == "skip" else "")
        say(f"problems without {lacking}: {table.left_out} left out")
    budgets = [parse_budget(text) for text in budget or ()] or default_budgets(table)
    for one in budgets:  # complain before any fitting
        check_routed(one, table)
    first = None
    if first_answers:
        first = read_first_answers(log, table, num_answers=first_answers, part=value, join=join)
    embedded, embedding = _embedded(table, embed)
    scores = score_unseen(table, folds=folds, embedded=embedded, seed=seed)
    rows = evaluate_router(table, budgets, scores, draws=draws, seed=seed)
    better, said = verdict(rows)
    source: dict[str, Any] = {
        "file": log.name,
        "sha256": digest_file(log),
        "columns": table.columns,
        "part": value,
        "left_out": table.left_out,
        **({"tables": [path.name for path in join]} if join else {}),
    }
    report: dict[str, Any] = {
        "folds": folds,
        "draws": draws,
        "verdict": said,
        "is_mix": not better,
        "curve": judge_curve(table, scores, draws=draws, seed=seed),
        "budgets": rows,
    }
    pays = False
    if first is not None:
        by_answer = None if embedded is None else embedded[first.place]
        after = score_unseen(first.table, folds=folds, embedded=by_answer, seed=seed)
        found = judge_escalation(table, scores, first, after, draws=draws, seed=seed)
        pays, sentence = escalation_verdict(found)
        report["escalation"] = {**found, "verdict": sentence}
        if pays:
            before = said.replace(": the mix is written instead; it predicts the means", "")
            report["is_mix"] = False
            report["verdict"] = (
                f"the router that decides after the first answer is written: {sentence}. One that decides before any "
                f"answer, of which the table is, would be {before}"
            )
            router = fit_router(
                first.table, embedded=by_answer, embedding=embedding, source=source, report=report, seed=seed
            )
            router = as_escalation(router, first)
    if not pays:
        router = fit_router(table, embedded=embedded, embedding=embedding, source=source, report=report, seed=seed)
        if not better:
            router = as_mix(router)
    save_router(router, out)
    _print(log.name, router)
    typer.echo(f"{len(table.problems)} problems, {int(table.count.sum())} responses -> {out}")


@route_app.command("show", cls=PlainCommand, epilog="Example: ibpo route show router.json --served gateway.jsonl")
def show_command(
    router: Annotated[Path, typer.Argument(metavar="ROUTER", help="A router, as ibpo route fit wrote it.")],
    served: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Log of ibpo serve with bodies and outcomes: what would this router have been worth on these "
            "requests?",
        ),
    ] = None,
    embed: EmbedBy = None,
) -> None:
    """Say what a router was fitted on, what it was worth on unseen problems, and with --served on served requests."""
    from ibpo.routing import judge_served, load_router, read_served

    if served is not None:
        log = read_served(served)
        found = judge_served(open_router(router, embed), log)
        value, names = found["value"], ("ips", "self_normalised", "doubly_robust")
        typer.echo(
            f"{len(log.prompts)} of {log.num_requests} answered requests with prompt and outcome: reward "
            f"{_with_error(found['served'], found['served_error'])} as served"
        )
        values = [
            f"{name.replace('_', ' ')} {_with_error(getattr(value, name), getattr(value, f'{name}_error'))}"
            for name in names
        ]
        typer.echo(f"{router.name} at the same prices: {', '.join(values)} (standard errors)")
        if found["tokens"] is not None:
            typer.echo(f"tokens a request: {found['tokens']:.1f}, {found['served_tokens']:.1f} as served")
        typer.echo(
            f"agrees with {found['agreement']:.0%} of the choices, stands by {value.effective_size:.0f} requests, "
            f"largest weight {value.largest_weight:.3g}"
        )
        if not found["explored"]:
            typer.echo(
                "nothing was explored: only where it agrees is anything known, and its other choices are not judged; "
                "serve with explore above 0"
            )
        return
    shown = load_router(router)
    try:
        _print(router.name, shown)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IbpoError(f"{router}: its report is damaged: {error!r}; fit it again") from None
    for name, row in shown.source.items():
        typer.echo(f"{name}: {json.dumps(row)}")


@route_app.command("score", cls=PlainCommand, epilog="Example: ibpo route score router.json prompts.jsonl")
def score_command(
    router: Annotated[Path, typer.Argument(metavar="ROUTER", help="A router, as ibpo route fit wrote it.")],
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="Prompts, a row each: a table as ibpo allocate reads them.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="JSON lines to write: the rows with fields gain (in reward) and cost (in the log's unit), a number "
            "for each response group.",
        ),
    ] = Path("scores.jsonl"),
    columns: Columns = None,
    embed: EmbedBy = None,
) -> None:
    """Write the expected gain and cost of every response group for prompts."""
    from ibpo.data import lookup
    from ibpo.routing import read_prompt
    from ibpo.runs import atomic_file, check_out
    from ibpo.tasks import prompt_rows

    check_out(out)
    check_apart(out, router, prompts)
    asked = read_pairs(columns or (), ("prompt",), "--columns").get("prompt")
    found = open_router(router, embed)
    rows = list(prompt_rows(prompts))
    if not rows:
        raise IbpoError(f"{prompts}: no prompts")
    number_names = () if found.is_mix else found.number_names
    reads_text = not found.is_mix and (found.uses_text or found.embedding)
    likely = ("prompt", found.source.get("columns", {}).get("prompt", "prompt"))
    prompt = asked or next((x for x in likely if any(lookup(row, x) is not None for _, row in rows)), "prompt")
    texts: list[str] = []
    for place, row in rows:
        for name in (*([prompt] if reads_text else []), *number_names):
            if lookup(row, name) is None:
                raise IbpoError(f"{place}: no value in column {name!r}; there are {', '.join(map(repr, row))}")
        try:
            texts.append(read_prompt(lookup(row, prompt)) if reads_text else "")
        except IbpoError as error:
            raise IbpoError(f"{place}, column {prompt!r}: {error}") from None
    numbers: Any = {name: [lookup(row, name) for _, row in rows] for name in number_names}
    gain, cost = found.scores(texts, numbers)
    with atomic_file(out) as file:
        for (_, row), gains, costs in zip(rows, gain.tolist(), cost.tolist(), strict=True):
            scored = {
                "gain": dict(zip(found.groups, gains, strict=True)),
                "cost": dict(zip(found.groups, costs, strict=True)),
            }
            file.write(json.dumps({**row, **scored}, default=str) + "\n")  # dates and decimals of Parquet as texts
    typer.echo(f"{len(rows)} prompts -> {out}")


def check_apart(out: Path, *inputs: Path | None) -> None:
    """Check that what is written does not take the place of what is read.

    Raises:
        IbpoError: It does.
    """
    for path in inputs:
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise IbpoError(f"--out {out}: is {path.name} itself, which would be lost; name another file")


def _embedded(table: RoutedLog, embed: str | None) -> tuple[Any, dict[str, str] | None]:
    by = read_embed(embed, "model", "folder", "layers")
    if not by:
        return None, None
    asked = by.get("layers") if isinstance(by, dict) else None
    if isinstance(by, dict) and "folder" in by:
        if others := set(by) - {"folder", "layers"}:
            raise IbpoError(f"--embed: folder= takes layers= beside it, and no {', '.join(sorted(others))}")
        by = Path(by["folder"])
    elif isinstance(by, dict) and (asked or "url" not in by or "model" not in by):
        raise IbpoError(
            "--embed: needs url=... and model=..., the model's name there; or an encoder's folder, "
            "folder=DIR,layers=auto for as few of its layers as predict as well"
        )
    if "prompt" not in table.columns:
        raise IbpoError("--embed: the log has no prompts to embed; name their column with --columns prompt=...")
    if isinstance(by, Path):
        return _encode(table, by, asked)
    url, model = by["url"], by["model"]
    return embed_by(url, model, by.get("key_file"))(table.prompts), {"base_url": url, "model": model}


def _encode(table: RoutedLog, folder: Path, layers: str | None) -> tuple[Any, dict[str, str]]:
    """The prompts by an encoder in the process, or by its first layers, and what a router has to know of it."""
    from ibpo.routing import choose_layers, open_encoder

    encoder = open_encoder(folder)
    source = {"model": encoder.name, "sha256": encoder.sha256}
    if layers is None:
        return encoder.embed(table.prompts), source
    if layers == "auto":
        num_layers = choose_layers(table, encoder)
        typer.echo(f"{num_layers} of the {encoder.num_layers} layers of {encoder.name} predict as well", err=True)
    elif layers.isdecimal():
        num_layers = int(layers)
    else:
        raise IbpoError(f"--embed: layers={layers} is no number of layers; give one, or layers=auto")
    return encoder.cut(num_layers).embed(table.prompts), source | {"layers": str(num_layers)}


def _print(title: str, router: Router) -> None:
    console = plain_console()
    heads = ["budget", "spent", *[name.replace("_", " ") for name in FIGURES]]
    rows = [
        [row["budget"], f"{row['spent']:.6g}", *[_cell(row, name) for name in FIGURES]]
        for row in router.report.get("budgets", [])
    ]
    print_table(console, heads, rows, title=title)
    curve = router.report.get("curve")
    if curve:
        cells = [f"{name} {_cell(curve, key, ' ')}" for key, name in CURVE.items()]
        at = ", ".join(f"{value:.3f}" for value in curve["quality_at_cost"])
        console.print(f"{'; '.join(cells)}; reward at 1/4, 1/2, 3/4 of the way to the most expensive cost: {at}")
    for name, parts in (router.source.get("explained") or {}).items():
        if any(value is not None for value in parts):
            cells = ["not known" if value is None else f"{round(100 * value, 1) + 0.0:g}%" for value in parts]
            gains = ", ".join(map(" ".join, zip(router.groups[1:], cells, strict=False)))
            costs = ", ".join(map(" ".join, zip(router.groups, cells[len(router.groups) - 1 :], strict=True)))
            console.print(
                f"{name} explains of the variance between problems that were left out: gain: {gains}; cost: {costs}"
            )
    if "verdict" in router.report:
        console.print(f"verdict: {router.report['verdict']}")
    after = router.report.get("escalation")
    if after:
        made = "one answer" if after["answers"] == 1 else "two answers"
        console.print(f"after {made} of {router.groups[0]} ({', '.join(after['shown'])}): {after['verdict']}")
        for name in ("mix", "before", "after"):
            at = ", ".join(f"{value:.3f}" for value in after[f"{name}_at"])
            console.print(f"{name}: {at} at 1/4, 1/2, 3/4 of the way to the most expensive cost")
    console.print(
        f"On problems that were not learned from ({router.report.get('folds')} folds), at the same cost; in brackets "
        "95 % intervals over problems. captured: 0 a blind draw, 1 the oracle, which knows the recorded responses."
    )


def _cell(row: dict[str, Any], name: str, between: str = "\n") -> str:
    value, interval = row.get(name), row.get(f"{name}_interval")
    if value is None:
        return "-"
    return f"{value:.3f}" + (f"{between}[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _with_error(value: float, error: float) -> str:
    """A mean with its standard error, which is not known of one request."""
    return f"{value:.4f} ± {'not known' if isnan(error) else f'{error:.4f}'}"
