"""An OpenAI-compatible gateway that holds a budget on live traffic. Needs the extra `ibpo[serve]`.

Read `decision.py` first: decide, reserve, settle. `governor` is the life of one request around it. Around that:
`server` (the process and its paths), `access` (who may ask), `openai_request` and `usage` (OpenAI's protocol, in and
out), `gains` (what extended reasoning is worth), `async_controller` (the budget), `proxy` (the bytes), `settings`
(files and keys) and `telemetry` (log and metrics).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
