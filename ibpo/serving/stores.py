"""Accounts that survive restarts and are shared by processes: in one SQLite file, or in Redis for several machines."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, cast

from ibpo.errors import IbpoError
from ibpo.serving.controller import QUOTA, Reservation, StoreError, TokenBucket

_VERSION = 3
"""The format of both stores: their keys and columns, `TokenBucket.state` and `Reservation.state` as JSON."""
SCHEMES = {name: name for name in ("redis", "rediss", "unix")} | {"valkey": "redis", "valkeys": "rediss"}
"""Scheme of a store's address -> as the client of Redis writes it; Valkey speaks the same protocol."""
LOCK_SECONDS = 10
"""Life of a lock of Redis whose process has died."""
WAIT_SECONDS = 1.5 * LOCK_SECONDS
"""Longest wait for it. Longer than it lives: who waits already when a process takes the lock and dies still gets it."""
SOCKET_SECONDS = 5.0
"""Longest wait for one reply of Redis; `?socket_timeout=` in the URL sets another."""

_TABLES = """
create table if not exists about (key text primary key, value text not null) without rowid;
create table if not exists account (name text primary key, tallies text not null) without rowid;
create table if not exists reservation (request_id text primary key, time real not null, row text not null)
    without rowid;
create index if not exists reservation_by_time on reservation (time);
create table if not exists touched (name text primary key, time real not null) without rowid;
create table if not exists state (name text primary key, state text not null) without rowid;
create table if not exists lease (holder text primary key, lease text not null) without rowid;
"""
_UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


def open_store(state: str, budgets: Sequence[str]) -> SqliteStore | RedisStore:
    """The store that a text names: a SQLite file, or a server by `redis://`, `rediss://`, `unix://`, `valkey://`.

    Raises:
        IbpoError: An address of another kind, or a store that cannot be used.
    """
    scheme, is_address, _ = state.partition("://")
    if not is_address:
        return SqliteStore(Path(state), budgets)
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise IbpoError(f"{scheme}://...: is not a store; name a file, or a server by {known}")
    return RedisStore(SCHEMES[scheme.lower()] + state[len(scheme) :], budgets)


class SharedStore(ABC):
    """What both stores share: the accounts of a transaction are read once, and only those that changed are written."""

    def __init__(self, budgets: Sequence[str]) -> None:
        self._budgets = list(budgets)
        self._read: dict[str, tuple[str, list[TokenBucket]]] = {}  # account -> as it was stored ("": new), as it is now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def buckets(self, account: str) -> list[TokenBucket]:
        """See `AccountStore`."""
        found = self._read.get(account)
        if found is None:
            text = self._read_account(account)
            found = self._read[account] = text, _decode(text) if text else [TokenBucket() for _ in self._budgets]
        return found[1]

    def _changed(self) -> dict[str, str]:
        """Account -> what must be written, of the accounts that this transaction changed."""
        texts = {name: json.dumps([bucket.state() for bucket in now]) for name, (_, now) in self._read.items()}
        return {name: text for name, text in texts.items() if text != self._read[name][0]}

    @abstractmethod
    def _read_account(self, account: str) -> str:
        """The stored text of an account; "" where it is new."""

    @abstractmethod
    def close(self) -> None:
        """Close the file or the connection."""


