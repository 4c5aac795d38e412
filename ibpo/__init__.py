"""IBPO: which response should each prompt get, so that the total stays inside an inference budget?

`import ibpo` loads no library; a name is imported when it is first asked for (`__init__.pyi` says from where).
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, _list_names, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return [*__all__]
