"""Relatives of IBPO without a budget, as settings of the same trainer: `IBPOConfig(**RAFT)`, or a recipe's `[trl]`.

All three are weighted SFT on selected responses (Yu et al. 2025, section 3); they differ in which are selected.
"""

from __future__ import annotations

from typing import Any

RAFT: dict[str, Any] = {
    "budget": None,
    "utility": "reward",
    "stratified": False,
    "imitate_denied": False,
    "choice_weight": 1.0,
    "body_weight": 1.0,
    "anchor_share": 0.0,
    "feedback": 0.0,
}
"""One response per prompt, of those with the largest reward, weighed by it (Dong et al. 2023, arXiv 2304.06767)."""

RFT: dict[str, Any] = {**RAFT, "imitate_bodies": "rewarded"}
"""Every rewarded response (Yuan et al. 2023, arXiv 2308.01825), of this step's policy; equal ones are not left out."""

UNCONSTRAINED: dict[str, Any] = {"budget": None, "feedback": 0.0}
"""IBPO's gains and update with all that one may spend: each prompt gets the response group that gains most."""
