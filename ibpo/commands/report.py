"""`ibpo report`: one page on responses, of our own runs or of anybody's."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ibpo import __version__
from ibpo.budget import check_budget, parse_budget
from ibpo.commands.options import LOG_FIELDS, Columns, OnError, PricesFile, load_tokenizer, read_pairs
from ibpo.errors import IbpoError
from ibpo.terminal import say

if TYPE_CHECKING:
    from ibpo.evaluation import CompareOptions, Imported, Responses

FIELDS = (*LOG_FIELDS, "level", "answer")
SOME = 10_000
"""Above so many responses the page takes long enough to say what is being done."""
LIMITS = (
    "Intervals say how the numbers would vary with other problems like these and other responses to them; not with "
    "another training seed, prompt, engine or hardware, which move scores by points.",
    "Costs are of the responses alone: not of prompts, retries, or the machine.",
    "Held-out allocation knows each problem's (or level's) success rates from other responses to it: it is a ceiling "
    "for a policy, not something that a policy does.",
)


def report_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs, or files of responses: a folder of `ibpo eval`, `ibpo collect` or `ibpo demo`, "
            "lm-evaluation-harness samples, lighteval details, or one response a row. NAME=PATH names its "
            "configuration; where it has several, the name stands before theirs.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the page. Default: the first run's, else ./report.")
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Title of the page.")] = "Accuracy at a cost",
    standard: Annotated[
        str,
        typer.Option(
            metavar="CONFIGURATION", help="The configuration to which costs are relative. Default: the cheapest."
        ),
    ] = "",
    among: Annotated[
        list[str] | None,
        typer.Option(metavar="CONFIGURATION", help="Allocate between these configurations only; repeat. Default: all."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CONFIGURATION", help="Show these configurations only; repeat. Default: all."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tokens=PERCENTrange",
            help="tokens=25%range: mean cost per problem at which to allocate, in percent of the way from the "
            "cheapest configuration to the most expensive; repeat. Default: 10%, 25%, 50%, 75% and 90% of the range.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column that splits the responses into parts. Default: model, where there is one."
        ),
    ] = None,
    columns: Columns = None,
    prices: PricesFile = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC[,FILTER]",
            help="In a harness's file: the metric that is the reward; for lm-evaluation-harness also the filter that "
            "counts, e.g. exact_match,strict-match.",
        ),
    ] = "",
    judge: Annotated[
        Literal["math", "exact"], typer.Option(help="Judges responses that come without a reward.")
    ] = "math",
    tokenizer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Counts tokens where a file holds none: a folder or hub id.")
    ] = None,
    extended: Annotated[
        str, typer.Option(metavar="GROUP", help="The response group whose share is the extended share.")
    ] = "extended",
    num_splits: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=1,
            max=100_000,
            help="Random halvings for held-out values. Default: 50; fewer above 800 problems.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Seed of halvings and bootstraps.")] = 0,
    on_error: OnError = "fail",
) -> None:
    """Write report.html, report.md, report.json and the figures."""
    from ibpo.evaluation import BUDGETS, CompareOptions, ImportOptions, import_responses
    from ibpo.prices import read_prices
    from ibpo.runs import check_out

    paths = [_named(text) for text in runs]
    folder = out or (paths[0][1] if paths[0][1].is_dir() else Path("report"))
    check_out(folder, is_folder=True)
    named = read_pairs(columns or (), FIELDS, "--columns")
    options = ImportOptions(
        columns=named | ({"by": by} if by else {}),
        metric=metric.partition(",")[0],
        filter=metric.partition(",")[2],
        judge=judge,
        count_tokens=_counter(tokenizer) if tokenizer else None,
        on_error=on_error,
        prices=read_prices(prices) if prices else None,
    )
    asked = CompareOptions(
        standard=standard, among=among or (), num_splits=num_splits, seed=seed, extended=extended,
        budgets=read_budgets(budget) if budget else BUDGETS,
    )  # fmt: skip
    try:
        read = import_responses(paths, options)
    except IbpoError as error:
        if "holds no file that ends in" not in str(error):
            raise
        empty = str(error).partition(": holds no file")[0]
        raise IbpoError(
            f"{empty}: holds no responses; ibpo eval MODEL TASK --out {empty} makes them, and if it was interrupted "
            "the same command goes on; or name the folder or file of a harness's responses"
        ) from None
    for note in read.notes:
        if not note.endswith(": one response a row"):  # as it was meant to be
            say(note)
    written = _write(folder, title, read, asked, only or [], paths)
    typer.echo("\n".join(str(path) for path in written if path.name.startswith("report.")))


def read_budgets(texts: list[str]) -> list[float]:
    """The parts of the way from the cheapest to the most expensive configuration, each for itself.

    Raises:
        IbpoError: The text is not a valid value.
    """
    only = "the report allocates at parts of the way from cheapest to most expensive; write tokens=25%range"
    refused = {"share": only, "at_least": only, "slice": only, "now": only}
    budgets = [parse_budget(text) for text in texts]
    for budget in budgets:
        check_budget(budget, groups=None, refused=refused)
        if budget.unit != "range":
            raise IbpoError(f"--budget {budget}: {only}")
    return sorted({float(budget.amount) for budget in budgets})


def _write(
    folder: Path, title: str, read: Imported, asked: CompareOptions, only: list[str], paths: list[tuple[str, Path]]
) -> list[Path]:
    from ibpo.evaluation import compare, facts_of, share_in_training, training_of
    from ibpo.runs import noted_calls

    try:
        from ibpo.evaluation import PageData, answer_of, comparison_part, conclude, pick_examples, write_page
    except ModuleNotFoundError as error:
        raise IbpoError(f"the page needs {error.name}: pip install 'ibpo[report]'") from None
    parts: dict[str, Any] = {}
    examples: dict[str, Any] = {}
    training: dict[str, list[dict[str, Any]]] = {}
    for (_, path), (of_run, called) in zip(paths, read.called, strict=True):
        for name, steps in training_of(path).items():
            for step in steps:
                way = step["configuration"]
                training.setdefault(name or of_run, []).append(step | {"configuration": called.get(way, way)})
    every = list(dict.fromkeys(c for responses in read.parts.values() for c in responses.configurations))
    for name in only:
        if name not in every:
            raise IbpoError(f"--only {name}: no such configuration; there are {', '.join(every)}")
    for name, responses in read.parts.items():
        if only:
            keep = [i for i, c in enumerate(responses.configuration.tolist()) if c in only]
            if not keep:
                known = ", ".join(responses.configurations)
                raise IbpoError(f"--only {', '.join(only)}: no such configuration in {name}; there are {known}")
            responses = responses.where(keep)
        if len(responses) > SOME:
            told = f"{len(responses):,} responses of {len(responses.configurations)} configurations"
            say(f"{name + ': ' if name else ''}{told}: intervals and held-out choices ...")
        try:
            more = {"reference": _reference(responses), "cost_unit": read.cost_unit[name]}
            part = compare(responses, replace(asked, **more))
        except IbpoError as error:
            raise IbpoError(f"{name}: {error}" if name else str(error)) from None
        shown = [row["name"] for row in part["configurations"]]
        for row in part["budget_kept"]:
            row["in_training"] = share_in_training(training.get(name, []), row["name"])
        examples[name] = pick_examples(responses, shown)
        said = conclude(responses, part, read.cost_unit[name], num_splits=asked.num_splits, seed=asked.seed)
        parts[name] = part | {
            **said,
            "cost_unit": read.cost_unit[name],
            "examples": [asdict(example) for example in examples[name]],
            "training": [step for step in training.get(name, []) if step["configuration"] in shown],
        }
    num_responses = sum(len(responses) for responses in read.parts.values())
    what_ran = [
        ("Command", shlex.join(["ibpo", *sys.argv[1:]])),
        ("Responses", f"{num_responses:,}, from {', '.join(path.name or str(path) for _, path in paths)}"),
        ("How they were read", "; ".join(read.notes)),
        ("Seed of halvings and bootstraps", str(asked.seed)),
        ("ibpo", __version__),
    ]
    names = [path.resolve().name for _, path in paths]
    for (_, path), name in zip(paths, names, strict=True):
        of_run = name if names.count(name) == 1 else str(path)  # seed0/run and seed1/run
        what_ran += [*facts_of(path, of_run), *noted_calls(path)]
    page = PageData(
        title=title,
        answer=answer_of(parts),
        parts=[comparison_part(name, part, examples[name]) for name, part in parts.items()],
        what_ran=what_ran,
        limits=list(LIMITS),
        numbers=parts,
    )
    say(page.answer)
    return write_page(folder, page)


def _reference(responses: Responses) -> tuple[str, ...]:
    """A demo run's policies are held against what they were trained from, each response group forced."""
    from ibpo.evaluation import COLD_START

    names = responses.configurations
    runs = [name.removesuffix(COLD_START[0]) for name in names if name.endswith(COLD_START[0])]  # "" or "RUN: "
    whole = [ends for run in runs if set(ends := tuple(run + name for name in COLD_START)) <= set(names)]
    return whole[0] if len(whole) == 1 else ()


def _named(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path; a path that exists is one, whatever it looks like."""
    name, equals, path = text.partition("=")
    if equals and path and not Path(text).exists():
        return name, Path(path).expanduser()
    return "", Path(text).expanduser()


def _counter(model: str) -> Any:
    try:
        tokenizer = load_tokenizer(model)
    except IbpoError as error:
        raise IbpoError(f"--tokenizer {error}") from None
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
