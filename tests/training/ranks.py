"""One rank of a training by several processes: run by torchrun, writes what it sampled, allotted and learnt.

    torchrun --nproc_per_node 2 tests/training/ranks.py FOLDER CASES

CASES is JSON: name -> options of `build_trainer` ("lora" for adapters, "recorded" for a file of rollouts). With "fsdp"
among the names, parameters are sharded, whatever the case.
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
from ibpo.training import trainer as trainer_module
from tests.training.closed_form import Recorder, Replay, flat
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


def shard_parameters() -> None:
    """FSDP2 on CPUs, where accelerate ignores `ACCELERATE_USE_FSDP` and trains whole parameters without a word."""
    from accelerate import state
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False,
        state_dict_type="FULL_STATE_DICT",
    )  # fmt: skip
    initialise = state.AcceleratorState.__init__

    def initialise_sharded(self: Any, *arguments: Any, **options: Any) -> None:
        initialise(self, *arguments, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = initialise_sharded
    # Rollouts come from elsewhere: recorded ones here, vLLM's in earnest.
    trainer_module.check_sharding = lambda args: None


def whole(parameters: Any) -> torch.Tensor:
    """All numbers in a row, whichever rank holds them."""
    return flat(p.detach().full_tensor() if hasattr(p, "full_tensor") else p for p in parameters if p.requires_grad)


def run_case(folder: Path, name: str, options: dict) -> None:
    if "eval_rows" in options:
        found = evaluation_metrics(folder / name, options)
        rank = torch.distributed.get_rank()
        (folder / f"{name}-{rank}.json").write_text(json.dumps([torch.distributed.get_world_size(), found]))
        return
    model = with_lora(torch.float64, fresh=options.pop("fresh", False)) if options.pop("lora", False) else None
    recorded = options.pop("recorded", None)
    kind = Recorder if recorded is None else Replay
    trainer: Any = build_trainer(folder / name, cls=kind, model=model, dtype=torch.float64, **options)
    if recorded is not None:
        trainer.recorded = json.loads(Path(recorded).read_text())
    disturb_reference_model(trainer)
    start = whole(trainer.model.parameters())
    trainer.train()
    policy = trainer.model_wrapped
    moved = start - whole(policy.parameters())
    kinds = sorted({type(p).__name__ for p in policy.parameters()})
    rank = trainer.accelerator.process_index
    prompts, completions, weights = zip(*trainer.seen, strict=True)
    seen = {
        "num_ranks": trainer.accelerator.num_processes,
        "prompts": prompts,
        "completions": completions,
        "kinds": kinds,
    }
    (folder / f"{name}-{rank}.json").write_text(json.dumps(seen))
    chosen = [s.assigned_group for s in trainer.selections]
    np.savez(folder / f"{name}-{rank}.npz", moved=moved.numpy(), weights=np.stack(weights), chosen=np.stack(chosen))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    if cases.pop("fsdp", False):
        shard_parameters()
    for name, options in cases.items():
        run_case(folder, name, options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
