"""The recipe of a run: frozen tables read from TOML, with typed overrides; an unknown key is an error.

The first comment of every recipe is its command. `[trl]` goes to `IBPOConfig` word for word; everything else that a run
takes is described here.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from ibpo.budget import TOKENS, Budget, budget_table, check_budget, check_together, parse_budget, parse_budget_entry
from ibpo.errors import IbpoError

RecipeT = TypeVar("RecipeT", bound="DataRecipe")


MOST = 1_000_000
"""Steps, prompts of a step and responses to a prompt: the order of all prompts is drawn before the first step."""
LARGEST_SEED = 2**32 - 1
"""NumPy's, which transformers seeds too."""


class Table(BaseModel):
    """A table of a recipe: types are exact, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds the character NUL, which no path and no prompt has; take it out")
        return value


class ModelConfig(Table):
    """`[model]`: the policy."""

    path: str
    """A local folder, a hub id, or `embedded:EXPERIMENT`. Code that comes with a model is never run."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights. Small learning rates vanish in 16 bits."""


class ResponseGroupConfig(Table):
    """`[[response_group]]`: one way of answering; the first is the standard one."""

    name: str
    prefix: str
    """The text that opens a response of this group."""
    instruction: str = ""
    answer: str = "boxed"
    """How the answer is read: `boxed`, `last_number`, `code` (the last fenced program), or `after:MARKER`."""


class TrainConfig(Table):
    """`[train]`: the updates."""

    steps: int = Field(default=100, ge=1, le=MOST)
    prompts_per_step: int = Field(default=16, ge=1, le=MOST)
    rollouts_per_prompt: int = Field(default=8, ge=2, le=MOST)
    max_completion_length: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class ExampleConfig(Table):
    """`[[data.examples]]`: a problem with a reply to it, one turn of the chat in front of each problem."""

    problem: str
    reply: str


class DataConfig(Table):
    """`[data]`: the problems. A shipped task, or rows of one's own with the names of their columns."""

    task: str = ""
    """A shipped task, e.g. `gsm8k_train`, which knows its columns, its judge and where it comes from; "": one's own."""
    path: str = ""
    """A `.jsonl`, `.jsonl.gz` or `.parquet` file or a folder of such, relative to the recipe; or
    `hub:OWNER/NAME@COMMIT`. "": where the task comes from."""
    config: str = ""
    """Configuration of a data set that has several."""
    split: str = ""
    """"": of the hub's, `train`."""
    problem: str = ""
    """Column with the problem, as text or as the messages of a chat; "": the task's, or `problem`, `question` or
    `prompt`."""
    answer: str = ""
    """Column with its answer; "": the task's, or `answer`."""
    answer_after: str = ""
    """The answer is what follows the last occurrence of this marker (GSM8K: `####`); "": the whole column."""
    id: str = ""
    """Column with a unique id; "": the task's, or `id`, or the row's number where there is none."""
    level: str = ""
    """Column with the difficulty, for reports and sliced budgets; "": the task's, or `level` where there is one."""
    domain: str = ""
    """The same of the domain; "": the task's, or `domain`, `subject` or `type` where there is one."""
    tests: str = ""
    """Column with the tests of a program: source that raises where it is wrong, or a list of such lines."""
    setup: str = ""
    """Column with source that goes before the program."""
    entry_point: str = ""
    """Column with the function that the tests' `check` is called with."""
    template: str = ""
    """The prompt, with `{problem}` and `{tests}`; "": the task's, or the problem alone."""
    system: str = ""
    """The system message in front of each problem; "": the problem's own or none, and a chat template may then put in
    its own."""
    examples: list[ExampleConfig] = Field(default_factory=list)
    """Turns between it and the problem, which show the forms of a response to a model that does not know them."""
    judge: Literal["", "math", "exact", "code", "llm"] = ""
    """`math`, `exact`, `code` or `llm` (see `[judge]`); "": the task's, or `math`."""
    limit: int | None = Field(default=None, ge=1)
    """Read this many problems; None: all."""
    holdout: int = Field(default=0, ge=0)
    """Problems kept for the evaluation, never trained on."""


