"""A cold start from a recipe: sample solutions, build responses, fine-tune, check. What is done is never repeated."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from ibpo.config import check_settings, nearest
from ibpo.endpoint import Endpoint, read_api_key
from ibpo.errors import IbpoError
from ibpo.responses import (
    FORMS,
    build_response_groups,
    check_trainable,
    encode_groups,
    family_of,
    offer,
    open_response,
    prefilled,
    prompt_notes,
    spell,
)
from ibpo.rewards import MixtureOfJudges
from ibpo.rollouts import (
    Collected,
    EndpointSampler,
    Forcing,
    HFRequestSampler,
    HFSampler,
    PromptWriter,
    Request,
    RolloutStore,
    Sampled,
    Sampler,
    VLLMSampler,
    collect,
    encode_prompt,
    load_policy,
    load_vllm,
)
from ibpo.runs import RunDir
from ibpo.training.checkpoints import (
    STATE_OF_ONE_PROCESS,
    CheckpointsInOrder,
    check_checkpoint,
    go_on,
    saving,
    wrong_setting,
)
from ibpo.training.cold_start.data_set import build_data_set, offered_groups, read_data_set, solution_requests
from ibpo.training.cold_start.gate import check, gate_requests, measure
from ibpo.training.cold_start.groups import check_groups, group_gate_requests, measure_groups, own_groups
from ibpo.training.cold_start.recipe import ColdStartConfig
from ibpo.training.monitoring import RecordMetrics, ShowProgress
from ibpo.types import Problem, ResponseGroup

MAX_FAILED = 0.05
"""Share of requests that may fail before the run stops; a rerun asks for them again."""


@dataclass(frozen=True, kw_only=True)
class ColdStartJob:
    """All that a cold start is made of."""

    config: ColdStartConfig
    model_path: str
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    judge: MixtureOfJudges
    """Its constraints are for what is imitated; the gate counts right answers."""
    run: RunDir


class ColdStart:
    """The four stages, each of which writes a file or folder that the next one reads."""

    def __init__(self, job: ColdStartJob, console: Console) -> None:
        self.job, self.config, self.run, self.console = job, job.config, job.run, console
        self.form = FORMS[job.config.build.form]
        self.groups = groups_of(job.config)
        self.tokenizer: Any = None
        self.model: Any = None
        self._check_options()

    def go(self) -> dict[str, Any]:
        """Do what is missing; returns what goes to `results.json`.

        Raises:
            IbpoError: for anything in the recipe, the model, the server or the machine that the user can fix.
        """
        try:
            provenance = self.sample_and_build()
            self.fine_tune()
            return {"model": self.config.model.path, "data_set": provenance, **self.check()}
        except torch.cuda.OutOfMemoryError:
            raise IbpoError(
                "the GPU's memory is too small; lower sample.batch_size or train.batch_size, or set "
                "train.lora_rank = 16"
            ) from None

    def sample_and_build(self) -> dict[str, Any]:
        """Solutions into the store, responses out of them into the data set; returns its provenance."""
        if self.run.dataset.exists() and self.run.provenance.exists():
            try:
                found = json.loads(self.run.provenance.read_text(encoding="utf-8"))
                assert found["counts"] and found["responses"]
                return found
            except (ValueError, RecursionError, TypeError, KeyError, AssertionError):
                raise IbpoError(
                    f"{self.run.provenance}: is damaged; remove it and {self.run.dataset.name}, and run the "
                    "same command again"
                ) from None
        requests = solution_requests(self.job.problems, self.config)
        sample = self.config.sample
        path = Path(sample.rollouts).expanduser() if sample.rollouts else self.run.rollouts
        store = RolloutStore(path, settings=sample_settings(self.config))
        missing = sum(request not in store for request in requests)
        if missing and sample.engine == "transformers":
            self._load_model(self.job.model_path)
        else:
            self._load_tokenizer()
        self._check_template()
        self._say(f"solutions: {missing} of {len(requests)} to sample by {sample.engine}, -> {path}")
        if missing:
            collected = collect(WhileItAnswers(self._sampler()), requests, store)
            self._check_collected(collected, len(requests))
        provenance = build_data_set(
            self.job.problems, store, self.job.judge, self.config, self.run, chat=bool(self.tokenizer.chat_template)
        )
        counts = provenance["counts"]
        self._say(
            f"{counts['solutions']} solutions, {counts.get('truncated', 0)} cut off, {counts.get('unanswered', 0)} "
            f"without answer, {counts['right']} right; built: "
            + ", ".join(f"{number} {name}" for name, number in provenance["responses"].items())
        )
        return provenance

    def fine_tune(self) -> None:
        """The data set into `model/`, by `trl.SFTTrainer`."""
        if self.run.model.is_dir():
            return
        self._load_model(self.job.model_path)
        writer = self._writer()
        family = family_of(self.tokenizer)  # what is imitated opens in the tokens that training forces
        pairs = [
            (writer.prompt_ids(row["prompt"]), spell(row["completion"], family))
            for row in read_data_set(self.run.dataset)
        ]
        train = self.config.train
        num_steps = max(1, int(len(pairs) * train.num_epochs / train.batch_size))
        self._say(f"fine-tuning on {len(pairs)} responses, about {num_steps} steps, -> {self.run.model}")
        progress = ShowProgress(self.console)
        options: dict[str, Any] = {"logging_steps": 10, "save_steps": max(1, min(200, num_steps // 10))}
        try:
            tuned = supervised_fine_tune(
                self.model,
                self.tokenizer,
                pairs,
                self.run.checkpoints,
                learning_rate=train.learning_rate,
                batch_size=train.batch_size,
                seed=train.seed,
                num_epochs=train.num_epochs,
                callbacks=[RecordMetrics(self.run.metrics), progress],
                peft_config=self._adapter(),
                quiet=True,
                **options | self.config.sft,
            )
        finally:
            progress.stop()
        partial = self.run.model.with_name("model.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with saving(self.run.model):
            tuned.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            os.replace(partial, self.run.model)
        self._forget()

    def check(self) -> dict[str, Any]:
        """Sample the trained policy on the held-out problems, judge, and hold it against the gate."""
        gate, mixture = self.config.gate, self.config.build.mixture
        own = self.config.response_group
        held_out = self.job.held_out
        requests = (
            group_gate_requests(held_out, self.config) if own else gate_requests(held_out, self.form, gate, mixture)
        )
        settings = {"max_completion_length": gate.max_completion_length, "seed": self.config.sample.seed}
        store = RolloutStore(self.run.gate, settings=settings)
        missing = sum(request not in store for request in requests)
        if missing:
            self._say(f"checking: {missing} of {len(requests)} responses to {len(self.job.held_out)} held-out problems")
            self._load_model(str(self.run.model))
            sampler = HFRequestSampler(
                self._hf_sampler(gate.max_completion_length),
                self._writer(offer_all=True),
                seed=self.config.sample.seed,
                batch_size=self.config.sample.batch_size,
            )
            self._check_collected(collect(sampler, requests, store), len(requests))
        rows = {(row["problem_id"], row["response_group"], row["number"]): row for row in store.rows()}
        judge, table = replace(self.job.judge, constraints=()), self.job.run.path / "responses.jsonl"
        if own:
            report = measure_groups(held_out, rows, self.config, judge, table)
            failures = check_groups(report, gate)
        else:
            report = measure(held_out, rows, self.form, judge, gate, table)
            failures = check(report, gate, mixture)
        return {"gate": asdict(report), "passed": not failures, "failures": [asdict(f) for f in failures]}

    def _sampler(self) -> Sampler:
        sample = self.config.sample
        if sample.engine == "transformers":
            return HFRequestSampler(
                self._hf_sampler(sample.max_tokens, sample.temperature),
                self._writer(),
                seed=sample.seed,
                batch_size=sample.batch_size,
            )
        make = endpoint_sampler if sample.engine == "endpoint" else vllm_sampler
        return make(self.config, self._writer(), self.job.model_path)

    def _check_template(self) -> None:
        """Before anything is sampled: `ibpo train` would refuse what comes out, hours later."""
        prompt = offer([], self.job.problems[0].prompt, chat=bool(self.tokenizer.chat_template))
        prefixes = {group.name: group.prefix for group in self.groups}
        check_trainable(self.tokenizer, prompt, prefixes, self.config.template, "template")
        for note in prompt_notes(self.tokenizer, prompt, [self.groups[0].prefix], self.config.template):
            self._say(f"caution: {note}")

    def _hf_sampler(self, max_completion_length: int, temperature: float = 1.0) -> HFSampler:
        return HFSampler(
            self.model,
            self.tokenizer,
            max_completion_length=max_completion_length,
            temperature=temperature,
            batch_size=self.config.sample.batch_size,
        )

    def _writer(self, *, offer_all: bool = False) -> PromptWriter:
        groups = offered_groups(self.config)
        if not offer_all:
            groups = own_groups(self.config) if self.config.response_group else [self.form.standard]
        return PromptWriter(
            tokenizer=self.tokenizer,
            response_groups=groups,
            offer_all=offer_all,
            template_options=self.config.template,
        )

    def _check_collected(self, collected: Collected, num_requests: int) -> None:
        if not collected.failures:
            return
        failed = f"{len(collected.failures)} of {num_requests} requests failed, the first: {collected.failures[0]}"
        if len(collected.failures) > MAX_FAILED * num_requests:
            raise IbpoError(f"{failed}; run the command again: it asks only for them")
        self._say(f"going on without: {failed}")

    def _check_options(self) -> None:
        from trl import SFTConfig

        mine = {"output_dir", "learning_rate", "per_device_train_batch_size", "num_train_epochs", "seed"}
        known = set(SFTConfig.__dataclass_fields__) - mine
        for key in self.config.sft:
            if key in mine:
                raise IbpoError(f"sft.{key}: is set by [train] or --out; set it there")
            if key not in known:
                raise IbpoError(f"sft.{key}: unknown key of SFTConfig; {nearest(key, known)}")
        check_settings("sft", self.config.sft, SFTConfig)
        try:  # before the solutions are sampled
            options = {"output_dir": str(self.run.checkpoints), "use_cpu": not torch.cuda.is_available()}
            SFTConfig(**options | self.config.sft)
        except Exception as error:
            raise wrong_setting("sft", error) from None
        self._adapter()

    def _adapter(self) -> Any:
        rank = self.config.train.lora_rank
        if not rank:
            return None
        try:
            from peft import LoraConfig
        except ModuleNotFoundError:
            raise IbpoError("train.lora_rank: needs peft: pip install 'ibpo[lora]'; or write 0") from None
        return LoraConfig(
            r=rank, lora_alpha=self.config.train.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )

    def _load_tokenizer(self) -> None:
        if self.tokenizer is None:
            path = self.job.model_path
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
                self.tokenizer("1 + 2 =")  # some of its settings are looked at only here
            except Exception as error:
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
                said = "there is none" if said.rstrip().endswith(":") else said  # a list of what there might be follows
                raise IbpoError(f"model.path: {path}: the tokenizer cannot be loaded: {said}; name another") from None
            _check_prefixes(self.tokenizer, self.config)

    def _load_model(self, path: str) -> None:
        if self.model is not None:
            return
        try:
            model, tokenizer = load_policy(path, dtype=self.config.model.dtype)
        except IbpoError as error:
            raise IbpoError(f"model.path: {error}") from None
        _check_prefixes(tokenizer, self.config)
        self.model = _to_device(model)
        self.tokenizer = tokenizer

    def _forget(self) -> None:
        """Trainers patch a model's `forward`: what is checked is what was saved."""
        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class WhileItAnswers:
    """A sampler that is given up where nothing comes of its first requests: a server that is not there."""

    sampler: Sampler
    max_failures: int = 16

    def sample_requests(self, requests: Sequence[Request]) -> Iterator[Sampled | IbpoError]:
        """See `Sampler`.

        Raises:
            IbpoError: where the first `max_failures` requests all failed; the others are not sent.
        """
        is_answered = False
        for number, outcome in enumerate(self.sampler.sample_requests(requests), start=1):
            is_answered = is_answered or not isinstance(outcome, IbpoError)
            if number >= self.max_failures and not is_answered:
                raise IbpoError(f"the first {number} requests failed, the last: {outcome}")
            yield outcome


