"""Repeated responses, gathered by (problem, response group). Letters: R responses, P problems, G response groups."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ibpo.allocation.given import FloatArray, finite_array
from ibpo.allocation.ids import IntArray, id_items, id_names
from ibpo.errors import IbpoError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResponseCells:
    """Responses by (problem, response group), in an order that does not depend on the order of the rows.

    Attributes:
        problems: P ids, sorted by their `repr`.
        response_groups: G names, as text, sorted.
        cell: `[R]` p * G + g, not decreasing.
        reward: `[R]`.
        cost: `[R]`.
        count: `[P, G]` number of responses.
    """

    problems: list[Hashable]
    response_groups: list[str]
    cell: IntArray
    reward: FloatArray
    cost: FloatArray
    count: IntArray

    @classmethod
    def from_arrays(
        cls,
        reward: ArrayLike,
        problem: ArrayLike | Sequence[Hashable],
        response_group: ArrayLike | Sequence[Hashable],
        cost: ArrayLike,
    ) -> "ResponseCells":
        """Check and sort the rows of a log."""
        reward_R, cost_R = finite_array("reward", reward), finite_array("cost", cost)
        if reward_R.ndim != 1 or not len(reward_R) or cost_R.shape != reward_R.shape:
            raise IbpoError(
                f"reward and cost: need the same shape [R], R >= 1, got {reward_R.shape} and {cost_R.shape}"
            )
        problem_names, group_names = (
            id_names(field, ids, len(reward_R))
            for field, ids in (("problem", problem), ("response_group", response_group))
        )
        problems, p_R = np.unique(problem_names, return_inverse=True)
        groups, g_R = np.unique(group_names, return_inverse=True)
        problem_of = dict(zip(problem_names, id_items(problem), strict=True))
        group_of = dict(zip(group_names, id_items(response_group), strict=True))
        cell = p_R * len(groups) + g_R
        order = np.lexsort((cost_R, reward_R, cell))
        count = np.bincount(cell, minlength=len(problems) * len(groups)).reshape(len(problems), len(groups))
        return cls(
            problems=[problem_of[name] for name in problems.tolist()],
            response_groups=[str(group_of[name]) for name in groups.tolist()],
            cell=cell[order],
            reward=reward_R[order],
            cost=cost_R[order],
            count=count,
        )

    def means(self, mask: np.ndarray) -> tuple[FloatArray, FloatArray]:
        """`[P, G]` mean reward and mean cost of the responses in `mask`; NaN in a cell without any."""
        count = np.bincount(self.cell[mask], minlength=self.count.size)
        with np.errstate(invalid="ignore"):
            reward, cost = (
                (np.bincount(self.cell[mask], x[mask], self.count.size) / count).reshape(self.count.shape)
                for x in (self.reward, self.cost)
            )
        return reward, cost

    @property
    def mean_reward(self) -> FloatArray:
        """`[P, G]` mean reward of each cell."""
        return self.means(np.ones(len(self.cell), bool))[0]

    @property
    def mean_cost(self) -> FloatArray:
        """`[P, G]` mean cost of each cell."""
        return self.means(np.ones(len(self.cell), bool))[1]
