"""Real processes (gloo), on one machine and on two, do what one does: the same allocation and the same step."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ibpo.training.reference_model import frozen_copy
from tests.training.closed_form import Recorder, Replay, closed_form_gradient, flat, relative_error
from tests.training.ranks import evaluation_metrics
from tests.training.tiny import build_trainer, disturb_reference_model, with_lora

ROOT = Path(__file__).parent.parent.parent
CASES = {
    # 2 ranks x 16 responses of 8 prompts; "split" cuts a prompt in two, its siblings on both ranks.
    "full": {"per_device_train_batch_size": 16, "kl_share": 0.25},
    "parts": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "kl_share": 0.25},
    "split": {
        "per_device_train_batch_size": 6,
        "num_generations": 4,
        "gradient_accumulation_steps": 1,
        "kl_share": 0.0,
    },
    "lora": {"per_device_train_batch_size": 16, "kl_share": 0.25, "lora": True},
}


BUDGET = {"extended": 0.25, "tokens": 30.0, "extended@level=2": 0.5}
EVALUATIONS = {
    # 2 ranks x 8 responses; "uneven" and "one row" end in a batch that is not full, "split prompts" cuts prompts.
    "even": {"eval_rows": 16, "num_generations_eval": 2, "per_device_eval_batch_size": 8, "budget": BUDGET},
    "uneven": {"eval_rows": 11, "num_generations_eval": 2, "per_device_eval_batch_size": 8, "budget": BUDGET},
    "one row": {"eval_rows": 9, "num_generations_eval": 1, "per_device_eval_batch_size": 4, "budget": BUDGET},
    "split prompts": {"eval_rows": 8, "num_generations_eval": 4, "per_device_eval_batch_size": 6, "budget": BUDGET},
}


FOUR = {
    "full": {"per_device_train_batch_size": 8, "kl_share": 0.25},
    "lora": {"per_device_train_batch_size": 8, "kl_share": 0.25, "lora": True},
}
SHARDED = {
    "full": {"per_device_train_batch_size": 16, "kl_share": 0.25},
    "lora": {"per_device_train_batch_size": 16, "kl_share": 0.25, "lora": True, "fresh": True},
}
"""Adapters are fresh: the initial policy is loaded anew where parameters are sharded."""
NODES = ("10.231.77.1", "10.231.77.2")


def torchrun(*arguments):
    return [sys.executable, "-m", "torch.distributed.run", *map(str, arguments), str(ROOT / "tests/training/ranks.py")]


def run_ranks(commands, folder, cases, environments=({},)):
    """Run the commands side by side, one per node, each with the folder that its ranks write to."""
    # `accelerate launch --cpu --num_processes 2` would silently run one process.
    fixed = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    logs = [folder / f"node{i}.log" for i in range(len(commands))]
    running = []
    for command, log, more in zip(commands, logs, environments, strict=True):
        with log.open("w") as file:
            running.append(
                subprocess.Popen(
                    [*command, str(folder), json.dumps(cases)],
                    env=fixed | more, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                )
            )  # fmt: skip
    try:
        codes = [process.wait(1000) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0] * len(commands), "".join(log.read_text()[-4000:] for log in logs)
    return folder


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_this_machine(folder, num_ranks, cases):
    where = ("--nproc_per_node", num_ranks, "--master_addr", "127.0.0.1", "--master_port", free_port())
    return run_ranks([torchrun(*where)], folder, cases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both ranks wrote, for all cases: starting two processes takes longer than all their steps."""
    return on_this_machine(tmp_path_factory.mktemp("ranks"), 2, CASES | EVALUATIONS)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return on_this_machine(tmp_path_factory.mktemp("four"), 4, FOUR)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """What one process sampled and did, and what two did with the same rollouts and half of every parameter each."""
    folder = tmp_path_factory.mktemp("sharded")
    alone, cases = {}, {}
    for name, case in SHARDED.items():
        options = {**case, "per_device_train_batch_size": 32}
        model = with_lora(torch.float64, options.pop("fresh")) if options.pop("lora", False) else None
        one: Any = build_trainer(folder / f"one-{name}", cls=Recorder, model=model, dtype=torch.float64, **options)
        disturb_reference_model(one)
        start = flat(p for p in one.model.parameters() if p.requires_grad)
        one.train()
        (_, completions, weights), *_ = one.seen
        alone[name] = start - flat(p for p in one.model.parameters() if p.requires_grad), weights
        path = folder / f"{name}-recorded.json"
        path.write_text(json.dumps([list(map(int, ids)) for ids in completions]))
        cases[name] = {**case, "recorded": str(path)}
    return on_this_machine(folder, 2, {"fsdp": True, **cases}), alone


