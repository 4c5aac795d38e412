"""How good, at what cost, inside the budget?

One table of responses (`responses`), one comparison of which every number is read (`comparison`, `methods`), every
interval (`statistics`), one page (`report`). A name is imported when it is first asked for (`__init__.pyi`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
