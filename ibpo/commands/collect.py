"""`ibpo collect`: from one answer per prompt to a verdict, under a limit on money; killed and rerun it goes on."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibpo.commands.completion import engine_keys, keys, words
from ibpo.commands.options import (
    OnError,
    ResponseGroups,
    SetData,
    check_temperature,
    read_pairs,
    split_recipe,
)
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console, print_table, say

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from ibpo.commands.collect_run import Plan, Run
    from ibpo.config import Engine, JudgeConfig
    from ibpo.evaluation import Answer, Limits, LogPart, Look, PromptLog, Question, Target, Verdict, Way
    from ibpo.prices import Price
    from ibpo.types import Problem

FIELDS = ("prompt", "answer", "completion", "problem", "response_group", "reward", "cost")
SHORT = {
    "effort": ("reasoning_effort", ("low", "medium", "high")),
    "thinking": ("chat_template_kwargs.enable_thinking", ("none", "thinking")),
}
"""What `--by` is short for: a field of the request and its values."""
SWITCH = {"none": False, "thinking": True, "off": False, "on": True}
"""Values of `--by thinking`."""
TOKENS_PER_BYTE = 0.25
"""Tokens per byte of a prompt, for estimates only: what is reserved is a token for each byte."""


def collect_command(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG [TABLE]...",
            help="Prompts, with what was answered if it is there: a row each, or the log of a server or harness. "
            "The columns of further tables, such as gold answers, are added to the rows with the same "
            "identifier.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run's folder; a run that is there already goes on.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The served model's name.")],
    base_url: Annotated[
        str,
        typer.Option(metavar="URL", help="An OpenAI-compatible server, with the version: http://127.0.0.1:8000/v1."),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=VALUES",
            autocompletion=words("effort", "thinking", "effort=low,high", "model="),
            help="What to ask: effort (reasoning_effort low, medium, high), effort=low,high, thinking (off and on, by "
            "chat_template_kwargs.enable_thinking), or the values of any field of a request: model=small,large.",
        ),
    ] = None,
    response_group: ResponseGroups = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET",
            autocompletion=keys("tokens", "money"),
            help="What may be spent per prompt, as in ibpo allocate; repeat. tokens=0.5x is half of what the log "
            "spends. Default: half way from the cheapest response group to the most expensive.",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=NUMBER",
            autocompletion=keys("money", "calls"),
            help="What all calls together may take: money=5 (in the currency of --prices, which it needs), calls=1000 "
            "requests, or both.",
        ),
    ] = None,
    prices: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PAIRS",
            autocompletion=keys("input", "output", "cached_input", "reasoning"),
            help="Money per million tokens, in the currency that you like: input=0.25,output=2 (also cached_input, "
            "reasoning), or a table by model (a file).",
        ),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            metavar="REWARD",
            min=1e-4,
            max=1.0,
            help="Stop where the mean gain is known to within this much reward: half the width of its 95 % interval.",
        ),
    ] = 0.02,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            autocompletion=keys(*FIELDS),
            help="Names columns that have other names: prompt=question,answer=gold; repeat or join by commas. Other "
            "fields: completion, problem, response_group, reward, cost.",
        ),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column (level, domain) by which the sample is stratified; repeat."),
    ] = None,
    logged: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="The response group that the log's responses were asked with, where the log does not say; none: "
            "leave them out.",
        ),
    ] = None,
    set_: SetData = None,
    judge_command: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM",
            help="Your judge: reads a JSON line for each response (prompt, answer, completion), writes its reward. "
            "Default: the gold answer decides, by data.judge.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", min=1, help="Longest response, thoughts included, in tokens.")
    ] = 4096,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", min=0.0, help="Sampling temperature; 0 is greedy. Default: the server's."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Seed of the sample, and of every response.")] = 0,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            autocompletion=engine_keys,
            help="num_concurrent=16 requests, timeout_seconds=600, api_key_file=FILE, tokenizer=FOLDER. Repeat or "
            "join by commas.",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be asked and paid, and ask nothing.")] = False,
    on_error: OnError = "fail",
) -> None:
    """Ask a log's prompts in other response groups, as few as needed, and say whether choosing pays."""
    from ibpo.commands.eval_setup import read_engine
    from ibpo.evaluation import Limits, match_logged, questions, read_prompt_log, stratified_order
    from ibpo.runs import working_in

    command = shlex.join(["ibpo", *sys.argv[1:]])
    console = plain_console(stderr=True)
    limits = _limits(limit or ())
    if limits == Limits() and not plan:
        raise IbpoError("no limit: give --limit money=AMOUNT with --prices, or --limit calls=NUMBER")
    if limits.money < math.inf and prices is None:
        raise IbpoError("--limit money: needs the prices: --prices input=...,output=... per million tokens, or a file")
    sampling = read_engine(engine or ())
    if sampling.price_prompt or sampling.price_completion:
        raise IbpoError("--engine price_...: prices are given by --prices here")
    check_temperature(temperature)
    log_path, *join = logs
    judge, grader = _judge(log_path, set_ or ())
    ways = _ways(by, response_group or (), programs=judge == "code")
    names = read_pairs(columns or (), FIELDS, "--columns")
    log = read_prompt_log(log_path, names, show=show or (), tests=judge == "code", on_error=on_error, join=join)
    for note in log.notes:
        _say(console, note)
    log = _judgeable(log, judge_command, console)
    field = (by or "").partition("=")[0]
    counted, notes = match_logged(log, list(ways), model=model, asked_with=logged, by_model=field == "model")
    for note in notes:
        _say(console, note)
    if logged not in (None, "none", *ways):
        raise IbpoError(f"--logged {logged}: is not one of the response groups, {', '.join(ways)}")
    by_group = _prices(prices, {name: str(way.body.get("model", model)) for name, way in ways.items()})
    # Tokens of models of different prices are no common measure.
    cost = "money" if by_group and len(set(by_group.values())) > 1 else "tokens"
    cost = "money" if by_group and any(text.startswith("money") for text in budget or ()) else cost
    asked = [x for x in questions(_in_numbers(budget or ["50%range"], log, cost), cost) if x.times == 1]
    order = stratified_order(log, seed)
    if plan:
        _print_plan(order, ways, counted, by_group, limits, max_tokens)
        return
    alone = ExitStack()
    try:
        alone.enter_context(working_in(out))
        run, todo = _open_run(
            out, order, ways, counted, by_group, limits, console, model=model, base_url=base_url, sampling=sampling,
            max_tokens=max_tokens, temperature=temperature, seed=seed, logged=logged, judge=judge,
            judge_command=judge_command, grader=grader,
        )  # fmt: skip
        _collect(run, todo, asked[0], cost, precision, seed, command)
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was answered is kept, go on with: {command}", err=True)
        raise typer.Exit(130) from None
    finally:
        alone.close()


