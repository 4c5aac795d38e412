"""One job of a run of baselines, in a process of its own: `python -m experiments.jobs JOB.json`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from experiments.context import NUM_PROBE_RESPONSES, BaselineJob, Context
from experiments.recipes import BUDGETS, Recipe, candidate_name, options_of, read_tuning, trainer_of, tuned_by
from ibpo.demo import NUM_SAMPLED, quiet_libraries
from ibpo.runs import write_text_atomic
from ibpo.types import Problem

PROBE, ROUTE, CORRECT = "probe", "solve-then-learn", "self-correction"
NUM_ORACLE_RESPONSES = 8


def outputs(job: BaselineJob) -> list[Path]:
    """The files of a finished job."""
    context = Context(job)
    if job.name == PROBE:
        files = [context.responses("cold_start", how, split=s) for how in GROUPS for s in ("probe", "validation")]
        return [*files, context.responses("cold_start", "extended", split="oracle")]
    if job.name == ROUTE:
        return [context.home / "solve-then-learn.json"]
    if job.name == CORRECT:
        return [context.responses("self-correction")]
    _, candidate = tuned_by(job.name)
    model = context.home / "policies" / job.name / "model" / "model.safetensors"
    return [model, context.responses(job.name, split="test" if candidate is None else "validation")]


GROUPS = ("standard", "extended")


def num_judged(job: BaselineJob) -> int:
    """Responses of a policy to each unseen problem: one is enough where there are 4,000 of them, as in a demo run."""
    return 1 if job.num_problems >= 4_000 else NUM_SAMPLED


def run_job(job: BaselineJob) -> None:
    """Do what is missing of a job."""
    quiet_libraries()
    context = Context(job)
    if job.name == PROBE:
        probe(context)
    elif job.name == ROUTE:
        from experiments.supervised import route

        rows = [row for row in read_tuning(Path(job.tuning_file)) if row["policy"] == ROUTE and row["chosen"]]
        tried = route(context, BUDGETS, {row["options"]["q+"]: row["options"]["C"] for row in rows})
        write_text_atomic(context.home / "solve-then-learn.json", json.dumps(tried, indent=1))
    elif job.name == CORRECT:
        from experiments.two_turns import write_dialogues

        seed = 40_000 + 100 * job.seed
        path = context.responses("self-correction")
        write_dialogues(path, context.cold_start, context, context.job.unseen_problems(), num_judged(job), seed)
    else:
        policy(context)
    context.job.report("done", 1.0)


def probe(context: Context) -> None:
    """Sample the cold start, forced into each group, on probe and validation problems; for the oracle on the test."""
    counts = {"probe": NUM_PROBE_RESPONSES, "validation": NUM_PROBE_RESPONSES}
    for i, (split, problems) in enumerate((("probe", context.probe), ("validation", context.validation))):
        for j, how in enumerate(GROUPS):
            path = context.responses("cold_start", how, split=split)
            _sample(context, path, context.cold_start, problems, how, counts[split], 50_000 + 10 * i + j)
            context.job.report(f"sampling the {split} problems", (2 * i + j + 1) / 6)
    path = context.responses("cold_start", "extended", split="oracle")
    _sample(context, path, context.cold_start, context.job.unseen_problems(), "extended", NUM_ORACLE_RESPONSES, 50_030)


def policy(context: Context) -> None:
    """Train a policy, or a candidate of its tuning, and sample it on the unseen, or on the validation problems."""
    name = context.job.name
    recipe, candidate = tuned_by(name)
    out_dir = context.home / "policies" / name
    tuning = read_tuning(Path(context.job.tuning_file))
    options = options_of(recipe, tuning) | (candidate or {})
    if not (out_dir / "model").exists():
        same = None if candidate is not None else _trained_as_candidate(context, recipe, tuning)
        if same is not None:
            shutil.copytree(same, out_dir / "model.partial", dirs_exist_ok=True)
            (out_dir / "model.partial").rename(out_dir / "model")
        else:
            write_text_atomic(out_dir / "options.json", json.dumps(options))
            trainer_of(recipe)(context, out_dir, **options)
    split = "test" if candidate is None else "validation"
    problems = context.job.unseen_problems() if candidate is None else context.validation
    count = num_judged(context.job) if candidate is None else NUM_SAMPLED
    path = context.responses(name, split=split)
    if recipe.two_turns:
        from experiments.two_turns import write_dialogues

        write_dialogues(path, out_dir / "model", context, problems, count, 30_000 + 100 * context.job.seed)
    else:
        _sample(context, path, out_dir / "model", problems, "", count, 30_000)


def _trained_as_candidate(context: Context, recipe: Recipe, tuning: list[dict]) -> Path | None:
    """The chosen candidate's model, where this very policy was trained when it was tuned."""
    for row in tuning:
        if row["policy"] == recipe.name and row["chosen"] and row["seed"] == context.job.seed:
            model = context.home / "policies" / candidate_name(recipe.name, row["options"]) / "model"
            return model if model.exists() else None
    return None


def _sample(
    context: Context, path: Path, model_dir: Path, problems: list[Problem], how: str, count: int, seed: int
) -> None:
    """Sample a model, forced into a group or (how = "") choosing by itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ibpo.evaluation import write_responses

    if path.exists():
        return
    groups = context.experiment.response_groups
    write_responses(
        path,
        AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(model_dir),
        problems,
        groups,
        prefix={"": "", "standard": groups[0].prefix, "extended": groups[1].prefix}[how],
        num_samples=count,
        max_completion_length=context.experiment.max_completion_length,
        seed=seed + 100 * context.job.seed,
    )


if __name__ == "__main__":
    run_job(BaselineJob.begin(sys.argv[1]))
