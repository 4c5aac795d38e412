"""The only room that talks to a policy, and the one scorer of what it answers."""

from ibpo.rollouts.scoring import rollout_of_ids, rollout_of_row, score

__all__ = ["rollout_of_ids", "rollout_of_row", "score"]
