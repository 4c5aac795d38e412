from .allocation import (
    Allocation,
    Frontier,
    InfeasibleBudget,
    allocate,
    frontier,
    limit,
    reward_margin,
    share,
    slices,
    stack,
)
from .errors import IbpoError
from .training import IBPOConfig, IBPOTrainer
from .types import Problem, ResponseGroup, Rollout, ScoredResponse

__version__: str
__all__ = [
    "Allocation",
    "Frontier",
    "IBPOConfig",
    "IBPOTrainer",
    "IbpoError",
    "InfeasibleBudget",
    "Problem",
    "ResponseGroup",
    "Rollout",
    "ScoredResponse",
    "__version__",
    "allocate",
    "frontier",
    "limit",
    "reward_margin",
    "share",
    "slices",
    "stack",
]
