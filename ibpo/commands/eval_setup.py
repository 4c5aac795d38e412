"""What a run of `ibpo eval` is made of: problems and judge, ways of answering, the policy, its bill, and how far it is.

What each call took is written down as it goes, so that a run that was killed keeps its bill.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ibpo.commands.options import load_tokenizer, read_pairs
from ibpo.config import Engine, explain, nearest, read_recipe
from ibpo.demo import EXPERIMENTS, experiment_named, resolve_model
from ibpo.endpoint import Bill, Endpoint
from ibpo.errors import IbpoError
from ibpo.evaluation import CHOOSES, DIALOGUES, Way
from ibpo.responses import FORMATS, build_response_groups, check_reads_programs, family_of, for_programs, translate
from ibpo.rewards import Judge
from ibpo.rollouts import RolloutStore, Sampled, Sampler
from ibpo.runs import Journal, versions_of
from ibpo.tasks import build_judge, distinct, hold_out, load_given, named_data
from ibpo.types import Problem

MAX_TOKENS = 1024
PACKAGES = ("ibpo", "numpy", "openai", "torch", "transformers", "math-verify")


def read_engine(texts: Iterable[str]) -> Engine:
    """`num_concurrent=4,price_prompt=1` as an engine.

    Raises:
        IbpoError: names the key and its fix.
    """
    try:
        return Engine.model_validate(read_pairs(texts, tuple(Engine.model_fields), "--engine"))
    except ValidationError as error:
        raise explain(error, "--engine", Engine) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The policy of an evaluation, and how to ask it."""

    sampler_for: Callable[[Way], Sampler]
    count_tokens: Callable[[str], int] | None
    engine: dict[str, Any]
    """What answers: versions, and what the server says of itself."""
    endpoint: Endpoint | None
    """Where there is a bill."""
    tokenizer: Any = None
    """The policy's, where it is known."""


def load_task(name: str, overrides: Sequence[str], limit: int | None, seed: int) -> tuple[list[Problem], str, Judge]:
    """Problems, the name of their judge, and the judge.

    Problems of a shipped task, an embedded experiment (`thinking`, `voting`), a file or folder,
    `hub:OWNER/NAME@COMMIT`, or a
    recipe: of this the problems that it holds out, where it does.

    Raises:
        IbpoError: names what is missing, and the fix.
    """
    given, grader = named_data(name, overrides, EXPERIMENTS)
    if name in EXPERIMENTS:
        if other := sorted(given.model_fields_set - {"task", "judge"}):
            raise IbpoError(f"--set data.{other[0]}: {name} makes its problems itself; leave it out")
        judge_name = given.judge or "exact"
        problems = distinct(experiment_named(name).task, "test", limit or 1000, seed=seed)
    else:
        # What is held out is a share of what the recipe reads, so the limit comes after it.
        limit_read = given.limit if given.holdout else limit or given.limit
        task, problems = load_given(given.model_copy(update={"limit": limit_read}))
        judge_name = given.judge or task.judge
        if given.holdout:
            problems = hold_out(problems, given.holdout)[1][:limit]
    return problems, judge_name, build_judge(judge_name, grader)


def ways_of(
    names: Sequence[str], recipe: Path | None, task: str, *, chooses: bool, force: bool, programs: bool = False
) -> list[Way]:
    """The ways to evaluate: each response group on its own, and the free choice between all of them.

    Where the task's answers are programs, response groups ask for and read a fenced block instead of a box.

    Raises:
        IbpoError: for an unknown response group, one that cannot give a program, or a choice between fewer than two.
    """
    every: list[Way] = []
    if recipe is not None:
        config = read_recipe(recipe)
        configs = config.response_group
        if programs:
            try:
                check_reads_programs(configs)
            except IbpoError as error:
                raise IbpoError(f"{recipe}: {error}") from None
        groups = build_response_groups(configs)
        asked = dict(config.trl.get("chat_template_kwargs") or {})
        every = [Way(configuration=g.name, response_groups=[g], force=force, template_options=asked) for g in groups]
    elif task in EXPERIMENTS and not names:
        groups = list(experiment_named(task).response_groups)
    else:
        for name in names:
            if name not in FORMATS:
                raise IbpoError(f"--response-group {name}: no such response group; {nearest(name, FORMATS)}")
        groups = [for_programs(FORMATS[name].group) if programs else FORMATS[name].group for name in names]
    if not groups:
        return [Way(configuration="responses")]
    options = {name: form.template_options for name, form in FORMATS.items()}
    ways = every or [
        Way(
            configuration=g.name, response_groups=[g], force=force, template_options=options.get(g.name, {}), adapt=True
        )
        for g in groups
    ]
    if chooses:
        if len(groups) < 2:
            raise IbpoError("--also chooses: needs at least two response groups to choose from; name more")
        asked = every[0].template_options if every else {}
        ways.append(Way(configuration=CHOOSES, response_groups=groups, force=False, template_options=asked))
    return ways


