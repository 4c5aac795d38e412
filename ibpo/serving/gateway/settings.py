"""What a gateway is given: its TOML file and the keys of its tenants, and whether they fit the budgets.

A response group is one way in which a model can be asked to answer, e.g. with short or with extended reasoning. The
first group of a model is its standard one: the cheapest, and everybody's right. All checks are made at the start.
Where the file names no groups, they are made here, in the words of the served model's family.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ibpo.budget import amount_to_ask, cost_text
from ibpo.config import explain, nearest, read_toml
from ibpo.errors import IbpoError
from ibpo.pictures import number_text
from ibpo.prices import Price, TokenUse, make_price
from ibpo.responses import find_switch, say_options
from ibpo.serving.controller import BudgetPolicy, ServingPolicy
from ibpo.usage import COUNTS

DEFAULT_TOKENS = 512.0
"""Expected of a response group without `tokens` and without a cap; corrected by what responses cost."""
CAPS = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "num_predict"),
    *("max_new_tokens", "max_tokens_to_sample", "max_gen_len", "max_length"),
)
"""Names under which servers take the cap on an answer (llama.cpp prefers `n_predict` to all others)."""
TABLES = frozenset(
    [
        *("messages", "input", "prompt", "prompt_embeds", "system", "instructions", "documents", "prediction"),
        *("tools", "tool_choice", "functions", "function_call", "mcp_servers", "web_search_options", "plugins"),
        *("response_format", "text", "guided_json", "structured_outputs", "json_schema", "logit_bias"),
        *("format", "grammar", "schema", "response_schema", "output_format"),
        *("reasoning", "thinking", "output_config", "stream_options", "metadata", "audio", "modalities", "user"),
        *("chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "context_management", "container"),
    ]
)
"""Fields whose objects say what is asked and in which form, so that any name may occur in them. In all others servers
may take options besides the request's own: no caps in there."""
SCHEMAS = frozenset(
    ["guided_json", "json_schema", "schema", "response_schema", "response_format", "structured_outputs"]
)
"""Inside tables of options, too (`nvext`, `extra_body`), what these hold is a form of the answer."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names of response groups and tenants: they appear in headers, labels and file names."""


def plain_name(name: str) -> str:
    """A field's name without case and marks, as careless readers compare it.

    Example:
        >>> plain_name("Max_Tokens") == plain_name("maxTokens") == "maxtokens"
        True
    """
    return name.replace("_", "").replace("-", "").lower()


def check_price(price: dict[str, float]) -> dict[str, float]:
    """A table of prices as it is.

    Raises:
        ValueError: A field that there is not, or one that is missing.
    """
    try:
        if price:
            make_price("price", price)
    except IbpoError as error:
        raise ValueError(str(error)) from None
    return price


_KNOWN = {plain_name(name): name for name in (*CAPS, *COUNTS)}


