"""Opens the C library, where the package was built with one: hatch_build.py compiles kernels.c."""

import ctypes
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Int = ctypes.c_int64
Float = ctypes.c_double


VERSION = 10
"""Raised whenever kernels.c changes what it takes or gives."""


def opened(path: Path) -> ctypes.CDLL | None:
    """The library in a file; None where there is none, or one of another machine or commit."""
    try:
        library = ctypes.CDLL(str(path))
        if library.version() != VERSION:  # an editable install that was not built again
            return None
    except (OSError, AttributeError):
        return None
    counts = "best_rows", "exact_parts", "exchange", "heads", "open_rows", "run_states", "scatter_slices", "starts"
    for found in (getattr(library, name) for name in counts):
        found.restype = Int
    return library


LIBRARY = opened(Path(__file__).with_name("_kernels.dll" if os.name == "nt" else "_kernels.so"))
"""The kernels; None where they were not built: numpy then does the same. Tests set it to None."""


def is_compiled() -> bool:
    """Whether the solver runs its compiled passes."""
    return LIBRARY is not None


def at(array: NDArray[Any] | None) -> ctypes.c_void_p | None:
    """Where an array begins in memory; NULL for none."""
    return None if array is None else ctypes.c_void_p(array.__array_interface__["data"][0])  # .ctypes takes longer
