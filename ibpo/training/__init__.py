"""The update, on TRL: IBPO's trainer, runs from a recipe, and the cold start before it.

A name is imported when it is first asked for (`__init__.pyi` says from where): reading a recipe or a rollout log loads
no torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
