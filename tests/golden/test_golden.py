"""Numbers that a refactoring must not move: what the commands say of a fixed log and trace, and three updates.

`python -m tests.golden.test_golden` writes the files anew; whoever does so says in docs/log.md what moved, and why.
"""

import json
import math
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.golden.make_log import write_log, write_trace

HERE = Path(__file__).parent
COMMANDS = {
    "allocate_default": ["allocate", "LOG", "--show", "level", "--num-splits", "20", "--out", "OUT"],
    "allocate_two_budgets": [
        *("allocate", "LOG", "--budget", "tokens=200", "--budget", "extended>=10%", "--by", "domain"),
        *("--num-splits", "20", "--out", "OUT"),
    ],
    "allocate_share_streamed": ["allocate", "LOG", "--budget", "extended=30%", "--stream", "--out", "OUT"],
    "simulate_share": ["simulate", "TRACE", "--budget", "extended=30%", "--out", "OUT.json"],
    "simulate_tokens": ["simulate", "TRACE", "--budget", "tokens=200", "--gains", "LOG", "--out", "OUT.json"],
    "route_fit": [
        *("route", "fit", "LOG", "--budget", "extended=30%", "--budget", "tokens=200"),
        *("--draws", "20", "--out", "OUT.json"),
    ],
    "report": ["report", "LOG", "--num-splits", "20", "--out", "OUT"],
}
RESULTS = {"allocate": "summary.json", "report": "report.json"}
UNSTABLE = (
    "cpu_microseconds_per_request",
    "version",
    "created",
    "seconds",
    "source",
    "ibpo",
    "log",
    "path",
    "file",
    "what_ran",
)
"""Keys whose values are of this machine and moment."""
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def run(name: str, folder: Path) -> object:
    """What a command writes, read as JSON."""
    from ibpo.cli import app

    log, trace, out = folder / "log.jsonl", folder / "trace.jsonl", folder / name
    if not log.exists():
        write_log(log)
        write_trace(trace)
    places = {"LOG": log, "TRACE": trace, "OUT": out, "OUT.json": out.with_suffix(".json")}
    arguments = [str(places.get(word, word)) for word in COMMANDS[name]]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    written = out / RESULTS[arguments[0]] if arguments[0] in RESULTS else out.with_suffix(".json")
    result = json.loads(written.read_text(encoding="utf-8"))
    return result["report"] if name == "route_fit" else result


def differences(old: object, new: object, place: str = "", tolerance: float = 1e-6) -> list[str]:
    """Where two trees of plain values differ: numbers by more than the tolerance, all else at all.

    Lists of numbers that a linear algebra library made (a router's coefficients) differ between processors: those are
    compared within the tolerance, never by equality.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{place}.{key}: only in {'old' if key in old else 'new'}" for key in old.keys() ^ new.keys()]
        for key in old.keys() & new.keys():
            if key not in UNSTABLE:
                found += differences(old[key], new[key], f"{place}.{key}", tolerance)
        return [line for line in found if not line.startswith(tuple(f"{place}.{key}:" for key in UNSTABLE))]
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{place}: {len(old)} entries, now {len(new)}"]
        return [
            line
            for i, pair in enumerate(zip(old, new, strict=True))
            for line in differences(*pair, f"{place}[{i}]", tolerance)
        ]
    if isinstance(old, int | float) and isinstance(new, int | float) and not isinstance(old, bool):
        return [] if math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance) else [f"{place}: {old}, now {new}"]
    if isinstance(old, str) and isinstance(new, str) and tolerance > 1e-6 and same_words(old, new):
        return []
    return [] if old == new else [f"{place}: {old!r}, now {new!r}"]


def same_words(old: str, new: str) -> bool:
    """Whether two sentences differ in the last digit of numbers at most: .0625 is written .062 or .063."""
    if NUMBER.sub("", old) != NUMBER.sub("", new):
        return False
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * 10.0 ** -len(a.partition(".")[2]) for a, b in pairs)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_said(name, tmp_path):
    old = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    found = differences(old, run(name, tmp_path), tolerance=1e-4 if name == "route_fit" else 1e-6)
    assert not found, "\n".join(found[:20])


def train_three_updates(folder: Path) -> dict:
    """Three updates with the settings of the *thinking* experiment: what the step's log holds, and the weights."""
    from tests.training.tiny import build_trainer

    trainer = build_trainer(
        folder,
        num_problems=128,
        max_steps=3,
        optim="adamw_torch",
        learning_rate=1e-3,
        max_grad_norm=1.0,
        logging_steps=1,
        num_generations=2,
        per_device_train_batch_size=64,
        steps_per_generation=2,
        utility="regression",
        min_gain=0.2,
        window=128,
        kl_share=1.0,
        kl_weight_start=0.1,
        kl_weight=0.25,
        imitate_completions="every_group",
        completion_loss_weight=0.3,
        integral_gain=0.1,
    )
    trainer.train()
    steps = [step for step in trainer.state.log_history if "loss" in step]
    weights = {
        name: [value.double().mean().item(), value.double().norm().item()]
        for name, value in trainer.model.named_parameters()
    }
    return {
        "loss": [step["loss"] for step in steps],
        "grad_norm": [step["grad_norm"] for step in steps],
        "reward": [step["reward"] for step in steps if "reward" in step],
        "share": [step["ibpo/share/extended"] for step in steps if "reward" in step],
        "price": [step["ibpo/price/extended"] for step in steps if "reward" in step],
        "mean_and_norm": weights,
    }


def test_three_updates_give_the_weights_that_they_gave(tmp_path):
    """Within 1e-3: sums of floats come out differently by processor, and what is drawn from them hardly ever does."""
    old = json.loads((HERE / "three_updates.json").read_text(encoding="utf-8"))
    found = differences(old, train_three_updates(tmp_path), tolerance=1e-3)
    assert not found, "\n".join(found[:20])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for one in sys.argv[1:] or [*COMMANDS, "three_updates"]:
            made = train_three_updates(Path(scratch)) if one == "three_updates" else run(one, Path(scratch))
            (HERE / f"{one}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
