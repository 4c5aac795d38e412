"""Is the answer right? Judges of mathematics, programs and words, and the constraints that a response must keep."""

from ibpo.rewards.code import CodeJudge, why_not_isolated
from ibpo.rewards.external import CORRECTNESS, UNJUDGED, CommandJudge, LLMJudge
from ibpo.rewards.judges import (
    GIVES_ANSWER,
    NOT_TRUNCATED,
    AtLeast,
    Candidate,
    Constraint,
    ExactJudge,
    Judge,
    Judgement,
    JudgePerTask,
    MixtureOfJudges,
    Rule,
    exact_match,
    free_of,
    in_script,
    well_formed,
)
from ibpo.rewards.math import ANTLR, MathJudge

__all__ = [
    "ANTLR",
    "CORRECTNESS",
    "GIVES_ANSWER",
    "NOT_TRUNCATED",
    "UNJUDGED",
    "AtLeast",
    "Candidate",
    "CodeJudge",
    "CommandJudge",
    "Constraint",
    "ExactJudge",
    "Judge",
    "JudgePerTask",
    "Judgement",
    "LLMJudge",
    "MathJudge",
    "MixtureOfJudges",
    "Rule",
    "exact_match",
    "free_of",
    "in_script",
    "well_formed",
    "why_not_isolated",
]
