from .advantages import AllocatedAdvantages, allocate_skyrl
from .budgets import bind_budgets, read_budget
from .checkpoints import STATE_OF_ONE_PROCESS, check_checkpoint, go_on, saving
from .choice import ChoiceStates, TrainedChoice, choose_by_rows, read_bodies, read_states, train_choice
from .cold_start.recipe import ColdStartConfig, read_cold_start_recipe
from .cold_start.run import ColdStart, ColdStartJob, groups_of, supervised_fine_tune
from .config import RAFT, RFT, UNCONSTRAINED, IBPOConfig, held_up_schedule
from .judge_reward import JudgeReward
from .loss import kl_penalty
from .lower_level import Batch, LowerLevel, least_significant_gain
from .reference_model import frozen_copy, prompt_features
from .repricing import reprice, reprice_policy, sample_bodies
from .rollout_log import compare, find_rollout_log, read_rollout_log, replay, tokens_spent
from .run import Job, adapter_of, as_rows, data_rows, run_job, trainer_arguments
from .trainer import IBPOTrainer
from .trl_methods import changed_methods

__all__ = [
    "RAFT",
    "RFT",
    "STATE_OF_ONE_PROCESS",
    "UNCONSTRAINED",
    "AllocatedAdvantages",
    "Batch",
    "ChoiceStates",
    "ColdStart",
    "ColdStartConfig",
    "ColdStartJob",
    "IBPOConfig",
    "IBPOTrainer",
    "Job",
    "JudgeReward",
    "LowerLevel",
    "TrainedChoice",
    "adapter_of",
    "allocate_skyrl",
    "as_rows",
    "bind_budgets",
    "changed_methods",
    "check_checkpoint",
    "choose_by_rows",
    "compare",
    "data_rows",
    "find_rollout_log",
    "frozen_copy",
    "go_on",
    "groups_of",
    "held_up_schedule",
    "kl_penalty",
    "least_significant_gain",
    "prompt_features",
    "read_bodies",
    "read_budget",
    "read_cold_start_recipe",
    "read_rollout_log",
    "read_states",
    "replay",
    "reprice",
    "reprice_policy",
    "run_job",
    "sample_bodies",
    "saving",
    "supervised_fine_tune",
    "tokens_spent",
    "train_choice",
    "trainer_arguments",
]