class SqliteStore(SharedStore):
    """Accounts in a SQLite file, for processes of one machine: each decision is one transaction, written ahead.

    A process that is killed loses nothing that it had decided or settled (a machine that loses power may lose the last
    transactions); what it had in flight stays reserved until `Controller.expire`. Not for network file systems.

    Args:
        path: The file; made if absent.
        budgets: Names of the policy's budgets, in order.
        timeout: Seconds to wait for another process's transaction.

    Raises:
        IbpoError: A file of something else, or of other budgets.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ibpo.serving.controller import Candidate, Controller, ServingPolicy
        >>> policy = ServingPolicy.from_dict({"budget": {"long": {"mean": 0.5, "response_group": "long"}}})
        >>> with TemporaryDirectory() as folder, SqliteStore(f"{folder}/accounts.sqlite", ["long"]) as store:
        ...     controller = Controller(policy, store)
        ...     controller.decide([Candidate(response_group="long", gain=1.0)], request_id="a", now=0.0).within
        ...     Controller(policy, store).balance_of("long")
        True
        -0.5
    """

    def __init__(self, path: str | Path, budgets: Sequence[str], *, timeout: float = 10.0) -> None:
        super().__init__(budgets)
        self.path = Path(path)
        about = json.dumps({"version": _VERSION, "budgets": self._budgets})
        try:
            self._connection = sqlite3.connect(self.path, timeout=timeout, isolation_level=None)
            others = {row[0] for row in self._connection.execute("select name from sqlite_master where type = 'table'")}
            if others and "about" not in others:  # made first
                raise sqlite3.DatabaseError(f"it has tables of something else ({', '.join(sorted(others))[:60]})")
            self._use_wal(timeout)
            self._connection.execute("pragma synchronous = normal")
            self._connection.executescript(_TABLES)
            self._connection.execute("insert or ignore into about values ('book', ?)", (about,))
            found = json.loads(self._connection.execute("select value from about where key = 'book'").fetchone()[0])
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise IbpoError(f"{path}: cannot hold accounts: {error}; name another file") from None
        if found != json.loads(about):
            self._connection.close()
            raise IbpoError(
                f"{path}: holds accounts of version {found.get('version')!r} with budgets {found.get('budgets')!r}, "
                f"not of version {_VERSION} with {self._budgets!r}; name another file, or bring back its budgets"
            )

    def _use_wal(self, timeout: float) -> None:
        """Write ahead. Where several processes begin with a new file at once, SQLite lets all but one fail unwaited."""
        give_up = time.monotonic() + timeout
        while True:
            try:
                self._connection.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `AccountStore`."""
        self._run("begin immediate")
        try:
            self._read.clear()
            yield
            for name, text in self._changed().items():
                self._run("insert or replace into account values (?, ?)", name, text)
            self._run("commit")
        except BaseException:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # of a full disk, too: the next transaction does it
                    self._connection.execute("rollback")
            raise

    def put(self, reservation: Reservation) -> None:
        """See `AccountStore`."""
        text = json.dumps(reservation.state())
        self._run("insert into reservation values (?, ?, ?)", reservation.request_id, reservation.time, text)

    def get(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        row = self._run("select row from reservation where request_id = ?", request_id).fetchone()
        return Reservation.from_state(json.loads(row[0])) if row else None

    def pop(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        row = self._run("delete from reservation where request_id = ? returning row", request_id).fetchone()
        return Reservation.from_state(json.loads(row[0])) if row else None

    def older_than(self, time: float) -> list[str]:
        """See `AccountStore`."""
        rows = self._run("select request_id from reservation where time < ? order by time, request_id", time)
        return [row[0] for row in rows.fetchall()]

    def touch(self, account: str, time: float) -> None:
        """See `AccountStore`."""
        self._run("insert or replace into touched values (?, ?)", account, time)

    def forget(self, prefix: str, before: float) -> int:
        """See `AccountStore`."""
        gone = "select name from touched where time < ? and substr(name, 1, ?) = ?"
        values = before, len(prefix), prefix
        self._run(f"delete from account where name in ({gone})", *values)
        return self._run(f"delete from touched where name in ({gone})", *values).rowcount

    def leases(self) -> dict[str, dict[str, Any]]:
        """See `ibpo.serving.controller.LeaseStore`."""
        return {holder: json.loads(text) for holder, text in self._run("select holder, lease from lease")}

    def put_lease(self, holder: str, lease: dict[str, Any] | None) -> None:
        """See `ibpo.serving.controller.LeaseStore`."""
        if lease is None:
            self._run("delete from lease where holder = ?", holder)
        else:
            self._run("insert or replace into lease values (?, ?)", holder, json.dumps(lease))

    def accounts(self) -> dict[str, list[TokenBucket]]:
        """The accounts as they are now, without quotas, of which there may be many."""
        quotas = QUOTA + "%"
        rows = self._run("select name, tallies from account where name not like ? order by name", quotas)
        return {name: _decode(text) for name, text in rows}

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Store `Controller.state_dict` under a name, e.g. the process's: its window and prices."""
        self._run("insert or replace into state values (?, ?)", name, json.dumps(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What was saved under the name."""
        row = self._run("select state from state where name = ?", name).fetchone()
        return json.loads(row[0]) if row else None

    def _read_account(self, account: str) -> str:
        row = self._run("select tallies from account where name = ?", account).fetchone()
        return row[0] if row else ""

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: the accounts cannot be used: {error}") from None


class RedisStore(SharedStore):
    """Accounts on a Redis or Valkey server, for gateways on several machines. Needs the extra `ibpo[redis]`.

    One process at a time holds a lock; its changes are one MULTI that the lock guards. A process that loses the lock
    (it lapses after 10 seconds, should a process die with it) writes nothing: its decision fails with an error. So does
    the first one after the server has lost its data.

    Args:
        url: `redis://host:port/0`.
        budgets: Names of the policy's budgets, in order.
        prefix: Begins all keys; policies that share a server need different ones.
        timeout: Seconds to wait for the lock.

    Raises:
        IbpoError: No package, no server, or accounts of other budgets.
    """

    def __init__(
        self, url: str, budgets: Sequence[str], *, prefix: str = "ibpo", timeout: float = WAIT_SECONDS
    ) -> None:
        super().__init__(budgets)
        try:
            import redis
        except ModuleNotFoundError:
            raise IbpoError("accounts in Redis need the package redis: pip install 'ibpo[redis]'") from None
        self._prefix, self._timeout = prefix, timeout
        self._failures = redis.RedisError
        where = _without_password(url)
        self._token = ""
        self._put: dict[str, Reservation] = {}
        self._popped: set[str] = set()
        self._touched: dict[str, float] = {}
        self._forgotten: list[str] = []
        self._leases: dict[str, dict[str, Any] | None] = {}
        about = self._about = {"version": _VERSION, "budgets": self._budgets}
        try:
            # A server that accepts and is silent would hold every decision forever; half a lock's life is left then.
            self._redis: Any = redis.Redis.from_url(
                url, decode_responses=True, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS
            )
            with self._errors():
                self._redis.set(f"{prefix}:about", json.dumps(about), nx=True)
                text = self._redis.get(f"{prefix}:about")
        except StoreError as error:
            raise IbpoError(f"{where}: {error}") from None
        except (ValueError, TypeError):  # a port that is not a number, an option that does not exist
            raise IbpoError(
                f"{where}: is not an address that the package redis takes; write it as "
                "redis://:PASSWORD@127.0.0.1:6379/0, "
                "with %2F for a / in the password"
            ) from None
        try:
            found = json.loads(text)
        except (ValueError, TypeError):
            found = text
        if found != about:
            raise IbpoError(f"{where}: keys {prefix}:* are accounts of {found!r}, not {about!r}; give another prefix")

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `AccountStore`."""
        with self._errors():
            self._lock()
        try:
            self._read.clear()
            self._put.clear()
            self._popped.clear()
            self._touched.clear()
            self._forgotten.clear()
            self._leases.clear()
            yield
            with self._errors():
                self._commit()
        finally:
            with self._errors():
                self._unlock()

    def put(self, reservation: Reservation) -> None:
        """See `AccountStore`."""
        self._put[reservation.request_id] = reservation
        self._popped.discard(reservation.request_id)

    def get(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        if request_id in self._put or request_id in self._popped:
            return self._put.get(request_id)
        with self._errors():
            text = self._redis.hget(f"{self._prefix}:reservation", request_id)
        return Reservation.from_state(json.loads(text)) if text else None

    def pop(self, request_id: str) -> Reservation | None:
        """See `AccountStore`."""
        found = self.get(request_id)
        self._put.pop(request_id, None)
        self._popped.add(request_id)
        return found

    def older_than(self, time: float) -> list[str]:
        """See `AccountStore`."""
        with self._errors():
            return self._redis.zrangebyscore(f"{self._prefix}:time", "-inf", f"({time!r}")

    def touch(self, account: str, time: float) -> None:
        """See `AccountStore`."""
        self._touched[account] = time

    def forget(self, prefix: str, before: float) -> int:
        """See `AccountStore`."""
        with self._errors():
            found = self._redis.zrangebyscore(f"{self._prefix}:touched", "-inf", f"({before!r}")
        gone = [name for name in found if name.startswith(prefix)]
        self._forgotten += gone
        return len(gone)

    def leases(self) -> dict[str, dict[str, Any]]:
        """See `ibpo.serving.controller.LeaseStore`."""
        with self._errors():
            rows = self._redis.hgetall(f"{self._prefix}:lease")
        return {holder: json.loads(text) for holder, text in rows.items()}

    def put_lease(self, holder: str, lease: dict[str, Any] | None) -> None:
        """See `ibpo.serving.controller.LeaseStore`."""
        self._leases[holder] = lease

    def accounts(self) -> dict[str, list[TokenBucket]]:
        """The accounts as they are now, without quotas, of which there may be many."""
        with self._errors():
            rows = self._redis.hgetall(f"{self._prefix}:account")
        return {name: _decode(rows[name]) for name in sorted(rows)}

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Store `Controller.state_dict` under a name, e.g. the process's: its window and prices."""
        with self._errors():
            self._redis.hset(f"{self._prefix}:state", name, json.dumps(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What was saved under the name."""
        with self._errors():
            text = self._redis.hget(f"{self._prefix}:state", name)
        return json.loads(text) if text else None

    def _read_account(self, account: str) -> str:
        with self._errors():
            return self._redis.hget(self._place(account), account) or ""

    def _place(self, account: str) -> str:
        """The hash in which it is stored: quotas apart, so that nobody reads them all."""
        return f"{self._prefix}:quota" if account.startswith(QUOTA) else f"{self._prefix}:account"

    def _lock(self) -> None:
        self._unlock()  # of a server that was silent: it may have locked since, for nobody
        self._token = secrets.token_hex(16)
        give_up, wait = time.monotonic() + self._timeout, 0.0002
        while not self._redis.set(f"{self._prefix}:lock", self._token, nx=True, ex=LOCK_SECONDS):
            if time.monotonic() > give_up:
                self._token = ""
                raise StoreError(f"redis: no lock in {self._timeout:g} seconds; is another gateway stuck?")
            time.sleep(wait)
            wait = min(2 * wait, 0.01)

    def _unlock(self) -> None:
        """Give the lock back if it is still ours: compared and deleted in one step."""
        if self._token:
            self._redis.eval(_UNLOCK, 1, f"{self._prefix}:lock", self._token)
            self._token = ""

    def _commit(self) -> None:
        changed = self._changed()
        if not (changed or self._put or self._popped or self._touched or self._forgotten or self._leases):
            return
        with self._redis.pipeline() as pipe:
            pipe.watch(f"{self._prefix}:lock")
            holder, about = cast("list[str | None]", pipe.mget(f"{self._prefix}:lock", f"{self._prefix}:about"))
            if holder != self._token:
                raise StoreError("redis: the lock was lost before the decision was written; nothing was changed")
            if about is None:  # said once: the next transaction goes on
                self._redis.set(f"{self._prefix}:about", json.dumps(self._about), nx=True)
                raise StoreError(
                    "redis: the server has lost the accounts, and they begin again at 0, totals of days and months "
                    "too; have it keep its data (appendonly yes, maxmemory-policy noeviction)"
                )
            pipe.multi()
            for name, text in changed.items():
                pipe.hset(self._place(name), name, text)
            if self._touched:
                pipe.zadd(f"{self._prefix}:touched", self._touched)
            for name in self._forgotten:
                pipe.hdel(self._place(name), name)
                pipe.zrem(f"{self._prefix}:touched", name)
            for name in self._popped:
                pipe.hdel(f"{self._prefix}:reservation", name)
                pipe.zrem(f"{self._prefix}:time", name)
            for holder, lease in self._leases.items():
                if lease is None:
                    pipe.hdel(f"{self._prefix}:lease", holder)
                else:
                    pipe.hset(f"{self._prefix}:lease", holder, json.dumps(lease))
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
            raise StoreError(f"redis: {next(iter(str(error).splitlines()), type(error).__name__)}") from None


def _without_password(url: str) -> str:
    """An address as it may be shown.

    Example:
        >>> _without_password("redis://gateway:secret@10.0.0.1:6379/0?password=secret")
        'redis://10.0.0.1:6379/0'
    """
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _decode(text: str) -> list[TokenBucket]:
    return [TokenBucket.from_state(values) for values in json.loads(text)]
