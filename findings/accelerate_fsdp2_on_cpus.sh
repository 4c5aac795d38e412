#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0, two processes on CPUs (gloo).
#
# FSDP2 shards parameters on CPUs: torch's fully_shard does it over gloo. You would expect accelerate with
# ACCELERATE_USE_FSDP=true and FSDP_VERSION=2 to use it, or to say that it does not. On CPUs it reads the plugin, says
# nothing, and prepares the model as DDP: every process holds all parameters, whatever was asked for. A test of sharded
# training that is run on CPUs tests something else.
#
# Seen (by whom, kind of distributed run, type of a parameter, its numbers on this rank of 64):
#   accelerate MULTI_CPU Parameter 64
#   torch fully_shard DTensor 32
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/look.py" <<'PY'
import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(8, 8, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
prepared, _ = accelerator.prepare(model, optimizer)
weight = next(prepared.parameters())
lines = [f"accelerate {accelerator.distributed_type.value} {type(weight).__name__} {weight.numel()}"]

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sharded = fully_shard(torch.nn.Linear(8, 8, bias=False), mesh=init_device_mesh("cpu", (2,)))
weight = next(sharded.parameters())
lines.append(f"torch fully_shard {type(weight).__name__} {weight.to_local().numel()}")
if accelerator.is_main_process:
    print("\n".join(lines))
torch.distributed.destroy_process_group()
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.6 >/dev/null 2>&1
cd "$work"
ACCELERATE_USE_CPU=true ACCELERATE_USE_FSDP=true FSDP_VERSION=2 OMP_NUM_THREADS=1 \
    env/bin/python -m torch.distributed.run --nproc_per_node 2 --master_addr 127.0.0.1 --master_port 29577 look.py 2>/dev/null | tee seen
diff seen <(printf '%s\n' 'accelerate MULTI_CPU Parameter 64' 'torch fully_shard DTensor 32')