def check_options(table: Any) -> None:
    """Check that a table of options holds no cap and no count: a server may take it from there.

    Raises:
        IbpoError: It does.
    """
    left = [table]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            for key in value:
                if known := _KNOWN.get(plain_name(key)):
                    raise IbpoError(f"field {known}: is inside another field; write it at the top of the request")
            left += [inner for key, inner in value.items() if key not in SCHEMAS]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class UpstreamSettings(_Table):
    """`[upstream]`: the server that answers."""

    url: str = ""
    """With the version: `http://127.0.0.1:8000/v1`. A user and a password in it are sent as basic authorization."""
    key_env: str = ""
    """Name of the environment variable with the upstream's key. Empty: no key, or the caller's own where tenants have
    no keys here."""
    connect_seconds: float = Field(default=5.0, gt=0)
    first_byte_seconds: float = Field(default=600.0, gt=0)
    """Until the first byte of the answer: without streaming that is the whole generation."""
    idle_seconds: float = Field(default=120.0, gt=0)
    """Between two pieces of a stream."""
    total_seconds: float = Field(default=3600.0, gt=0)
    """For one request, retries included."""
    retries: int = Field(default=2, ge=0, le=10)
    """Retries of what has not reached the model: no connection, 503, or an answer with `x-should-retry: true`."""
    max_connections: int = Field(default=1024, ge=1)

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, e.g. http://127.0.0.1:8000/v1")
        if "?" in url or "#" in url:
            raise ValueError("must end with the path, e.g. http://127.0.0.1:8000/v1")
        try:
            address = urlsplit(url)
            is_address = not url or (bool(address.hostname) and address.port != 0)
        except ValueError:  # a port of 80000, an open bracket
            is_address = False
        if not is_address:
            raise ValueError("is not an address; write it as http://127.0.0.1:8000/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_key(self) -> UpstreamSettings:
        if self.key_env and self.address != self.url:
            raise ValueError("url: holds a user, and key_env names a key; give one of them")
        return self

    @property
    def address(self) -> str:
        """The URL without a user and a password: those are said to the upstream, and to nobody else.

        Example:
            >>> UpstreamSettings(url="http://me:secret@127.0.0.1:8000/v1").address
            'http://127.0.0.1:8000/v1'
        """
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class LimitSettings(_Table):
    """`[limits]`: what one caller may ask of the gateway."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    max_header_bytes: int = Field(default=16384, ge=1024)
    """Largest request line, and largest header."""
    header_seconds: float = Field(default=10.0, gt=0)
    """Until the headers of a connection's first request have arrived."""
    body_seconds: float = Field(default=30.0, gt=0)
    keep_alive_seconds: float = Field(default=75.0, gt=0)
    """After it an idle connection is closed, and one that sends its headers drop by drop."""
    max_connections: int = Field(default=4096, ge=1)
    max_in_flight: int = Field(default=1024, ge=1)
    """Requests in flight at a time; more get a 503."""
    max_in_flight_per_tenant: int = Field(default=512, ge=1)
    """More get a 429, so that no tenant takes all places."""
    max_answers: int = Field(default=128, ge=1)
    """Answers that one request may ask for: n or best_of, times its prompts. Each counts as a request."""
    max_answer_tokens: int = Field(default=1 << 20, ge=1)
    """Largest `max_tokens` of a caller, after the response group's cap has lowered it."""
    max_buffered_bytes: int = Field(default=16 << 20, ge=1024)
    """Most bytes of an answer without streaming that is held back until complete; a longer one is passed on."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """After SIGTERM, for requests in flight."""


class GroupSettings(_Table):
    """`[[model.response_group]]`: how such an answer is asked for, and what it is expected to cost."""

    name: str = Field(pattern=NAME)
    prefix: str = ""
    """The text that opens such a response: appended to the prompt, or the beginning of the assistant's message."""
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments of the chat template, e.g. `{enable_thinking = true}`."""
    reasoning_effort: str = ""
    max_tokens: int | None = Field(default=None, ge=1)
    """Cap on the completion; a caller's own lower one stays."""
    max_thinking_tokens: int | None = Field(default=None, ge=0)
    """Most tokens of the thinking, part of the completion: `thinking_token_budget` (vLLM) in chats and completions,
    `thinking` in Anthropic's messages (from 1,024 on). 0: no thinking."""
    body: dict[str, Any] = {}
    """Any other fields of the request, e.g. `{top_p = 0.95}`."""
    tokens: float | None = Field(default=None, ge=0)
    """Expected completion tokens: a first guess, corrected by what responses cost."""
    gain: float = Field(default=0.0, allow_inf_nan=False)
    """What such an answer is worth, where no source of gains knows more."""
    opening: str = ""
    """What the policy writes first in such a response, for the probe. Empty: the prefix."""
    price: dict[str, float] = {}
    """As the model's, where such a response is billed otherwise."""

    @field_validator("price")
    @classmethod
    def _price(cls, price: dict[str, float]) -> dict[str, float]:
        return check_price(price)

    @field_validator("body")
    @classmethod
    def _body(cls, body: dict[str, Any]) -> dict[str, Any]:
        for name in body:
            if plain_name(name) in map(plain_name, CAPS):
                raise ValueError(f"{name} is the group's cap, which is also reserved; write max_tokens next to body")
            if plain_name(name) in map(plain_name, COUNTS):
                raise ValueError(f"{name} is set by the caller; leave it out")
        for name, value in body.items():
            if name not in TABLES:
                try:
                    check_options(value)
                except IbpoError:
                    raise ValueError(f"{name} holds a cap or a count: the reserve would not know it") from None
        return body

    @field_validator("body", "chat_template_kwargs")
    @classmethod
    def _is_json(cls, table: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(table, allow_nan=False)
        except TypeError:
            raise ValueError('holds a date, which JSON does not have; write it as a text, "2026-12-01"') from None
        except ValueError:
            raise ValueError("holds a number that JSON does not have (inf, nan); leave it out") from None
        return table

    @model_validator(mode="after")
    def _thinking(self) -> GroupSettings:
        if None not in (self.max_thinking_tokens, self.max_tokens) and self.max_thinking_tokens >= self.max_tokens:  # pyright: ignore[reportOperatorIssue]
            raise ValueError("max_thinking_tokens: thinking is part of the completion; give less than max_tokens")
        return self


Unit = Literal["tokens", "money"]
"""What a session or a period of the calendar may be bounded in."""
Period = Literal["hour", "day", "month"]
PERIODS: tuple[Period, ...] = ("hour", "day", "month")
Totals = dict[Unit, Annotated[float, Field(gt=0)]]


class SessionSettings(_Table):
    """`[session]`: the most that the requests of one session (header `x-ibpo-session`) may cost together."""

    tokens: float | None = Field(default=None, gt=0)
    """Completion tokens."""
    money: float | None = Field(default=None, gt=0)
    idle_seconds: float = Field(default=86400.0, ge=60)
    """After that long without a request a session is forgotten; not before four times `upstream.total_seconds`, since
    an answer may be in flight."""

    @model_validator(mode="after")
    def _some(self) -> SessionSettings:
        if not self.totals():
            raise ValueError("give tokens, money or both: what one session may cost")
        return self

    def totals(self) -> dict[str, float]:
        """Unit -> the most that a session may cost."""
        given = {"tokens": self.tokens, "money": self.money}
        return {unit: total for unit, total in given.items() if total is not None}


class CalendarSettings(_Table):
    """`[calendar]`: the most that all requests of an hour, a day or a month may cost, e.g. `day = { money = 20 }`."""

    time_zone: str = "UTC"
    """By which hours, days and months begin: `Europe/Berlin`."""
    hour: Totals = {}
    day: Totals = {}
    month: Totals = {}

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            if name != "UTC":
                ZoneInfo(name)
        except (ValueError, OSError, KeyError):  # KeyError: no zone of that name, or no time zones here
            raise ValueError(f"{name!r} is not a known time zone; write e.g. Europe/Berlin or UTC") from None
        return name

    def totals(self, period: Period) -> dict[str, float]:
        """Unit -> the most that such a period may cost."""
        given = {"hour": self.hour, "day": self.day, "month": self.month}[period]
        return {str(unit): total for unit, total in given.items()}


class ConversationSettings(_Table):
    """`[conversation]`: when the next turn of a conversation is answered otherwise than the last."""

    cache_seconds: float = Field(default=300.0, gt=0)
    """How long the upstream's prompt cache lives after its last use. Where prices are known, what it saves is in the
    cost of each response group."""
    switch_gain: float = Field(default=0.0, ge=0, le=1)
    """What another response group than the last turn's has to gain more, whatever prices say."""


class ProbeSettings(_Table):
    """`[model.probe]`: one token is generated, whose log-probabilities tell how the policy would begin."""

    seconds: float = Field(default=2.0, gt=0)
    """Longest wait; after it the request is decided without the probe."""
    top_logprobs: int = Field(default=20, ge=1, le=100)
    """As many as the server gives: by default OpenAI and vLLM allow 20 in chats, 5 in completions."""


class ModelSettings(_Table):
    """`[[model]]`: the response groups of a model, the standard (cheapest) one first."""

    name: str
    """As callers write it; `*` stands for every model without a table of its own."""
    choose: list[Literal["caller", "router", "probe"]] = ["caller", "router"]
    """Sources of the gains, the first that knows them is used; last the groups' own `gain`. See `gains.py`."""
    cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field of a cap where the caller gave none; OpenAI's reasoning models need `max_completion_tokens`."""
    include_usage: bool = True
    """Ask streams for their usage, and remove it again where the caller did not ask for it."""
    learn: bool = False
    """Learn gains and lengths from outcomes that come back to `/outcomes`; see `learning.py`."""
    response_group: list[GroupSettings] = Field(min_length=1)
    probe: ProbeSettings = ProbeSettings()
    price: dict[str, float] = {}
    """Money per million tokens: `{ input = 1.25, cached_input = 0.125, output = 10 }`, and `cache_write`, `reasoning`
    where they differ from input and output (`ibpo.prices`)."""

    @field_validator("price")
    @classmethod
    def _price(cls, price: dict[str, float]) -> dict[str, float]:
        return check_price(price)

    def price_of(self, group: GroupSettings) -> Price | None:
        """What an answer by this response group is billed; None: it is not known."""
        given = group.price or self.price
        return make_price("price", given) if given else None

    @model_validator(mode="after")
    def _groups(self) -> ModelSettings:
        names = [group.name for group in self.response_group]
        if len(set(names)) < len(names):
            raise ValueError(f"two response groups of one name among {', '.join(names)}; rename one")
        openings = [text for group in self.response_group if (text := (group.opening or group.prefix).strip())]
        if "probe" in self.choose:
            if not openings:
                raise ValueError("choose: a probe needs a response group with an opening or a prefix")
            if any(a.startswith(b) for i, a in enumerate(openings) for j, b in enumerate(openings) if i != j):
                raise ValueError("choose: a probe needs openings of which none begins with another; change one")
        return self


class Settings(_Table):
    """A gateway's file without `POLICY_TABLES`, which `ServingPolicy` reads.

    Example:
        >>> settings = Settings.model_validate({"model": [{"name": "*", "response_group": [{"name": "standard"}]}]})
        >>> settings.model_of("anything").response_group[0].name, settings.upstream.retries
        ('standard', 2)
    """

    upstream: UpstreamSettings = UpstreamSettings()
    limits: LimitSettings = LimitSettings()
    model: list[ModelSettings] = []
    session: SessionSettings | None = None
    calendar: CalendarSettings = CalendarSettings()
    conversation: ConversationSettings = ConversationSettings()
    log_bodies: bool = False
    """Write the bodies of requests into the log, prompts included."""
    allow: list[str] = ["GET /v1/models", "GET /v1/models/*", "POST /v1/embeddings"]
    """Passed on without a budget: method and path (`*` stands for anything; HEAD goes with GET). All other paths are
    refused: they generate what nobody would count, or are the operator's alone."""

    @field_validator("allow")
    @classmethod
    def _allow(cls, allow: list[str]) -> list[str]:
        for row in allow:
            if not re.fullmatch(r"[A-Z]+ /\S*", row):
                raise ValueError(f"{row!r} is not a method and path; write e.g. 'POST /v1/rerank'")
        return allow

    def allows(self, method: str, path: str) -> bool:
        """Whether a request that no budget governs is passed on.

        Example:
            >>> Settings().allows("GET", "/v1/models/m"), Settings().allows("DELETE", "/v1/models/m")
            (True, False)
        """
        row = f"{'GET' if method == 'HEAD' else method} {path}"
        return any(fnmatchcase(row, pattern) for pattern in self.allow)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, tables: Any) -> Any:
        if isinstance(tables, dict) and "refuse" in tables:
            raise ValueError(
                "refuse: no longer exists, as only what is listed is passed on; list it under allow, or leave it out"
            )
        return tables

    @model_validator(mode="after")
    def _models(self) -> Settings:
        names = [model.name for model in self.model]
        if len(set(names)) < len(names):
            raise ValueError(f"model: two tables of one name among {', '.join(names)}; join them")
        return self

    def model_of(self, name: str) -> ModelSettings:
        """The table of a model: its own, else that of `*`, else one response group and no choice."""
        return self._by_name.get(name) or self._by_name.get("*", UNKNOWN)

    @cached_property
    def _by_name(self) -> dict[str, ModelSettings]:
        return {model.name: model for model in self.model}


POLICY_TABLES = ("budget", "fair_share", "explore", "tenant", "slice")
"""Tables of a gateway's file that `ServingPolicy.from_dict` reads."""
UNKNOWN = ModelSettings(name="*", response_group=[GroupSettings(name="standard")])


def read_settings(path: str | Path) -> tuple[Settings, dict[str, Any]]:
    """Read a gateway file.

    Returns:
        The settings, and the tables of the policy (`ServingPolicy.from_dict` takes them).

    Raises:
        IbpoError: Names file, field and fix.
    """
    tables = read_toml(Path(path))
    policy = {key: tables.pop(key) for key in POLICY_TABLES if key in tables}
    return build_settings(tables, str(path)), policy


def build_settings(tables: dict[str, Any], where: str) -> Settings:
    """Check the tables of a gateway.

    Raises:
        IbpoError: One line on the first thing that is wrong.
    """
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise explain(error, where, Settings) from None


OPERATOR = "operator"
"""Not a tenant: this key opens `/budget` and `/metrics`, and nothing else."""
MIN_KEY_LENGTH = 16
"""Only digests without salt are kept, and those protect no short word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """SHA-256 of each API key with its tenant.

    Example:
        >>> keys = Keys(rows=((hashlib.sha256(b"a key of the gold tenant").digest(), "gold"),))
        >>> keys.tenant_of("Bearer a key of the gold tenant"), keys.tenant_of("Bearer another"), keys.tenant_of("")
        ('gold', None, None)
    """

    rows: tuple[tuple[bytes, str], ...]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tenant -> the slices that its requests may belong to; the first is that of requests that name none."""

    def slice_of(self, tenant: str, named: str) -> str:
        """The slice of a tenant's request that names `named`: its own only, so nobody escapes a ceiling.

        Example:
            >>> keys = Keys(rows=(), slices={"gold": ("law", "chat")})
            >>> [keys.slice_of("gold", name) for name in ("chat", "", "other")], keys.slice_of("silver", "law")
            (['chat', 'law', 'law'], '')
        """
        own = self.slices.get(tenant, ("",))
        return named if named in own else own[0]

    def tenant_of(self, authorization: str) -> str | None:
        """The tenant of an `Authorization` header: `Bearer KEY`, or `Basic` with the key as its password."""
        scheme, _, key = authorization.strip().partition(" ")
        key = key.strip()
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).decode().partition(":")[2]
            except ValueError:  # no base64, no ASCII, or no text
                key = ""
        elif scheme.lower() != "bearer":
            key = ""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        # All rows, each in constant time: how long it takes tells nothing about any key.
        for row, tenant in self.rows:
            if hmac.compare_digest(row, digest):
                found = tenant
        return found if key else None