def _limits(texts: Sequence[str]) -> Limits:
    """What `--limit` says; without bounds where it does not.

    Raises:
        IbpoError: for what is no limit.
    """
    from ibpo.evaluation import Limits

    found: dict[str, float] = {}
    for key, text in read_pairs(texts, ("money", "calls"), "--limit").items():
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = math.nan
        if not 0 <= found[key] < math.inf or (key == "calls" and (found[key] < 1 or found[key] % 1)):
            wanted = "whole number of at least 1" if key == "calls" else "number from 0 on"
            raise IbpoError(f"--limit {key}={text}: needs a {wanted}")
    return Limits(**found)


def _judge(log: Path, overrides: Sequence[str]) -> tuple[str, JudgeConfig]:
    """The judge by the gold answers, and whether programs are confined.

    Raises:
        IbpoError: for what the log says, and not a recipe.
    """
    from ibpo.tasks import named_data

    data, grader = named_data(str(log), [*overrides, f"data.path={log}"])
    if other := sorted(data.model_fields_set - {"path", "judge"}):
        raise IbpoError(f"--set data.{other[0]}: is not for a log; its columns are named by --columns")
    if data.judge == "llm":
        raise IbpoError("--set data.judge=llm: is not for a log; write math, exact or code, or give --judge-command")
    return data.judge or "math", grader


