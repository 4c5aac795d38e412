"""A cold start: how a policy learns to write responses of every group, before `ibpo train` teaches it which to write.

Recipe -> solutions of the policy itself -> responses built out of them -> supervised fine-tuning -> gate.
"""
