from .curve import judge_curve
from .encoder import Encoder, open_encoder
from .escalation import (
    SHOWN,
    FirstAnswers,
    as_escalation,
    escalation_verdict,
    judge_escalation,
    read_first_answers,
    read_shown,
)
from .evaluate import check_routed, default_budgets, evaluate_router, score_unseen, verdict
from .features import as_text, read_prompt
from .fit import PROMPTS, RoutedLog, as_mix, choose_layers, embedder, fit_router, read_routed_log, scores_of
from .off_policy import OffPolicyValue, Served, evaluate_off_policy, judge_served, read_served
from .online import OnlineRouter, OnlineScores
from .router import Embed, Router, Scores, load_router, save_router

__all__ = [
    "PROMPTS",
    "SHOWN",
    "Embed",
    "Encoder",
    "FirstAnswers",
    "OffPolicyValue",
    "OnlineRouter",
    "OnlineScores",
    "RoutedLog",
    "Router",
    "Scores",
    "Served",
    "as_escalation",
    "as_mix",
    "as_text",
    "check_routed",
    "choose_layers",
    "default_budgets",
    "embedder",
    "escalation_verdict",
    "evaluate_off_policy",
    "evaluate_router",
    "fit_router",
    "judge_curve",
    "judge_escalation",
    "judge_served",
    "load_router",
    "open_encoder",
    "read_first_answers",
    "read_prompt",
    "read_routed_log",
    "read_served",
    "read_shown",
    "save_router",
    "score_unseen",
    "scores_of",
    "verdict",
]
