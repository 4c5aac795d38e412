"""The command line: parses, and calls one function. A command is imported when it is called, not when it is listed."""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ibpo import __version__
from ibpo.errors import IbpoError, one_line

COMMANDS = {
    "demo": (
        "demo:demo_command",
        "Train a tiny language model to think long only where it pays, inside a budget, and show what came out.",
    ),
    "cold-start": (
        "cold_start:cold_start_command",
        "Sample a model's own solutions, build standard and voting responses of them, fine-tune on these, and check.",
    ),
    "train": (
        "train:train_command",
        "Train a policy to spend its costlier response groups where they pay, then evaluate it on held-out problems.",
    ),
    "eval": (
        "eval:eval_command",
        "Evaluate a policy on a task. The responses stay in OUT; `ibpo report OUT` makes the page.",
    ),
    "report": ("report:report_command", "Write report.html, report.md, report.json and the figures."),
    "allocate": (
        "allocate:allocate_command",
        "Say which response group each problem should get under a budget, and what that is worth.",
    ),
    "collect": (
        "collect:collect_command",
        "Ask a log's prompts in other response groups, as few as needed, and say whether choosing pays.",
    ),
    "calibrate": (
        "calibrate:calibrate_command",
        "Write the quantile curve of a policy's choice, or that policy at another budget: one policy, every budget.",
    ),
    "simulate": (
        "simulate:simulate_command",
        "Say how well the controller would hold the budget on this traffic, and at what loss of value.",
    ),
    "serve": (
        "serve:serve_command",
        "Hold the budget on live traffic: choose each request's response group, pass everything else through.",
    ),
    "replay": (
        "replay:replay_command",
        "Say which response group each prompt would have got under another budget, and what it would have been worth.",
    ),
    "route": ("route:route_app", "A router for models that you cannot train: gains learned from a log of responses."),
    "groups": ("check:groups_app", "Response groups: how a response asks, looks and ends."),
    "task": ("check:task_app", "Tasks: where problems come from."),
    "models": ("models:models_app", "Real language models, small enough for a laptop."),
    "doctor": ("doctor:doctor_command", "Say what is installed here, what works, and how to fix what does not."),
}
"""Command -> where it is in `ibpo.commands`, and its help in one line, which is the first of its docstring."""

EXAMPLES = {
    "demo": "ibpo demo --quick",
    "cold-start": "ibpo cold-start recipes/cold_start_smoke.toml",
    "train": "ibpo train recipes/gsm8k_smoke.toml --out runs/first",
    "eval": "ibpo eval embedded:thinking thinking --out runs/eval --also chooses",
    "report": "ibpo report runs/eval",
    "allocate": "ibpo allocate responses.jsonl --budget tokens=0.5x",
    "collect": "ibpo collect log.jsonl --by effort --base-url https://api.openai.com/v1 --model gpt-5-mini "
    "--engine api_key_file=key.txt --prices input=0.25,output=2 --limit money=5 --out runs/collect",
    "calibrate": "ibpo calibrate prompts.jsonl --budget extended=30%",
    "simulate": "ibpo simulate trace.jsonl --budget extended=30%",
    "serve": "ibpo serve --upstream http://127.0.0.1:8000/v1 --budget extended=30%",
    "replay": "ibpo replay runs/first --budget extended=40%",
    "doctor": "ibpo doctor --json",
}
"""What ends the help of each command."""

SECTIONS = {
    "Start here": ("doctor", "demo", "allocate"),
    "More out of a log": ("collect", "route"),
    "Evaluate": ("eval", "report", "task"),
    "Train": ("models", "groups", "cold-start", "train", "replay", "calibrate"),
    "Serve": ("simulate", "serve"),
}
"""The list of commands, by what a reader wants to do."""
FIRST = """\b
Three commands to try first:
  ibpo doctor                     what is installed here, and what works
  ibpo demo --quick               a minute of training, and the page it makes
  ibpo allocate LOG               what a budget buys on your own responses

Examples, units and defaults of a command: ibpo COMMAND -h. Completion of
commands, options and their words by the tab key: ibpo --install-completion.
"""


