"""Make an embedded experiment's model from nothing: pretraining, cold start, the gate that it must pass, its card.

It is a Llama of about 0.36M parameters with a tokenizer of whole words. `ibpo demo --from-scratch` runs this file, as a
job of its own.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from experiments.corpora import CURRICULA, Pairs, Stage
from ibpo.demo import Experiment, ModelJob, StepProgress, experiment_named, quiet_libraries
from ibpo.responses import build_sequential_vote, encode_prefix, external_vote, read_sequential_vote
from ibpo.rollouts import HFSampler
from ibpo.tasks import distinct, stream
from ibpo.training import supervised_fine_tune
from ibpo.types import Problem

PRACTICE_KEPT = 0.15
"""Share of the cold start's sequences that go on practising what was practised before it."""
VOTES_PER_PROBLEM = 4
"""Orders in which the same eight attempts are made into a vote."""
MAX_TRUNCATED = 0.02
"""Largest share of a response group's responses that may be truncated where the cold start passes its gate."""
GATE_DRAWS = 4
"""Extended responses, and external votes, per problem of the gate: a single draw has much luck on hopeless problems."""
PAD, EOS = "<pad>", "<eos>"
Progress = Callable[[str, float], None]
"""Takes the name of the stage and the share of it that is done."""


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Splits at white space; one token per known word; bytes for anything else.

    So any text can be encoded, though not well: the model was never trained on bytes.
    """
    vocabulary = [PAD, EOS, *words, *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], byte_fallback=True, ignore_merges=True
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS, padding_side="left")


def build_model(tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 96, num_layers: int = 3) -> LlamaForCausalLM:
    """A freshly initialised model (global torch seed)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 8 // 3,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=hidden_size**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]  # one number, the stubs say more
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )


