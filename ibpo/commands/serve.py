"""`ibpo serve`: a gateway in front of an OpenAI-compatible server that holds a budget on live traffic."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ibpo.commands.completion import words
from ibpo.commands.options import BudgetsOfTraffic, EmbedBy, load_tokenizer, open_router
from ibpo.errors import IbpoError
from ibpo.pictures import number_text

if TYPE_CHECKING:
    from ibpo.serving import ServingPolicy
    from ibpo.serving.gateway import Keys, Settings

ASK_SECONDS = 5.0
"""Longest wait, at start, for each answer of an upstream on its model and its template."""


def serve_command(
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server that answers, with the version: http://127.0.0.1:8000/v1"),
    ] = None,
    budget: BudgetsOfTraffic = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML of the gateway: models, limits, time-outs; budgets too. Its tables: page 'Put the gateway in "
            "front of a server' of the "
            "documentation.",
        ),
    ] = None,
    by: Annotated[
        Literal["thinking", "effort"],
        typer.Option(
            help="Without models in --config, how the groups standard and extended are set: thinking off and on, or "
            "little and much effort, in the words of the model's chat template."
        ),
    ] = "thinking",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model's tokenizer, a folder or hub id, where the upstream does not say how it renders prompts.",
        ),
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Predicts gains: a file made by ibpo route fit.")
    ] = None,
    embed: EmbedBy = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address to listen on; any other than loopback needs --keys. Port 0: any free one.",
        ),
    ] = "127.0.0.1:8080",
    ext_proc: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Answer the calls of Envoy's ext_proc filter here (or unix:PATH); --upstream may then be left out. "
            "How "
            "to set Envoy up: page 'Hold the budget inside Envoy' of the documentation.",
        ),
    ] = None,
    reuse_port: Annotated[bool, typer.Option(help="Share the port with other gateway processes.")] = False,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Keeps the budget over restarts and shares it: a SQLite file, or redis://... or valkey://... (one "
            "for each plan). Default: it is kept in memory, and lost at exit.",
        ),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For many processes on one --state: decide by a lease of the budget, exchanged with the state every "
            "so many seconds, e.g. 0.25. Default: the state is asked at every request.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of this process among those that share the state.")
    ] = "gateway",
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|env:NAME|new:TENANT",
            autocompletion=words("env:", "new:"),
            help="API keys of tenants: a TOML file with their hashes; or env:NAME, an environment variable with "
            "TENANT=KEY,TENANT=KEY. new:TENANT prints a new key for a tenant and its line for the file, and exits. "
            "Default: no keys are asked for.",
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the log to this file. Default: standard output.")
    ] = None,
) -> None:
    """Hold the budget on live traffic: choose each request's response group, pass everything else through."""
    try:
        from ibpo.serving.gateway import ROUTER_SECONDS, FittedRouter, Service, open_log, serve
    except ModuleNotFoundError as error:
        raise IbpoError(f"a gateway needs the package {error.name}: pip install 'ibpo[serve]'") from None
    if keys is not None and keys.startswith("new:"):
        _print_key(keys.removeprefix("new:"))
        return
    if embed is not None and router is None:
        raise IbpoError(f"--embed {embed}: embeds prompts for a router; give --router too, or leave it out")
    host, port = _address(listen)
    known = None if tokenizer is None else load_tokenizer(tokenizer)
    settings, held, note = _told(upstream, budget, config, by, known)
    # A request waits so long for a router, and a second try would come too late.
    hurry: dict[str, Any] = {"max_retries": 0, "timeout_seconds": ROUTER_SECONDS}
    found = None if router is None else open_router(router, embed, first_answers=True, **hurry)
    service = Service(
        settings=settings,
        policy=held,
        host=host,
        port=port,
        reuse_port=reuse_port,
        ext_proc=None if ext_proc is None else _check_ext_proc(ext_proc),
        state=state,
        lease=lease,
        name=name,
        keys=_keys(keys),
        router=None if found is None else FittedRouter(found, str(router)),
    )

    def say(url: str, envoys: str) -> None:
        typer.echo(f"ibpo: {url} holds {_said(held)}", err=True)
        if envoys:
            typer.echo(f"ibpo: Envoy's calls are answered at {envoys}", err=True)
        if note:
            typer.echo(f"ibpo: {note}", err=True)

    if not note:  # what a file says
        Thread(target=_warn_of_groups, args=(settings, known), daemon=True).start()
    serve(service, open_log(log), on_ready=say)