def _ways(by: str | None, response_groups: Sequence[str], *, programs: bool) -> dict[str, Way]:
    """Response group -> how it is asked for.

    Raises:
        IbpoError: names the option and the fix.
    """
    from ibpo.commands.eval_setup import ways_of
    from ibpo.evaluation import Way, read_answer
    from ibpo.responses import last_program
    from ibpo.types import ResponseGroup

    if (by is None) == (not response_groups):
        raise IbpoError("name what to ask: --by effort, --by thinking, --by FIELD=VALUE,VALUE or --response-group NAME")
    if by is None:
        named = ways_of(*split_recipe(response_groups), "", chooses=False, force=False, programs=programs)
        ways = {way.configuration: way for way in named}
    else:
        field, equals, said = (part.strip() for part in by.partition("="))
        if not equals and field not in SHORT:
            raise IbpoError(f"--by {by}: give its values, {field}=VALUE,VALUE; or one of {', '.join(SHORT)}")
        field, known = SHORT.get(field, (field, ()))
        values = [value.strip() for value in said.split(",")] if equals else known
        if "" in values or len(set(values)) < len(values):
            raise IbpoError(f"--by {by}: needs different values, each with a text")
        ways = {}
        for value in values:
            body: Any = _value(by, value, is_switch=known == SHORT["thinking"][1])
            for part in reversed(field.split(".")):
                body = {part: body}
            # Asked as logged, with no words before it; the answer is read as in a log.
            group = ResponseGroup(name=value, prefix="", extract_answer=last_program if programs else read_answer)
            ways[value] = Way(configuration=value, response_groups=[group], force=False, body=body)
    if len(ways) < 2:
        raise IbpoError("a choice needs at least two response groups; name more")
    return ways


def _value(by: str, text: str, *, is_switch: bool) -> Any:
    """What is sent for a value of `--by`: a number or truth value where it reads like one, else the text."""
    if is_switch:
        if text not in SWITCH:
            raise IbpoError(f"--by {by}: {text!r} is neither on nor off; write {' or '.join(SWITCH)}")
        return SWITCH[text]
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _judgeable(log: PromptLog, judge_command: str | None, console: Console) -> PromptLog:
    """Without the prompts that nobody can judge."""
    from dataclasses import replace

    from ibpo.rewards import CommandJudge

    if judge_command is not None:
        CommandJudge(judge_command)  # which says what cannot be started, also of a plan
        return log
    known = [problem for problem in log.problems if problem.answer]
    if not known:
        raise IbpoError(
            "the log has no gold answers, so nobody can judge: name their column with --columns answer=COLUMN, join a "
            "table that has them, or give --judge-command PROGRAM"
        )
    if len(known) < len(log.problems):
        _say(console, f"{len(log.problems) - len(known)} prompts without gold answer left out")
    return replace(log, problems=known)


def _in_numbers(budgets: Sequence[str], log: PromptLog, cost: str) -> list[str]:
    """Budgets of which "today" is what the log spends, not what is collected."""
    from dataclasses import replace

    from ibpo.budget import parse_budget

    tokens = [one.tokens for some in log.logged.values() for one in some if one.tokens is not None]
    made: list[str] = []
    for text in budgets:
        budget = parse_budget(text)
        if budget.unit == "now":
            if not tokens or cost != "tokens":
                raise IbpoError(f"--budget {text}: the log does not say what is spent today; give {cost}=NUMBER")
            amount = budget.in_cost(now=sum(tokens) / len(tokens), cheapest=0, most_expensive=0)
            budget = replace(budget, amount=amount, unit="number")
        made.append(text if budget.unit in ("percent", "range") else str(budget))
    return made