def check_tenant(name: str, where: str) -> None:
    """Check a tenant's name.

    Raises:
        IbpoError: Something that cannot be one.
    """
    if not re.fullmatch(NAME, name):
        raise IbpoError(
            f"{where}: a tenant's name has letters, digits, _ . - only, at most 64, a letter or digit first"
        )


def new_key() -> tuple[str, str]:
    """A new random key (256 bits), and what the keys' file stores of it."""
    key = "ibpo-" + secrets.token_urlsafe(32)
    return key, _digest(key)


def read_keys(path: str | Path) -> Keys:
    """Read a TOML file of `[keys]`: tenant -> list of `sha256:...`; the tenant `operator` may read the pages only.

    `[slices]`, if the file has it: tenant -> list of slices, see `Keys.slices`.

    Raises:
        IbpoError: Names file and tenant.
    """
    tables = read_toml(Path(path))
    table, slices = tables.get("keys"), tables.get("slices", {})
    if not isinstance(table, dict) or not set(tables) <= {"keys", "slices"} or not table:
        raise IbpoError(f'{path}: needs one table [keys] with lines like gold = ["sha256:..."]; see --keys new:TENANT')
    lists = {tenant: values if isinstance(values, list) else [values] for tenant, values in table.items()}
    keys = _read_digests((f"{path}: keys.{tenant}", tenant, value) for tenant in lists for value in lists[tenant])
    if not isinstance(slices, dict):
        raise IbpoError(f"{path}: slices: must be a table of tenants")
    for tenant, names in slices.items():
        if tenant not in table:
            raise IbpoError(f"{path}: slices.{tenant}: there is no such tenant under [keys]; name one of them")
        if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
            raise IbpoError(f"{path}: slices.{tenant}: needs a list of slices of the plan, the usual one first")
    return replace(keys, slices={tenant: tuple(names) for tenant, names in slices.items()})


