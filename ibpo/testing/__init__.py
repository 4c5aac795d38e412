"""Test code that uses ibpo: in milliseconds, without a GPU, a model, a server or waiting.

A policy whose answers are given (`FakePolicy`), logs of it (`responses`), a clock that you set (`Clock`), a server that
speaks OpenAI's protocol and fails on demand (`upstream`), a gateway in front of it (`gateway`), the controller's
decision forced (`force`, `used_up`), and a trainer on a tiny model (`trainer`). The same arguments give the same
answers on every machine. Nothing of ibpo imports this room: what is not asked for is never active.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
