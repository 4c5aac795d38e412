"""Where the trained models lie that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ibpo.errors import IbpoError

EMBEDDED = "embedded:"


def model_path(experiment: str, stage: str = "cold_start") -> Path:
    """The folder of an embedded model, e.g. of `thinking` after its cold start.

    Raises:
        IbpoError: if the package holds no such model; names those that it holds.
    """
    home = Path(str(files("ibpo.experiments"))) / "models"
    path = home / experiment / stage
    if not (path / "config.json").is_file():
        known = sorted("/".join(found.parent.relative_to(home).parts) for found in home.glob("*/*/config.json"))
        raise IbpoError(
            f"no embedded model {experiment}/{stage}; this installation holds {', '.join(known) or 'none'}: "
            "name one of them, or the folder of another model"
        )
    return path


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