def keys_from_environment(variable: str) -> Keys:
    """Read `gold=KEY,quiet=KEY` from an environment variable; only the digests are kept.

    Raises:
        IbpoError: Names the variable, never its value.
    """
    rows: list[tuple[str, str, str]] = []
    for i, part in enumerate(filter(None, map(str.strip, os.environ.get(variable, "").split(","))), start=1):
        where = f"environment variable {variable}, entry {i}"
        tenant, equals, key = part.partition("=")
        if not equals or len(key) < MIN_KEY_LENGTH:
            need = f"needs TENANT=KEY with a key of at least {MIN_KEY_LENGTH} characters"
            raise IbpoError(f"{where}: {need}; see --keys new:TENANT")
        rows.append((where, tenant, _digest(key)))
    if not rows:
        raise IbpoError(f"environment variable {variable}: is empty; give it TENANT=KEY,TENANT=KEY")
    return _read_digests(rows)


def _digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def _read_digests(rows: Iterable[tuple[str, str, Any]]) -> Keys:
    """Rows of place, tenant and `sha256:...`. No value is shown: it may be a key in plain text."""
    found: dict[bytes, str] = {}
    for where, tenant, value in rows:
        if not (isinstance(value, str) and re.fullmatch(r"sha256:[0-9a-fA-F]{64}", value)):
            raise IbpoError(f"{where}: is not sha256:... of 64 hexadecimal digits; make one with --keys new:TENANT")
        check_tenant(tenant, where)
        digest = bytes.fromhex(value.removeprefix("sha256:"))
        if digest in found:
            raise IbpoError(f"{where}: one key is given twice; each tenant needs its own")
        found[digest] = tenant
    return Keys(rows=tuple(found.items()))