def groups_of(config: ColdStartConfig) -> list[ResponseGroup]:
    """The recipe's response groups, or those of its voting form."""
    form = FORMS[config.build.form]
    return build_response_groups(config.response_group) if config.response_group else [form.standard, form.voting]


def _check_prefixes(tokenizer: PreTrainedTokenizerBase, config: ColdStartConfig) -> None:
    """The two response groups begin with different tokens, or `ibpo train` could not use what comes out."""
    key = "response_group" if config.response_group else "build.form"
    try:
        encode_groups(groups_of(config), tokenizer)
    except IbpoError as error:
        raise IbpoError(f"{key}: {error}; see `ibpo groups check {config.model.path}`") from None


def _to_device(model: PreTrainedModel) -> PreTrainedModel:
    if torch.cuda.is_available():
        model.to("cuda")  # pyright: ignore[reportArgumentType]
    return model


def supervised_fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[str | Sequence[int], str]],
    out_dir: Path,
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
    num_epochs: float = 1.0,
    loss_on: Callable[[int, list[int]], list[int]] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    peft_config: Any = None,
    quiet: bool = False,
    **sft_options: Any,
) -> PreTrainedModel:
    """Minimise the mean negative log-likelihood of the completions' tokens; prompts carry no loss.

    Args:
        model: the model to train, in place.
        tokenizer: its tokenizer; the end-of-sequence token is appended to each completion.
        pairs: (prompt, completion) texts; of a chat, the token ids of the prompt.
        out_dir: where checkpoints go; the last one is resumed if there is one.
        learning_rate: peak, with 3 % linear warm-up and cosine decay to zero.
        batch_size: sequences a step; sequences of about the same length go together.
        seed: of the data order.
        num_epochs: passes over the pairs.
        loss_on: (index of the pair, completion token ids) -> 1 for each token that carries loss; None: all of them.
        callbacks: passed on to the trainer.
        peft_config: of peft, e.g. a `LoraConfig`: only the adapter is trained, and merged into the model at the end.
        quiet: do not print the logs; callbacks get them anyway.
        **sft_options: passed on to `trl.SFTConfig`.
    """
    rows: dict[str, list[list[int]]] = {"input_ids": [], "completion_mask": []}
    prompts, completions = zip(*pairs, strict=True)
    prompt_ids = [encode_prompt(tokenizer, p) if isinstance(p, str) else list(p) for p in prompts]
    completion_ids = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    for i, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        completion = [*completion, tokenizer.eos_token_id]
        rows["input_ids"].append(prompt + completion)
        mask = loss_on(i, completion) if loss_on else [1] * len(completion)
        rows["completion_mask"].append([0] * len(prompt) + mask)
    options: dict[str, Any] = {
        "use_cpu": model.device.type == "cpu",
        "bf16": model.device.type != "cpu",
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 200,
        "save_total_limit": 1,
        "max_length": None,
    } | sft_options
    try:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict(rows),
            args=SFTConfig(
                output_dir=str(out_dir),
                learning_rate=learning_rate,
                per_device_train_batch_size=batch_size,
                num_train_epochs=num_epochs,
                seed=seed,
                completion_only_loss=True,
                **options,
            ),
            callbacks=[*(callbacks or []), CheckpointsInOrder()],
            peft_config=peft_config,
        )
    except Exception as error:
        raise wrong_setting("sft", error) from None
    if quiet:
        trainer.remove_callback(PrinterCallback)
    for checkpoint in out_dir.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():  # written last: a kill left the checkpoint half-written
            shutil.rmtree(checkpoint)
    last = get_last_checkpoint(str(out_dir)) if out_dir.is_dir() else None
    if last is not None:
        check_checkpoint(Path(last), needed=STATE_OF_ONE_PROCESS)
    go_on(trainer, Path(last) if last else None, table="sft")
    if peft_config is not None:
        adapted: Any = trainer.accelerator.unwrap_model(trainer.model)
        return adapted.merge_and_unload()
    return model