class JudgeConfig(Table):
    """`[judge]`: the language model that grades, for `data.judge = "llm"` and `constraints.rubric`."""

    base_url: str = ""
    """Address of an OpenAI-compatible server, down to the version: `http://127.0.0.1:8000/v1`."""
    model: str = ""
    """Its name there."""
    api_key_file: str = ""
    """A file whose text is the key; "": none is sent."""
    num_concurrent: int = Field(default=16, ge=1)
    rubric: str = ""
    """What a good response is; "": its final answer means the same as the reference answer."""
    scale: int = Field(default=1, ge=1)
    """The best grade; the reward is the grade over it."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of a judgement."""
    on_failure: Literal["violate", "zero", "raise"] = "violate"
    """For a response without a grade: `violate` (reward 0, never imitated, counted separately), `zero` or `raise`."""
    show_reference: bool = True
    """Whether the judge sees the answer."""
    isolation: bool = True
    """For `data.judge = "code"`: isolate programs. False gives them your own rights: on throw-away machines only."""


class ConstraintsConfig(Table):
    """`[constraints]`: a response that violates one is never imitated, whatever its reward. Cut-off ones always do."""

    answered: bool = False
    """It gives an answer."""
    format: bool = False
    """It keeps the format of its response group; every group then has the name of a shipped one."""
    script: str = ""
    """Its letters are of this script, by Unicode's names (LATIN, CJK, CYRILLIC, ...); "": of any."""
    script_share: float = Field(default=0.95, gt=0, le=1)
    """At least this share of them."""
    free_of: tuple[str, ...] = Field(default=(), strict=False)
    """Regular expressions that do not occur in it, whatever the case."""
    rubric: str = ""
    """What the model of `[judge]` has to find fully met, e.g. safety."""


class DataRecipe(Table):
    """Problems, and how responses to them are judged."""

    data: DataConfig
    judge: JudgeConfig = JudgeConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if not (self.data.task or self.data.path):
            raise ValueError(
                "data.path: is missing; add path = ... (a file, folder or hub:OWNER/NAME@COMMIT) or task = ..."
            )
        by_model, rubric = self.data.judge == "llm", self.constraints.rubric
        asks = "data.judge = 'llm'" if by_model else "constraints.rubric" if rubric else ""
        if asks and not self.judge.base_url.startswith(("http://", "https://")):
            raise ValueError(f"judge.base_url: is needed for {asks}; write http://HOST:PORT/v1")
        if asks and not self.judge.model:
            raise ValueError(f"judge.model: is needed for {asks}; write the model's name at the server")
        return self


class Recipe(DataRecipe):
    """What every recipe holds."""

    model: ModelConfig


class RunConfig(Recipe):
    """A whole recipe of `ibpo train`."""

    response_group: tuple[ResponseGroupConfig, ...] = Field(strict=False)
    budget: dict[str, Any]
    """`[budget]`: response group -> largest share of prompts that it may answer, as 0.5 or "50%"; `tokens` -> mean
    tokens per prompt; `"extended>="` -> least share; `"extended@level=5"` -> of the prompts of that level (`level`,
    `problem_id`). Empty: none. See `ibpo.budget`."""
    train: TrainConfig = TrainConfig()
    trl: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    """`[lora]`: goes to `peft.LoraConfig` word for word; empty: all weights are trained."""

    @field_validator("response_group")
    @classmethod
    def _names(cls, groups: tuple[ResponseGroupConfig, ...]) -> tuple[ResponseGroupConfig, ...]:
        if len(groups) < 2:
            raise ValueError("two or more [[response_group]] tables are needed, the standard one first")
        names = [group.name for group in groups]
        for name in names:
            if not name or name == TOKENS or names.count(name) > 1:
                raise ValueError(f"the name {name!r} must be unique, not empty and not `tokens`; rename it")
        return groups

    @model_validator(mode="after")
    def _options(self) -> Self:
        options = self.trl.get("chat_template_kwargs")
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"trl.chat_template_kwargs: needs a table, {{enable_thinking = true}}, got {options!r}")
        return self

    @model_validator(mode="after")
    def _stratified(self) -> Self:
        num_rollouts, num_groups = self.train.rollouts_per_prompt, len(self.response_group)
        if self.trl.get("stratified", True) and num_rollouts % num_groups:
            raise ValueError(
                f"train.rollouts_per_prompt: {num_rollouts} is not a multiple of the {num_groups} response groups; "
                f"write {-(-num_rollouts // num_groups) * num_groups}"
            )
        return self


