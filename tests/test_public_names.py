"""The public names, and what may be loaded to reach them."""

import subprocess
import sys

import pytest

import ibpo

PUBLIC = [
    "Allocation",
    "Frontier",
    "IBPOConfig",
    "IBPOTrainer",
    "IbpoError",
    "InfeasibleBudget",
    "Problem",
    "ResponseGroup",
    "Rollout",
    "ScoredResponse",
    "allocate",
    "frontier",
    "limit",
    "reward_margin",
    "share",
    "slices",
    "stack",
    "__version__",
]
HEAVY = ("torch", "transformers", "trl")


def test_public_names_are_pinned():
    assert ibpo.__all__ == PUBLIC
    assert dir(ibpo) == sorted(PUBLIC)


def test_every_public_name_can_be_reached():
    pytest.importorskip("trl")
    for name in PUBLIC:
        assert getattr(ibpo, name) is not None
    with pytest.raises(AttributeError, match="alocate"):
        _ = ibpo.alocate


@pytest.mark.parametrize(
    "code",
    [
        "import ibpo, ibpo.allocation",
        "from ibpo.cli import app; app(['--help'], standalone_mode=False)",
    ],
    ids=["allocation", "help"],
)
def test_light_entrances_load_nothing_heavy(code):
    code = f"import sys\n{code}\nprint('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded: []"


def test_the_command_line_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "ibpo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ibpo {ibpo.__version__}\n"
