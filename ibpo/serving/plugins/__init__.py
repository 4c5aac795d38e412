"""The gateway's decision inside proxies of others: where operators have one already, the budget needs no second.

`litellm`: a callback for the LiteLLM proxy. It reads the gateway's file, and decides and books by the gateway's own
code (`ibpo.serving.gateway.decision`). Needs the extra `ibpo[serve]` next to the proxy.
"""
