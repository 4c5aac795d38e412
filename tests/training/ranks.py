"""One rank of a training by several processes: run by torchrun, writes what it sampled, allotted and learnt.

    torchrun --nproc_per_node 2 tests/training/ranks.py FOLDER CASES

CASES is JSON: name -> options of `build_trainer` ("lora" for adapters).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from ibpo.training import generation
from tests.training.closed_form import Recorder, flat
from tests.training.tiny import build_trainer, disturb_reference_model, with_lora


def evaluation_metrics(output_dir: Path, options: dict) -> dict[str, float]:
    """`eval_ibpo/*` of a greedy policy, whose responses do not depend on which rank draws them."""
    trainer: Any = build_trainer(output_dir, dtype=torch.float64, rollout_log_dir=None, **options)
    sampler_of = generation._sampler

    def greedy(trainer: Any, limit: int) -> Any:
        made = sampler_of(trainer, limit)
        if limit > 1:  # else it looks at the choice
            made.temperature = 1e-6
        return made

    generation._sampler = greedy
    try:
        found = trainer.evaluate()
    finally:
        generation._sampler = sampler_of
    return {key: value for key, value in found.items() if key.startswith("eval_ibpo/")}


def run_case(folder: Path, name: str, options: dict) -> None:
    if "eval_rows" in options:
        found = evaluation_metrics(folder / name, options)
        rank = torch.distributed.get_rank()
        (folder / f"{name}-{rank}.json").write_text(json.dumps([torch.distributed.get_world_size(), found]))
        return
    model = with_lora(torch.float64) if options.pop("lora", False) else None
    trainer: Any = build_trainer(folder / name, cls=Recorder, model=model, dtype=torch.float64, **options)
    disturb_reference_model(trainer)
    start = flat(p for p in trainer.model.parameters() if p.requires_grad)
    trainer.train()
    policy = trainer.accelerator.unwrap_model(trainer.model)
    moved = start - flat(p for p in policy.parameters() if p.requires_grad)
    rank = trainer.accelerator.process_index
    prompts, completions, weights = zip(*trainer.seen, strict=True)
    seen = {"num_ranks": trainer.accelerator.num_processes, "prompts": prompts, "completions": completions}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(seen))
    chosen = [s.assigned_group for s in trainer.selections]
    np.savez(folder / f"{name}-{rank}.npz", moved=moved.numpy(), weights=np.stack(weights), chosen=np.stack(chosen))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, options in cases.items():
        run_case(folder, name, options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
