"""Keep the budget while answering.

`controller` decides which response group each request gets (the rule and the theorem), `stores` holds its accounts,
`gateway` puts it in front of a server, `simulation` runs it on a request trace, and `calibration` is the rule for
those who need no controller: a threshold on the policy's own choice. Everything that other rooms use is named here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
