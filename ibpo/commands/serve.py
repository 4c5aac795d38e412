"""`ibpo serve`: a gateway in front of an OpenAI-compatible server that holds a budget on live traffic."""

from __future__ import annotations

import json
import os
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.request import Request, urlopen

import typer

from ibpo.commands.options import EmbedBy, open_router
from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.serving import ServingPolicy
    from ibpo.serving.gateway import Keys, Settings


def serve_command(
    upstream: Annotated[
        str | None, typer.Option(help="The server that answers, down to the version: http://127.0.0.1:8000/v1")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="extended=30% of the requests, or tokens=2000 on average; repeat.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML of the gateway: models, limits, time-outs; budgets too. See docs/gateway.md."),
    ] = None,
    by: Annotated[
        Literal["thinking", "effort"],
        typer.Option(
            help="Without models in --config, how the groups standard and extended are set: "
            "chat_template_kwargs.enable_thinking, or reasoning_effort low and high."
        ),
    ] = "thinking",
    router: Annotated[Path | None, typer.Option(help="Predicts gains: a file made by ibpo route fit.")] = None,
    embed: EmbedBy = None,
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    reuse_port: Annotated[bool, typer.Option(help="Share the port with other gateway processes.")] = False,
    state: Annotated[
        str | None,
        typer.Option(
            help="Keeps the budget over restarts and shares it: a SQLite file, or redis://... or "
            "valkey://... (one per plan)."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of this process among those that share the state.")] = "gateway",
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE or env:NAME",
            help="TOML with the hashed API keys of tenants, see --new-key; or an environment variable with "
            "TENANT=KEY,TENANT=KEY.",
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Append the log to this file. Default: standard output.")] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Print a new key and its line for --keys, and leave.")
    ] = None,
) -> None:
    """Hold the budget on live traffic: choose each request's response group, pass everything else through."""
    try:
        from ibpo.serving.gateway import ROUTER_SECONDS, FittedRouter, Service, open_log, serve
    except ModuleNotFoundError as error:
        raise IbpoError(f"a gateway needs the package {error.name}: pip install 'ibpo[serve]'") from None
    if new_key is not None:
        _print_key(new_key)
        return
    settings, held = _told(upstream, budget, config, by)
    # A request waits so long for a router, and a second try would come too late.
    hurry: dict[str, Any] = {"max_retries": 0, "timeout_seconds": ROUTER_SECONDS}
    found = None if router is None else open_router(router, embed, **hurry)
    service = Service(
        settings=settings,
        policy=held,
        host=host,
        port=port,
        reuse_port=reuse_port,
        state=state,
        name=name,
        keys=_keys(keys),
        router=None if found is None else FittedRouter(found, str(router)),
    )
    Thread(target=_warn_of_groups, args=(settings,), daemon=True).start()
    serve(service, open_log(log), on_ready=lambda url: typer.echo(f"ibpo: {url} holds {_said(held)}", err=True))


def _told(
    upstream: str | None, budget: list[str] | None, config: Path | None, by: str
) -> tuple[Settings, ServingPolicy]:
    """The settings and the serving policy, from the file and the options together."""
    from ibpo.serving import ServingPolicy, parse_budget_policies
    from ibpo.serving.gateway import GROUPS_BY, build_settings, read_settings

    settings, tables = read_settings(config) if config is not None else (build_settings({}, "options"), {})
    if upstream is not None:
        given = {**settings.upstream.model_dump(), "url": upstream}
        settings = settings.model_copy(update={"upstream": build_settings({"upstream": given}, "--upstream").upstream})
    if not settings.model:
        models = build_settings({"model": [{"name": "*", "response_group": GROUPS_BY[by]}]}, "--by").model
        settings = settings.model_copy(update={"model": models})
    if bool(budget) + ("budget" in tables) != 1:
        raise IbpoError("give the budgets once: --budget extended=30%, or [budget] in --config")
    budgets = parse_budget_policies(budget or [])
    try:
        return settings, ServingPolicy.from_dict(tables, budgets)
    except IbpoError as error:
        raise IbpoError(f"{config or '--budget'}: {error}") from None


def _warn_of_groups(settings: Settings) -> None:
    """Say where response groups do not do what they are for with the upstream's chat template, if it can be seen.

    Beside the serving: an upstream that is not there yet, or knows no `/tokenize`, delays and stops nothing.
    """
    from ibpo.endpoint import Endpoint
    from ibpo.responses import served_cautions
    from ibpo.rollouts import ask_for_tokenizer

    key = os.environ.get(settings.upstream.key_env, "none") if settings.upstream.key_env else "none"
    for model in settings.model:
        name = _first_model(settings.upstream.url, key) if model.name == "*" else model.name
        tokenizer = ask_for_tokenizer(Endpoint(base_url=settings.upstream.url, model=name, api_key=key))
        if tokenizer is None:
            continue
        groups = {
            group.name: (group.prefix, _by_effort(group.reasoning_effort) | group.chat_template_kwargs)
            for group in model.response_group
        }
        for caution in served_cautions(tokenizer, groups):
            typer.echo(f"caution: {name or 'the upstream'}: {caution}", err=True)


def _by_effort(word: str) -> dict[str, Any]:
    """What vLLM makes of the field `reasoning_effort`: an argument of the template, which switches thinking too."""
    return {"reasoning_effort": word, "enable_thinking": word != "none"} if word else {}


def _first_model(url: str, key: str) -> str:
    """The model that a server names first; "" where it names none."""
    asked = Request(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urlopen(asked, timeout=5.0) as answer:
            return str(json.load(answer)["data"][0]["id"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, HTTPException):
        return ""


def _keys(text: str | None) -> Keys | None:
    from ibpo.serving.gateway import keys_from_environment, read_keys

    if text is None:
        return None
    return keys_from_environment(text.removeprefix("env:")) if text.startswith("env:") else read_keys(Path(text))


def _print_key(tenant: str) -> None:
    from ibpo.serving.gateway import new_key

    key, line = new_key()
    typer.echo(f"key of {tenant}, shown once: {key}")
    typer.echo(f'line under [keys] in the file of --keys: {tenant} = ["{line}"]')


def _said(policy: ServingPolicy) -> str:
    """The budgets in words."""
    shown = [
        f"{b.name} at {b.mean:.4g} a request" if b.response_group is None else f"{b.response_group} at {b.mean:.3%}"
        for b in policy.budgets
    ]
    return " and ".join(shown)
