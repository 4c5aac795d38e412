"""`ibpo simulate`: a request trace through the controller, faster than it came."""

from __future__ import annotations

import json
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.commands.completion import keys
from ibpo.commands.options import (
    LOG_FIELDS,
    BudgetsOfTraffic,
    Columns,
    EmbedBy,
    PartOfLog,
    open_router,
    read_pairs,
    read_part,
)
from ibpo.commands.route import check_apart
from ibpo.errors import IbpoError
from ibpo.pictures import number_text
from ibpo.terminal import plain_console, print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from ibpo.routing import Router


def simulate_command(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="Requests in order of time, .jsonl (also .gz), .parquet or .csv: columns t (time; its unit is "
            "guessed, see --assume) and output_tokens; gain, tenant and slice where there are.",
        ),
    ],
    budget: BudgetsOfTraffic = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML with budgets, tenants and slices, instead of --budget.")
    ] = None,
    gains: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Log of scored responses: each request asks one of its problems. Or what ibpo calibrate wrote: gains "
            "are drawn from the policy's own scores. Default: synthetic gains.",
        ),
    ] = None,
    part: PartOfLog = None,
    columns: Columns = None,
    router: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --gains: the controller decides by what this router expects (ibpo route fit)."
        ),
    ] = None,
    embed: EmbedBy = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            autocompletion=keys("tokens_per_second", "failures", "factor", "estimates", "time_unit", "num_requests"),
            help="tokens_per_second=50: speed of one response; failures=0: share of the requests that fail, from 0 to "
            "1; factor=10: length of an extended response, as a multiple of a standard one, without a log in --gains; "
            "estimates=mean or exact: what the controller knows of a response's length beforehand; time_unit=s, ms, "
            "us or ns: unit of column t, else it is guessed; num_requests=100000: repeat or cut the trace to so many. "
            "Repeat or join by commas.",
        ),
    ] = None,
    max_tokens: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=TOKENS",
            autocompletion=keys("extended", "standard"),
            help="extended=16384: longest answer of a response group, in tokens, which is reserved for each; repeat.",
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(metavar="REQUESTS", min=1, help="Number of requests in a row over which the budget is to hold."),
    ] = 1000,
    warm_up: Annotated[
        int,
        typer.Option(
            metavar="REQUESTS", min=0, help="Number of first requests that do not count in how well the budget holds."
        ),
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Seed of all draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the figures to this JSON file. Default: they are printed only."),
    ] = None,
) -> None:
    """Say how well the controller would hold the budget on this traffic, and at what loss of value."""
    from ibpo.runs import check_out, write_text_atomic
    from ibpo.serving import (
        ServingPolicy,
        check_feasible,
        find_unbounded,
        is_calibration,
        load_calibration,
        parse_budget_policies,
        read_policy,
        read_trace,
        recorded_requests,
        repeat_trace,
        simulate,
        summarise,
        synthetic_requests,
        with_caps,
        with_exact_estimates,
    )

    if bool(budget) == (plan is not None):
        raise IbpoError("give either --budget, e.g. --budget extended=30%, or --plan")
    if out is not None:
        check_out(out)
        check_apart(out, trace, plan, gains, router)
    held = read_policy(plan) if plan else ServingPolicy(budgets=parse_budget_policies(budget or []))
    assumed = _assumed(assume or [])
    came = read_trace(trace, unit=assumed.pop("time_unit"))
    span = came.time[-1]
    if num_requests := int(assumed.pop("num_requests")):
        came = repeat_trace(came, num_requests)
    factor, estimates = assumed.pop("factor"), assumed.pop("estimates")
    common: dict[str, Any] = {**assumed, "seed": seed}
    predicting = _router(router, gains, embed)
    if gains is None or is_calibration(gains):
        calibration = None if gains is None else load_calibration(gains)
        requests = synthetic_requests(came, factor=factor, calibration=calibration, **common)
    else:
        by, value = read_part(part)
        named = read_pairs(columns or (), (*LOG_FIELDS, "prompt"), "--columns")
        if "prompt" in named and router is None:
            raise IbpoError(f"--columns prompt={named['prompt']}: prompts are for --router, which is not given")
        requests = recorded_requests(came, gains, by=by, part=value, router=predicting, **named, **common)
    requests = with_caps(requests, _caps(max_tokens or []))
    if estimates == "exact":
        requests = with_exact_estimates(requests)
    check_feasible(requests, held)
    began = time.process_time()
    done = simulate(requests, held)
    seconds = time.process_time() - began
    another = "s" if came.unit == "ms" else "ms"
    unit = f"{came.unit}; another unit: --assume time_unit={another}" if came.unit else "dates"
    say(f"{trace}: requests of {span:,.1f} seconds, column {came.time_column} read in {unit}")
    for note in requests.notes:
        say(note)
    if came.num_failed:
        say(f"{trace}: {came.num_failed} requests without a token in answer (failed) are left out")
    for name in find_unbounded(requests, held):
        say(
            f"caution: no budget bounds {name!r}, which costs more than a response group that has one: whatever gains "
            f"goes there; add --budget {name}=10%, or one of tokens"
        )
    for said in done.cautions:
        say(f"caution: {said}")
    figures = summarise(requests, done, held, window=window, warm_up=warm_up)
    figures["cpu_microseconds_per_request"] = round(1e6 * seconds / len(requests), 1)
    if out is not None:
        write_text_atomic(out, json.dumps(figures, indent=1) + "\n")
    print_summary(plain_console(), trace.name, figures)