def dialogue_ways(
    asked: Sequence[str], ways: Sequence[Way], num_responses: int, *, programs: bool = False
) -> list[Way]:
    """Ways that go on after the responses of another: `two-turns`, `refine:steps`.

    Raises:
        IbpoError: for an unknown way or response group, programs, which are no boxed answers, and a debate of one.
    """
    found: list[Way] = []
    for text in asked:
        name, _, group = text.partition(":")
        if name not in DIALOGUES:
            known = ("chooses", *DIALOGUES)
            raise IbpoError(f"--also {text}: is not one of {', '.join(known)}; {nearest(name, known)}")
        if programs:
            raise IbpoError(f"--also {text}: it asks for a boxed answer at last, and programs are none; leave it out")
        by_name = {way.configuration: way for way in ways if len(way.response_groups) < 2}
        if group and group not in by_name:
            raise IbpoError(f"--also {text}: no such response group; {nearest(group, list(by_name))}")
        first, dialogue = by_name[group] if group else ways[0], DIALOGUES[name]
        if dialogue.is_choice and num_responses < 2:
            raise IbpoError(f"--also {text}: compares two responses to a problem; ask for --num-responses 2 or more")
        found.append(replace(first, configuration=f"{first.configuration}, {dialogue.name}", dialogue=dialogue))
    return list({way.configuration: way for way in found}.values())


def local_policy(model: str, *, max_tokens: int, temperature: float, seed: int, batch_size: int, dtype: str) -> Policy:
    """A model's folder, a hub id, or `embedded:EXPERIMENT[/STAGE]`.

    Raises:
        IbpoError: says what is wrong with the model and what to do.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if ":" in model and not Path(model).exists() and not model.startswith("embedded:"):
        kind, _, name = model.partition(":")
        raise IbpoError(
            f"{model}: {kind!r} names no kind of model; did you mean embedded:{name}? Or name a folder, or a hub id"
        )
    model = resolve_model(model)
    try:
        from ibpo.rollouts import HFRequestSampler, HFSampler, load_policy
    except ModuleNotFoundError as error:
        raise IbpoError(f"a local model needs {error.name}: pip install 'ibpo[train]'") from None
    loaded, tokenizer = load_policy(model, dtype=dtype)
    sampler = HFSampler(
        loaded, tokenizer, max_completion_length=max_tokens, temperature=temperature, batch_size=batch_size
    )

    def sampler_for(way: Way) -> Sampler:
        return HFRequestSampler(sampler, _writer(tokenizer, way), seed=seed, batch_size=batch_size)

    def count_tokens(text: str) -> int:
        any_tokenizer: Any = tokenizer
        return len(any_tokenizer(text, add_special_tokens=False)["input_ids"])

    return Policy(
        sampler_for=sampler_for, count_tokens=count_tokens, engine=versions(), endpoint=None, tokenizer=tokenizer
    )


def _writer(tokenizer: Any, way: Way) -> Any:
    from ibpo.rollouts import PromptWriter

    return PromptWriter(
        tokenizer=tokenizer,
        response_groups=way.response_groups,
        template_options=way.template_options,
        adapt=way.adapt,
    )


def default_max_tokens(model: str | None, task: str) -> int:
    """The longest response where nobody says: 1,024 tokens, or fewer where the model or the task has room for fewer.

    Args:
        model: of this machine; None: served.
        task: an embedded experiment's responses have a known length.
    """
    limit = MAX_TOKENS if task not in EXPERIMENTS else min(MAX_TOKENS, experiment_named(task).max_completion_length)
    if model is None:
        return limit
    try:
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False).get_text_config()
    except Exception:  # whatever is wrong with the model is said when it is loaded
        return limit
    room = getattr(config, "max_position_embeddings", None)
    return limit if not isinstance(room, int) else max(1, min(limit, room // 2))


def weights_digest(model: str) -> str:
    """A hash of a folder's weights, so that a policy trained again into the same folder is known as another one.

    It reads 256 places of large files, a second's work: fine-tuning moves weights everywhere. "" for a hub id.
    """
    found = hashlib.blake2b(digest_size=8)
    files = sorted(path for kind in ("*.safetensors", "*.bin") for path in Path(resolve_model(model)).glob(kind))
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for part in range(256):
                file.seek(part * size // 256)
                found.update(file.read(min(1 << 16, size // 256 + 1)))
    return found.hexdigest() if files else ""


def served_policy(
    endpoint: Endpoint,
    *,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    top_p: float | None,
    force: bool,
    tokenizer: str = "",
) -> Policy:
    """A model behind an OpenAI-compatible server; response groups are asked for, and forced where the server can.

    What is forced is written here, as the model's chat template writes it, and sent as token ids: the template and the
    tokenizer are those of `tokenizer`, of the model's folder, or the server's own (vLLM, llama.cpp).

    Raises:
        IbpoError: Openings must be forced, and none of these is there.
    """
    try:
        from ibpo.rollouts import EndpointSampler, ask_for_tokenizer
    except ModuleNotFoundError as error:
        raise IbpoError(f"an endpoint needs {error.name}: pip install 'ibpo[endpoint]'") from None
    found: Any = None
    if tokenizer or (Path(endpoint.model).is_dir() and (Path(endpoint.model) / "tokenizer_config.json").exists()):
        found = load_tokenizer(tokenizer or endpoint.model)
    elif force:
        found = ask_for_tokenizer(endpoint)
        if found is None:
            raise IbpoError(
                f"--force: {endpoint.base_url} does not say how it renders prompts, so an opening might stand in "
                "another prompt than is meant; name the model's tokenizer by --engine tokenizer=FOLDER, or leave "
                "--force out"
            )

    def sampler_for(way: Way) -> Sampler:
        options: dict[str, Any] = {} if top_p is None else {"top_p": top_p}
        known = found is not None and bool(found.chat_template)
        asked = translate(way.template_options, family_of(found)) if known and way.adapt else way.template_options
        if body := {**({"chat_template_kwargs": dict(asked)} if asked else {}), **way.body}:
            options["extra_body"] = body
        return EndpointSampler(
            endpoint=endpoint,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            response_groups=way.response_groups,
            forcing="render" if force else "none",
            writer=None if found is None else _writer(found, way),
            render_all=False,
            options=options,
        )

    def count_tokens(text: str) -> int:
        return len(found(text, add_special_tokens=False)["input_ids"])

    return Policy(
        sampler_for=sampler_for,
        count_tokens=None if found is None else count_tokens,
        engine=versions() | {"server": describe_server(endpoint)},
        endpoint=endpoint,
        tokenizer=found,
    )


def versions() -> dict[str, str]:
    """Python's version and those of the packages that matter, where installed."""
    return {"python": platform.python_version(), **versions_of(PACKAGES)}