FORCINGS: dict[str, Forcing] = {"render": "render", "prefill": "prefill", "none": "none"}


def endpoint_sampler(config: ColdStartConfig, writer: PromptWriter, model_path: str) -> EndpointSampler:
    """A sampler of the server that the recipe names.

    Raises:
        IbpoError: where the key cannot be read.
    """
    del model_path  # the server has the model
    sample = config.sample
    if sample.forcing == "prefill" and sample.force_opening:
        _check_prefill(writer)
    # Where the text is rendered here, the template's options go into it.
    to_server = {"extra_body": {"chat_template_kwargs": dict(config.template)}}
    return EndpointSampler(
        endpoint=Endpoint(
            base_url=sample.base_url,
            model=sample.served_model or config.model.path,
            api_key=read_api_key(sample.api_key_file, "sample.api_key_file"),
            num_concurrent=sample.num_concurrent,
            price_per_million=(sample.price_prompt, sample.price_completion),
        ),
        max_tokens=sample.max_tokens,
        temperature=sample.temperature,
        seed=sample.seed,
        response_groups=writer.response_groups,
        forcing=FORCINGS[sample.forcing],
        writer=writer,
        options=to_server if config.template and sample.forcing != "render" else {},
    )


def _check_prefill(writer: PromptWriter) -> None:
    """Whether a server that continues messages would render the opening as it is.

    Raises:
        IbpoError: where the template makes another prompt of it.
    """
    user = [{"role": "user", "content": "2 + 2 ="}]
    if not writer.tokenizer.chat_template:
        return
    for prefix in dict.fromkeys(group.prefix for group in writer.response_groups):
        opened = open_response(writer.tokenizer, user, prefix, writer.template_options)
        try:
            made = prefilled(writer.tokenizer, user, prefix, writer.template_options)
        except Exception as error:  # what a template refuses, in its words
            made = str(error)[:100]
        if made != opened.prompt + opened.forced:
            raise IbpoError(
                f"sample.forcing: as a prefill, the chat template makes {made[-60:]!r} of the opening {prefix!r}; "
                "write forcing = 'render'"
            )


