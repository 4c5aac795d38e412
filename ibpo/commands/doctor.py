"""`ibpo doctor`: what is installed here, what works, and how to fix what does not."""

from __future__ import annotations

import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

import typer

from ibpo import __version__
from ibpo.errors import one_line

Status = Literal["ok", "limited", "missing", "broken"]
COLOURS = {"ok": "green", "limited": "yellow", "missing": "yellow", "broken": "red"}
MOST_SECONDS = 180.0
"""Longest wait for one probe: the first import of torch from a slow disk takes a minute."""
MOST_SHOWN = 13
"""Packages of an extra; `dev` has more than anybody reads."""
PURPOSES = {
    "bench": "benchmarks/allocation.py in a checkout, which compares the solver with OR-Tools",
    "demo": "ibpo demo, and all that train, math and report are for",
    "dev": "working on ibpo itself: tests, lint, types",
    "docs": "make docs in a checkout: the documentation as a site",
    "encoder": "ibpo route fit --embed FOLDER: a sentence encoder in this process",
    "endpoint": "ibpo eval --base-url, ibpo collect and the LLM judge: any OpenAI-compatible server",
    "envoy": "ibpo serve --ext-proc: the calls of Envoy's filter",
    "gguf": "ibpo models get, where the hub cannot be reached",
    "lora": "LoRA and other adapters in ibpo train and ibpo cold-start",
    "math": "the mathematics judge: ibpo eval, ibpo train, ibpo task check and ibpo collect",
    "redis": "ibpo serve --state redis://...: one budget for gateways on several machines",
    "report": "the page and pictures of ibpo report, and frontier.png of ibpo allocate --out",
    "router": "ibpo route: a router for models that you cannot train",
    "serve": "ibpo serve, the gateway, and the LiteLLM plug-in",
    "train": "ibpo train, ibpo cold-start, ibpo replay, ibpo eval of a local model, and Parquet files",
}
"""What each extra of the package's metadata is for."""
MODULES = {
    "antlr4-python3-runtime": "antlr4", "grpcio": "grpc", "protobuf": "google.protobuf", "scikit-learn": "sklearn",
}  # fmt: skip
"""Packages whose module has another name."""
NOT_PROBED = ("dev", "bench", "docs")
"""Extras of tools, which run as commands of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing that is or is not here."""

    section: str
    what: str
    status: Status
    found: str
    purpose: str = ""
    fix: str = ""
    versions: dict[str, str | None] = field(default_factory=dict[str, str | None])
    lacks: list[str] = field(default_factory=list[str])


def doctor_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document, for a bug report.")
    ] = False,
) -> None:
    """Say what is installed here, what works, and how to fix what does not.

    Each library is imported in a process of its own, so a broken one is reported and breaks nothing. It takes about 20
    seconds with all extras, about one with none. Exit status 1 if something that is installed is broken, else 0.
    """
    rows = list(examine(_progress))
    _progress("")
    broken = [row.what for row in rows if row.status == "broken"]
    if as_json:
        document = {"healthy": not broken, **_here(), "rows": [asdict(row) for row in rows]}
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(rows, broken)
    if broken:
        raise typer.Exit(1)


