from .curve import judge_curve
from .encoder import Encoder, open_encoder
from .evaluate import check_routed, default_budgets, evaluate_router, score_unseen, verdict
from .features import as_text
from .fit import PROMPTS, RoutedLog, as_mix, embedder, fit_router, read_routed_log, scores_of
from .off_policy import OffPolicyValue, evaluate_off_policy
from .online import OnlineRouter, OnlineScores
from .router import Embed, Router, Scores, load_router, save_router

__all__ = [
    "PROMPTS",
    "Embed",
    "Encoder",
    "OffPolicyValue",
    "OnlineRouter",
    "OnlineScores",
    "RoutedLog",
    "Router",
    "Scores",
    "as_mix",
    "as_text",
    "check_routed",
    "default_budgets",
    "embedder",
    "evaluate_off_policy",
    "evaluate_router",
    "fit_router",
    "judge_curve",
    "load_router",
    "open_encoder",
    "read_routed_log",
    "save_router",
    "score_unseen",
    "scores_of",
    "verdict",
]