@pytest.fixture
def hosts():
    """Two hosts with a network of their own between them: network namespaces, joined by a pair of interfaces."""
    names = [f"ibpo{os.getpid()}{end}" for end in "ab"]

    def ip(*arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        return done.returncode == 0

    if shutil.which("ip") is None or not ip("netns", "add", names[0]):
        pytest.skip("no network namespaces here: they need iproute2 and root")
    try:
        assert ip("netns", "add", names[1])
        assert ip("link", "add", "node", "netns", names[0], "type", "veth", "peer", "name", "node", "netns", names[1])
        for name, address in zip(names, NODES, strict=True):
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", "node")
            assert ip("-n", name, "link", "set", "node", "up") and ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_take_the_step_of_one_process(folder, tmp_path, name):
    check_step(folder, tmp_path, name, CASES[name], 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_take_the_step_of_one_process(four, tmp_path, name):
    check_step(four, tmp_path, name, FOUR[name], 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_nodes_of_two_ranks_take_the_step_of_one_process(hosts, tmp_path):
    """The nodes find each other by torchrun's rendezvous, and share nothing but the network between them."""
    commands = [
        ["ip", "netns", "exec", host, *torchrun(
            "--nnodes", 2, "--nproc_per_node", 2, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"{NODES[0]}:29517",
            "--rdzv_id", "ibpo", "--rdzv_conf", f"is_host={number == 0}", "--local_addr", address,
        )]
        for number, (host, address) in enumerate(zip(hosts, NODES, strict=True))
    ]  # fmt: skip
    on_its_wire = {"GLOO_SOCKET_IFNAME": "node"}
    folder = tmp_path / "ranks"
    folder.mkdir()
    run_ranks(commands, folder, FOUR, (on_its_wire, on_its_wire))
    for name, options in FOUR.items():
        check_step(folder, tmp_path, name, options, 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SHARDED)
def test_two_ranks_with_half_of_every_parameter_take_the_step_of_one_process(sharded, name):
    """FSDP2, on recorded rollouts."""
    folder, alone = sharded
    moved, weights = alone[name]
    for rank in range(2):
        told, arrays = json.loads((folder / f"{name}-{rank}.json").read_text()), np.load(folder / f"{name}-{rank}.npz")
        assert told["kinds"] == ["DTensor"]
        assert np.array_equal(arrays["weights"][0], weights)
        assert relative_error(torch.tensor(arrays["moved"]), moved) < 1e-5


def check_step(folder, tmp_path, name, options, num_ranks):
    """All ranks took one step: that of one process with the responses of all, and that of the formula."""
    every = range(num_ranks)
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in every]
    arrays = [dict(np.load(folder / f"{name}-{rank}.npz")) for rank in every]
    assert [rank["num_ranks"] for rank in ranks] == [num_ranks] * num_ranks
    for key in ("weights", "chosen", "moved"):
        assert all(np.array_equal(arrays[0][key], other[key]) for other in arrays[1:]), key
    prompts, completions = ([x for rank in ranks for x in rank[key][0]] for key in ("prompts", "completions"))
    assert len(arrays[0]["weights"][0]) == len(completions)
    assert len(arrays[0]["chosen"][0]) == len(completions) // 4  # the prompts of all ranks

    options = {**options, "per_device_train_batch_size": len(completions), "gradient_accumulation_steps": 1}
    model = with_lora(torch.float64) if options.pop("lora", False) else None
    one: Any = build_trainer(tmp_path / f"one-{name}", cls=Replay, model=model, dtype=torch.float64, **options)
    disturb_reference_model(one)
    one.recorded = completions
    before = frozen_copy(one.model)
    for old, new in zip(before.parameters(), one.model.parameters(), strict=True):
        old.requires_grad_(new.requires_grad)
    start = flat(p for p in one.model.parameters() if p.requires_grad)
    one.train()
    assert one.seen[0][0] == prompts
    assert np.array_equal(one.seen[0][2], arrays[0]["weights"][0])
    assert np.array_equal(one.selections[0].assigned_group, arrays[0]["chosen"][0])
    alone = start - flat(p for p in one.model.parameters() if p.requires_grad)
    together = torch.tensor(arrays[0]["moved"])
    assert relative_error(together, alone) < 1e-5
    batch = (prompts, completions, arrays[0]["weights"][0])
    expected = closed_form_gradient(before, one.reference_model or before, [batch], one.groups.prefix_ids)
    assert relative_error(together, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", EVALUATIONS)
def test_two_ranks_evaluate_as_one_process(folder, tmp_path, name):
    """Each prompt counts once, whichever rank it goes to: the last batch is filled up with the first prompts again."""
    ranks = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    assert [number for number, _ in ranks] == [2, 2]
    options: dict[str, Any] = dict(EVALUATIONS[name])
    options["per_device_eval_batch_size"] *= 2
    alone = evaluation_metrics(tmp_path / "one", options)
    keys = {f"eval_ibpo/{kind}/{key}" for kind in ("spent", "allowed", "price") for key in BUDGET}
    keys |= {f"eval_ibpo/{kind}/{group}" for kind in ("share", "reward") for group in ("standard", "extended")}
    assert set(alone) == keys | {"eval_ibpo/oracle_gap"}
    assert 0 < alone["eval_ibpo/share/extended"] < 1 and alone["eval_ibpo/reward/extended"] > 0
    for _, found in ranks:
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-7)
