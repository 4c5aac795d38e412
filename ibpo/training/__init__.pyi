from .budgets import bind_budgets, read_budget
from .checkpoints import STATE_OF_ONE_PROCESS, check_checkpoint, go_on, saving
from .cold_start.recipe import ColdStartConfig, read_cold_start_recipe
from .cold_start.run import ColdStart, ColdStartJob, supervised_fine_tune
from .config import RAFT, RFT, UNCONSTRAINED, IBPOConfig, held_up_schedule
from .judge_reward import JudgeReward
from .loss import kl_penalty
from .lower_level import Batch, LowerLevel
from .reference_model import frozen_copy, prompt_features
from .rollout_log import compare, find_rollout_log, read_rollout_log, replay, tokens_spent
from .run import Job, adapter_of, as_rows, data_rows, run_job, trainer_arguments
from .trainer import IBPOTrainer

__all__ = [
    "RAFT",
    "RFT",
    "STATE_OF_ONE_PROCESS",
    "UNCONSTRAINED",
    "Batch",
    "ColdStart",
    "ColdStartConfig",
    "ColdStartJob",
    "IBPOConfig",
    "IBPOTrainer",
    "Job",
    "JudgeReward",
    "LowerLevel",
    "adapter_of",
    "as_rows",
    "bind_budgets",
    "check_checkpoint",
    "compare",
    "data_rows",
    "find_rollout_log",
    "frozen_copy",
    "go_on",
    "held_up_schedule",
    "kl_penalty",
    "prompt_features",
    "read_budget",
    "read_cold_start_recipe",
    "read_rollout_log",
    "replay",
    "run_job",
    "saving",
    "supervised_fine_tune",
    "tokens_spent",
    "trainer_arguments",
]
