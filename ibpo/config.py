"""The recipe of a run: frozen parts read from TOML, with typed overrides; an unknown key is an error.

The first comment of every recipe is its command. `[trl]` goes to `IBPOConfig` word for word; everything else that a run
can be told stands here.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

from ibpo.budget import TOKENS, Budget, budget_table, check_budget, check_together, parse_budget, parse_budget_entry
from ibpo.data_config import JUDGES, ConstraintsConfig, DataConfig, JudgeConfig
from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

DTYPES = ("float32", "bfloat16", "float16")
Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """`[model]`: the policy."""

    path: str
    """A local folder, a hub id, or `embedded:EXPERIMENT`. Code that comes with a model is never run."""
    dtype: str = "float32"
    """Of the weights. Small learning rates vanish in 16 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseGroupConfig:
    """`[[response_group]]`: one way of answering; the first is the standard one."""

    name: str
    prefix: str
    """The text that opens a response of this group."""
    instruction: str = ""
    answer: str = "boxed"
    """How the answer is read: `boxed`, `last_number`, `code` (the last fenced program), or `after:MARKER`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """`[train]`: the updates."""

    steps: int = 100
    prompts_per_step: int = 16
    rollouts_per_prompt: int = 8
    max_completion_length: int = 512
    learning_rate: float = 1e-6
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole recipe."""

    model: ModelConfig
    data: DataConfig
    response_group: tuple[ResponseGroupConfig, ...]
    budget: dict[str, float | str]
    """`[budget]`: response group -> largest share of prompts that it may answer, as 0.5 or "50%"; `tokens` -> mean
    tokens per prompt; `"extended>="` -> least share; `"extended@level=5"` -> of the prompts of that level (`level`,
    `problem_id`). Empty: none. See `ibpo.budget`."""
    train: TrainConfig = field(default_factory=TrainConfig)
    trl: dict[str, Any] = field(default_factory=dict)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    lora: dict[str, Any] = field(default_factory=dict)
    """`[lora]`: goes to `peft.LoraConfig` word for word; empty: all weights are trained."""


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint that ends an error line.

    Example:
        >>> nearest("stpes", ["steps", "seed"])
        'did you mean steps?'
        >>> nearest("xyz", ["steps", "seed"])
        'known here: seed, steps'
    """
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"


def explain(error: ValidationError, place: str, model: type[BaseModel]) -> IbpoError:
    """The first complaint of pydantic as one line: place, field, cause and fix.

    Args:
        error: As pydantic raised it. A validator's own `ValueError` is shown as it is, so it should name its fix.
        place: Where the values came from: a file or an option.
        model: What they were to be; an unknown key is answered by the nearest field of its table.

    Example:
        >>> from pydantic import BaseModel, ValidationError
        >>> class Row(BaseModel, extra="forbid"):
        ...     steps: int = 1
        >>> class File(BaseModel, extra="forbid"):
        ...     part: list[Row]
        >>> for values in ({"part": [{"stpes": 3}]}, {"part": [{"steps": "x"}]}, {}):
        ...     try:
        ...         File.model_validate(values)
        ...     except ValidationError as error:
        ...         print(explain(error, "a.toml", File))
        a.toml: part.1.stpes: unknown key; did you mean steps?
        a.toml: part.1.steps: input should be a valid integer, unable to parse string as an integer, not 'x'
        a.toml: part: is missing; add part = ... to it
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    name = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        said = f"unknown key; {nearest(name, _table_at(model, first['loc'][:-1]).model_fields)}"
    elif first["type"] == "missing":
        said = f"is missing; add {name} = ... to it"
    else:
        text = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "value_error" else f", not {first['input']!r:.60}"
        said = f"{text[:1].lower()}{text[1:]}{given}" if where else text
    return IbpoError(": ".join(filter(None, (place, where, said))))


