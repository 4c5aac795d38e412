"""The only room that talks to a policy, and the one scorer of what it answers.

Names are imported when they are first asked for: sampling in this process needs torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