def _prices(text: str | None, models: Mapping[str, str]) -> dict[str, Price] | None:
    """Response group -> price of its model; None without prices."""
    from ibpo.prices import read_price, read_prices

    if text is None:
        return None
    if "=" in text:
        return dict.fromkeys(models, read_price(text, "--prices"))
    table = read_prices(text)
    return {group: table.of(model) for group, model in models.items()}


def _open_run(
    out: Path,
    order: Sequence[Problem],
    ways: Mapping[str, Way],
    counted: Mapping[str, Any],
    prices: Mapping[str, Price] | None,
    limits: Limits,
    console: Console,
    *,
    model: str,
    base_url: str,
    sampling: Engine,
    max_tokens: int,
    temperature: float | None,
    seed: int,
    logged: str | None,
    judge: str,
    judge_command: str | None,
    grader: JudgeConfig,
) -> tuple[Run, Plan]:
    """Everything that asks, and what is there already."""
    from typing import cast

    from ibpo.commands.collect_run import OVER, Plan, Run
    from ibpo.commands.eval_setup import served_policy
    from ibpo.endpoint import Endpoint, read_api_key
    from ibpo.evaluation import Spending, fingerprint, read_answer, use_of
    from ibpo.responses import last_program
    from ibpo.rewards import CommandJudge, MixtureOfJudges
    from ibpo.rollouts import EndpointSampler, RolloutStore
    from ibpo.runs import Journal
    from ibpo.tasks import build_judge

    if judge_command is None:
        judging, judge_name = build_judge(judge, grader), judge
    else:
        judging = MixtureOfJudges(rewards={"command": CommandJudge(judge_command)})
        judge_name = f"command {judge_command}"
    endpoint = Endpoint(
        base_url=base_url,
        model=model,
        api_key=read_api_key(sampling.api_key_file or None, "--engine api_key_file"),
        num_concurrent=sampling.num_concurrent,
        max_retries=0,  # each try is reserved: `Run.ask` does it
        timeout_seconds=sampling.timeout_seconds,
    )
    policy = served_policy(
        endpoint, max_tokens=max_tokens, temperature=temperature, seed=seed, top_p=None, force=False,
        tokenizer=sampling.tokenizer,
    )  # fmt: skip
    settings = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed,
                "response_groups": list(ways), "logged": logged}  # fmt: skip
    store = RolloutStore(out / "rollouts.jsonl", settings=settings)
    stored = {row["key"]: row for row in store.rows()}

    def found(key: str) -> Any:
        row = stored.get(key)
        names = ("num_prompt_tokens", "num_completion_tokens", "num_thinking_tokens")
        return None if row is None else use_of(*(row[name] for name in names))

    run = Run(
        out=out,
        order=order,
        ways=ways,
        samplers={name: cast(EndpointSampler, policy.sampler_for(way)) for name, way in ways.items()},
        endpoint=endpoint,
        store=store,
        spending=Spending(Journal(out / "calls.jsonl"), limits, prices, max_tokens + OVER, found),
        counted=counted,
        judge=judging,
        judge_name=judge_name,
        read=last_program if judge == "code" else read_answer,
        console=console,
    )
    if run.spending.num_in_flight:
        _say(console, f"{run.spending.num_in_flight} calls were in flight when an earlier run ended: charged in full")
    return run, Plan.open(out / "plan.json", fingerprint(order))