def vllm_sampler(config: ColdStartConfig, writer: PromptWriter, model_path: str) -> VLLMSampler:
    """By vLLM's offline engine, on this machine's GPU.

    Raises:
        IbpoError: where it is not installed or does not start.
    """
    sample = config.sample
    llm, make_params = load_vllm(model_path, dtype=config.model.dtype, seed=sample.seed)
    return VLLMSampler(
        llm,
        make_params,
        writer,
        max_tokens=sample.max_tokens,
        temperature=sample.temperature,
        seed=sample.seed,
        batch_size=sample.batch_size,
    )


def sample_settings(config: ColdStartConfig) -> dict[str, Any]:
    """What makes solutions comparable; the engine and its batches may change between a run and its rerun."""
    sample, form = config.sample, FORMS[config.build.form]
    return {
        "model": config.model.path,
        **(
            {"response_groups": [[one.name, one.instruction] for one in own_groups(config)]}
            if config.response_group
            else {"form": form.name, "instruction": form.standard.instruction}
        ),
        "temperature": sample.temperature,
        "max_tokens": sample.max_tokens,
        "force_opening": sample.force_opening,
        "template": dict(config.template),
        "data": config.data.path,
        "problem": config.data.problem or "question",  # as stores of before have it
        "id": config.data.id,
        **({"template_options": dict(config.template)} if config.data.template else {}),  # which goes by its name below
    } | {key: value for key in ("task", "config", "split", "template") if (value := getattr(config.data, key))}
