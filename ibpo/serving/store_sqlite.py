"""A controller's book in one SQLite file: survives restarts, shared by the processes of one machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.book import Reservation, Tally

VERSION = 3

_TABLES = """
create table if not exists about (key text primary key, value text not null) without rowid;
create table if not exists account (name text primary key, tallies text not null) without rowid;
create table if not exists reservation (request_id text primary key, time real not null, row text not null)
    without rowid;
create index if not exists reservation_by_time on reservation (time);
create table if not exists state (name text primary key, state text not null) without rowid;
"""


class SqliteBook:
    """See `ibpo.serving.book.Book`. Each decision is one transaction in write-ahead mode.

    A process that is killed loses nothing that it had decided or settled (a machine that loses power may lose the last
    transactions); what it had under way stays reserved until `Controller.expire`. Not for network file systems.

    Args:
        path: The file; made if absent.
        budgets: Names of the plan's budgets, in order.
        timeout: Seconds to wait for another process's transaction.

    Raises:
        IbpoError: A file that is no such book, or of other budgets.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ibpo.serving.controller import Controller, Option
        >>> from ibpo.serving.plan import Plan
        >>> plan = Plan.from_dict({"budget": {"long": {"mean": 0.5, "response_group": "long"}}})
        >>> with TemporaryDirectory() as folder, SqliteBook(f"{folder}/book.sqlite", ["long"]) as book:
        ...     controller = Controller(plan, book)
        ...     controller.decide([Option(response_group="long", gain=1.0)], request_id="a", now=0.0).within
        ...     Controller(plan, book).left("long")
        True
        -0.5
    """

    def __init__(self, path: str | Path, budgets: Sequence[str], *, timeout: float = 10.0) -> None:
        self.path = Path(path)
        self._budgets = list(budgets)
        self._cache: dict[str, tuple[str, list[Tally]]] = {}
        try:
            self._connection = sqlite3.connect(self.path, timeout=timeout, isolation_level=None)
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute("pragma synchronous = normal")
            self._connection.executescript(_TABLES)
            about = json.dumps({"version": VERSION, "budgets": self._budgets})
            self._connection.execute("insert or ignore into about values ('book', ?)", (about,))
            found = json.loads(self._connection.execute("select value from about where key = 'book'").fetchone()[0])
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise IbpoError(f"{path}: cannot be used as a book: {error}; name another file") from None
        if found != json.loads(about):
            self._connection.close()
            raise IbpoError(
                f"{path}: a book of version {found.get('version')!r} with budgets {found.get('budgets')!r}, not "
                f"{self._budgets!r}; name another file, or bring back its budgets"
            )

    def __enter__(self) -> SqliteBook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Book`."""
        self._run("begin immediate")
        try:
            self._cache.clear()
            yield
            for name, (before, tallies) in self._cache.items():
                after = json.dumps([tally.state() for tally in tallies])
                if after != before:
                    self._run("insert or replace into account values (?, ?)", name, after)
            self._run("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise

    def tallies(self, account: str) -> list[Tally]:
        """See `Book`."""
        found = self._cache.get(account)
        if found is None:
            row = self._run("select tallies from account where name = ?", account).fetchone()
            text = row[0] if row else ""
            tallies = (
                [Tally.from_state(values) for values in json.loads(text)] if row else [Tally() for _ in self._budgets]
            )
            found = self._cache[account] = text, tallies
        return found[1]

    def put(self, reservation: Reservation) -> None:
        """See `Book`."""
        text = json.dumps(reservation.state())
        self._run("insert into reservation values (?, ?, ?)", reservation.request_id, reservation.time, text)

    def get(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        row = self._run("select row from reservation where request_id = ?", request_id).fetchone()
        return Reservation.from_state(json.loads(row[0])) if row else None

    def pop(self, request_id: str) -> Reservation | None:
        """See `Book`."""
        row = self._run("delete from reservation where request_id = ? returning row", request_id).fetchone()
        return Reservation.from_state(json.loads(row[0])) if row else None

    def older_than(self, time: float) -> list[str]:
        """See `Book`."""
        rows = self._run("select request_id from reservation where time < ? order by time, request_id", time)
        return [row[0] for row in rows.fetchall()]

    def accounts(self) -> dict[str, list[Tally]]:
        """All accounts as they are now."""
        rows = self._run("select name, tallies from account order by name").fetchall()
        return {name: [Tally.from_state(values) for values in json.loads(text)] for name, text in rows}

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Keep `Controller.state_dict` under a name, e.g. the process's: its window and prices."""
        self._run("insert or replace into state values (?, ?)", name, json.dumps(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What was saved under the name."""
        row = self._run("select state from state where name = ?", name).fetchone()
        return json.loads(row[0]) if row else None

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise IbpoError(f"{self.path}: the book cannot be used: {error}") from None