def _here() -> dict[str, Any]:
    """This installation."""
    return {
        "ibpo": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def examine(progress: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """Every row, in the order in which it is shown."""
    needed = _packages()
    modules = [
        x.module
        for extra, some in needed.items()
        if extra not in NOT_PROBED
        for x in some
        if x.module != "math_verify" and x.is_there  # the judge's own probe imports it, with its grammar
    ]
    asked = ["solver", "isolation"]
    if _is_there("torch"):
        asked.append("gpu")
    if _is_there("trl"):
        asked.append("seam")
    if _is_there("math_verify"):
        asked.append("mathematics")
    if _is_there("vllm"):
        asked.append("vllm")
    found = probe([*dict.fromkeys([*modules, *asked])], progress)
    yield _base_row(needed[""], found)
    yield _solver_row(found["solver"])
    for extra in sorted(set(needed) - {""}):
        yield _extra_row(extra, needed[extra], found)
    yield _math_row(found.get("mathematics"))
    yield _isolation_row(found["isolation"])
    yield _gpu_row(found.get("gpu"))
    yield _seam_row(found.get("seam"))
    yield _vllm_row(found.get("vllm"))


# ---------------------------------------------------------------- what the metadata says


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A requirement of the package's metadata, and what is installed of it."""

    name: str
    wanted: str
    module: str
    version: str | None
    is_there: bool
    is_met: bool

    @property
    def lack(self) -> str:
        """What is wrong with it, in words; empty where nothing is."""
        if self.is_met:
            return ""
        at_hand = f" (here: {self.version})" if self.version else ""
        return f"{self.name}{f' {self.wanted}' if self.wanted else ''}{at_hand}"


def _packages() -> dict[str, list[Package]]:
    """Extra -> the packages that it asks for; "" -> those that ibpo itself needs."""
    from packaging.requirements import Requirement  # lazy-loader, which ibpo needs, needs it

    try:
        own = distribution("ibpo")
    except PackageNotFoundError:  # a checkout on the path
        return {"": []}
    extras = own.metadata.get_all("Provides-Extra") or []
    found: dict[str, list[Package]] = {"": [], **{extra: [] for extra in extras}}
    for text in own.requires or []:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            found[""].append(_package(one))
            continue
        for extra in extras:
            if one.marker.evaluate({"extra": extra}):
                met = {package.name for package in found[extra]}
                found[extra] += [_package(each) for each in _with_theirs(one, set()) if each.name not in met]
    return found


def _with_theirs(one: Any, met: set[str]) -> Iterator[Any]:
    """A requirement, and what its extras ask for in turn: math-verify[antlr4_13_2] stands on a runtime of ANTLR."""
    from packaging.requirements import Requirement

    met.add(one.name)
    yield one
    there = _distribution(one.name) if one.extras else None
    for text in (there.requires if there else None) or []:
        inner = Requirement(text)
        if inner.name in met or inner.marker is None or inner.marker.evaluate({"extra": ""}):
            continue
        if any(inner.marker.evaluate({"extra": extra}) for extra in one.extras):
            yield from _with_theirs(inner, met)


def _package(one: Any) -> Package:
    there = _distribution(one.name)
    module: str = MODULES.get(one.name) or one.name.replace("-", "_")
    version = there.version if there else None
    is_there = there is not None or _is_there(module)
    is_met = is_there and (version is None or one.specifier.contains(version, prereleases=True))
    return Package(
        name=one.name, wanted=str(one.specifier), module=module, version=version, is_there=is_there, is_met=is_met
    )


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    """Whether Python would import it from a file; a folder of that name in the working directory is none."""
    try:
        found = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return False
    return found is not None and found.origin is not None


# ---------------------------------------------------------------- probes


def probe(names: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> dict[str, dict[str, Any]]:
    """What each probe said; a crash or a probe that takes too long is an error of that probe alone."""
    said: dict[str, dict[str, Any]] = {}
    left = list(names)
    while left:
        at, how = _run_probes(left, said, progress)
        if at is not None:
            said[at] = {"error": how}
        elif not any(name in said for name in left):  # not even the first began
            said[left[0]] = {"error": how}
        left = [name for name in left if name not in said]
    return said


def _run_probes(
    names: Sequence[str], said: dict[str, dict[str, Any]], progress: Callable[[str], None]
) -> tuple[str | None, str]:
    """Run until the end, a crash or a silence; which probe did not end, and how."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # Otherwise a checkout that is found by its folder alone is not found there.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), root]))
    process = subprocess.Popen(
        # -P: a file of the working directory is no library.
        [sys.executable, "-P", "-m", "ibpo.commands.probe", *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
    )
    lines: queue.Queue[str | None] = queue.Queue()
    noise: list[str] = []
    readers = [
        Thread(target=_read_lines, args=(process.stdout, lines.put), daemon=True),
        Thread(target=_read_lines, args=(process.stderr, lambda line: noise.append(line) if line else None)),
    ]
    readers[1].daemon = True
    for reader in readers:
        reader.start()
    at: str | None = None
    deadline = time.monotonic() + MOST_SECONDS
    try:
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return at, f"no answer within {MOST_SECONDS:.0f} seconds"
            if line is None:
                break
            row = json.loads(line)
            if "began" in row:
                at, deadline = row["began"], time.monotonic() + MOST_SECONDS
                progress(row["began"])
            else:
                said[row.pop("ended")] = row
                at = None
        code = process.wait(timeout=MOST_SECONDS)
        readers[1].join(timeout=5)
        last = next((line.strip() for line in reversed(noise) if line.strip()), "")
        # The name where Python has one: not for real-time signals.
        signals = {number.value: number.name for number in signal.Signals}
        end = f"by {signals.get(-code, f'signal {-code}')}" if code < 0 else f"with status {code}"
        how = f"its import ended Python {end}"
        return at, f"{how}{f': {last}' if last else ''}"
    finally:
        process.kill()
        process.wait()
        for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
            reader.join(timeout=5)
            if stream is not None and not reader.is_alive():
                stream.close()


def _read_lines(stream: Any, put: Callable[[str | None], None]) -> None:
    for line in stream:
        put(line)
    put(None)


# ---------------------------------------------------------------- rows


def _base_row(needed: Sequence[Package], found: dict[str, dict[str, Any]]) -> Row:
    errors = _errors(needed, found)
    lacks = [x.lack for x in needed if x.lack]
    versions = {x.name: x.version for x in needed}
    common: dict[str, Any] = {"section": "ibpo", "what": "base", "versions": versions}
    purpose = "allocate, simulate and calibrate on logs, and ibpo.allocate in Python"
    if errors or lacks:
        said = "; ".join([*errors, *([f"lacks {', '.join(lacks)}"] if lacks else [])])
        names = " ".join(x.name for x in needed if x.lack or _error(x, found))
        return Row(status="broken", found=said, purpose=purpose, fix=f"pip install --force-reinstall {names}", **common)
    if not needed:
        return Row(
            status="limited", found="a checkout on the path, not installed: no metadata, so extras are not known",
            purpose=purpose, fix="in the checkout: pip install -e .", **common,
        )  # fmt: skip
    return Row(status="ok", found=", ".join(f"{x.name} {x.version}" for x in needed), purpose=purpose, **common)


def _extra_row(extra: str, needed: Sequence[Package], found: dict[str, dict[str, Any]]) -> Row:
    errors = _errors(needed, found) if extra not in NOT_PROBED else []
    lacks = [x.lack for x in needed if x.lack]
    common: dict[str, Any] = {
        "section": "extras",
        "what": extra,
        "purpose": PURPOSES.get(extra, ""),
        "versions": {x.name: x.version for x in needed},
        "lacks": lacks,
    }
    line = f"pip install 'ibpo[{extra}]'"
    if errors:
        names = " ".join(x.name for x in needed if _error(x, found))
        more = f"; then {line}" if lacks else ""
        return Row(
            status="broken", found="; ".join(errors), fix=f"pip install --force-reinstall {names}{more}", **common
        )
    if lacks:
        return Row(status="missing", found=f"lacks {_some(lacks)}", fix=line, **common)
    return Row(status="ok", found=_some([f"{x.name} {x.version or ''}".strip() for x in needed]), **common)


def _some(texts: Sequence[str]) -> str:
    """A list as a text; of a long one the beginning."""
    more = f" and {len(texts) - MOST_SHOWN} more (--json has them)" if len(texts) > MOST_SHOWN + 1 else ""
    return ", ".join(texts[:MOST_SHOWN] if more else texts) + more


def _error(package: Package, found: dict[str, dict[str, Any]]) -> str:
    name = "mathematics" if package.module == "math_verify" else package.module
    said = found.get(name, {})
    return said.get("error", "")


def _errors(needed: Iterable[Package], found: dict[str, dict[str, Any]]) -> list[str]:
    """What is installed and cannot be imported."""
    texts = ((x, _error(x, found)) for x in needed)
    return [f"{x.name} {x.version or ''}".strip() + f" is broken: {_short(text)}" for x, text in texts if text]


def _short(text: str) -> str:
    return one_line(text, 300)


def _solver_row(said: dict[str, Any]) -> Row:
    common: dict[str, Any] = {"section": "ibpo", "what": "solver", "purpose": "ibpo allocate and ibpo.allocate"}
    if "error" in said:
        return Row(status="broken", found=_short(said["error"]), fix="install ibpo again", **common)
    if said["compiled"]:
        return Row(status="ok", found="the compiled passes are in use", **common)
    return Row(
        status="limited",
        found="in numpy alone: the same answers, more slowly",
        fix="install a C compiler (gcc or clang), then ibpo again; in a checkout: python hatch_build.py",
        **common,
    )


def _math_row(said: dict[str, Any] | None) -> Row:
    versions = {name: _version(name) for name in ("math-verify", "antlr4-python3-runtime")}
    common: dict[str, Any] = {
        "section": "what works here",
        "what": "mathematics judge",
        "purpose": "tasks such as gsm8k and math_500; answers that are numbers or formulas",
        "versions": versions,
    }
    if said is None:
        return Row(status="missing", found="no math-verify", fix="pip install 'ibpo[math]'", **common)
    if "refused" in said:  # its text names the pip line
        return Row(status="broken", found=_short(said["refused"]), fix=_pip_line(said["refused"]), **common)
    if "error" in said or not said["right"]:
        from ibpo.rewards import ANTLR

        text = _short(said.get("error", "it gives wrong verdicts on two known answers"))
        fix = f"pip install --force-reinstall math-verify antlr4-python3-runtime=={ANTLR}"
        return Row(status="broken", found=text, fix=fix, **common)
    shown = f"math-verify {versions['math-verify']}, antlr4 runtime {versions['antlr4-python3-runtime']}"
    return Row(status="ok", found=f"{shown}; judges two known answers right", **common)


def _pip_line(text: str) -> str:
    start = text.find("pip install")
    return text[start:] if start >= 0 else ""


def _isolation_row(said: dict[str, Any]) -> Row:
    common: dict[str, Any] = {
        "section": "what works here",
        "what": "code isolation",
        "purpose": "the judge of programs (humaneval, mbpp): they run shut in by Landlock and seccomp",
    }
    reason = said.get("reason") or said.get("error") or said.get("refused")
    if not reason:
        return Row(status="ok", found="Landlock and seccomp hold on this kernel", **common)
    return Row(
        status="limited",
        found=f"programs cannot be isolated here: {_short(reason)}",
        fix="Linux 5.13 or newer with Landlock; or, on a throw-away machine only, --set judge.isolation=false",
        **common,
    )


def _gpu_row(said: dict[str, Any] | None) -> Row:
    common: dict[str, Any] = {
        "section": "what works here",
        "what": "torch and GPU",
        "purpose": "training and local models; ibpo demo needs no GPU",
        "versions": {"torch": _version("torch")},
    }
    if said is None:
        return Row(status="missing", found="no torch", fix="pip install 'ibpo[train]'", **common)
    if "torch" not in said:
        text = _short(said.get("error") or said.get("refused") or "")
        return Row(status="broken", found=text, fix="pip install --force-reinstall torch", **common)
    build = f"CUDA {said['cuda']}" if said["cuda"] else f"ROCm {said['hip']}" if said["hip"] else "CPU only"
    shown = f"torch {said['torch']}, built for {build}"
    if said["devices"]:
        names = ", ".join(f"{x['name']} ({x['mib']:,} MiB)" for x in said["devices"])
        return Row(status="ok", found=f"{shown}; {names}", **common)
    if said["mps"]:
        return Row(status="ok", found=f"{shown}; Apple GPU (MPS)", **common)
    has_card = Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
    fix = (
        "there is an NVIDIA driver here: install a build of torch for its CUDA, https://pytorch.org/get-started"
        if has_card
        else "nothing, if this machine has no GPU"
    )
    return Row(status="limited", found=f"{shown}; no GPU in use", fix=fix, **common)


def _seam_row(said: dict[str, Any] | None) -> Row:
    versions = {name: _version(name) for name in ("trl", "transformers")}
    common: dict[str, Any] = {
        "section": "what works here",
        "what": "trainer on TRL",
        "purpose": "ibpo train and IBPOTrainer, which override methods of trl.GRPOTrainer",
        "versions": versions,
    }
    if said is None:
        return Row(status="missing", found="no trl", fix="pip install 'ibpo[train]'", **common)
    shown = f"trl {versions['trl']} with transformers {versions['transformers']}"
    if "changed" not in said:
        text = _short(said.get("refused") or said.get("error") or "")
        fix = "pip install the trl and transformers that constraints.txt of ibpo's source names"
        return Row(status="broken", found=text or shown, fix=fix, **common)
    if said["changed"]:
        return Row(
            status="limited",
            found=f"{shown}: the source of {', '.join(said['changed'])} is not one that ibpo was verified with; it is "
            "called as before and may well do the same",
            fix="in ibpo's source: make test-newest-trl; or pip install trl==1.16 'transformers==5.24'",
            **common,
        )
    return Row(status="ok", found=f"{shown}: all methods are those that ibpo was verified with", **common)


def _vllm_row(said: dict[str, Any] | None) -> Row:
    version = _version("vllm")
    common: dict[str, Any] = {
        "section": "what works here",
        "what": "vLLM in this process",
        "purpose": "ibpo cold-start with sample.engine = 'vllm'; a vLLM server needs nothing here",
        "versions": {"vllm": version},
    }
    if said is None:
        fix = "in an environment of its own, pip install vllm; or serve the model by vLLM and use --base-url"
        return Row(status="missing", found="no vllm", fix=fix, **common)
    if "error" in said or "refused" in said:
        text = _short(said.get("error") or said.get("refused") or "")
        return Row(
            status="broken", found=f"vllm {version} cannot be imported: {text}",
            fix="pip install --force-reinstall vllm", **common,
        )  # fmt: skip
    return Row(status="ok", found=f"vllm {version} can be imported", **common)


def _version(name: str) -> str | None:
    there = _distribution(name)
    return there.version if there else None


# ---------------------------------------------------------------- the screen


def _progress(name: str) -> None:
    """On a terminal, what is being looked at; an empty name takes the line away."""
    if sys.stderr.isatty():
        print(f"\r\033[Klooking at {name} ..." if name else "\r\033[K", end="", file=sys.stderr, flush=True)


def _print(rows: Sequence[Row], broken: Sequence[str]) -> None:
    width = max(30, min(shutil.get_terminal_size((80, 24)).columns, 100))
    here = _here()
    cpus = f"{here['cpus']} CPU{'' if here['cpus'] == 1 else 's'}"
    typer.echo(_wrapped(f"ibpo {here['ibpo']}, Python {here['python']}, {here['platform']}, {cpus}", "", width))
    section, indent = "", " " * 10
    for row in rows:
        if row.section != section:
            section = row.section
            typer.echo()
            typer.echo(typer.style(section[:1].upper() + section[1:] if section != "ibpo" else section, bold=True))
        typer.echo(f"  {typer.style(f'{row.status:8}', fg=COLOURS[row.status])}{typer.style(row.what, bold=True)}")
        typer.echo(_wrapped(row.found, indent, width))
        typer.echo(_wrapped(f"for: {row.purpose}", indent, width))
        for number, fix in enumerate(row.fix.split("; then ") if row.fix else ()):
            said = f"{'then' if number else 'fix'}: {fix}"
            # A command is never broken into lines, so that it can be pasted.
            typer.echo(f"{indent}{said}" if fix.startswith("pip ") else _wrapped(said, indent, width))
    typer.echo()
    if any("ibpo[" in row.fix for row in rows):
        typer.echo(
            _wrapped(
                "pip reads the extras of 'ibpo[...]' from the ibpo that is installed here: run it in this environment "
                "(python -m pip), and no package index needs to have ibpo. In a checkout, pip install -e '.[...]' does "
                "the same.",
                "",
                width,
            )
        )
    count = {status: sum(row.status == status for row in rows) for status in COLOURS}
    said = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    end = f"Broken: {', '.join(broken)}." if broken else "Nothing that is installed is broken."
    typer.echo(_wrapped(f"{said}. {end} For a bug report: ibpo doctor --json", "", width))


def _wrapped(text: str, indent: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
