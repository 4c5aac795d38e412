"""`ibpo eval`: sample a policy on a task, judge it, say how good it is at what cost; killed and rerun it goes on."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ibpo.commands.completion import engine_keys, eval_tasks, words
from ibpo.commands.options import ResponseGroups, SetData, check_temperature, split_recipe
from ibpo.errors import IbpoError
from ibpo.terminal import plain_console, print_table


def eval_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=words("embedded:thinking", "embedded:voting"),
            help="A folder, a hub id, embedded:thinking or embedded:voting; with --base-url the served model's name.",
        ),
    ],
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            autocompletion=eval_tasks,
            help="gsm8k, math_500, ...; thinking, voting; a file or folder; hub:OWNER/NAME@COMMIT; a recipe.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run's folder; a run that is there already goes on.")],
    set_: SetData = None,
    response_group: ResponseGroups = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WAY[:GROUP]",
            autocompletion=words("chooses", "two-turns", "refine", "debate"),
            help="More ways of answering. chooses: the policy chooses between the response groups. After each "
            "response of a group (default: the first): two-turns, it is corrected; refine, criticised and corrected; "
            "debate, compared with another one. Repeat.",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible server, with the version: http://127.0.0.1:8000/v1. Default: the model runs in "
            "this process.",
        ),
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="The same policy, now served at another address than when OUT was begun.")
    ] = False,
    force: Annotated[
        bool | None,
        typer.Option(
            help="Force the openings of the response groups. Default: yes for a local model; no for a server, where "
            "only vLLM and SGLang can."
        ),
    ] = None,
    num_responses: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Responses to each problem, in each way of answering.")
    ] = 4,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Take at most this many problems. Default: all; 1000 of an embedded experiment.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            min=1,
            help="Longest response, in tokens. Default: 1024; for a local model at most half of its positions; for an "
            "embedded experiment what it needs.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="NUMBER", min=0.0, help="Sampling temperature; 0 is greedy.")
    ] = 1.0,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            min=0.0,
            max=1.0,
            help="Sample from the most likely tokens that hold this share of the probability; for servers only. "
            "Default: the server's.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, help="Every response gets a seed of its own, derived from this one.")
    ] = 0,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            autocompletion=engine_keys,
            help="How responses are made, by the keys of [sample] in a cold start's recipe. For a server: "
            "num_concurrent=16 requests, max_retries=5, max_passes=3, timeout_seconds=600, api_key_file=FILE, "
            "tokenizer=FOLDER (to force openings), and money per million tokens, in the currency that you like: "
            "price_prompt=0, price_completion=0. For a local model: batch_size=64 responses, dtype=float32. Repeat or "
            "join by commas.",
        ),
    ] = None,
) -> None:
    """Evaluate a policy on a task. The responses stay in OUT; `ibpo report OUT` makes the page."""
    from ibpo.commands.eval_setup import (
        Calls,
        EvalProgress,
        default_max_tokens,
        dialogue_ways,
        load_task,
        local_policy,
        read_engine,
        served_policy,
        total_bill,
        ways_of,
        weights_digest,
    )
    from ibpo.endpoint import Endpoint, read_api_key
    from ibpo.evaluation import (
        CHOOSES,
        cautions,
        fingerprint,
        judge_ways,
        num_missing_and_all,
        read_answer,
        sample_ways,
        trained_policy,
        write_table,
    )
    from ibpo.responses import last_program, offer, prompt_notes
    from ibpo.rewards import UNJUDGED
    from ibpo.rollouts import RolloutStore, settings_of
    from ibpo.runs import working_in, write_text_atomic

    more = also or ()
    check_temperature(temperature)
    command, alone = shlex.join(["ibpo", *sys.argv[1:]]), ExitStack()
    try:
        _check_folder(out)
        console, sampling = plain_console(stderr=True), read_engine(engine or ())
        price = (sampling.price_prompt, sampling.price_completion)
        forced = force if force is not None else base_url is None
        # The judge comes before sampling: it may refuse.
        problems, judge_name, judging = load_task(task, set_ or (), limit, seed)
        programs = judge_name == "code"
        chooses = "chooses" in more
        ways = ways_of(*split_recipe(response_group or ()), task, chooses=chooses, force=forced, programs=programs)
        ways += dialogue_ways([way for way in more if way != "chooses"], ways, num_responses, programs=programs)
        max_tokens = max_tokens or default_max_tokens(model if base_url is None else None, task)
        settings = {
            "model": model,
            "task": task,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "forced": forced,
            "base_url": base_url,
            "dtype": sampling.dtype if base_url is None else None,
            "weights": weights_digest(model) if base_url is None else None,
        }
        if base_url is None:
            if price != (0.0, 0.0) or top_p is not None:
                raise IbpoError(
                    "--engine price_... and --top-p are for servers; leave them out, or name one with --base-url"
                )
            policy = local_policy(
                model,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                batch_size=sampling.batch_size,
                dtype=sampling.dtype,
            )
        else:
            key_file = Path(sampling.api_key_file) if sampling.api_key_file else None
            endpoint = Endpoint(
                base_url=base_url,
                model=model,
                api_key=read_api_key(key_file, "--engine api_key_file"),
                num_concurrent=sampling.num_concurrent,
                max_retries=sampling.max_retries,
                timeout_seconds=sampling.timeout_seconds,
                price_per_million=price,
            )
            policy = served_policy(
                endpoint,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                top_p=top_p,
                force=forced and any(group.prefix for way in ways for group in way.response_groups),
                tokenizer=sampling.tokenizer,
            )
        if policy.tokenizer is not None:
            asked = offer([], problems[0].prompt, chat=bool(policy.tokenizer.chat_template))
            free = [way for way in ways if len(way.response_groups) > 1]
            openings = [group.prefix for way in free for group in way.response_groups]
            for note in prompt_notes(policy.tokenizer, asked, openings, free[0].template_options if free else {}):
                console.print(f"caution: {note}", highlight=False, soft_wrap=True)
        alone.enter_context(working_in(out))
        if moved:
            settings["base_url"] = settings_of(out / "rollouts.jsonl").get("base_url", base_url)
        store = RolloutStore(out / "rollouts.jsonl", settings=settings)
        missing, total = num_missing_and_all(ways, problems, num_responses, store)
        calls = Calls(out / "calls.jsonl", store)
        calls.begin(command, policy.engine, price)
        with EvalProgress(console, total, total - missing, policy.endpoint) as progress:
            num_kept = len(store)
            try:
                sampled = sample_ways(
                    ways,
                    problems,
                    num_responses,
                    policy.sampler_for,
                    store,
                    max_passes=sampling.max_passes,
                    on_outcome=progress.on_outcome,
                )
            finally:
                calls.end(len(store) - num_kept, policy.endpoint)
        trained = trained_policy(model) if base_url is None else None
        rows = judge_ways(
            ways, problems, num_responses, store, judging, policy.count_tokens,
            last_program if programs else read_answer, budget=trained["budget"] if trained else None,
        )  # fmt: skip
        about = {
            "command": command,
            "settings": settings,
            "judge": judge_name,
            "num_problems": len(problems),
            "num_responses": num_responses,
            "problems_fingerprint": fingerprint(problems),
            "configurations": [way.configuration for way in ways],
            "engine": policy.engine,
            "calls": calls.all(),
            "bill": total_bill(calls.all()),
            "trained": trained | {"configuration": CHOOSES} if trained else None,
        }
        # Killed in between, no table of an earlier call is beside this one's word of how many there are.
        (out / "responses.jsonl").unlink(missing_ok=True)
        write_text_atomic(out / "eval.json", json.dumps(about, indent=2) + "\n")
        write_table(out / "responses.jsonl", rows)
        _show(rows, out)
        for caution in cautions(rows, [group for way in ways for group in way.response_groups]):
            console.print(f"caution: {caution}", highlight=False, soft_wrap=True)
        if sampled.failures:
            console.print(
                f"caution: {len(sampled.failures)} later turns failed, the first: {sampled.failures[0]}; there the "
                "first response stands, at the cost of all turns, and the same command asks again",
                highlight=False,
                soft_wrap=True,
            )
        if unjudged := sum(UNJUDGED in row["violations"] for row in rows):
            console.print(f"{unjudged} responses got no grade from the judge, and count as not right")
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was sampled is kept, go on with: {command}", err=True)
        raise typer.Exit(130) from None
    finally:
        alone.close()


def _check_folder(out: Path) -> None:
    """Refuse the folder of something else, whose responses would be replaced.

    Raises:
        IbpoError: There are responses, and no evaluation has written them.
    """
    from ibpo.runs import RESPONSES

    own = [out / name for name in ("calls.jsonl", "eval.json")]
    for path in (out / RESPONSES, out / "config.toml"):
        if path.exists() and not any(file.exists() for file in own):
            raise IbpoError(f"{out}: holds {path.name} of something else than an evaluation; name another folder")


def _share(rows: list[dict[str, Any]], configuration: str, column: str, value: str) -> float:
    own = [row[column] == value for row in rows if row["configuration"] == configuration]
    return sum(own) / len(own)


def _show(rows: list[dict[str, Any]], out: Path) -> None:
    from ibpo.evaluation import Responses, describe

    responses = Responses.of_table(rows)
    broken = {"cut": "thought cut", "unanswered": "no answer"}
    seen = [what for what in broken if any(row["thought"] == what for row in rows)]
    # All response groups except the first, the standard one.
    groups = list(dict.fromkeys(row["response_group"] for row in rows if row["response_group"]))[1:]
    shares = [f"{group} share" for group in groups]
    heads = ["configuration", "pass@1", "mean tokens", *shares, "truncated", *(broken[what] for what in seen)]
    rows_shown: list[list[str]] = []
    for name in responses.configurations:
        numbers = describe(responses.of(name))["overall"]["all"]
        accuracy, tokens = numbers["pass@1"], numbers.get("mean_tokens")
        cut = numbers["truncated"]
        cells = [
            f"{accuracy.value:.1%}"  # of one problem there is no interval
            + ("" if accuracy.low != accuracy.low else f" ({accuracy.low:.1%} to {accuracy.high:.1%})"),
            f"{tokens.value:,.0f}" if tokens else "unknown",
            *(f"{_share(rows, name, 'response_group', group):.1%}" for group in groups),
            f"{cut.value:.1%}",
            *(f"{_share(rows, name, 'thought', what):.1%}" for what in seen),
        ]
        rows_shown.append([name, *cells])
    print_table(plain_console(), heads, rows_shown, title=f"{len(set(responses.problem))} problems")
    typer.echo(f"the page: ibpo report {shlex.quote(str(out))}")