class Engine(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """`--engine`: how responses are made; none of it says what is asked, so a run goes on with another one."""

    num_concurrent: int = Field(default=16, ge=1)
    """Requests in flight at a time."""
    max_retries: int = Field(default=5, ge=0)
    """Most retries of a request, within a pass."""
    max_passes: int = Field(default=3, ge=1)
    """Over what failed."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """Time limit of a request, in seconds."""
    tokenizer: str = ""
    """A folder or hub id with the tokenizer of a served model, for `--force`; "": the model's, or the server's own."""
    api_key_file: str = ""
    """A file that holds the server's key, and nothing else."""
    price_prompt: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens; below, of completion tokens."""
    price_completion: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=64, ge=1)
    """Batch size of a local model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of a local model's weights; another one makes another run."""


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


SAID = {
    "int_type": "needs a whole number",
    "int_from_float": "needs a whole number",
    "int_parsing": "needs a whole number",
    "float_type": "needs a number",
    "float_parsing": "needs a number",
    "finite_number": "needs a finite number",
    "bool_type": "needs true or false",
    "bool_parsing": "needs true or false",
    "tuple_type": 'needs a list, e.g. ["..."]',
    "list_type": 'needs a list, e.g. ["..."]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:.10g}",
}
"""Kind of pydantic's complaint -> how it is said here; others in pydantic's words."""


def explain(
    error: ValidationError,
    place: str,
    model: type[BaseModel],
    tables: Any = None,
    overridden: dict[str, str] | None = None,
) -> IbpoError:
    """The first complaint of pydantic as one line: place, field, cause and fix; unknown keys before all others.

    Args:
        error: As pydantic raised it. A validator's own `ValueError` is shown as it is, so it should name its fix, and
            the key where it is at the top.
        place: Where the values came from: a file or an option.
        model: What they were to be; an unknown key is answered by the nearest field of its table.
        tables: The values, where tables in a list are called by their `name` and not by their number.
        overridden: Key -> the text of the option that gave its value, which is named in place of file and key.

    Example:
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
        a.toml: part.1.steps: needs a whole number, got 'x'
        a.toml: part: is missing; add part = ... to it
    """
    found = error.errors(include_url=False)
    first = next((row for row in found if row["type"] == "extra_forbidden"), found[0])
    kind, path, value = first["type"], first["loc"], first["input"]
    where = ".".join(_names_along(path, tables))
    name = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        what = "table" if len(path) == 1 and isinstance(value, dict | list) else "key"
        said = f"unknown {what}; {nearest(name, _table_at(model, path[:-1]).model_fields)}"
    elif kind == "missing":
        said = f"is missing; add {name} = ... to it"
    elif kind == "string_type":
        said = f'needs text in quotes, got {value!r:.60}; write "{value!s:.60}"'
    elif kind == "literal_error":
        choices = [choice for choice in re.findall(r"'([^']*)'", first.get("ctx", {})["expected"]) if choice]
        said = f"{value!r:.60} is not one of {', '.join(choices)}; {nearest(str(value), choices)}"
    elif kind in ("tuple_type", "list_type") and isinstance(value, dict):
        said = f"must be a list of tables; write [[{where}]] above each"
    elif kind in SAID:
        said = f"{SAID[kind].format(**first.get('ctx', {}))}, got {value!r:.60}"
    else:
        text = first["msg"].removeprefix("Value error, ")
        given = "" if kind == "value_error" else f", not {value!r:.60}"
        said = f"{text[:1].lower()}{text[1:]}{given}" if where else text
        if not where and text.partition(":")[0] in (overridden or ()):
            where, _, said = text.partition(": ")
    for key, option in (overridden or {}).items():
        if where == key or (kind == "extra_forbidden" and len(path) == 1 and key.startswith(f"{where}.")):
            return IbpoError(f"--set {option}: {said}")
    return IbpoError(": ".join(filter(None, (place, where, said))))


def _names_along(path: Iterable[int | str], values: Any) -> Iterable[str]:
    for part in path:
        try:
            values = values[part]
        except (LookupError, TypeError):
            values = None
        name = values.get("name") if isinstance(values, dict) and isinstance(part, int) else None
        yield str(name or (part + 1 if isinstance(part, int) else part))


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


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes", list: "a list"}
"""Type of a setting -> how it is said; others need a table."""


def check_settings(table: str, settings: Mapping[str, Any], config: type) -> None:
    """Whether what a table passes on to another library's configuration is of the types that are declared there.

    A text like "false" would count as true, and "4" would fail somewhere in that library.

    Raises:
        IbpoError: names the key, what it needs and what it has.

    Example:
        >>> class Other:
        ...     rank: int
        ...     bias: bool | None
        >>> check_settings("lora", {"rank": 4, "unknown here": 1}, Other)
        >>> check_settings("lora", {"bias": "no"}, Other)
        Traceback (most recent call last):
        ibpo.errors.IbpoError: lora.bias: needs true or false, got 'no'
    """
    hints = get_type_hints(config)
    for key, value in settings.items():
        if key not in hints:
            continue
        try:  # the members of lists and tables are looked at loosely: TOML has no tuples
            TypeAdapter(hints[key]).validate_python(value, strict=not isinstance(value, list | dict))
            fine = not (isinstance(value, float) and math.isnan(value))
        except ValidationError:
            fine = False
        if not fine:
            raise IbpoError(f"{table}.{key}: needs {_needed(hints[key])}, got {value!r:.60}")


def _needed(hint: Any) -> str:
    """What a type takes, in words."""
    if getattr(hint, "__origin__", None) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if hint in KINDS:
        return KINDS[hint]
    origin = getattr(hint, "__origin__", None)
    if origin in (list, tuple):
        return KINDS[list]
    if origin is not dict and get_args(hint):
        parts = [part for part in get_args(hint) if part is not type(None)]
        parts = [part for part in parts if not (isinstance(part, type) and issubclass(part, Enum))]
        return " or ".join(dict.fromkeys(map(_needed, parts)))
    return "a table"


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply for a table") from None
    except ValueError as error:  # no TOML, or an integer of more digits than Python converts
        raise ValueError(str(error).partition(";")[0]) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        IbpoError: no such file, or no TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise IbpoError(f"{path}: cannot be read: {error.strerror}; name a TOML file") from None
    except UnicodeDecodeError:
        raise IbpoError(f"{path}: is not UTF-8 text; name a TOML file") from None
    except ValueError as error:
        raise IbpoError(f"{path}: is not TOML: {error}; fix that line") from None


COLD_START_TABLES = ("sample", "build", "gate", "sft")
"""What only a recipe of `ibpo cold-start` has."""


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML recipe of `ibpo train`; overrides are `train.steps=3` or `response_group.NAME.prefix=...`.

    Raises:
        IbpoError: names file (or override), key and fix.
    """
    reader = RecipeReader(path, overrides, RunConfig)
    reader.refuse_other_command(COLD_START_TABLES, "cold-start")
    reader.tables.setdefault("response_group", [])
    if "budget" not in reader.tables:
        rows = reader.tables["response_group"]
        name = rows[-1].get("name", "extended") if isinstance(rows, list) and rows else "extended"
        reader.fail(
            "budget",
            f"is missing; add [budget] and {name} = 0.5 (a share of prompts) or tokens = 500; leave it empty for none",
        )
    config = reader.read(RunConfig)
    names = [group.name for group in config.response_group]
    return config.model_copy(update={"budget": checked_budget(config.budget, names, reader.place)})


def checked_budget(table: dict[str, Any], names: list[str], place: Callable[[str], str]) -> dict[str, float | str]:
    """`[budget]`; what it may hold is known once the policy has been sampled, the rest is said here.

    Raises:
        IbpoError: names the place of the entry, and its fix.
    """
    budgets: list[Budget] = []
    for key, amount in table.items():
        where = place(f"budget.{key}")
        budgets.append(parse_budget_entry(key, amount, where))
        check_budget(budgets[-1], groups=names, costs=(TOKENS,), where=where)
    check_together(budgets, names, place("budget") + ".")
    return budget_table(budgets)


class RecipeReader:
    """The tables of a recipe with overrides put in, and where each wrong value came from."""

    def __init__(
        self, path: Path, overrides: Iterable[str], model: type[DataRecipe], tables: dict[str, Any] | None = None
    ) -> None:
        """Read the file; or take `tables`, which `path` then only names."""
        if tables is None and not path.exists():
            raise IbpoError(f"{path}: there is no such recipe; name a TOML file, e.g. recipes/gsm8k_smoke.toml")
        self.path, self.model, self.is_file = path, model, tables is None
        self.tables = read_toml(path) if tables is None else tables
        self.overridden: dict[str, str] = {}
        for text in overrides:
            self._override(text)

    def fail(self, key: str, message: str) -> NoReturn:
        """Raise, naming the file or the override."""
        raise IbpoError(f"{self.place(key)}: {message}")

    def refuse_other_command(self, tables: Iterable[str], command: str) -> None:
        """Refuse a recipe that has one of these tables: it was written for another command."""
        for name in tables:
            if name in self.tables:
                self.fail(name, f"belongs to recipes of `ibpo {command}`; run that, or name a recipe of this command")

    def place(self, key: str) -> str:
        """Where a value came from: the file and its key, or the override."""
        return f"--set {self.overridden[key]}" if key in self.overridden else f"{self.path}: {key}"

    def read(self, model: type[RecipeT]) -> RecipeT:
        """The recipe, checked. A path of the file is relative to it, or else to the working directory."""
        tables = {name: {} for name in ("model", "data") if name in model.model_fields} | self.tables
        path = tables["data"].get("path") if isinstance(tables["data"], dict) else None
        if self.is_file and isinstance(path, str) and path and "data.path" not in self.overridden:
            beside = self.path.parent / path
            if beside.exists():
                tables["data"] = tables["data"] | {"path": str(beside)}
        try:
            return model.model_validate(tables)
        except ValidationError as error:
            raise explain(error, str(self.path), model, tables, self.overridden) from None

    def _override(self, text: str) -> None:
        """Put one `TABLE.KEY=VALUE` in."""
        tables = self.tables
        if text.strip().startswith("budget."):
            budget = parse_budget(text.strip().removeprefix("budget."), f"--set {text}")
            self._table(tables.setdefault("budget", {}), "budget")[budget.key] = budget.amount_text
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
            table = self._table(tables.setdefault(path[0], {}), path[0], key)
        try:
            found = parse_toml(f"value = {value}")["value"]
        except ValueError:
            found = value.strip()
        part = _table_at(self.model, path[:-1]).model_fields.get(path[-1])
        # A field of text takes the words as they are: --set data.id=7 names the field "7".
        table[path[-1]] = value.strip() if part and part.annotation is str and not isinstance(found, str) else found

    def _table(self, value: Any, name: str, key: str | None = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(key or name, f"[{name}] must be a table")
        return value
