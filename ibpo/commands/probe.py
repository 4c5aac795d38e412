"""`python -m ibpo.commands.probe NAME...`: tries what `ibpo doctor` asks about, in a process that may crash.

A line of JSON before each probe and one after it: what began and did not end is what crashed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ibpo.errors import IbpoError


def solver() -> dict[str, Any]:
    """Whether the compiled passes are in use."""
    from ibpo.allocation import is_compiled

    return {"compiled": is_compiled()}


def isolation() -> dict[str, Any]:
    """What stands in the way of Landlock and seccomp."""
    from ibpo.rewards import why_not_isolated

    return {"reason": why_not_isolated()}


def mathematics() -> dict[str, Any]:
    """Whether the judge of mathematics gives the verdicts that it should."""
    from ibpo.rewards import MathJudge

    judge = MathJudge(num_workers=1)
    # The second one needs math-verify and its grammar.
    return {"right": judge(r"\frac{2}{4}", "0.5") == 1.0 and judge(r"The answer is $\boxed{7}$.", "7") == 1.0}


def gpu() -> dict[str, Any]:
    """The build of torch, and the GPUs that it sees."""
    import torch

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            devices.append({"name": found.name, "mib": found.total_memory >> 20})
        torch.zeros(8, device="cuda").sum().item()  # a driver that is too old is seen only here
    mps = getattr(torch.backends, "mps", None)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "mps": bool(mps and mps.is_available()),
        "devices": devices,
    }


def seam() -> dict[str, Any]:
    """Whether TRL's methods that the trainer overrides are those that it was verified with."""
    import transformers
    import trl
    from trl import GRPOTrainer

    from ibpo.training import IBPOTrainer, changed_methods

    return {
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "changed": changed_methods(GRPOTrainer, IBPOTrainer),
    }


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "solver": solver, "isolation": isolation, "mathematics": mathematics, "gpu": gpu, "seam": seam,
}  # fmt: skip


def import_module(name: str) -> dict[str, Any]:
    """A module's import, and where it is."""
    found = importlib.import_module(name)
    return {"file": getattr(found, "__file__", None)}


def main(names: Iterable[str]) -> None:
    """Run the probes; a name that is none of them is a module to import."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # What libraries print is no answer.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(row: dict[str, Any]) -> None:
        out.write(json.dumps(row) + "\n")
        out.flush()

    for name in names:
        say({"began": name})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = PROBES[name]() if name in PROBES else import_module(name)
            say({"ended": name, **found})
        except IbpoError as error:
            say({"ended": name, "refused": str(error)})
        except (Exception, SystemExit) as error:
            say({"ended": name, "error": f"{type(error).__name__}: {error}"})
    out.flush()
    # Threads and handlers of broken libraries must not hold the exit up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