ASSUMED = {
    "tokens_per_second": (50.0, 0.001, inf),
    "failures": (0.0, 0.0, 1.0),
    "factor": (10.0, 0.001, 1e6),
    "num_requests": (0.0, 1.0, 1e8),  # 0: as many as there are
}
"""Numbers of `--assume`: default, least, largest."""


def _assumed(texts: list[str]) -> dict[str, Any]:
    """What `--assume` says, and the defaults of the rest."""
    from ibpo.serving import UNITS

    pairs = read_pairs(texts, (*ASSUMED, "estimates", "time_unit"), "--assume")
    found: dict[str, Any] = {key: default for key, (default, _, _) in ASSUMED.items()}
    found["estimates"] = pairs.pop("estimates", "mean")
    if found["estimates"] not in ("mean", "exact"):
        raise IbpoError(f"--assume estimates={found['estimates']}: is neither mean nor exact")
    found["time_unit"] = pairs.pop("time_unit", None)
    if found["time_unit"] not in (None, *UNITS):
        raise IbpoError(f"--assume time_unit={found['time_unit']}: is not one of {', '.join(UNITS)}")
    for key, text in pairs.items():
        _, least, most = ASSUMED[key]
        try:
            found[key] = float(text)
        except ValueError:
            raise IbpoError(f"--assume {key}={text}: needs a number") from None
        if not least <= found[key] <= most:
            raise IbpoError(f"--assume {key}={text}: must be from {least:g} to {most:g}")
        if key == "num_requests" and not found[key].is_integer():
            raise IbpoError(f"--assume {key}={text}: needs a whole number")
    return found


def _caps(texts: list[str]) -> dict[str, float]:
    caps: dict[str, float] = {}
    for text in texts:
        name, found, number = text.partition("=")
        if not (name and found and number.isdecimal() and int(number) > 0):
            raise IbpoError(f"--max-tokens {text}: is not like extended=16384")
        caps[name] = float(number)
    return caps


def _router(path: Path | None, gains: Path | None, embed: str | None) -> Router | None:
    from ibpo.runs import digest_file
    from ibpo.serving import is_calibration

    if path is None:
        if embed is not None:
            raise IbpoError("--embed: is for --router, which is not given; leave it out")
        return None
    if gains is None or is_calibration(gains):
        raise IbpoError("--router: needs --gains, a log with prompts")
    router = open_router(path, embed)
    if router.source.get("sha256") == digest_file(gains):
        say("the router was fitted on this very log: its choices look better than they will be")
    return router


def print_summary(console: Console, title: str, figures: dict[str, Any]) -> None:
    """The figures as tables."""
    heads = ["budget", "mean", "spent", "most above", "most below", "within 1 %", "reachable", "overdraft", "bound"]
    rows = [
        [
            row["name"],
            f"{row['mean']:.6g}",
            f"{row['spent']:.6g}",
            f"{row['largest_above']:+.2%}",
            f"{-row['largest_below']:+.2%}",
            "–" if _is_slack(row) else f"{row['windows_within_1_percent']:.1%}",
            "–" if _is_slack(row) else f"{row['windows_reachable']:.1%}",
            number_text(row["overdraft"]),
            number_text(row["largest_bound"]) + (" BROKEN" if row["bound_broken"] else ""),
        ]
        for row in figures["budgets"]
    ]
    print_table(console, heads, rows, title=title)
    for row in filter(_is_slack, figures["budgets"]):
        console.print(
            f"budget {row['name']} has slack: the most expensive responses to all requests would spend "
            f"{number_text(row['most'])}, so there is nothing to hold",
            highlight=False,
        )
    console.print(
        f"most above and below, within 1 %: of all windows of {figures['window']} requests in a row; reachable: the "
        "largest share of them within 1 % for anyone who does not know the future",
        highlight=False,
    )
    console.print(
        f"{figures['num_requests']} requests, {figures['num_failed']} failed; value kept "
        f"{figures['value_kept']:.1%} of the clairvoyant optimum at the same spend, "
        f"{figures['value_kept_by_window']:.1%} of the one that spends the same in every window, "
        f"{figures['value_kept_as_predicted']:.1%} of the one that knows no more than the controller; "
        f"drifts noticed: {figures['num_drifts']}; at most {figures['most_in_flight']} in flight at a time; "
        f"no response group had room: {figures['num_over']}"
    )
    for kind in ("tenant", "slice"):
        for name in [row["name"] for row in figures["budgets"] if figures[f"{kind}s"]]:
            heads = [kind, "requests", "mean", "least in a window", "most in a window", "promised", "ceiling"]
            shown = [[row[kind], str(row["num_requests"]), *_terms(row[name])] for row in figures[f"{kind}s"]]
            print_table(console, heads, shown, title=f"{name} by {kind}")
    if figures["tenants"]:
        said = ", ".join(f"{row['name']} {row['fairness']:.3f}" for row in figures["budgets"])
        console.print(f"fairness among tenants (Jain's index, 1: the same for all): {said}")


def _is_slack(row: dict[str, Any]) -> bool:
    """Whether not even the most expensive choices come to within 1 % of the budget."""
    return row["most"] < 0.99 * row["mean"]


def _terms(row: dict[str, Any]) -> list[str]:
    terms = [row["spent"], row["least_in_a_window"], row["most_in_a_window"], row["promised"], row["ceiling"]]
    return ["-" if value is None else number_text(value) for value in terms]
