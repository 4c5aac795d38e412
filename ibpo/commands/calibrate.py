"""`ibpo calibrate`: the threshold for any budget, or the policy itself moved to one, from unlabelled prompts."""

from __future__ import annotations

import json
import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo import __version__
from ibpo.budget import check_budget, parse_budget, write_name
from ibpo.commands.completion import keys
from ibpo.commands.options import read_pairs
from ibpo.config import TrainConfig
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console, print_table, say

if TYPE_CHECKING:
    from ibpo.types import ResponseGroup

PROBABILITY = "p_extended"
BATCH_SIZE = 64
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def calibrate_command(
    prompts: Annotated[
        Path,
        typer.Argument(metavar="PROMPTS", help="Unlabelled prompts, a row each: a table as ibpo allocate reads them."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Where the calibration is written, a small JSON file. With --model a new folder (no .json): the "
            "policy itself, moved to the one --budget, which it then keeps without a threshold.",
        ),
    ] = Path("calibration.json"),
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            autocompletion=keys("score", "prompt"),
            help="score=gain.extended: the column with the probability of opening an extended response (default: "
            "p_extended), or with a router's gain, as ibpo route score writes it; with --model prompt=COLUMN, text or "
            "chat messages.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Read the probability from this policy instead: a folder, or a hub id."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="With --model: the text that opens an extended response; its first token counts."
        ),
    ] = None,
    floor: Annotated[
        float,
        typer.Option(
            metavar="SCORE",
            min=0.0,
            max=1.0,
            help="Prompts whose score is not above this are never answered extended. 0.5 for a policy whose budget "
            "had slack in training (price 0), 0 for one whose budget was binding.",
        ),
    ] = 0.0,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="extended=PERCENT",
            autocompletion=keys("extended"),
            help="extended=30%: print the threshold for this share, in percent of the prompts; repeat. Default: 10%, "
            "25%, 50%, 75% and 90%.",
        ),
    ] = None,
) -> None:
    """Write the quantile curve of a policy's choice, or that policy at another budget: one policy, every budget."""
    if model is not None and out.suffix != ".json":
        if prefix is not None:
            raise IbpoError(
                f"--out {out}: a policy's response groups are its run's; leave --prefix out, or name a .json"
            )
        move_policy(
            prompts, out, model, read_pairs(columns or (), ("score", "prompt"), "--columns"), floor, budget or []
        )
        return
    from ibpo.runs import check_out, digest_file
    from ibpo.serving import Calibration, check_scores, save_calibration
    from ibpo.tasks import prompt_rows

    check_out(out)
    named = read_pairs(columns or (), ("score", "prompt"), "--columns")
    column, prompt = named.get("score", PROBABILITY), named.get("prompt", "prompt")
    shares = read_budgets(budget or [], column)
    rows = list(prompt_rows(prompts))
    if not rows:
        raise IbpoError(f"{prompts}: no prompts; a calibration needs at least one")
    places = [place for place, _ in rows]
    source: dict[str, Any] = {"file": prompts.name, "sha256": digest_file(prompts), "ibpo": __version__}
    if model is None:
        scores = check_scores(
            [f"{place}, column {column!r}" for place in places],
            [_number(_field(*row, column, "score")) for row in rows],
            probable=column == PROBABILITY,
        )
        source["column"] = column
    else:
        if prefix is None:
            raise IbpoError("--model: needs --prefix, the text that opens an extended response")
        scores = _probabilities(model, [_field(*row, prompt, "prompt") for row in rows], places, prefix)
        source |= {"column": prompt, "model": Path(model).name, "prefix": prefix}
    are_gains = model is None and column != PROBABILITY
    calibration = Calibration.from_scores(scores, source, floor, are_gains=are_gains)
    save_calibration(calibration, out)
    thresholds: list[list[str]] = []
    for wanted in shares:
        error = calibration.standard_error(wanted)
        thresholds.append([f"{wanted:.4g}", f"{calibration.threshold(wanted).value:.6g}", f"{error:.2g}"])
    heads = ["budget share", "threshold", "standard error of the share on unseen prompts"]
    print_table(plain_console(), heads, thresholds)
    typer.echo(f"{len(scores)} prompts -> {out}")


LEAST_MASS = 0.9
"""Least part of the responses that must open as some group, or a share among them says little of all."""
ONLY_SHARES = "a policy is moved to a largest share of one of its response groups, e.g. extended=30%"


