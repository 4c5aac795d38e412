"""The public names, and what may be loaded to reach them."""

import subprocess
import sys
from typing import Any

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


def test_every_command_is_listed_with_its_own_help():
    """`ibpo --help` imports no command, so the list is written down: it says what the commands say."""
    from typer.main import get_command

    from ibpo.cli import COMMANDS, app

    group: Any = get_command(app)
    assert list(group.commands) == list(COMMANDS)
    for name, (_, text) in COMMANDS.items():
        _, command, _ = group.resolve_command(None, [name])
        assert " ".join(command.help.split("\n\n")[0].split()) == text


def test_listing_the_commands_imports_none():
    code = "import sys; from ibpo.cli import app; app(['--help'], standalone_mode=False)\n"
    code += "print('loaded:', [name for name in sys.modules if name.startswith(('ibpo.', 'numpy', 'pydantic'))])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "loaded: ['ibpo.cli']", result.stderr


def test_the_command_line_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "ibpo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ibpo {ibpo.__version__}\n"