def _collect(run: Run, plan: Plan, question: Question, cost: str, precision: float, seed: int, command: str) -> None:
    """Ask and look, until it is known or nothing more can be asked; then say so."""
    from ibpo.evaluation import error_of, first_target, next_target, why_stop

    logged, spending = run.logged_PG, run.spending
    limits = [spending.limits.money, spending.limits.calls]
    if not plan.targets:
        plan.targets = [first_target(logged, spending.calls_left(_money_per_call(run)))]
    if plan.limits != limits:
        plan.limits = limits
        _plan_looks(run, plan)
    (run.out / "summary.json").unlink(missing_ok=True)
    while True:
        plan.save()
        complete = run.ask(run.requests(plan.targets), f"round {len(plan.targets)}")
        rows = _write_rows(run, plan.targets)
        if plan.num_rows != len(rows) and len(plan.done) >= plan.looks:
            _plan_looks(run, plan)
        is_new = plan.num_rows != len(rows) or not plan.done
        error = error_of(len(plan.done), plan.looks, plan.error_left) if is_new else plan.done[-1].error
        seen = _look(run, rows, question, cost, seed, error)
        if seen is None:
            return _finish(run, plan, None, "the limits leave no room for two answers of every response group", command)
        look = seen[0]
        if is_new:
            plan.num_rows = len(rows)
            plan.done.append(look)
            plan.save()
            _say(run.console, f"look {len(plan.done)} of {plan.looks}: {_look_text(look)}; {spending.text}")
        left = spending.calls_left(_money_per_call(run))
        target = next_target(
            plan.targets, look, logged, calls_left=left, looks_left=plan.looks - len(plan.done), precision=precision
        )
        reason = why_stop(look, precision)
        if not reason and not complete:
            reason = "the limits leave no room for more"
        if not reason and target is None:
            reason = "the limits leave no room for more" if left < 1 else "all that was planned is asked"
        if reason or target is None:
            return _finish(run, plan, seen, reason, command)
        plan.targets.append(target)


def _plan_looks(run: Run, plan: Plan) -> None:
    """How many more looks there will be, and which error they share."""
    from ibpo.evaluation import ERROR, MOST, Target, calls_to, num_looks

    logged = run.logged_PG
    done = float(calls_to(plan.targets, logged).sum())
    whole = float(calls_to([Target(num_problems=len(logged), answers=MOST)], logged).sum())
    most = min(whole, run.spending.num_calls + run.spending.calls_left(_money_per_call(run)))
    plan.looks = len(plan.done) + num_looks(done, most)
    if plan.error_left < ERROR / 1000:
        plan.error += ERROR
        if plan.done:
            _say(
                run.console,
                f"the looks so far have used up their error: those to come have {ERROR:.0%} of their own, so that all "
                f"together err by at most {plan.error:.0%}",
            )


def _money_per_call(run: Run) -> float:
    """The expected cost of a call: as those so far; before them by the log, else a whole response."""
    spending = run.spending
    if spending.prices is None:
        return 0.0
    if spending.num_calls:
        return spending.money / spending.num_calls
    return _estimated_money(run.order, run.counted, spending.prices, spending.max_tokens)[0]


def _estimated_money(
    order: Sequence[Problem], counted: Mapping[str, Any], prices: Mapping[str, Price], max_tokens: int
) -> tuple[float, bool]:
    """Mean money of a call before any is made, and whether the log tells the tokens of every response group."""
    from ibpo.prices import TokenUse

    asked = TOKENS_PER_BYTE * sum(len(str(problem.prompt)) for problem in order) / len(order)
    tokens: dict[str, list[float]] = {}
    for some in counted.values():
        for one in some:
            tokens.setdefault(one.response_group, []).append(one.tokens)
    costs: list[float] = []
    for group, price in prices.items():
        mean = sum(tokens[group]) / len(tokens[group]) if group in tokens else float(max_tokens)
        costs.append(price.of(TokenUse(input=asked, output=mean)))
    return sum(costs) / len(costs), len(tokens) == len(prices)