def build_policy(settings: Settings, tables: Mapping[str, Any], budgets: Sequence[BudgetPolicy] = ()) -> ServingPolicy:
    """Make the serving policy of a gateway's file; a cost that only sessions or the calendar bound is counted.

    Args:
        settings: The gateway's.
        tables: `POLICY_TABLES` of its file.
        budgets: More of them, from the command line.

    Raises:
        IbpoError: Names the field.
    """
    units = settings.session.totals() if settings.session is not None else {}
    for period in PERIODS:
        units |= settings.calendar.totals(period)
    given = tables.get("budget", {})  # what is no table is refused below
    named = {*(given if isinstance(given, Mapping) else ()), *(budget.name for budget in budgets)}
    counted = [BudgetPolicy(name=unit, mean=math.inf) for unit in sorted(set(units) - named)]
    return ServingPolicy.from_dict(tables, [*budgets, *counted])


def check_groups(settings: Settings, policy: ServingPolicy) -> None:
    """Check that budgets name response groups that exist, and have room for an answer of each of them.

    Raises:
        IbpoError: Names the budget or the response group.
    """
    rows = [(model, group) for model in settings.model for group in model.response_group]
    names = sorted({group.name for _, group in rows})
    for budget in policy.budgets:
        if not budget.name or not budget.name.isprintable() or set(budget.name) & set(",="):
            raise IbpoError(
                f"budget {budget.name!r}: headers of answers say name=number, name=number; give it a name of one line "
                "without , and ="
            )
        if budget.response_group is not None:
            if budget.response_group not in names:
                raise IbpoError(
                    f"budget {budget.name!r}: no model has a response group {budget.response_group!r}; "
                    f"{nearest(budget.response_group, names)}"
                )
            continue
        if budget.name not in ("tokens", "money"):
            raise IbpoError(
                f"budget {budget.name!r}: a gateway counts tokens and money; name it so, or give it a response_group"
            )
        if budget.name == "money":
            for model, group in rows:
                if model.price_of(group) is None:
                    raise IbpoError(
                        f"budget 'money': model {model.name!r} has no price for response group {group.name!r}; give "
                        "price = { input = 1.25, output = 10 } per million tokens in its table"
                    )
        if budget.is_counted_only:
            continue
        burst = budget.largest_overdraft if budget.burst is None else budget.burst
        room = budget.mean + budget.largest_overdraft + burst
        for model, group in rows:
            if group is model.response_group[0]:
                continue
            where = f"response group {group.name!r} of model {model.name!r}"
            expected, most = _expected_tokens(group), group.max_tokens or 0.0
            if budget.name == "money":
                price = model.price_of(group)
                expected, most = (price.of(TokenUse(output=x)) if price else 0.0 for x in (expected, most))
            if expected > room:
                raise IbpoError(
                    f"budget {budget.name!r}: has room for {number_text(room)} {budget.name} at a time, and an answer "
                    f"of {where} is expected to take {number_text(expected)}: none would ever be given; set overdraft "
                    f"to {amount_to_ask(expected)} or more"
                )
            if most > room + budget.overcommit:
                raise IbpoError(
                    f"budget {budget.name!r}: has room for {number_text(room + budget.overcommit)} {budget.name} with "
                    f"its overcommit, and an answer of {where} may take {number_text(most)}: none would ever be given; "
                    f"raise overcommit to {amount_to_ask(most)} or more, or lower the group's cap"
                )


