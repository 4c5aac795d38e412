"""Which response does each problem get, inside a budget? Arrays only: numpy and scipy."""

from ibpo.allocation.budgets import Limit, limit, slices, stack
from ibpo.allocation.exact import allocate
from ibpo.allocation.frontier import Frontier, frontier
from ibpo.allocation.holdout import HoldoutRow, holdout_value
from ibpo.allocation.infeasible import InfeasibleBudget
from ibpo.allocation.log_file import Log, LogError, read_log
from ibpo.allocation.margin import reward_margin
from ibpo.allocation.problem import Allocation, AllocationProblem, share
from ibpo.allocation.running_price import RunningPrice

__all__ = [
    "Allocation",
    "AllocationProblem",
    "Frontier",
    "HoldoutRow",
    "InfeasibleBudget",
    "Limit",
    "Log",
    "LogError",
    "RunningPrice",
    "allocate",
    "frontier",
    "holdout_value",
    "limit",
    "read_log",
    "reward_margin",
    "share",
    "slices",
    "stack",
]