_EMBED = {
    "--embed-url": "--embed url=URL",
    "--embed-key-file": "--embed url=URL,key_file=FILE",
    "--embed-model": "--embed FOLDER",
}
_LOG = {
    f"--{field.replace('_', '-')}": f"--columns {field}=COLUMN"
    for field in ("problem", "response_group", "reward", "cost")
}
_DATA = {"--data": "--set data.path=...", "--no-isolation": "--set judge.isolation=false"}
_BY = {"--by": "--part COLUMN=VALUE"}
REMOVED = {
    "allocate": {
        **_LOG,
        "--holdout": "--num-splits NUMBER",
        "--no-holdout": "--num-splits 0",
        "--format": "--wide or --json",
    },
    "collect": {
        **{f"--max-{x}": f"--limit {x}=..." for x in ("money", "calls")},
        "--judge": "--set data.judge=...",
        **_DATA,
    },
    "report": {
        **{f"--{x}": f"--columns {x}=COLUMN" for x in ("problem", "reward", "level", "answer")},
        "--configuration": "--columns response_group=COLUMN",
        "--tokens": "--columns cost=COLUMN",
        "--filter": "--metric METRIC,FILTER",
    },
    "calibrate": {"--column": "--columns score=COLUMN", "--prompt": "--columns prompt=COLUMN"},
    "groups": {"--group": "--response-group NAME", "--recipe": "--response-group RECIPE"},
    "simulate": {
        **{f"--{x.replace('_', '-')}": f"--assume {x}=..." for x in ("tokens_per_second", "failures", "factor")},
        "--estimates": "--assume estimates=...",
        **_BY,
        **_EMBED,
        "--response-group": "--columns response_group=COLUMN",
        "--num-requests": "--assume num_requests=...",
    },
    "eval": {
        **{f"--{x.replace('_', '-')}": f"--engine {x}=..." for x in ("num_concurrent", "max_retries", "max_passes")},
        **{f"--{x.replace('_', '-')}": f"--engine {x}=..." for x in ("timeout_seconds", "api_key_file", "batch_size")},
        "--dtype": "--engine dtype=...",
        "--recipe": "--response-group RECIPE",
        "--price": "--engine price_prompt=...,price_completion=...",
        "--judge": "--set data.judge=...",
        **{f"--{x}": f"--also {x}" for x in ("chooses", "two-turns")},
        **_DATA,
    },
    "serve": {
        **_EMBED,
        "--plan": "--config FILE",
        "--keys-env": "--keys env:NAME",
        "--new-key": "--keys new:TENANT",
        **dict.fromkeys(("--host", "--port"), "--listen HOST:PORT"),
    },
    "route": {**_LOG, **_BY, **_EMBED, "--prompt": "--columns prompt=COLUMN"},
    "task": {
        **{f"--{x}": f"--set data.{x}=COLUMN" for x in ("problem", "answer", "id", "level", "domain", "tests")},
        **{f"--{x}": f"--set data.{x.replace('-', '_')}=..." for x in ("config", "split", "answer-after", "judge")},
        "--columns": "--set data.FIELD=COLUMN",
        "--limit": "--set data.limit=...",
        **_DATA,
    },
}
"""Command -> option that it had once -> what says the same today."""


ONE_THREAD = ("report", "allocate", "collect", "replay", "simulate")
"""Commands whose matrices have a few columns: threads of numpy's OpenBLAS wait for one another there, and a fifth of
`ibpo report`'s CPU time was their waiting."""


class _LazyGroup(TyperGroup):
    """Lists the commands by name and help; what a command imports takes long, and is not needed to list it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=text, short_help=text) for name, (_, text) in COMMANDS.items()}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by section."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:10}", COMMANDS[name][1]) for name in names])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The commands, each with the beginning of its help; none is imported."""
        from ibpo.commands.plain_help import shortened

        return shortened(super().shell_complete(ctx, incomplete))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does; but `--show-completion zsh` may name the shell, where Typer takes the one that runs."""
        if args[:1] == ["help"]:  # as other programs have it
            args = [*args[1:], "--help"]
        elif args == ["version"]:
            args = ["--version"]
        option, _, shell = (args or [""])[0].partition("=")
        if option in ("--install-completion", "--show-completion") and not ctx.resilient_parsing:
            from ibpo.commands import completion

            run = completion.install if option == "--install-completion" else completion.show
            try:
                run(shell or "".join(args[1:2]))
            except (IbpoError, OSError) as error:
                typer.echo(f"error: {one_line(str(error))}", err=True)
                raise typer.Exit(2) from None
            raise typer.Exit
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, imported."""
        getattr(ctx, "meta", {})["ibpo.called"] = list(args)
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            completing = getattr(ctx, "resilient_parsing", False)
            for option in (text.partition("=")[0] for text in rest):
                if option in REMOVED.get(name, {}) and not completing:
                    raise typer.BadParameter(f"{option} is now {REMOVED[name][option]}", ctx)
            if name in ONE_THREAD and not {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & set(os.environ):
                os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported
            from ibpo.commands.plain_help import PlainCommand

            module, _, function = COMMANDS[name][0].partition(":")
            found = getattr(importlib.import_module(f"ibpo.commands.{module}"), function)
            if not isinstance(found, typer.Typer):
                part = typer.Typer(add_completion=False, rich_markup_mode=None)
                part.command(name, cls=PlainCommand, epilog=f"Example: {EXAMPLES[name]}")(found)
                found = part
            command = typer.main.get_command(found)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what its user can fix is one line on stderr and exit status 2, not a traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `ibpo ... | head`: no error of the user's
            raise
        except (IbpoError, OSError) as error:
            for note in getattr(error, "notes", ()):  # of MissingColumns: how the log was read
                from ibpo.terminal import say

                say(note)
            from ibpo.commands.hints import completed, for_command, near_file

            called = ctx.meta["ibpo.called"]
            text, lacks = for_command(called, str(error), getattr(error, "options", ()))  # of MissingColumns
            with suppress(OSError):  # a hint is no reason to fail otherwise
                text += near_file(text, called[1:])
            typer.echo(f"error: {one_line(text)}", err=True)
            if lacks:  # the same command with what it lacks
                typer.echo(f"try: {completed(called, lacks)}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="ibpo",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    epilog=FIRST,
    pretty_exceptions_enable=False,
    # Plain help: Rich takes [data] and [judge] for its own marks and leaves them out, and loads for .2 seconds.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which response should each prompt get, so that the total stays inside an inference budget?",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ibpo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point of the `ibpo` script."""
    app()
