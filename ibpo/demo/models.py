"""Where the embedded models are stored: packed in the package, and those before their cold start in a checkout."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from ibpo.errors import IbpoError

CHECKOUT = Path(__file__).parents[2]
"""Where this is a checkout of the repository, its root: `experiments/` is there, which an installed wheel has not."""
EMBEDDED = "embedded:"
PACKED = Path(__file__).parent
_WEIGHTS, _PLANES = "model.safetensors", "model.safetensors.planes"
"""float32 weights hardly compress as they are. With the four bytes of all numbers sorted into four planes the exponents
compress to a third, and the lowest plane, rounded away, to nothing: the wheel stays small, and every weight within
2^-16 of what it was."""


def has_checkout() -> bool:
    """Whether the repository's `experiments/` is there."""
    return (CHECKOUT / "experiments" / "build.py").is_file()


def model_path(experiment: str, stage: str = "cold_start") -> Path:
    """The folder of an embedded model, e.g. of `thinking` after its cold start.

    Models after their cold start come with the package, packed, and are unpacked once into the user's cache; those
    before it (`pretrained`) are in a checkout of the repository only.

    Raises:
        IbpoError: if there is no such model; names those that there are.
    """
    packed = _archives()
    if stage == "cold_start" and experiment in packed:
        return _unpacked(packed[experiment])
    more = CHECKOUT / "experiments" / "models"
    if (more / experiment / stage / "config.json").is_file():
        return more / experiment / stage
    found = [f"{name}/cold_start" for name in packed]
    found += ["/".join(path.parent.parts[-2:]) for path in more.glob("*/*/config.json")]
    raise IbpoError(
        f"no embedded model {experiment}/{stage}; this installation holds {', '.join(sorted(found)) or 'none'}: "
        "name one of them, or the folder of another model"
    )


def pretrained_path(experiment: str) -> Path | None:
    """The folder of an embedded model before its cold start; None where there is none: it is not in the wheel."""
    try:
        return model_path(experiment, "pretrained")
    except IbpoError:
        return None


def resolve_model(path: str, key: str = "") -> str:
    """What a model's name means: `embedded:EXPERIMENT` or `embedded:EXPERIMENT/STAGE`, a folder, a hub id.

    Args:
        path: as a recipe's `model.path` or a command's argument has it.
        key: of the recipe, for errors.

    Raises:
        IbpoError: for an embedded model that there is not.
    """
    if path.startswith(EMBEDDED):
        experiment, _, stage = path.removeprefix(EMBEDDED).partition("/")
        try:
            return str(model_path(experiment, stage or "cold_start"))
        except IbpoError as error:
            raise IbpoError(f"{key or path}: {error}") from None
    folder = Path(path).expanduser()
    return str(folder) if folder.is_dir() else path


def pack_model(folder: Path, archive: Path) -> None:
    """Write the files of a model's folder, one level, into a small `.tar.xz`, the same bytes for the same files.

    The float32 weights are rounded to 15 bits of mantissa.
    """
    import numpy as np

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.iterdir()):
            data, name = path.read_bytes(), path.name
            if name == _WEIGHTS:
                data = _rounded(data)
                data, name = np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes(), _PLANES
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _rounded(safetensors: bytes) -> bytes:
    """The file with its float32 numbers rounded to the nearest without the lowest 8 bits; its header as it is."""
    import numpy as np

    start = 8 + int.from_bytes(safetensors[:8], "little")
    bits = np.frombuffer(safetensors[start:], np.uint32).astype(np.uint64)
    return safetensors[:start] + ((bits + 0x80) & 0xFFFFFF00).astype(np.uint32).tobytes()


def unpack_model(archive: Path, folder: Path) -> None:
    """Write what `pack_model` packed into a new folder, which is there whole or not at all."""
    import numpy as np

    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    with tarfile.open(archive, "r:xz") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None and entry.name == Path(entry.name).name
            data, name = file.read(), entry.name
            if name == _PLANES:
                data, name = np.frombuffer(data, np.uint8).reshape(4, -1).T.tobytes(), _WEIGHTS
            (partial / name).write_bytes(data)
    partial.chmod(0o755)
    try:
        os.rename(partial, folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise


def _archives() -> dict[str, Path]:
    return {path.name.removesuffix(".tar.xz"): path for path in PACKED.glob("*.tar.xz")}


@cache
def _unpacked(archive: Path) -> Path:
    """The folder of a packed model, named after its contents; of this process alone where there is no home to write."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    name = f"{archive.name.removesuffix('.tar.xz')}-cold-start-{digest}"
    try:
        home = Path.home() / ".cache" / "ibpo"
        home.mkdir(parents=True, exist_ok=True)
        if not (home / name).is_dir():
            unpack_model(archive, home / name)
        return home / name
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix="ibpo-")) / name
        unpack_model(archive, folder)
        return folder