def _told(
    upstream: str | None, budget: list[str] | None, config: Path | None, by: str, known: Any | None
) -> tuple[Settings, ServingPolicy, str]:
    """The settings and the serving policy, from the file and the options together; how default groups are asked for."""
    from ibpo.serving import parse_budget_policies
    from ibpo.serving.gateway import build_policy, build_settings, default_groups, open_quotas, read_settings

    settings, tables = read_settings(config) if config is not None else (build_settings({}, "options"), {})
    if upstream is not None:
        given = {**settings.upstream.model_dump(), "url": upstream}
        settings = settings.model_copy(update={"upstream": build_settings({"upstream": given}, "--upstream").upstream})
    times = bool(budget) + ("budget" in tables)
    if times > 1 or (not times and open_quotas(settings) is None):
        state = "given twice" if times else "missing"
        raise IbpoError(
            f"the budgets are {state}; give the budgets once: --budget extended=30%, or [budget] in --config"
        )
    budgets = parse_budget_policies(budget or [])
    try:
        policy = build_policy(settings, tables, budgets)
    except IbpoError as error:
        raise IbpoError(f"{config or '--budget'}: {error}") from None
    note = ""
    if not settings.model:
        tokenizer = _ask_for_tokenizer("*", settings) if known is None and settings.upstream.url else known
        rows, note = default_groups(by, tokenizer)
        models = build_settings({"model": [{"name": "*", "response_group": rows}]}, "--by").model
        settings = settings.model_copy(update={"model": models})
    return settings, policy, note


def _ask_for_tokenizer(model: str, settings: Settings) -> Any | None:
    """The upstream's own tokenizer of a model; None where it has none to give."""
    from ibpo.endpoint import Endpoint
    from ibpo.rollouts import ask_for_tokenizer

    key = os.environ.get(settings.upstream.key_env, "none") if settings.upstream.key_env else "none"
    server = Endpoint(base_url=settings.upstream.address, model=model, api_key=key)
    if model == "*":
        with suppress(IbpoError, LookupError, TypeError):  # a server that names none has its reasons
            server.model = str(server.fetch("models", seconds=ASK_SECONDS)["data"][0]["id"])
    return ask_for_tokenizer(server, seconds=ASK_SECONDS)


def _warn_of_groups(settings: Settings, known: Any | None) -> None:
    """Say where response groups do not do what they are for with the upstream's chat template, if it can be seen.

    Beside the serving: an upstream that is not there yet, or knows no `/tokenize`, delays and stops nothing.
    """
    from ibpo.responses import served_cautions

    for model in settings.model:
        tokenizer = _ask_for_tokenizer(model.name, settings) if known is None else known
        if tokenizer is None:
            continue
        groups = {
            group.name: (group.prefix, _by_effort(group.reasoning_effort) | group.chat_template_kwargs)
            for group in model.response_group
        }
        for caution in served_cautions(tokenizer, groups):
            typer.echo(f"caution: {'the upstream' if model.name == '*' else model.name}: {caution}", err=True)


def _by_effort(word: str) -> dict[str, Any]:
    """What vLLM makes of the field `reasoning_effort`: an argument of the template, which switches thinking too."""
    return {"reasoning_effort": word, "enable_thinking": word != "none"} if word else {}


def _address(text: str, option: str = "--listen") -> tuple[str, int]:
    """Host and port of an option; an IPv6 address stands in brackets.

    Example:
        >>> _address("[::1]:8080"), _address(":0")
        (('::1', 8080), ('127.0.0.1', 0))
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise IbpoError(f"{option} {text}: needs HOST:PORT, e.g. 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _check_ext_proc(text: str) -> str:
    if text.startswith("unix:"):
        return text
    host, port = _address(text, "--ext-proc")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _keys(text: str | None) -> Keys | None:
    from ibpo.serving.gateway import keys_from_environment, read_keys

    if text is None:
        return None
    return keys_from_environment(text.removeprefix("env:")) if text.startswith("env:") else read_keys(Path(text))


def _print_key(tenant: str) -> None:
    from ibpo.serving.gateway import check_tenant, new_key

    check_tenant(tenant, f"--keys new:{tenant}")
    key, line = new_key()
    name = f'"{tenant}"' if "." in tenant else tenant  # a dot would begin a table
    typer.echo(f"key of {tenant}, shown once: {key}")
    typer.echo(f'line under [keys] in the file of --keys: {name} = ["{line}"]')


def _said(policy: ServingPolicy) -> str:
    """The budgets in words."""
    shown = [
        f"{b.name} at {number_text(b.mean)} a request"
        if b.response_group is None
        else f"{b.response_group} at {b.mean:.3%}"
        for b in policy.budgets
        if not b.is_counted_only
    ]
    return " and ".join(shown) or "the totals of its file"