def check_router(settings: Settings, known: Sequence[str] | None) -> None:
    """Check that a router knows the response groups of every model that asks it.

    Args:
        settings: The gateway's.
        known: The response groups that the router knows; None: it does not say.

    Raises:
        IbpoError: Names the model and both sides' response groups.
    """
    if known is None:
        return
    for model in settings.model:
        names = [group.name for group in model.response_group]
        if len(names) > 1 and "router" in model.choose and not set(names) <= set(known):
            raise IbpoError(
                f"--router: knows the response groups {', '.join(known)}, and model {model.name!r} has "
                f"{', '.join(names)}: it would predict nothing; give them the same names, or take router out "
                "of the model's "
                "choose"
            )


def find_cautions(settings: Settings, policy: ServingPolicy) -> list[str]:
    """What an operator should know about what the budgets bound and what they do not, one sentence each."""
    models = [model for model in settings.model if len(model.response_group) > 1]
    rows = [(model, group) for model in models for group in model.response_group]
    budgets = [b for b in policy.budgets if b.response_group is None and not b.is_counted_only]
    quotas = settings.session is not None or any(settings.calendar.totals(period) for period in PERIODS)
    if not budgets and not (quotas and all(b.is_counted_only for b in policy.budgets)):
        bounded = {budget.response_group for budget in policy.budgets}
        return [
            f"response group {group.name} of model {model.name} has no budget, and comes after one that has: all "
            "requests that gain by it would get it; give it one, or a budget of tokens"
            for model in models
            for place, group in enumerate(model.response_group)
            if group.name not in bounded and any(other.name in bounded for other in model.response_group[:place])
        ]
    cautions = [_caution(budget, rows, settings.limits.max_in_flight) for budget in budgets if rows]
    if settings.session is not None and settings.session.idle_seconds < 4 * settings.upstream.total_seconds:
        cautions.append(
            f"session.idle_seconds is {settings.session.idle_seconds:g}, but a session is not forgotten before four "
            f"times upstream.total_seconds, {4 * settings.upstream.total_seconds:g} seconds, since an answer may be "
            "in flight; lower total_seconds if sessions should begin anew earlier"
        )
    if "money" in [b.name for b in policy.budgets] and "*" not in [model.name for model in settings.model]:
        cautions.append(
            "budget money: a model without a table of its own has no price, so that its answers count as costing "
            'nothing; give a table of name = "*"'
        )
    return cautions


