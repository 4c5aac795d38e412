"""The public names, and what may be loaded to reach them."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

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


def test_a_signature_can_be_read():
    """`help(ibpo.allocate)` names its types; spelt out, ArrayLike alone fills the screen."""
    for name in ("Allocation", "allocate", "limit", "reward_margin", "share", "slices", "stack", "frontier"):
        assert len(str(inspect.signature(getattr(ibpo, name)))) < 400, name


def test_every_public_name_can_be_reached():
    pytest.importorskip("trl")
    for name in PUBLIC:
        assert getattr(ibpo, name) is not None
    with pytest.raises(AttributeError, match="alocate"):
        _ = ibpo.alocate  # pyright: ignore[reportAttributeAccessIssue]


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


ROOMS = sorted(path.parent.name for path in Path(ibpo.__path__[0]).glob("*/__init__.py"))


@pytest.mark.parametrize("room", [*(room for room in ROOMS if room != "commands"), "serving.gateway"])
def test_every_room_has_a_face_whose_names_are_there(room):
    pytest.importorskip("trl")
    pytest.importorskip("aiohttp")
    face = importlib.import_module(f"ibpo.{room}")
    assert face.__all__, f"ibpo.{room} says nothing of what others may import"
    assert len(set(face.__all__)) == len(face.__all__)
    for name in face.__all__:
        assert getattr(face, name) is not None


def test_rooms_are_imported_without_what_is_heavy():
    """Whoever imports a face pays for what it asks for, not for the room."""
    rooms = ", ".join(f"ibpo.{room}" for room in [*ROOMS, "serving.gateway"])
    heavy = (*HEAVY, "scipy.stats", "pandas", "aiohttp", "matplotlib", "sklearn", "pyarrow", "openai", "vllm")
    code = f"import sys, {rooms}\nprint([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
