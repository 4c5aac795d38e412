from .collection import ERROR as ERROR
from .collection import MOST as MOST
from .collection import Look as Look
from .collection import Target as Target
from .collection import answers_of as answers_of
from .collection import calls_to as calls_to
from .collection import differences as differences
from .collection import error_of as error_of
from .collection import first_target as first_target
from .collection import next_target as next_target
from .collection import num_looks as num_looks
from .collection import take_look as take_look
from .collection import what_more as what_more
from .collection import why_stop as why_stop
from .comparison import BUDGETS as BUDGETS
from .comparison import CompareOptions as CompareOptions
from .comparison import Evaluation as Evaluation
from .comparison import PerProblem as PerProblem
from .comparison import Reference as Reference
from .comparison import by_number as by_number
from .comparison import compare as compare
from .comparison import describe as describe
from .comparison import find_problems as find_problems
from .comparison import mix as mix
from .comparison import per_problem as per_problem
from .dialogues import DIALOGUES as DIALOGUES
from .importing import COLD_START as COLD_START
from .importing import Imported as Imported
from .importing import ImportOptions as ImportOptions
from .importing import import_responses as import_responses
from .importing import read_answer as read_answer
from .local_sampling import HeldOutResult as HeldOutResult
from .local_sampling import Scorer as Scorer
from .local_sampling import evaluate_held_out as evaluate_held_out
from .local_sampling import held_out_results as held_out_results
from .local_sampling import to_rollouts as to_rollouts
from .local_sampling import write_chances as write_chances
from .local_sampling import write_choices as write_choices
from .local_sampling import write_responses as write_responses
from .local_sampling import write_scored as write_scored
from .log_allocation import Answer as Answer
from .log_allocation import Question as Question
from .log_allocation import answer_questions as answer_questions
from .log_allocation import as_shown as as_shown
from .log_allocation import questions as questions
from .log_files import write_files as write_files
from .log_parts import LogPart as LogPart
from .log_parts import read_parts as read_parts
from .log_verdict import Verdict as Verdict
from .log_verdict import summarise_parts as summarise_parts
from .log_verdict import verdict as verdict
from .log_verdict import verdicts as verdicts
from .methods import MODELS as MODELS
from .methods import Methods as Methods
from .methods import Yardsticks as Yardsticks
from .methods import areas_of as areas_of
from .methods import compare_methods as compare_methods
from .methods import halves as halves
from .methods import load_run as load_run
from .methods import mean_over_seeds as mean_over_seeds
from .methods import numbers as numbers
from .methods import summarise as summarise
from .methods import table_files as table_files
from .metrics import answer_codes as answer_codes
from .metrics import estimate_area as estimate_area
from .metrics import estimate_gain_ratio as estimate_gain_ratio
from .metrics import pass_at_k as pass_at_k
from .metrics import random_mix as random_mix
from .metrics import vote_at_k as vote_at_k
from .prompt_log import Logged as Logged
from .prompt_log import PromptLog as PromptLog
from .prompt_log import match_logged as match_logged
from .prompt_log import read_prompt_log as read_prompt_log
from .prompt_log import stratified_order as stratified_order
from .report import PageData as PageData
from .report import answer_of as answer_of
from .report import comparison_part as comparison_part
from .report import conclude as conclude
from .report import first_methods as first_methods
from .report import gain_text as gain_text
from .report import lead_of_methods as lead_of_methods
from .report import methods_part as methods_part
from .report import percent as percent
from .report import pick_examples as pick_examples
from .report import plot_frontier as plot_frontier
from .report import plot_share_by_level as plot_share_by_level
from .report import points as points
from .report import verdict_of as verdict_of
from .report import write_page as write_page
from .responses import Responses as Responses
from .responses import join as join
from .responses import natural as natural
from .responses import read_table as read_table
from .responses import row_of as row_of
from .responses import write_table as write_table
from .run_facts import asked_by as asked_by
from .run_facts import facts_of as facts_of
from .run_facts import share_in_training as share_in_training
from .run_facts import trained_policy as trained_policy
from .run_facts import training_of as training_of
from .sampling import CHOOSES as CHOOSES
from .sampling import Way as Way
from .sampling import cautions as cautions
from .sampling import fingerprint as fingerprint
from .sampling import judge_stored as judge_stored
from .sampling import judge_ways as judge_ways
from .sampling import num_missing_and_all as num_missing_and_all
from .sampling import sample_ways as sample_ways
from .spending import Limits as Limits
from .spending import Spending as Spending
from .spending import use_of as use_of
from .statistics import NOTHING as NOTHING
from .statistics import Estimate as Estimate
from .statistics import FloatArray as FloatArray
from .statistics import bootstrap as bootstrap
from .statistics import estimate_bounded as estimate_bounded
from .statistics import estimate_from_draws as estimate_from_draws
from .statistics import estimate_mean as estimate_mean
from .statistics import estimate_quantile as estimate_quantile
from .statistics import estimate_rate as estimate_rate
from .statistics import paired_difference as paired_difference
from .statistics import problem_means as problem_means
from .statistics import rate_interval as rate_interval
from .statistics import ratio_of_means as ratio_of_means

