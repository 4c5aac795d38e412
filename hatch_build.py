"""Compiles ibpo/allocation/kernels.c where a C compiler is found; a build goes on without it, in numpy alone.

The library is no extension module: it knows nothing of Python, is opened by `ctypes` (`ibpo.allocation.kernels`), and
one wheel serves every Python of a platform.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # pyright: ignore[reportMissingImports]
except ImportError:  # run by hand, to compile again after kernels.c has changed: python hatch_build.py
    BuildHookInterface = object

SOURCE = Path("ibpo", "allocation", "kernels.c")
LIBRARY = SOURCE.with_name("_kernels.dll" if os.name == "nt" else "_kernels.so")
FLAGS = ["-O3", "-std=c99", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]


def compile_kernels(root: Path) -> Path | None:
    """The library, new if its source is; None where there is no compiler, or it fails."""
    source, library = root / SOURCE, root / LIBRARY
    compiler = next(
        filter(None, map(shutil.which, [*os.environ.get("CC", "").split()[:1], "cc", "gcc", "clang"])), None
    )
    if compiler is None:
        library.unlink(missing_ok=True)
        return None
    part = library.with_suffix(f".{os.getpid()}.part")
    try:
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(part), "-lm"], check=True, capture_output=True)
        part.replace(library)
    except (OSError, subprocess.CalledProcessError):
        part.unlink(missing_ok=True)
        library.unlink(missing_ok=True)
        return None
    return library


class CustomBuildHook(BuildHookInterface):  # pyright: ignore[reportGeneralTypeIssues]
    """Runs before a wheel or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, put the library into the wheel, and name its platform."""
        library = compile_kernels(Path(self.root))
        if library is None:
            self.app.display_warning("ibpo: no C compiler: the solver runs in numpy alone, with the same answers")
            return
        build_data["artifacts"].append(str(LIBRARY.as_posix()))
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{platform}"


if __name__ == "__main__":
    print(compile_kernels(Path(__file__).parent) or "no C compiler")