def describe_server(endpoint: Endpoint) -> dict[str, Any]:
    """What the server says of its model (`/v1/models`) and version (vLLM's `/version`); empty where it does not."""
    told: dict[str, Any] = {}
    with suppress(IbpoError):
        listed = endpoint.fetch("models", seconds=5.0).get("data")
        rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
        for row in rows:
            if row.get("id") == endpoint.model:
                told |= {key: row[key] for key in ("owned_by", "root", "max_model_len") if key in row}
    with suppress(IbpoError):
        told["version"] = endpoint.fetch("/version", seconds=5.0).get("version")
    return told


Json = dict[str, Any]


class Calls:
    """`RUN/calls.jsonl`: a line when a call begins to sample, another when it ends; a killed call has no second line.

    What a killed call sampled stands in the store, which keeps the order of arrival: its tokens are counted there, so
    that its bill lacks only retries and what was in flight.
    """

    def __init__(self, path: Path, store: RolloutStore) -> None:
        self.journal, self.store = Journal(path), store
        self.journal.rows()  # cuts off what a kill left
        self._begun, self._started = time.time(), time.monotonic()

    def begin(self, command: str, engine: Mapping[str, Any], price: tuple[float, float]) -> None:
        """Write down who samples, before anything is sampled."""
        self.journal.add({"command": command, "engine": dict(engine), "begun": self._begun, "price_per_million": price,
                      "num_kept": len(self.store)})  # fmt: skip

    def end(self, num_new: int, endpoint: Endpoint | None) -> None:
        """Write down what the call took, also where it stopped at an error."""
        bill = {name: getattr(endpoint.bill, name) for name in endpoint.bill.__dataclass_fields__} if endpoint else None
        self.journal.add({"num_new": num_new, "seconds": time.monotonic() - self._started, "bill": bill})

    def all(self) -> list[Json]:
        """Every call with what it took; `ended` tells whether it said so itself.

        Raises:
            IbpoError: for a line that is no call.
        """
        calls: list[Json] = []
        for number, row in enumerate(self.journal.rows(), start=1):
            if "command" in row:
                calls.append(row | {"ended": False})
            elif calls:
                calls[-1] |= row | {"ended": True}
            else:
                raise IbpoError(f"{self.journal.path} line {number}: is no call; remove the line")
        begins = [call["num_kept"] for call in calls] + [len(self.store)]
        stored = list(self.store.rows()) if any(not call["ended"] for call in calls) else []
        for call, first, end in zip(calls, begins, begins[1:], strict=False):
            if not call["ended"]:
                kept = stored[first:end]
                used = [(row["num_prompt_tokens"], row["num_completion_tokens"]) for row in kept]
                tokens = [sum(filter(None, column)) for column in zip(*used, strict=True)] or [0, 0]
                cost = sum(n * price for n, price in zip(tokens, call["price_per_million"], strict=True)) / 1e6
                call |= {"num_new": len(kept), "seconds": None, "bill": {
                    "num_requests": len(kept), "num_unmetered": sum(None in pair for pair in used),
                    "prompt_tokens": tokens[0], "completion_tokens": tokens[1], "cost": cost}}  # fmt: skip
        return calls