__all__ = [
    "BUDGETS",
    "CHOOSES",
    "COLD_START",
    "DIALOGUES",
    "ERROR",
    "MODELS",
    "MOST",
    "NOTHING",
    "Answer",
    "CompareOptions",
    "Estimate",
    "Evaluation",
    "FloatArray",
    "HeldOutResult",
    "ImportOptions",
    "Imported",
    "Limits",
    "LogPart",
    "Logged",
    "Look",
    "Methods",
    "PageData",
    "PerProblem",
    "PromptLog",
    "Question",
    "Reference",
    "Responses",
    "Scorer",
    "Spending",
    "Target",
    "Verdict",
    "Way",
    "Yardsticks",
    "answer_of",
    "answer_questions",
    "answers_of",
    "areas_of",
    "asked_by",
    "bootstrap",
    "by_number",
    "calls_to",
    "cautions",
    "compare",
    "compare_methods",
    "comparison_part",
    "conclude",
    "describe",
    "differences",
    "error_of",
    "estimate_area",
    "estimate_bounded",
    "estimate_from_draws",
    "estimate_gain_ratio",
    "estimate_mean",
    "estimate_quantile",
    "estimate_rate",
    "evaluate_held_out",
    "facts_of",
    "find_problems",
    "fingerprint",
    "first_methods",
    "first_target",
    "gain_text",
    "halves",
    "held_out_results",
    "import_responses",
    "join",
    "judge_stored",
    "judge_ways",
    "lead_of_methods",
    "load_run",
    "match_logged",
    "mean_over_seeds",
    "methods_part",
    "mix",
    "natural",
    "next_target",
    "num_looks",
    "num_missing_and_all",
    "numbers",
    "paired_difference",
    "pass_at_k",
    "per_problem",
    "percent",
    "pick_examples",
    "plot_frontier",
    "plot_share_by_level",
    "points",
    "problem_means",
    "questions",
    "random_mix",
    "rate_interval",
    "ratio_of_means",
    "read_answer",
    "read_parts",
    "read_prompt_log",
    "read_table",
    "row_of",
    "sample_ways",
    "share_in_training",
    "stratified_order",
    "summarise",
    "summarise_parts",
    "table_files",
    "take_look",
    "to_rollouts",
    "trained_policy",
    "training_of",
    "use_of",
    "verdict",
    "verdict_of",
    "verdicts",
    "vote_at_k",
    "what_more",
    "why_stop",
    "write_chances",
    "write_choices",
    "write_files",
    "write_page",
    "write_responses",
    "write_scored",
    "write_table",
]
