"""A gateway of this process, in front of a fake upstream: your client's code against a budget that is held."""

from __future__ import annotations

import asyncio
import io
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

from ibpo.errors import IbpoError
from ibpo.serving import BudgetPolicy, parse_budget_policies
from ibpo.testing.clock import Clock
from ibpo.testing.policy import FakePolicy
from ibpo.testing.servers import FakeUpstream, upstream

PERIODS: tuple[Literal["hour", "day", "month"], ...] = ("hour", "day", "month")
TURNS = 20
"""Turns of the event loop after the clock has moved: what is due happens in them, and what that causes."""
RESERVED = 4.0
"""The cap of a group's answers, in multiples of its mean."""


class FakeGateway:
    """A gateway that runs, with what is behind it."""

    def __init__(self, address: str, server: FakeUpstream, clock: Clock, written: io.StringIO) -> None:
        self.url = f"{address}/v1"
        """The base URL for your client, which ends in /v1."""
        self.upstream = server
        """What the gateway asks: its requests, and `fail`."""
        self.clock = clock
        """By which days, sessions and the gateway's time-outs pass: `gateway.clock.advance(days=1)`."""
        self._address, self._written = address, written

    @property
    def log(self) -> list[dict[str, Any]]:
        """Lines of the gateway's log so far: of each request its response group, its tokens, and what became of it."""
        return [json.loads(line) for line in self._written.getvalue().splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests in the log."""
        return [row for row in self.log if row["event"] == "request"]

    def budget(self) -> dict[str, Any]:
        """What `/budget.json` shows: `budgets`, `calendar`, `tenants` and the rest, as they are now."""
        with urlopen(f"{self._address}/budget.json") as reply:
            return json.load(reply)


@contextmanager
def gateway(
    budget: str | Sequence[str] = (),
    *,
    policy: FakePolicy | None = None,
    settings: str | Path | Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    upstream_url: str = "",
) -> Iterator[FakeGateway]:
    """A gateway in front of `upstream(policy)` while the block runs; needs `ibpo[serve]`.

    The gateway is the one of `ibpo serve`, on a free port of the loopback. Its time is the clock's: a time-out of 60
    seconds passes by `clock.advance(60)`.

    Args:
        budget: As for `ibpo serve --budget`: "extended=30%", "tokens=300", or several. Without any, tokens are
            counted, and nothing is held.
        policy: What answers; its response groups are the gateway's, unless `settings` has groups of its own.
        settings: The gateway's file, or its tables: `{"calendar": {"day": {"tokens": 500}}}`.
        clock: `Clock()` by default.
        upstream_url: A server of your own in the place of the fake one, which then gets no request.

    Raises:
        IbpoError: What is wrong with the budget or the settings, as `ibpo serve` says it.

    Example:
        >>> import json, urllib.request
        >>> def ask(url):
        ...     body = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}]}
        ...     headers = {"Content-Type": "application/json"}
        ...     request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
        ...     return urllib.request.urlopen(request).headers["x-ibpo-response-group"]
        >>> policy = FakePolicy(tokens={"standard": 50, "extended": 400}, spread=0)
        >>> with gateway(policy=policy, settings={"calendar": {"day": {"tokens": 500}}}) as served:
        ...     today = [ask(served.url) for _ in range(3)]
        ...     served.clock.advance(days=1)
        ...     tomorrow = ask(served.url)
        >>> today, tomorrow
        (['extended', 'standard', 'standard'], 'extended')
    """
    try:
        from ibpo.serving.gateway import (
            POLICY_TABLES,
            RequestLog,
            Service,
            build_policy,
            build_settings,
            read_settings,
            running,
        )
    except ModuleNotFoundError as error:
        raise IbpoError(f"ibpo.testing.gateway needs the package {error.name}: pip install 'ibpo[serve]'") from None

    policy, clock = FakePolicy() if policy is None else policy, Clock() if clock is None else clock
    texts = [budget] if isinstance(budget, str) else list(budget) if isinstance(budget, Iterable) else [budget]
    if other := [one for one in texts if not isinstance(one, str)]:
        raise IbpoError(
            f'ibpo.testing.gateway: budget is {other[0]!r}; give a text, e.g. "extended=30%" or "tokens=300"'
        )
    budgets = parse_budget_policies(texts)
    with ExitStack() as stack:
        server = stack.enter_context(upstream(policy, clock=clock))
        told = {"url": upstream_url or server.url}
        if isinstance(settings, str | Path):
            read, tables = read_settings(settings)
            read = read.model_copy(update={"upstream": read.upstream.model_copy(update=told)})
        else:
            tables = {"model": [{"name": "*", "response_group": _groups(policy)}], **(settings or {})}
            tables["upstream"] = {**tables.get("upstream", {}), **told}
            own = {name: value for name, value in tables.items() if name not in POLICY_TABLES}
            read = build_settings(own, "ibpo.testing.gateway")
            tables = {name: tables[name] for name in POLICY_TABLES if name in tables}
        if not (budgets or tables.get("budget") or read.session or any(map(read.calendar.totals, PERIODS))):
            budgets = [BudgetPolicy(name="tokens", mean=math.inf)]  # counted, and nothing is held
        service = Service(settings=read, policy=build_policy(read, tables, budgets), port=0, clock=clock)
        written = io.StringIO()
        loop = stack.enter_context(_running_loop(clock))

        def run(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        inner = AsyncExitStack()
        _, port = run(inner.enter_async_context(running(service, RequestLog(written))))
        stack.callback(lambda: run(inner.aclose()))

        yield FakeGateway(f"http://127.0.0.1:{port}", server, clock, written)


def _groups(policy: FakePolicy) -> list[dict[str, Any]]:
    """The policy's response groups as the gateway's settings have them, asked for as `upstream` reads it."""
    names, cheapest = policy.groups, policy.accuracy_of(policy.groups[0])
    by_thinking = len(names) == 2
    return [
        {
            "name": name,
            **({"chat_template_kwargs": {"enable_thinking": i == 1}} if by_thinking else {"reasoning_effort": name}),
            "tokens": policy.tokens[name],
            "max_tokens": max(2, round((RESERVED if policy.spread else 1.0) * policy.tokens[name])),
            "gain": policy.accuracy_of(name) - cheapest,
        }
        for i, name in enumerate(names)
    ]


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose timers go by the clock, and by the machine's as well."""

    clock: Clock

    def time(self) -> float:
        return super().time() + self.clock.monotonic()


@contextmanager
def _running_loop(clock: Clock) -> Iterator[asyncio.AbstractEventLoop]:
    loop = _Loop()
    loop.clock = clock
    thread = threading.Thread(target=loop.run_forever, name="ibpo-testing-gateway", daemon=True)
    thread.start()

    async def settle() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    stop = clock.listen(lambda: asyncio.run_coroutine_threadsafe(settle(), loop).result())
    try:
        yield loop
    finally:
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