def total_bill(calls: list[Json]) -> Json | None:
    """The bills of all calls in one; None where nothing is paid for. What was not reported is unknown, not free.

    Example:
        >>> total_bill([{"bill": {"cost": 1.0}}, {"bill": {"cost": 2.0, "num_retries": 3}}])["cost"]
        3.0
    """
    bills = [call["bill"] for call in calls if call.get("bill") is not None]
    if not bills:
        return None
    total = {name: sum(bill.get(name, 0) for bill in bills) for name in Bill.__dataclass_fields__}
    return total | {"cost": None} if total["num_unmetered"] else total


SECONDS_BETWEEN_LINES = 30.0
SECONDS_TO_MEASURE = 5.0
"""From the first response on, before the time left is estimated: until then the model is loaded, a batch is made."""


class EvalProgress:
    """Counts outcomes; estimates what is left from what this call has done so far."""

    def __init__(
        self, console: Console, total: int, num_kept: int, endpoint: Endpoint | None, *, more: Callable[[], str] = str
    ) -> None:
        self.console, self.total, self.num_kept, self.endpoint = console, total, num_kept, endpoint
        self.more = more
        self.num_new = self.num_failed = 0
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[more]}"))  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=num_kept, more="")
        self._last = time.monotonic()
        self._first = math.inf
        self._num_first = 0

    def __enter__(self) -> EvalProgress:
        if self.num_kept:
            self._say(f"{self.num_kept} of {self.total} responses are there already")
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self.num_new and error is None:
            self._say(self.text())

    def on_outcome(self, outcome: Sampled | IbpoError) -> None:
        """One more response, or one more failure."""
        bad = isinstance(outcome, IbpoError)
        self.num_failed, self.num_new = self.num_failed + bad, self.num_new + (not bad)
        now = time.monotonic()
        if self._first == math.inf and not bad:
            self._first = now
        if now - self._first < 1.0:
            self._num_first = self.num_new  # the batch that the first one came with
        self._bar.update(self._task, completed=self.num_kept + self.num_new, more=self.text())
        if not self.console.is_terminal and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._say(self.text())

    def text(self) -> str:
        """Responses so far, time left, money spent and still to come.

        Example:
            >>> progress = EvalProgress(Console(stderr=True), total=100, num_kept=40, endpoint=None)
            >>> progress.text()
            '40 of 100 responses'
        """
        done = self.num_kept + self.num_new
        left = self.total - done
        parts = [f"{done} of {self.total} responses"]
        measured, since = self.num_new - self._num_first, time.monotonic() - self._first
        if measured > 0 and since >= SECONDS_TO_MEASURE and left > 0:
            parts.append(f"about {_duration(since / measured * left)} left")
        bill = self.endpoint.bill if self.endpoint else None
        if bill is not None and bill.num_unmetered and max(self.endpoint.price_per_million) > 0:  # pyright: ignore[reportOptionalMemberAccess]
            parts.append(f"cost unknown: of {bill.num_unmetered} replies the server reported no usage")
        elif bill is not None and bill.cost > 0 and self.num_new:
            parts.append(f"cost {bill.cost:.4g}, about {bill.cost / self.num_new * left:.4g} to come")
        if self.num_failed:
            parts.append(f"{self.num_failed} failed so far")
        if more := self.more():
            parts.append(more)
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