def _caution(budget: BudgetPolicy, rows: list[tuple[ModelSettings, GroupSettings]], most: int) -> str:
    def cost(model: ModelSettings, group: GroupSettings, tokens: float) -> float:
        price = model.price_of(group) if budget.name == "money" else None
        return tokens if price is None else price.of(TokenUse(output=tokens))

    uncapped = [f"{group.name} of model {model.name}" for model, group in rows if group.max_tokens is None]
    if uncapped:
        return (
            f"budget {budget.name}: the overdraft has no hard bound, as {', '.join(uncapped)} has no max_tokens and "
            "callers need not give any: an overrun is paid back later"
        )
    # What one answer in flight can cost beyond its expectation, at worst.
    excess = max(cost(m, g, (g.max_tokens or 0) - _expected_tokens(g)) for m, g in rows)
    if budget.overcommit < most * excess:
        return (
            f"budget {budget.name}: its overcommit of {budget.overcommit:,.0f} has room for the caps of about "
            f"{math.floor(budget.overcommit / excess)} answers at a time, and {most} may be in flight "
            "(limits.max_in_flight): more get no extended reasoning"
        )
    return (
        f"budget {budget.name}: if all of {most} answers in flight (limits.max_in_flight) reached their caps, it "
        f"would be overspent by {cost_text(budget.largest_overdraft + most * excess)} {budget.name}; lower caps or set "
        "overcommit for less"
    )


