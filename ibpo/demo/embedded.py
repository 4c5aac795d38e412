"""Where the trained models are stored that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ibpo.errors import IbpoError

CHECKOUT = Path(__file__).parents[2]
"""Where this is a checkout of the repository, its root: `experiments/` is there, which an installed wheel has not."""
EMBEDDED = "embedded:"


def has_checkout() -> bool:
    """Whether the repository's `experiments/` is there."""
    return (CHECKOUT / "experiments" / "build.py").is_file()


def pretrained_path(experiment: str) -> Path | None:
    """The folder of an embedded model before its cold start; None where there is none: it is not in the wheel."""
    try:
        return model_path(experiment, "pretrained")
    except IbpoError:
        return None


def model_path(experiment: str, stage: str = "cold_start") -> Path:
    """The folder of an embedded model, e.g. of `thinking` after its cold start.

    Raises:
        IbpoError: if the package holds no such model; names those that it holds.
    """
    homes = [Path(str(files("ibpo.demo"))) / "models", CHECKOUT / "experiments" / "models"]
    for home in homes:
        if (home / experiment / stage / "config.json").is_file():
            return home / experiment / stage
    known = sorted({"/".join(found.parent.parts[-2:]) for home in homes for found in home.glob("*/*/config.json")})
    raise IbpoError(
        f"no embedded model {experiment}/{stage}; this installation holds {', '.join(known) or 'none'}: "
        "name one of them, or the folder of another model"
    )


def resolve_model(path: str) -> str:
    """What a recipe's `model.path` means: `embedded:EXPERIMENT` or `embedded:EXPERIMENT/STAGE`, a folder, a hub id.

    Raises:
        IbpoError: for an embedded model that the package does not hold.
    """
    if path.startswith(EMBEDDED):
        experiment, _, stage = path.removeprefix(EMBEDDED).partition("/")
        try:
            return str(model_path(experiment, stage or "cold_start"))
        except IbpoError as error:
            raise IbpoError(f"model.path: {error}") from None
    folder = Path(path).expanduser()
    return str(folder) if folder.is_dir() else path
