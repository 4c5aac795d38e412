"""The demo, from cold start to page: two embedded experiments, and one with a real language model from a folder.

`import ibpo.demo` loads nothing heavy; every name is imported when it is first asked for. What `experiments/` of the
repository needs to spend the same budget in other ways is public here: the demo's jobs, its runner and its settings.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
