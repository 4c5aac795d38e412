"""What would each response group gain on a new prompt, and cost? Learned from logs, for models that you cannot train.

In the order of reading: `fit` (from a log to a router), `features` (what it looks at), `router` (its file and its
scores), `evaluate` (what it is worth on problems that it has not seen), `online` (learning while it serves),
`off_policy` (what another router would have been worth).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
