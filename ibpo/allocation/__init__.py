"""Which response does each problem get, inside a budget? Arrays only: numpy, and scipy's HiGHS where it is called."""

from ibpo.allocation.allocate import Allocation, allocate
from ibpo.allocation.arguments import Limit, limit, reward_margin, share, slices, stack
from ibpo.allocation.distributed import PartitionedAllocation, allocate_partitions
from ibpo.allocation.holdout import (
    GroupMeans,
    HoldoutRow,
    Pick,
    RankedSteps,
    by_problem_picks,
    enough_splits,
    holdout_value,
    random_mix,
    value_halves,
)
from ibpo.allocation.kernels import is_compiled
from ibpo.allocation.knapsack import Frontier, envelope, frontier
from ibpo.allocation.problem import InfeasibleBudget
from ibpo.allocation.segments import number_texts

__all__ = [
    "Allocation",
    "Frontier",
    "GroupMeans",
    "HoldoutRow",
    "InfeasibleBudget",
    "Limit",
    "PartitionedAllocation",
    "Pick",
    "RankedSteps",
    "allocate",
    "allocate_partitions",
    "by_problem_picks",
    "enough_splits",
    "envelope",
    "frontier",
    "holdout_value",
    "is_compiled",
    "limit",
    "number_texts",
    "random_mix",
    "reward_margin",
    "share",
    "slices",
    "stack",
    "value_halves",
]
