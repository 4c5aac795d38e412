from .experiments import EXPERIMENTS as EXPERIMENTS
from .experiments import LONGEST_CHAIN as LONGEST_CHAIN
from .experiments import SMOLLM2 as SMOLLM2
from .experiments import THINKING as THINKING
from .experiments import VOTING as VOTING
from .experiments import Experiment as Experiment
from .experiments import experiment_named as experiment_named
from .models import model_path as model_path
from .models import resolve_model as resolve_model
from .page import calibrated_choice as calibrated_choice
from .page import training_steps as training_steps
from .page import write_outcome as write_outcome
from .policy import NUM_SAMPLED as NUM_SAMPLED
from .policy import StepProgress as StepProgress
from .policy import common_settings as common_settings
from .policy import correctness_reward as correctness_reward
from .policy import forced_counts as forced_counts
from .policy import quiet_libraries as quiet_libraries
from .policy import run_job as run_job
from .policy import sample_forced as sample_forced
from .policy import sample_policy as sample_policy
from .policy import sample_untrained as sample_untrained
from .policy import settings_of as settings_of
from .policy import train_policy as train_policy
from .real_models import REAL_MODELS as REAL_MODELS
from .real_models import RealModel as RealModel
from .real_models import convert_gguf as convert_gguf
from .real_models import fetch_gguf as fetch_gguf
from .real_models import get_model as get_model
from .real_policy import RealJob as RealJob
from .real_policy import plan_real_jobs as plan_real_jobs
from .real_policy import run_real_job as run_real_job
from .run import FORCED as FORCED
from .run import OF_BUDGETS as OF_BUDGETS
from .run import RAFT_NAME as RAFT_NAME
from .run import TRAINED as TRAINED
from .run import TRAINED_AT as TRAINED_AT
from .run import UNTRAINED as UNTRAINED
from .run import DemoJob as DemoJob
from .run import DemoSettings as DemoSettings
from .run import ModelJob as ModelJob
from .run import ProcessJob as ProcessJob
from .run import check_policies as check_policies
from .run import check_settings as check_settings
from .run import plan_jobs as plan_jobs
from .run import run_jobs as run_jobs
from .run import table_file as table_file

__all__ = [
    "EXPERIMENTS",
    "FORCED",
    "LONGEST_CHAIN",
    "NUM_SAMPLED",
    "OF_BUDGETS",
    "RAFT_NAME",
    "REAL_MODELS",
    "SMOLLM2",
    "THINKING",
    "TRAINED",
    "TRAINED_AT",
    "UNTRAINED",
    "VOTING",
    "DemoJob",
    "DemoSettings",
    "Experiment",
    "ModelJob",
    "ProcessJob",
    "RealJob",
    "RealModel",
    "StepProgress",
    "calibrated_choice",
    "check_policies",
    "check_settings",
    "common_settings",
    "convert_gguf",
    "correctness_reward",
    "experiment_named",
    "fetch_gguf",
    "forced_counts",
    "get_model",
    "model_path",
    "plan_jobs",
    "plan_real_jobs",
    "quiet_libraries",
    "resolve_model",
    "run_job",
    "run_jobs",
    "run_real_job",
    "sample_forced",
    "sample_policy",
    "sample_untrained",
    "settings_of",
    "table_file",
    "train_policy",
    "training_steps",
    "write_outcome",
]