def _table_at(model: type[BaseModel], path: Iterable[int | str]) -> type[BaseModel]:
    """The model of the table at a place; positions in lists and names in dictionaries lead into what these hold."""
    for part in path:
        if not isinstance(part, str) or part not in model.model_fields:
            continue
        kinds: list[Any] = [model.model_fields[part].annotation]
        while kinds:
            kind = kinds.pop()
            if hasattr(kind, "model_fields"):
                model = kind
                break
            kinds += get_args(kind)
    return model


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        IbpoError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IbpoError(f"{path}: cannot be read: {error.strerror}; name a TOML file") from None
    except UnicodeDecodeError:
        raise IbpoError(f"{path}: is not UTF-8 text; name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise IbpoError(f"{path}: is not TOML: {error}; mend that line") from None


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML recipe; overrides are `train.steps=3` or `response_group.NAME.prefix=...`.

    Raises:
        IbpoError: names file (or override), key and mend.
    """
    reader = RecipeReader(str(path))
    return reader.read(reader.load(path, overrides))


class RecipeReader:
    """Turns tables into a `RunConfig` and says where each wrong value came from."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.overridden: dict[str, str] = {}

    def fail(self, key: str, message: str) -> NoReturn:
        """Raise, naming the file or the override."""
        raise IbpoError(f"{self.place(key)}: {message}")

    def place(self, key: str) -> str:
        """Where a value came from: the file and its key, or the override."""
        return f"--set {self.overridden[key]}" if key in self.overridden else f"{self.source}: {key}"

    def load(self, path: Path, overrides: Iterable[str]) -> dict[str, Any]:
        """The tables of a TOML file, overrides put in."""
        if not path.exists():
            raise IbpoError(f"{path}: there is no such recipe; name a TOML file, e.g. recipes/gsm8k_smoke.toml")
        tables = read_toml(path)
        for text in overrides:
            self.override(tables, text)
        return tables

    def override(self, tables: dict[str, Any], text: str) -> None:
        """Put one `TABLE.KEY=VALUE` in."""
        if text.strip().startswith("budget."):
            budget = parse_budget(text.strip().removeprefix("budget."), f"--set {text}")
            self.table(tables.setdefault("budget", {}), "budget")[budget.key] = budget.amount_text
            self.overridden[f"budget.{budget.key}"] = text
            return
        key, equals, value = text.partition("=")
        key = key.strip()
        path = key.split(".")
        if not equals or len(path) != (3 if path[0] == "response_group" else 2):
            raise IbpoError(
                f"--set {text}: needs TABLE.KEY=VALUE, e.g. train.steps=3 or response_group.NAME.prefix=Step"
            )
        self.overridden[key] = text
        if path[0] == "response_group":
            rows = tables.get("response_group")
            by_name = {row.get("name"): row for row in rows if isinstance(row, dict)} if isinstance(rows, list) else {}
            if path[1] not in by_name:
                self.fail(key, f"no response group {path[1]!r}; {nearest(path[1], map(str, by_name))}")
            table = by_name[path[1]]
        else:
            table = tables.setdefault(path[0], {})
            if not isinstance(table, dict):
                self.fail(key, f"[{path[0]}] must be a table")
        try:
            table[path[-1]] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[path[-1]] = value.strip()

    def read(self, tables: dict[str, Any]) -> RunConfig:
        """A whole recipe of `ibpo train`."""
        self.known(tables, RunConfig)
        rows = tables.get("response_group", [])
        if not isinstance(rows, list) or len(rows) < 2:
            self.fail("response_group", "two or more [[response_group]] tables are needed, the standard one first")
        groups = tuple(
            self.part(ResponseGroupConfig, row, f"response_group.{row.get('name', i)}" if isinstance(row, dict) else "")
            for i, row in enumerate(rows, start=1)
        )
        names = [group.name for group in groups]
        for name in names:
            if not name or name == "tokens" or names.count(name) > 1:
                self.fail(f"response_group.{name}.name", "must be unique, not empty and not `tokens`; rename it")
        config = RunConfig(
            model=self.part(ModelConfig, tables.get("model", {}), "model"),
            **self.judged_data(tables),
            response_group=groups,
            budget=self.budget(tables.get("budget"), names),
            train=self.part(TrainConfig, tables.get("train", {}), "train"),
            trl=self.table(tables.get("trl", {}), "trl"),
            lora=self.table(tables.get("lora", {}), "lora"),
        )
        self.check(config)
        return config

    def judged_data(self, tables: dict[str, Any]) -> dict[str, Any]:
        """`[data]`, `[judge]` and `[constraints]`, by their names."""
        data = self.part(DataConfig, tables.get("data", {}), "data")
        judge = self.part(JudgeConfig, tables.get("judge", {}), "judge")
        constraints = self.part(ConstraintsConfig, tables.get("constraints", {}), "constraints")
        if not (data.task or data.path):
            self.fail("data.path", "is missing; add path = ... (a file, folder or hub:OWNER/NAME@COMMIT) or task = ...")
        for key, value, choices in (
            ("data.judge", data.judge, ("", *JUDGES)),
            ("judge.on_failure", judge.on_failure, ("violate", "zero", "raise")),
        ):
            if value not in choices:
                self.fail(key, f"{value!r} is none of {', '.join(filter(None, choices))}; {nearest(value, choices)}")
        numbers = [("data.limit", 1 if data.limit is None else data.limit, 1), ("data.holdout", data.holdout, 0)]
        numbers += [(f"judge.{key}", getattr(judge, key), 1) for key in ("num_concurrent", "scale", "max_tokens")]
        for key, value, least in numbers:
            if value < least:
                self.fail(key, f"must be at least {least}, got {value}")
        if not 0 < constraints.script_share <= 1:
            self.fail("constraints.script_share", f"is a share, above 0 to 1, got {constraints.script_share:g}")
        asks = "data.judge = 'llm'" if data.judge == "llm" else "constraints.rubric" if constraints.rubric else ""
        if asks and not judge.base_url.startswith(("http://", "https://")):
            self.fail("judge.base_url", f"is needed for {asks}; write http://HOST:PORT/v1")
        if asks and not judge.model:
            self.fail("judge.model", f"is needed for {asks}; write the model's name at the server")
        return {"data": data, "judge": judge, "constraints": constraints}

    def known(self, tables: dict[str, Any], cls: type) -> None:
        """Refuse tables that the recipe does not have."""
        known = [f.name for f in fields(cls)]
        for key in tables:
            if key not in known:
                at = next((k for k in self.overridden if k.split(".")[0] == key), key)
                self.fail(at, f"unknown table; {nearest(key, known)}")

    def table(self, value: Any, name: str) -> dict[str, Any]:
        """The value, if it is a table."""
        if not isinstance(value, dict):
            self.fail(name or "response_group", "must be a table")
        return value

    def part(self, cls: type[Part], value: Any, name: str) -> Part:
        """One table as its dataclass."""
        table = self.table(value, name)
        parts = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
        for key in table:
            if key not in parts:
                self.fail(f"{name}.{key}", f"unknown key; {nearest(key, parts)}")
        for key, part in parts.items():
            if part.default is MISSING and key not in table:
                self.fail(f"{name}.{key}", f"is missing; add {key} = ... to it")
        return cls(**{key: self.value(table[key], str(parts[key].type), f"{name}.{key}") for key in table})

    def value(self, value: Any, kind: str, key: str) -> Any:
        """One value, if it is of the field's type."""
        if kind == "bool":
            if not isinstance(value, bool):
                self.fail(key, f"needs true or false, got {value!r}")
            return value
        if kind == "str":
            if key in self.overridden and not isinstance(value, str):  # --set data.id=7 names the field "7"
                return self.overridden[key].partition("=")[2].strip()
            if not isinstance(value, str):
                self.fail(key, f'needs text in quotes, got {value!r}; write "{value}"')
            return value
        if kind.startswith("tuple"):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                self.fail(key, f'needs a list of texts, got {value!r}; write ["..."]')
            return tuple(value)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind == "float" else int):
            self.fail(key, f"needs a {'number' if kind == 'float' else 'whole number'}, got {value!r}")
        return float(value) if kind == "float" else value

    def budget(self, value: Any, names: list[str]) -> dict[str, float | str]:
        """`[budget]`; what it may hold is known once the policy has been sampled, the rest is said here."""
        if value is None:
            fix = f"add [budget] and {names[1]} = 0.5 (a share of prompts) or tokens = 500; leave it empty for none"
            self.fail("budget", f"is missing; {fix}")
        budgets: list[Budget] = []
        for key, amount in self.table(value, "budget").items():
            place = self.place(f"budget.{key}")
            budgets.append(parse_budget_entry(key, amount, place))
            check_budget(budgets[-1], groups=names, costs=(TOKENS,), where=place)
        check_together(budgets, names, f"{self.source}: budget.")
        return budget_table(budgets)

    def check(self, config: RunConfig) -> None:
        """Refuse numbers out of their range."""
        low = {"steps": 1, "prompts_per_step": 1, "max_completion_length": 1, "rollouts_per_prompt": 2, "seed": 0}
        for key, least in low.items():
            if (value := getattr(config.train, key)) < least:
                self.fail(f"train.{key}", f"must be at least {least}, got {value}")
        if not (config.train.learning_rate > 0 and math.isfinite(config.train.learning_rate)):
            self.fail("train.learning_rate", f"must be above 0, got {config.train.learning_rate:g}")
        if config.model.dtype not in DTYPES:
            self.fail("model.dtype", f"unknown type {config.model.dtype!r}; {nearest(config.model.dtype, DTYPES)}")
        num_rollouts, num_groups = config.train.rollouts_per_prompt, len(config.response_group)
        if config.trl.get("stratified", True) and num_rollouts % num_groups:
            mend = f"write {-(-num_rollouts // num_groups) * num_groups}"
            key = "train.rollouts_per_prompt"
            self.fail(key, f"{num_rollouts} is not a multiple of the {num_groups} response groups; {mend}")