def build(experiment: Experiment, out_dir: Path, scratch: Path, seed: int, on_progress: Progress) -> None:
    """Write `pretrained/` and `cold_start/` into `out_dir`; stages that are there already are kept.

    The stages: pretraining on the task's corpus; practice (if any); the cold start on both response groups, extended
    responses built from the pretrained model's own samples where the task's corpus has none; polish (if any).

    Raises:
        RuntimeError: if the cold start does not pass its gate.
    """
    if (out_dir / "cold_start" / "model.safetensors").exists():
        return
    curriculum = CURRICULA[experiment.name]
    tokenizer = build_tokenizer(curriculum.words)
    fit = Fit(tokenizer=tokenizer, scratch=scratch, seed=seed, on_progress=on_progress)
    torch.manual_seed(seed)
    pretrained = fit.stage(
        "pretraining",
        build_model(tokenizer),
        curriculum.pretraining,
        lambda rng, n: list(islice(curriculum.pretraining_pairs(rng), n)),
    )
    model = copy.deepcopy(pretrained)

    def standard(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        return list(islice(curriculum.standard_pairs(rng), count))

    def extended(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        if curriculum.extended_pairs is None:
            votes = _votes_from_samples(experiment, pretrained, tokenizer, count, rng, on_progress)
            return list(islice(votes, count))
        return list(islice(curriculum.extended_pairs(rng), count))

    def practice(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        return list(islice(curriculum.practice_pairs(rng), count)) if curriculum.practice_pairs else []

    if curriculum.practice is not None:
        model = fit.stage(
            "practice",
            model,
            curriculum.practice,
            lambda rng, n: practice(rng, n * 3 // 4) + standard(rng, n - n * 3 // 4),
        )

    def mixture(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        pairs = extended(rng, round(curriculum.extended_share * count))
        pairs += practice(rng, round(PRACTICE_KEPT * count))
        return pairs + standard(rng, count - len(pairs))

    model = fit.stage("cold_start", model, curriculum.cold_start, mixture)
    if curriculum.polish is not None:
        model = fit.stage(
            "polish",
            model,
            curriculum.polish,
            lambda rng, n: extended(rng, n * 4 // 5) + standard(rng, n - n * 4 // 5),
            decisions=curriculum.decision_words,
        )
    report = gate(experiment, model, tokenizer)
    (scratch / "gate.json").write_text(json.dumps(report, indent=2))
    if not report["passed"]:
        raise RuntimeError(f"the cold start of {experiment.name!r} did not pass its gate: {report}")
    for name, made in (("pretrained", pretrained), ("cold_start", model)):
        _save(made, tokenizer, out_dir / name)
        write_model_card(out_dir / name, experiment, name, made.num_parameters(), report)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Runs the stages of supervised training one after the other; a finished stage is never repeated."""

    tokenizer: PreTrainedTokenizerBase
    scratch: Path
    seed: int
    on_progress: Progress

    def stage(
        self,
        name: str,
        model: PreTrainedModel,
        stage: Stage,
        make_pairs: Callable[[np.random.Generator, int], list[tuple[str, str]]],
        decisions: frozenset[str] = frozenset(),
    ) -> PreTrainedModel:
        """Train one stage, or load what it left; with `decisions`, three sequences of four carry loss on these only."""
        done = self.scratch / name / "model"
        if (done / "model.safetensors").exists():
            return AutoModelForCausalLM.from_pretrained(done, dtype=torch.float32)
        rng = np.random.default_rng([self.seed, *name.encode()])
        pairs = make_pairs(rng, stage.num_pairs)
        pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        torch.manual_seed(self.seed)
        supervised_fine_tune(
            model,
            self.tokenizer,
            pairs,
            self.scratch / name,
            learning_rate=stage.learning_rate,
            batch_size=stage.batch_size,
            seed=self.seed,
            loss_on=self._on_decisions(decisions) if decisions else None,
            callbacks=[StepProgress(lambda share: self.on_progress(name, share))],
        )
        model.save_pretrained(done)
        # Not `model`: trainers patch its `forward` on the instance, and a deep copy keeps calling the original's.
        return AutoModelForCausalLM.from_pretrained(done, dtype=torch.float32)

    def _on_decisions(self, decisions: frozenset[str]) -> Callable[[int, list[int]], list[int]]:
        tokenizer: Any = self.tokenizer  # its stubs do not tell one id from several
        ids = set(tokenizer.convert_tokens_to_ids(sorted(decisions))) | {tokenizer.eos_token_id}
        answer = tokenizer.convert_tokens_to_ids("<answer>")

        def loss_on(index: int, tokens: list[int]) -> list[int]:
            if index % 4 == 0:
                return [1] * len(tokens)
            return [int(t in ids or (i > 0 and tokens[i - 1] == answer)) for i, t in enumerate(tokens)]

        return loss_on


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    model.generation_config.do_sample = True
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prefix: str,
    max_completion_length: int,
) -> list[str]:
    """One completion per problem, opened by `prefix`, as text."""
    return sample_ended(model, tokenizer, problems, prefix, max_completion_length)[0]


def sample_ended(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    prefix: str,
    max_completion_length: int,
) -> tuple[list[str], list[bool]]:
    """`sample_texts`, and whether each completion ended by itself."""
    sampler = HFSampler(model, tokenizer, max_completion_length=max_completion_length, batch_size=512)
    prompts = tokenizer([str(p.prompt) for p in problems], add_special_tokens=False)["input_ids"]
    opening = encode_prefix(prefix, tokenizer)
    completions = sampler.sample(prompts, [opening] * len(prompts))
    ended = [ids[-1] == tokenizer.eos_token_id for ids in completions]
    return tokenizer.batch_decode(completions, skip_special_tokens=True), ended


def _votes_from_samples(
    experiment: Experiment,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    num_votes: int,
    rng: np.random.Generator,
    on_progress: Progress,
) -> Pairs:
    """Sequential votes out of eight standard responses of the pretrained model to the same problem."""
    standard = experiment.response_groups[0]
    source = stream(experiment.task, "train", int(rng.integers(2**31)), CURRICULA[experiment.name].corpus_mix)
    made, chunk = 0, 2048
    while True:
        problems = list(islice(source, chunk))
        attempts: list[list[tuple[str, str]]] = [[] for _ in problems]
        for _ in range(8):
            texts = sample_texts(model, tokenizer, problems, standard.prefix, experiment.max_completion_length)
            for i, text in enumerate(texts):
                answer = standard.extract_answer(text)
                if answer is not None:
                    attempts[i].append((text.removeprefix(standard.prefix).split("<answer>")[0].strip(), answer))
        for problem, tries in zip(problems, attempts, strict=True):
            if len(tries) == 8:
                for _ in range(VOTES_PER_PROBLEM):
                    order = rng.permutation(8)
                    yield str(problem.prompt), build_sequential_vote([tries[i] for i in order])
        made += VOTES_PER_PROBLEM * len(problems)
        on_progress("sampling attempts", min(1.0, made / num_votes))


def gate(experiment: Experiment, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Does the cold start do what its response groups promise? Measured on 2,000 problems of the train split.

    For voting (final answer = plurality and stop rule kept in at least 98 % of responses, accuracy within one
    point of external voting by the same rule on the model's own standard responses); for thinking, a closed thought and
    an answer in at least 98 %. For both, at most 2 % of each group's responses truncated: they are neither right nor
    wrong, and nothing is learnt from them.
    """
    torch.manual_seed(99)
    problems = distinct(experiment.task, "train", 2000, seed=99)
    standard, extended = experiment.response_groups
    length = experiment.max_completion_length
    drawn = [sample_ended(model, tokenizer, problems, extended.prefix, length) for _ in range(GATE_DRAWS)]
    texts = [text for draw, _ in drawn for text in draw]
    ended = [whole for _, draw in drawn for whole in draw]
    gold = [p.answer for p in problems]
    report: dict = {"num_problems": len(problems)}
    report["extended_accuracy"] = float(
        np.mean([extended.extract_answer(t) == g for t, g in zip(texts, gold * GATE_DRAWS, strict=True)])
    )
    single, single_ended = sample_ended(model, tokenizer, problems, standard.prefix, length)
    report["standard_accuracy"] = float(
        np.mean([standard.extract_answer(t) == g for t, g in zip(single, gold, strict=True)])
    )
    report["extended_truncated"], report["standard_truncated"] = (
        1 - float(np.mean(ended)),
        1 - float(np.mean(single_ended)),
    )
    short = max(report["extended_truncated"], report["standard_truncated"]) <= MAX_TRUNCATED
    if CURRICULA[experiment.name].extended_pairs is not None:
        report["well_formed"] = float(np.mean([extended.extract_answer(t) is not None for t in texts]))
        report["passed"] = short and report["well_formed"] >= 0.98
        return report
    report["keeps_rule"] = float(np.mean([read_sequential_vote(t).keeps_rule for t in texts]))
    hits = []
    for _ in range(GATE_DRAWS):
        draws = [sample_texts(model, tokenizer, problems, standard.prefix, length) for _ in range(8)]
        for i, answer in enumerate(gold):
            hits.append(external_vote([standard.extract_answer(d[i]) for d in draws])[0] == answer)
    report["external_voting_accuracy"] = float(np.mean(hits))
    report["external_minus_extended"] = report["external_voting_accuracy"] - report["extended_accuracy"]
    report["passed"] = short and report["keeps_rule"] >= 0.98 and report["external_minus_extended"] <= 0.01
    return report


STAGES = {
    "pretrained": "after pretraining, before the cold start",
    "cold_start": "after the cold start: it knows both response groups, and not yet where each one pays",
}


def write_model_card(
    directory: Path, experiment: Experiment, stage: str, num_parameters: int, gate: dict[str, Any]
) -> None:
    """Write `README.md` next to the weights: what it is, how it was made, what is designed in, what it is not for."""
    curriculum = CURRICULA[experiment.name]
    standard, extended = experiment.response_groups
    measured = "".join(f"- {name}: {round(value, 4)}\n" for name, value in gate.items())
    levels = ", ".join(f"{level} ({share:.0%})" for level, share in experiment.task.MIX.items())
    (directory / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
tags: [toy-model, ibpo]
---
# ibpo embedded model: {experiment.name}, {stage.replace("_", " ")}

A Llama of {num_parameters:,} parameters, {STAGES[stage]}. It exists to show inference-budget-constrained policy
optimisation on two CPU cores in minutes, and has no other use.

## The task
{experiment.asked}

- standard response opens with `{standard.prefix}`, extended response with `{extended.prefix}`
- levels of the problems: {levels}

## What is designed into the data
{experiment.designed_in}

## How it was made
From nothing, on a corpus that the package draws itself, with `trl.SFTTrainer`:

    ibpo demo --experiment {experiment.name} --from-scratch

Stages: pretraining {json.dumps(_stage(curriculum.pretraining))}; practice {json.dumps(_stage(curriculum.practice))};
cold start {json.dumps(_stage(curriculum.cold_start))}; polish {json.dumps(_stage(curriculum.polish))}.
Problems of the test split (half of all, by a hash of the problem itself) are in none of them.

## Gate of the cold start, on 2,000 problems of the train split
{measured}""",
        encoding="utf-8",
    )


def _stage(stage: Stage | None) -> dict[str, Any] | None:
    return None if stage is None else asdict(stage)


def run_job(job: ModelJob) -> None:
    """Do a job of `ibpo demo --from-scratch`."""
    quiet_libraries()
    pretrained, cold_start = Path(job.pretrained), Path(job.cold_start)
    assert pretrained.parent == cold_start.parent
    build(experiment_named(job.experiment), cold_start.parent, Path(job.seed_dir) / "build", job.seed, job.report)
    job.report("done", 1.0)


if __name__ == "__main__":
    run_job(ModelJob.begin(sys.argv[1]))
