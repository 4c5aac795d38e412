"""The update, on TRL: IBPO's trainer, runs from a recipe, and the cold start before it.

A name is imported when it is first asked for (`__init__.pyi` says from where): reading a recipe or a rollout log loads
no torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import lazy_loader

from ibpo.errors import IbpoError

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _find(name)
    except RuntimeError as error:
        # Any folder called vllm is a package to Python, of no version to TRL (1.16), which can't be imported then.
        found = find_spec("vllm") if "Invalid version" in str(error) else None
        if found is None or found.origin is not None:
            raise
        folder = next(iter(found.submodule_search_locations or []), "vllm")
        raise IbpoError(
            f"{folder}: TRL takes this folder for the package vllm and cannot be imported: rename it, or run elsewhere"
        ) from error
