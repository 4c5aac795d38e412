"""Who asks? API keys of tenants, kept as SHA-256 only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ibpo.errors import IbpoError
from ibpo.serving.gateway.settings import NAME

OPERATOR = "operator"
"""Not a tenant: this key opens `/budget` and `/metrics`, and nothing else."""
LEAST = 16
"""Characters of a key: one digest without salt protects no short word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """SHA-256 of each key with its tenant.

    Example:
        >>> keys = Keys(rows=((hashlib.sha256(b"a key of the gold tenant").digest(), "gold"),))
        >>> keys.owner("Bearer a key of the gold tenant"), keys.owner("Bearer another"), keys.owner("")
        ('gold', None, None)
    """

    rows: tuple[tuple[bytes, str], ...]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tenant -> the slices that its requests may belong to; the first is that of requests that name none."""

    def slice_of(self, tenant: str, named: str) -> str:
        """The slice of a tenant's request that names one: its own, so no ceiling is left and no promise claimed.

        Example:
            >>> keys = Keys(rows=(), slices={"gold": ("law", "chat")})
            >>> [keys.slice_of("gold", name) for name in ("chat", "", "other")], keys.slice_of("silver", "law")
            (['chat', 'law', 'law'], '')
        """
        own = self.slices.get(tenant, ("",))
        return named if named in own else own[0]

    def owner(self, authorization: str) -> str | None:
        """The tenant of an `Authorization` header: `Bearer KEY`, or `Basic` with the key as its password."""
        scheme, _, given = authorization.strip().partition(" ")
        given = given.strip()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        elif scheme.lower() != "bearer":
            given = ""
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        found = None
        # All of them, each in constant time: how long it takes says nothing about any key.
        for row, tenant in self.rows:
            if hmac.compare_digest(row, digest):
                found = tenant
        return found if given else None


def new_key() -> tuple[str, str]:
    """A new random key (256 bits), and what the keys' file holds of it."""
    key = "ibpo-" + secrets.token_urlsafe(32)
    return key, "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: str | Path) -> Keys:
    """Read a TOML file of `[keys]`: tenant -> list of `sha256:...`; the tenant `operator` reads the pages only.

    `[slices]`, if it is there: tenant -> list of slices, see `Keys.slices`.

    Raises:
        IbpoError: Names file and tenant.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IbpoError(f"{path}: cannot be read as TOML: {error}") from None
    table = tables.get("keys")
    if not isinstance(table, dict) or not set(tables) <= {"keys", "slices"} or not table:
        raise IbpoError(f'{path}: needs one table [keys] with lines like gold = ["sha256:..."]; see --new-key')
    rows: list[tuple[bytes, str]] = []
    for tenant, values in table.items():
        for value in values if isinstance(values, list) else [values]:
            rows.append((_digest(f"{path}: keys.{tenant}", value), _tenant(f"{path}: keys.{tenant}", tenant)))
    return replace(_checked(str(path), rows), slices=_slices(path, tables.get("slices", {}), table))


def keys_from_environment(variable: str) -> Keys:
    """Read `gold=KEY,quiet=KEY` from an environment variable; only the digests are kept.

    Raises:
        IbpoError: Names the variable, never its value.
    """
    text = os.environ.get(variable, "")
    rows: list[tuple[bytes, str]] = []
    for place, part in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        where = f"environment variable {variable}, entry {place}"
        tenant, found, key = part.partition("=")
        if not found or len(key) < LEAST:
            raise IbpoError(f"{where}: needs TENANT=KEY with a key of at least {LEAST} characters; see --new-key")
        rows.append((hashlib.sha256(key.encode()).digest(), _tenant(where, tenant)))
    if not rows:
        raise IbpoError(f"environment variable {variable}: is empty; give it TENANT=KEY,TENANT=KEY")
    return _checked(f"environment variable {variable}", rows)


def _checked(where: str, rows: list[tuple[bytes, str]]) -> Keys:
    if len({digest for digest, _ in rows}) < len(rows):
        raise IbpoError(f"{where}: one key is given twice; each tenant needs its own")
    return Keys(rows=tuple(rows))


def _slices(path: str | Path, table: Any, tenants: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if not isinstance(table, dict):
        raise IbpoError(f"{path}: slices: must be a table of tenants")
    for tenant, names in table.items():
        if tenant not in tenants:
            raise IbpoError(f"{path}: slices.{tenant}: there is no such tenant under [keys]; name one of them")
        if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
            raise IbpoError(f"{path}: slices.{tenant}: needs a list of slices of the plan, the usual one first")
    return {tenant: tuple(names) for tenant, names in table.items()}


def _tenant(where: str, tenant: str) -> str:
    if not re.match(NAME, tenant):
        raise IbpoError(f"{where}: a tenant's name has letters, digits, _ . - only, at most 64")
    return tenant


def _digest(where: str, value: Any) -> bytes:
    kind, _, text = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise IbpoError(f"{where}: is no sha256:... of 64 hexadecimal digits; make one with --new-key")
    return bytes.fromhex(text)
