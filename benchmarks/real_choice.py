"""A run of `ibpo demo --experiment smollm2`, looked at again: shares on fresh problems, and one policy really sampled.

    python -m benchmarks.real_choice runs/smollm2

The share of each policy on problems that neither the training nor the demo's table has seen; and for one policy,
whether what it really writes is what the table says: the demo draws its responses among those of the cold start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ibpo.demo import SMOLLM2
from ibpo.evaluation.local_sampling import roll_out
from ibpo.responses import encode_groups
from ibpo.rewards import ExactJudge
from ibpo.rollouts import encode_prompt, score
from ibpo.tasks import distinct
from ibpo.training import read_states


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-problems", type=int, default=800)
    parser.add_argument("--num-sampled", type=int, default=150)
    parser.add_argument("--budget", default="0.5")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.run / "smollm2" / f"seed{options.seed}"
    table = {problem.problem_id for problem in distinct(SMOLLM2.task, "test", 400, seed=options.seed)}
    fresh = distinct(SMOLLM2.task, "test", options.num_problems, seed=900 + options.seed)
    cold_start = folder / "cold_start" / "model"
    tokenizer: Any = AutoTokenizer.from_pretrained(cold_start)
    model: Any = AutoModelForCausalLM.from_pretrained(cold_start).eval()
    groups = encode_groups(SMOLLM2.response_groups, tokenizer)
    problems = [problem for problem in fresh if problem.problem_id not in table]
    states = read_states(
        model, tokenizer, [encode_prompt(tokenizer, p.prompt) for p in problems], groups, SMOLLM2.temperature
    )
    first = [ids[0] for ids in groups.prefix_ids]
    old = model.get_output_embeddings().weight[first].detach().double().numpy()
    level = np.array([p.level for p in problems])
    for path in sorted((folder / "policies").glob("ibpo-*")):
        policy: Any = AutoModelForCausalLM.from_pretrained(path / "model")
        delta = policy.get_output_embeddings().weight[first].detach().double().numpy() - old
        share = states.shares(delta)[:, 1]
        by_level = {name: round(float(share[level == name].mean()), 3) for name in SMOLLM2.task.MIX}
        error = share.std() / np.sqrt(len(share))
        print(f"{path.name}: share {share.mean():.4f} ± {error:.4f} on {len(share)} fresh problems")
        print(f"    {json.dumps(by_level)}", flush=True)
        if path.name == f"ibpo-{options.budget}":
            some = problems[: options.num_sampled]
            torch.manual_seed(options.seed)
            rollouts = roll_out(
                policy, tokenizer, some, [""] * len(some), SMOLLM2.max_completion_length,
                temperature=SMOLLM2.temperature,
            )  # fmt: skip
            scored = score(rollouts, some, SMOLLM2.response_groups, ExactJudge())
            right = np.mean([one.reward for one in scored])
            opened = np.mean([one.response_group == "extended" for one in scored])
            cut = np.mean([one.rollout.finish_reason != "stop" for one in scored])
            none = np.mean([not one.response_group for one in scored])
            error = np.sqrt(right * (1 - right) / len(some))
            print(
                f"{path.name}, really sampled on {len(some)}: right {right:.3f} ± {error:.3f}, extended {opened:.3f} "
                f"(probability {share[: len(some)].mean():.3f}), of no group {none:.3f}, cut off {cut:.3f}"
            )


if __name__ == "__main__":
    main()