def _expected_tokens(group: GroupSettings) -> float:
    """Completion tokens that an answer is expected to take before any has ended."""
    tokens = DEFAULT_TOKENS if group.tokens is None else group.tokens
    return min(tokens, group.max_tokens or math.inf)


GROUPS_BY: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}},
        {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "gain": 0.5},
    ],
    "effort": [
        {"name": "standard", "reasoning_effort": "low"},
        {"name": "extended", "reasoning_effort": "high", "gain": 0.5},
    ],
}
"""`ibpo serve --by`: the response groups of every model, where its template cannot be seen."""
EFFORTS = ("low", "medium", "high")
"""Words that every server takes in the field `reasoning_effort`; others refuse more of them."""


def default_groups(by: str, tokenizer: Any | None) -> tuple[list[dict[str, Any]], str]:
    """The standard and the extended response group, and one line on how they are asked for.

    Args:
        by: of `GROUPS_BY`; where the family has no such option, what it has is taken, and the line says so.
        tokenizer: the served model's; one of transformers, or `ibpo.rollouts.ServerTokenizer`; None: not available.

    Raises:
        IbpoError: where no option of the template makes two groups, with the fix.
    """
    groups = GROUPS_BY[by]
    if tokenizer is None:
        sent = [say_options(row.get("chat_template_kwargs") or _effort(row["reasoning_effort"])) for row in groups]
        return groups, (
            f"standard is asked for by {sent[0]}, extended by {sent[1]}, unchecked: the upstream does not say, or not "
            "yet, how it renders prompts; name the model's folder by --tokenizer"
        )
    try:
        found = find_switch(tokenizer, "effort" if by == "effort" else "thinking")
    except IbpoError as error:
        raise IbpoError(
            f"--by {by}: {error}, so that standard and extended answers would be the same; name response groups in "
            "--config that differ, by max_thinking_tokens or by a prefix that the model was trained with"
        ) from None
    rows = [group | _fields(sent) for group, sent in zip(_named(groups), (found.standard, found.extended), strict=True)]
    lacks = {"thinking": "no switch of thinking", "effort": "no words of effort"}
    line = (
        f"standard is asked for by {say_options(found.standard)}, extended by {say_options(found.extended)}, as the "
        f"chat template ({found.family}) has it"
    )
    return rows, line + (f"; it has {lacks[by]}" if found.by != by else "")


def _named(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("name", "gain") if key in row} for row in groups]


def _effort(word: str) -> dict[str, Any]:
    return {"reasoning_effort": word}


def _fields(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a group's fields: for the template, and where it is a word that every server knows, the field too.

    Some servers render certain models (gpt-oss) by the field alone, and `/v1/responses` has no options of templates.
    """
    word = sent.get("reasoning_effort")
    return {"chat_template_kwargs": dict(sent)} | (_effort(word) if word in EFFORTS else {})
