"""A controller's book in Redis: shared by gateways on several machines. Needs the extra `ibpo[redis]`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.book import Reservation, Tally

VERSION = 3
LOCK_SECONDS = 10
SOCKET_SECONDS = 5.0
"""Longest wait for one reply; `?socket_timeout=` in the URL sets another."""

_UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


class RedisBook:
    """See `ibpo.serving.book.Book`. One process at a time holds a lock; its changes are one MULTI that the lock guards.

    A process that loses the lock (it lapses after 10 seconds, should a process die with it) writes nothing: its
    decision fails with an error.

    Args:
        url: `redis://host:port/0`.
        budgets: Names of the plan's budgets, in order.
        prefix: Of all keys; plans that share a server need different ones.
        timeout: Seconds to wait for the lock.

    Raises:
        IbpoError: No package, no server, or a book of other budgets.
    """

    def __init__(self, url: str, budgets: Sequence[str], *, prefix: str = "ibpo", timeout: float = 10.0) -> None:
        try:
            import redis
        except ModuleNotFoundError:
            raise IbpoError("a book in Redis needs the package redis: pip install 'ibpo[redis]'") from None
        self._budgets, self._prefix, self._timeout = list(budgets), prefix, timeout
        self._failures = redis.RedisError
        # A server that accepts and is silent would hold every decision for ever; of a lock's life half is left then.
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS
        )
        self._token = ""
        self._cache: dict[str, tuple[str | None, list[Tally]]] = {}
        self._put: dict[str, Reservation] = {}
        self._popped: set[str] = set()
        about = {"version": VERSION, "budgets": self._budgets}
        with self._errors():
            self._redis.set(f"{prefix}:about", json.dumps(about), nx=True)
            found = json.loads(self._redis.get(f"{prefix}:about"))
        if found != about:
            raise IbpoError(f"{url}: keys {prefix}:* are a book of {found!r}, not {about!r}; give another prefix")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Book`."""
        with self._errors():
            self._lock()
        try:
            self._cache.clear()
            self._put.clear()
            self._popped.clear()
            yield
            with self._errors():
                self._commit()
        finally:
            with self._errors():
                self._unlock()

    def tallies(self, account: str) -> list[Tally]:
        """See `Book`."""
        found = self._cache.get(account)
        if found is None:
            with self._errors():
                text = self._redis.hget(f"{self._prefix}:account", account)
            tallies = [Tally.from_state(v) for v in json.loads(text)] if text else [Tally() for _ in self._budgets]
            found = self._cache[account] = text, tallies
        return found[1]

    def put(self, reservation: Reservation) -> None:
        """See `Book`."""
        self._put[reservation.request_id] = reservation
        self._popped.discard(reservation.request_id)

    def get(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        if request_id in self._put or request_id in self._popped:
            return self._put.get(request_id)
        with self._errors():
            text = self._redis.hget(f"{self._prefix}:reservation", request_id)
        return Reservation.from_state(json.loads(text)) if text else None

    def pop(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        found = self.get(request_id)
        self._put.pop(request_id, None)
        self._popped.add(request_id)
        return found

    def older_than(self, time: float) -> list[str]:
        """See `Book`."""
        with self._errors():
            return self._redis.zrangebyscore(f"{self._prefix}:time", "-inf", f"({time!r}")

    def accounts(self) -> dict[str, list[Tally]]:
        """All accounts as they are now."""
        with self._errors():
            rows = self._redis.hgetall(f"{self._prefix}:account")
        return {name: [Tally.from_state(values) for values in json.loads(rows[name])] for name in sorted(rows)}

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Keep `Controller.state_dict` under a name, e.g. the process's: its window and prices."""
        with self._errors():
            self._redis.hset(f"{self._prefix}:state", name, json.dumps(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What was saved under the name."""
        with self._errors():
            text = self._redis.hget(f"{self._prefix}:state", name)
        return json.loads(text) if text else None

    def __enter__(self) -> RedisBook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _lock(self) -> None:
        self._token = secrets.token_hex(16)
        give_up, wait = time.monotonic() + self._timeout, 0.0002
        while not self._redis.set(f"{self._prefix}:lock", self._token, nx=True, ex=LOCK_SECONDS):
            if time.monotonic() > give_up:
                raise IbpoError(f"redis: no lock in {self._timeout:g} seconds; is another gateway stuck?")
            time.sleep(wait)
            wait = min(2 * wait, 0.01)

    def _unlock(self) -> None:
        """Give the lock back if it is still ours: compared and deleted in one step."""
        if self._token:
            self._redis.eval(_UNLOCK, 1, f"{self._prefix}:lock", self._token)
            self._token = ""

    def _commit(self) -> None:
        changed = {name: json.dumps([t.state() for t in tallies]) for name, (_, tallies) in self._cache.items()}
        changed = {name: text for name, text in changed.items() if text != self._cache[name][0]}
        if not (changed or self._put or self._popped):
            return
        with self._redis.pipeline() as pipe:
            pipe.watch(f"{self._prefix}:lock")
            if pipe.get(f"{self._prefix}:lock") != self._token:
                raise IbpoError("redis: the lock was lost before the decision was written; nothing was changed")
            pipe.multi()
            for name, text in changed.items():
                pipe.hset(f"{self._prefix}:account", name, text)
            for name in self._popped:
                pipe.hdel(f"{self._prefix}:reservation", name)
                pipe.zrem(f"{self._prefix}:time", name)
            for name, reservation in self._put.items():
                pipe.hset(f"{self._prefix}:reservation", name, json.dumps(reservation.state()))
                pipe.zadd(f"{self._prefix}:time", {name: reservation.time})
            pipe.delete(f"{self._prefix}:lock")
            pipe.execute()
        self._token = ""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise IbpoError(f"redis: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