def move_policy(path: Path, out: Path, model: str, columns: dict[str, str], floor: float, budgets: list[str]) -> None:
    """Write `OUT/model`, which chooses under another budget, and the run's recipe with that budget."""
    from ibpo.runs import RunDir, digest_file, to_toml, working_in, write_text_atomic
    from ibpo.tasks import prompt_rows

    if len(budgets) != 1:
        raise IbpoError(f"--out {out}: one policy keeps one --budget, {len(budgets)} are given; or name a .json file")
    run = Path(model).expanduser().resolve().parent
    if out.exists() and (not out.is_dir() or {file.name for file in out.iterdir()} - {".lock", "model.partial"}):
        raise IbpoError(f"--out {out}: holds something already; name a new folder")
    try:
        from ibpo.evaluation import asked_by
        from ibpo.responses import encode_groups
        from ibpo.rollouts import HFSampler
        from ibpo.training import choose_by_rows, read_states, reprice, sample_bodies, saving
    except ModuleNotFoundError as error:
        raise IbpoError(f"--model needs {error.name}: pip install 'ibpo[train]'") from None
    groups, _, _ = asked_by(model)
    names = [group.name for group in groups]
    if len(groups) < 2:
        raise IbpoError(
            f"--model {model}: no run beside it says two response groups; name RUN/model of an ibpo train run"
        )
    recipe = tomllib.loads(RunDir(run).config.read_text(encoding="utf-8"))
    wanted = parse_budget(budgets[0])
    check_budget(wanted, groups=tuple(names), refused=dict.fromkeys(("cost", "at_least", "slice"), ONLY_SHARES))
    rows, column = list(prompt_rows(path)), columns.get("prompt", "prompt")
    if not rows:
        raise IbpoError(f"{path}: no prompts; the shares are set on them")
    # As the run was sampled.
    temperature = float(recipe.get("trl", {}).get("temperature", 1.0))
    default = TrainConfig.model_fields["max_completion_length"].default
    longest = int(recipe.get("train", {}).get("max_completion_length", default))
    moved = names.index(wanted.name)
    asked = [_field(*row, column, "prompt") for row in rows]
    policy, tokenizer, ids = _asked(model, asked, [place for place, _ in rows], groups[moved].prefix)
    encoded = encode_groups(groups, tokenizer)
    states = read_states(policy, tokenizer, ids, encoded, temperature)
    share = states.shares()
    if (mass := float(share.sum(1).mean())) < LEAST_MASS:
        raise IbpoError(
            f"--model {model}: {1 - mass:.0%} of its responses to these prompts open as none of {', '.join(names)}, so "
            "that a share says little; train it further, or ask as in training"
        )
    amount = min(float(wanted.amount), float((share[:, moved] > floor).mean()))
    target = share.mean(0)  # the others keep their proportions
    target[moved] = 0.0
    target *= (1.0 - amount) / target.sum()
    target[moved] = amount
    import torch

    torch.manual_seed(0)
    sampler = HFSampler(
        policy, tokenizer, max_completion_length=longest, temperature=temperature, batch_size=BATCH_SIZE
    )
    delta, found = reprice(states, target.tolist(), sample_bodies(sampler, ids, encoded))
    choose_by_rows(policy, encoded, delta)
    about = {"model": str(run / Path(model).name), "file": path.name, "sha256": digest_file(path), "ibpo": __version__}
    tables = {name: tuple(part) if isinstance(part, list) else part for name, part in recipe.items()}
    tables["budget"] = {wanted.name: round(amount, 6)}
    with working_in(out), saving(out):
        partial = out / "model.partial"
        policy.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shares = dict(zip(names, found.tolist(), strict=True))
        write_text_atomic(
            out / "moved.json", json.dumps({**about, "shares": shares, "temperature": temperature}) + "\n"
        )
        write_text_atomic(
            out / "config.toml", to_toml(tables, f"ibpo calibrate --budget {write_name(wanted.name)}={amount:g}")
        )
        partial.rename(out / "model")
    said = ", ".join(f"{name} {value:.1%}" for name, value in shares.items())
    typer.echo(f"{len(ids)} prompts, temperature {temperature:g}: {said} -> {out / 'model'}")


def read_budgets(texts: list[str], column: str) -> tuple[float, ...]:
    """The shares whose thresholds are printed, each for itself.

    Raises:
        IbpoError: for what is no largest share of the response group whose scores are read.
    """
    group = column.removeprefix("gain.") if column.startswith("gain.") else "extended"
    only = f"a calibration bounds the share of one response group, e.g. {group}=30%"
    refused = {"cost": only, "at_least": only, "slice": only}
    budgets = [parse_budget(text) for text in texts]
    for budget in budgets:
        check_budget(budget, groups=(group,), refused=refused)
    return tuple(float(budget.amount) for budget in budgets) or SHARES


def _field(place: str, row: dict[str, Any], name: str, option: str, head: str = "") -> Any:
    """The value of a column, or of a dotted name into structs and cells that hold JSON, of which `head` is behind us.

    Raises:
        IbpoError: There is none; where there is no such column, with the command that names another.
    """
    from ibpo.data import MissingColumns, find_alike, parse_cell

    outer, dot, inner = name.partition(".")
    within = parse_cell(row[outer]) if isinstance(row.get(outer), str) else row.get(outer)
    if dot and name not in row and isinstance(within, dict):
        return _field(f"{place}, column {outer!r}", within, inner, option, f"{head}{outer}.")
    alike = find_alike(row, name) or name
    if row.get(alike) is not None:
        return row[alike]
    said = f"{place}: no value in column {name!r}; --columns {option}=... names one of {', '.join(map(repr, row))}"
    likely = next((f"{head}{other}" for other in row if _is_likely(row[other], option)), "COLUMN")
    raise IbpoError(said) if alike in row else MissingColumns(said, ["--columns", f"{option}={likely}"])