def _write_rows(run: Run, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Judge what is new, and write the table that every command reads."""
    from ibpo.evaluation import use_of, write_table

    rows = sorted(run.judged(targets), key=lambda row: (row["problem_id"], row["response_group"], row["number"]))
    shown = {problem.problem_id: problem.info.get("columns", {}) for problem in run.order}
    length = {row["problem_id"]: row["prompt_tokens"] for row in rows if row.get("prompt_tokens")}
    for row in rows:
        row |= shown[row["problem_id"]]
        prices = run.spending.prices
        # Responses of the log do not say how long their prompt is; others to the same problem do.
        num_prompt = row.get("prompt_tokens") or length.get(row["problem_id"])
        use = use_of(num_prompt, row["tokens"], row.get("thinking_tokens"))
        if prices is not None and use is not None:
            row["money"] = round(prices[row["response_group"]].of(use), 12)
    if any(row["tokens"] is None for row in rows):
        for row in rows:
            row["characters"] = len(row.get("completion") or "") + len(row.get("reasoning") or "")
    write_table(run.out / "responses.jsonl", rows)
    return rows


def _look(
    run: Run, rows: Sequence[Mapping[str, Any]], question: Question, cost: str, seed: int, error: float
) -> tuple[Look, LogPart, Answer, Verdict] | None:
    """Allocate's verdict on what is there; None where no problem has two answers of every response group."""
    from collections import Counter
    from dataclasses import replace

    from ibpo.data import LogColumns
    from ibpo.evaluation import answer_questions, read_parts, take_look

    cells = Counter((row["problem_id"], row["response_group"]) for row in rows)
    whole = [p for p in {problem for problem, _ in cells} if all(cells[p, group] >= 2 for group in run.ways)]
    if len(whole) < 2:
        return None
    if "characters" in rows[0]:
        cost = "characters"
        _say(run.console, "the server does not say how many tokens it gave: the cost is characters of the completion")
        question = replace(question, budgets=tuple(replace(x, name=cost) for x in question.budgets))
    names = LogColumns(problem="problem_id", response_group="response_group", reward="reward", cost=cost)
    silent: list[str] = []
    part = read_parts(run.out / "responses.jsonl", names, say=silent.append).parts[0]
    [answer] = answer_questions(part, [question], holdout=True, num_splits=None, seed=seed, say=silent.append)
    look, answer, told = take_look(part, answer, error)
    return look, part, answer, told


def _look_text(look: Look) -> str:
    interval = "no interval yet"
    if look.half_width < math.inf:
        interval = (
            f"choosing gains {look.gain:+.3f} ({100 * (1 - look.error):.3g} %: {look.low:+.3f} to {look.high:+.3f})"
        )
    return (
        f"{interval}; {look.num_problems} prompts, {look.num_responses} answers; the response groups differ by a "
        f"variance of {look.between:.3g} between prompts and {look.within:.3g} within one, so {look.best_answers} "
        "answers each say most"
    )


def _finish(
    run: Run, plan: Plan, seen: tuple[Look, LogPart, Answer, Verdict] | None, reason: str, command: str
) -> None:
    """The verdict, the table, what more would tell, and `summary.json`, which is written last."""
    from ibpo.evaluation import cautions, summarise_parts, what_more
    from ibpo.runs import write_text_atomic

    spending = run.spending
    money = None if spending.prices is None else _money_per_call(run)
    head = f"Stopped: {reason} ({spending.text})."
    if seen is None:
        say(head, err=False)
        return
    look, part, answer, told = seen
    more = what_more(look, plan.targets, run.logged_PG, money)
    say(told.text, err=False)
    say(f"{head} {more}", err=False)
    _print_groups(part, run)
    responses = run.out / "responses.jsonl"
    rows = [json.loads(line) for line in responses.read_text(encoding="utf-8").splitlines()]
    if not run.judge_name.startswith("command"):
        for caution in cautions(rows, []):
            _say(run.console, f"caution: {caution}")
    if _always_alike(rows):
        _say(
            run.console,
            "caution: every prompt got the same answer each time it was asked: the server answers greedily, or takes "
            "neither seed nor temperature, so the answers show nothing of chance",
        )
    compared = [row["logged_reward"] == row["reward"] for row in rows if row.get("logged_reward") is not None]
    if compared and not all(compared):
        _say(run.console, f"the judge agrees with the log's rewards on {sum(compared)} of {len(compared)} responses")
    for text in list(run.refused.values())[:1]:
        _say(run.console, f"{len(run.refused)} requests were refused, the first: {text}")
    summary = summarise_parts(responses, None, [(part, [answer])], num_bad=0)
    recommended = {"per_problem": told.per_problem, "mixture": told.mixture, "verdict": told.text}
    summary["parts"][0]["budgets"][0]["recommended"] = recommended  # with this look's error
    summary["collect"] = {
        "command": command,
        "per_problem": told.per_problem,
        "stopped": reason,
        "more": more,
        "looks": [asdict(one) for one in plan.done],
        "planned_looks": plan.looks,
        "error_of_all_looks": plan.error,
        "calls": spending.num_calls,
        "money": None if spending.prices is None else spending.money,
        "charged_in_full": spending.num_unknown,
    }
    write_text_atomic(run.out / "summary.json", json.dumps(_finite(summary), indent=2) + "\n")
    typer.echo(
        f"the whole table: ibpo allocate {shlex.quote(str(run.out))}; a page: ibpo report {shlex.quote(str(run.out))}"
    )


def _always_alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all answers that were asked for twice have the same text."""
    texts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.get("logged"):
            texts.setdefault((row["problem_id"], row["response_group"]), []).append(row["completion"])
    several = [some for some in texts.values() if len(some) > 1]
    return bool(several) and all(len(set(some)) == 1 for some in several)


def _finite(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_groups(part: LogPart, run: Run) -> None:
    """What each response group costs and earns."""
    money, priced = _money_by_group(run), run.spending.prices is not None
    rows: list[list[str]] = []
    for g in part.cost.mean(0).argsort(kind="stable").tolist():
        name = part.groups[g]
        row = [
            name,
            f"{int(part.count[:, g].sum()):,}",
            f"{part.reward[:, g].mean():.3f}",
            f"{part.cost[:, g].mean():,.0f}",
        ]
        rows.append([*row, *([f"{1000 * money[name]:.4g}" if name in money else ""] if priced else [])])
    heads = ["response group", "answers", part.columns["reward"], part.columns["cost"]]
    print_table(plain_console(), [*heads, *(["money per 1,000"] if priced else [])], rows)


def _money_by_group(run: Run) -> dict[str, float]:
    """Mean money of a call of each response group, of those whose usage is known."""
    from ibpo.evaluation import use_of

    found: dict[str, list[float]] = {}
    for row in run.store.rows():
        use = use_of(row["num_prompt_tokens"], row["num_completion_tokens"], row["num_thinking_tokens"])
        if use is not None and run.spending.prices is not None:
            found.setdefault(row["response_group"], []).append(run.spending.prices[row["response_group"]].of(use))
    return {group: sum(some) / len(some) for group, some in found.items()}


def _print_plan(
    order: Sequence[Problem],
    ways: Mapping[str, Way],
    counted: Mapping[str, Sequence[Any]],
    prices: Mapping[str, Price] | None,
    limits: Limits,
    max_tokens: int,
) -> None:
    """What would be asked and paid."""
    from ibpo.commands.collect_run import logged_counts
    from ibpo.evaluation import MOST, Target, calls_to, first_target, num_looks

    logged: NDArray[Any] = logged_counts(order, list(ways), counted)
    per_call, known = _estimated_money(order, counted, prices, max_tokens) if prices else (0.0, True)
    by_money = limits.money / per_call if per_call else math.inf
    possible = float(calls_to([Target(num_problems=len(order), answers=MOST)], logged).sum())
    most = min(by_money, limits.calls, possible)
    first = first_target(logged, most)
    pilot = float(calls_to([first], logged).sum())
    about = "about" if known else "at most"

    def priced(calls: float) -> str:
        return f"{calls:,.0f} calls" + (f", money {about} {calls * per_call:.3g}" if prices else "")

    typer.echo(
        f"response groups: {', '.join(ways)}\n"
        f"first round: {first.num_problems} of {len(order)} prompts, {first.answers} answers of each response group: "
        f"{priced(pilot)}\n"
        f"at the limit: {priced(most)}\n"
        f"looks: at most {num_looks(pilot, most)}; it stops at the first that tells enough"
    )
    if prices and not known:
        typer.echo(
            "(money: as if every response took all of --max-tokens where the log has none of its response group)"
        )
    typer.echo("nothing was asked; leave out --plan to begin")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)
