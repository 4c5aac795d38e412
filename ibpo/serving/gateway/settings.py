"""What a gateway is told: a TOML file, checked field by field; an unknown key is an error that names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ibpo.config import explain, read_toml

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Of response groups and tenants: they stand in headers, labels and file names."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class UpstreamSettings(_Part):
    """`[upstream]`: the server that answers."""

    url: str = ""
    """Down to the version: `http://127.0.0.1:8000/v1`."""
    key_env: str = ""
    """Name of the environment variable with the upstream's key; "": none, or the caller's own where there are no
    tenants' keys."""
    connect_seconds: float = Field(default=5.0, gt=0)
    first_byte_seconds: float = Field(default=600.0, gt=0)
    """Until the first byte of the answer: without streaming that is the whole generation."""
    idle_seconds: float = Field(default=120.0, gt=0)
    """Between two pieces of a stream."""
    total_seconds: float = Field(default=3600.0, gt=0)
    """For one request, retries included."""
    retries: int = Field(default=2, ge=0, le=10)
    """After a failed connection, a time-out, 500, 502, 503 or 504; never once a byte has gone to the caller."""
    max_connections: int = Field(default=1024, ge=1)

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, e.g. http://127.0.0.1:8000/v1")
        if "?" in url or "#" in url:
            raise ValueError("must end with the path, e.g. http://127.0.0.1:8000/v1")
        return url.rstrip("/")


class Limits(_Part):
    """`[limits]`: what one caller may ask of the gateway."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    max_header_bytes: int = Field(default=16384, ge=1024)
    """Of the request line, and of each header."""
    header_seconds: float = Field(default=10.0, gt=0)
    """Until the headers of a connection's first request are there."""
    body_seconds: float = Field(default=30.0, gt=0)
    keep_alive_seconds: float = Field(default=75.0, gt=0)
    """An idle connection is closed after it, one that sends headers drop by drop as well."""
    max_connections: int = Field(default=4096, ge=1)
    max_in_flight: int = Field(default=1024, ge=1)
    """Requests under way at a time; more get a 503."""
    max_in_flight_per_tenant: int = Field(default=512, ge=1)
    """More get a 429: nobody takes all places."""
    max_answers: int = Field(default=128, ge=1)
    """That one request may ask for: n or best_of, times its prompts. All are booked as one request."""
    max_answer_tokens: int = Field(default=1 << 20, ge=1)
    """Largest cap that is left of a caller's `max_tokens` once the response group's has lowered it."""
    max_buffered_bytes: int = Field(default=16 << 20, ge=1024)
    """Of an answer without streaming that is held back until it is whole; a longer one is passed on as it comes."""
    drain_seconds: float = Field(default=60.0, ge=0)
    """After SIGTERM, for what is under way."""


class GroupSettings(_Part):
    """`[[model.response_group]]`: how such an answer is asked for, and what it is expected to cost."""

    name: str = Field(pattern=NAME)
    prefix: str = ""
    """The text that opens such a response: appended to the prompt, or as the beginning of the assistant's message."""
    chat_template_kwargs: dict[str, Any] = {}
    """E.g. `{enable_thinking = true}`."""
    reasoning_effort: str = ""
    max_tokens: int | None = Field(default=None, ge=1)
    """Cap; a caller's own lower one stays."""
    body: dict[str, Any] = {}
    """Any other fields of the request, e.g. `{thinking_token_budget = 4096}`."""
    tokens: float | None = Field(default=None, ge=0)
    """Expected completion tokens: a first guess, corrected by what responses cost."""
    gain: float = Field(default=0.0, allow_inf_nan=False)
    """Where nothing says more: what answering so is worth."""
    opening: str = ""
    """What the policy writes first in such a response, for the probe; "": the prefix."""


class ProbeSettings(_Part):
    """`[model.probe]`: one token, to read off what the policy would open with."""

    seconds: float = Field(default=2.0, gt=0)
    """After it the request does without."""
    top_logprobs: int = Field(default=20, ge=1, le=100)
    """As many as the server gives: OpenAI and vLLM allow 20 in chats, 5 in completions unless told otherwise."""


class ModelSettings(_Part):
    """`[[model]]`: the response groups of a model, the standard (cheapest) one first."""

    name: str
    """As callers write it; `*`: every model without a table of its own."""
    choose: list[Literal["caller", "router", "probe"]] = ["caller", "router"]
    """Who says what each response group would gain; the first that has a say. Then the groups' own `gain`."""
    cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What a cap is called where the caller gave none; for the reasoning models of OpenAI the latter."""
    include_usage: bool = True
    """Ask streams for their usage, and take it out again where the caller did not ask for it."""
    response_group: list[GroupSettings] = Field(min_length=1)
    probe: ProbeSettings = ProbeSettings()

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


class Settings(_Part):
    """A whole gateway file. The tables `budget`, `tenant`, `slice` and `fair_share` are `ibpo.serving.plan.Plan`'s.

    Example:
        >>> settings = Settings.model_validate({"model": [{"name": "*", "response_group": [{"name": "standard"}]}]})
        >>> settings.model_of("anything").response_group[0].name, settings.upstream.retries
        ('standard', 2)
    """

    upstream: UpstreamSettings = UpstreamSettings()
    limits: Limits = Limits()
    model: list[ModelSettings] = []
    log_bodies: bool = False
    """Write the bodies of requests into the log, prompts included."""
    refuse: list[str] = [
        "/v1/responses*",
        "/v1/messages*",
        "/v1/realtime*",
        "/generate*",
        "/invocations*",
        "/inference/*",
    ]
    """Paths that are not passed on (`*` stands for anything): they generate, and nobody would count it."""

    @model_validator(mode="after")
    def _models(self) -> Settings:
        names = [model.name for model in self.model]
        if len(set(names)) < len(names):
            raise ValueError(f"model: two tables of one name among {', '.join(names)}; join them")
        return self

    def model_of(self, name: str) -> ModelSettings:
        """The table of a model: its own, else that of `*`, else one response group and no choice."""
        found = next((model for model in self.model if model.name == name), None)
        return found or next((model for model in self.model if model.name == "*"), UNKNOWN)


UNKNOWN = ModelSettings(name="*", response_group=[GroupSettings(name="standard")])

WAYS: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {"name": "standard", "chat_template_kwargs": {"enable_thinking": False}},
        {"name": "extended", "chat_template_kwargs": {"enable_thinking": True}, "gain": 0.5},
    ],
    "effort": [
        {"name": "standard", "reasoning_effort": "low"},
        {"name": "extended", "reasoning_effort": "high", "gain": 0.5},
    ],
}
"""How `ibpo serve` sets the response groups of every model when no file says so."""


def read_settings(path: str | Path) -> tuple[Settings, dict[str, Any]]:
    """Read a gateway file.

    Returns:
        The settings, and the tables of the plan (`Plan.from_dict` takes them).

    Raises:
        IbpoError: Names file, field and mend.
    """
    tables = read_toml(Path(path))
    plan = {key: tables.pop(key) for key in ("budget", "fair_share", "tenant", "slice") if key in tables}
    return build_settings(tables, str(path)), plan


def build_settings(tables: dict[str, Any], where: str) -> Settings:
    """Check the tables of a gateway.

    Raises:
        IbpoError: One line for the first thing that is wrong.
    """
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise explain(error, where, Settings) from None