def _is_likely(value: Any, option: str) -> bool:
    """Whether a cell may be a score (a probability), or else a prompt."""
    number = _number(value)
    is_number = isinstance(number, int | float | Decimal) and not isinstance(number, bool)
    return is_number and 0 < number < 1 if option == "score" else isinstance(number, str | list)


def _number(value: Any) -> Any:
    """A cell that says a number, as that number; `0,5` and `50%` are a half. Anything else as it is.

    Example:
        >>> _number("0,5"), _number("50%"), _number(Decimal("0.5")), _number("high"), _number(True)
        (0.5, 0.5, 0.5, 'high', True)
    """
    from ibpo.data import read_number

    try:
        if isinstance(value, str):
            return read_number(value) / (100 if value.rstrip().endswith("%") else 1)
        return float(value) if isinstance(value, Decimal) else value
    except ValueError:
        return value


def _probabilities(model: str, prompts: list[Any], places: list[str], prefix: str) -> list[float]:
    """The policy's probability that the token which opens `prefix` opens its response, per prompt."""
    policy, tokenizer, ids = _asked(model, prompts, places, prefix)
    import torch

    from ibpo.responses import encode_prefix
    from ibpo.rollouts import HFSampler

    opening = encode_prefix(prefix, tokenizer)
    sampler = HFSampler(policy, tokenizer, max_completion_length=1, batch_size=BATCH_SIZE)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # batches of one length are hardly padded
    logits = sampler.next_token_logits([ids[i] for i in order])
    found = torch.softmax(logits, -1)[:, opening[0]].double().clamp(0, 1).tolist()
    scores = [0.0] * len(ids)
    for i, score in zip(order, found, strict=True):
        scores[i] = score
    return scores


def _asked(model: str, prompts: list[Any], places: list[str], prefix: str) -> tuple[Any, Any, list[list[int]]]:
    """A policy, its tokenizer, and the token ids of prompts as it was asked in training."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from ibpo.evaluation import asked_by
        from ibpo.responses import encode_prefix, offer
        from ibpo.rollouts import load_policy
    except ModuleNotFoundError as error:
        raise IbpoError(f"--model needs {error.name}: pip install 'ibpo[train]'") from None
    policy, loaded = load_policy(model)
    tokenizer: Any = loaded
    opening = encode_prefix(prefix, tokenizer)
    if not opening:
        raise IbpoError(f"--prefix {prefix!r}: holds no token; give the text that opens an extended response")
    groups, options, before = asked_by(model)
    ids = []
    for value, place in zip(prompts, places, strict=True):
        prompt: Any = _messages(value, place, groups, before) if tokenizer.chat_template or groups else value
        if groups and not tokenizer.chat_template:  # as `ibpo train` writes it without one
            prompt = str(offer([], prompt, chat=False))
            if any(group.instruction for group in groups):
                prompt = prompt.removesuffix("\n") + "\n"
        ids.append(_token_ids(tokenizer, prompt, place, prefix, options))
    if tokenizer.chat_template:
        told = sum(bool(group.instruction) for group in groups)
        say(
            f"asked as in training, by {model}'s chat template and {told} instructions of its run"
            if groups
            else f"asked by {model}'s chat template; no run beside it says what else the policy was asked with"
        )
    return policy, tokenizer, ids


def _messages(
    value: Any, place: str, groups: list[ResponseGroup], before: list[dict[str, str]]
) -> list[dict[str, str]]:
    """The prompt that the policy is asked with: what a run's recipe puts in front is put here, once."""
    from ibpo.responses import offer

    if not isinstance(value, str | list) or not value:
        raise IbpoError(f"{place}: the prompt is {type(value).__name__}; it must be text or a list of chat messages")
    last = value if isinstance(value, str) else str(value[-1].get("content", ""))
    missing = [group for group in groups if group.instruction and group.instruction not in last]
    offered: Any = offer(missing, value, chat=True)
    messages: list[dict[str, str]] = [dict(message) for message in offered]
    there = messages[0].get("role") == "system" or messages[: len(before)] == before
    return messages if there else [*before, *messages]


def _token_ids(tokenizer: Any, value: Any, place: str, prefix: str, options: dict[str, Any]) -> list[int]:
    from ibpo.responses import open_response
    from ibpo.rollouts import encode_prompt

    if isinstance(value, str):
        ids = encode_prompt(tokenizer, value)
    elif isinstance(value, list):
        try:
            opened = open_response(tokenizer, value, prefix, options)
        except Exception as error:
            raise IbpoError(f"{place}: the chat template cannot write these messages: {error}") from None
        if opened.lead or not opened.prompt:
            raise IbpoError(
                f"--prefix {prefix!r}: the chat template writes it itself, so there is nothing that the policy "
                "chooses; see ibpo groups check"
            )
        ids = tokenizer(opened.prompt, add_special_tokens=False)["input_ids"]
    else:
        raise IbpoError(f"{place}: the prompt is {type(value).__name__}; it must be text or a list of chat messages")
    if not ids:
        raise IbpoError(f"{place}: the prompt holds no token; correct or remove the row")
    return ids
