import numpy as np
import pytest

from ibpo.evaluation.merits import Allocated, SelfConsistency, figures_of_merit, summarise
from ibpo.evaluation.store import PerProblem, Problems

NUM = 200
LEVEL = np.arange(NUM) % 2  # level 0: extended gains 0.4; level 1: nothing
PROBLEMS = Problems(problem_id=np.arange(NUM), levels=("gains", "hopeless"), level=LEVEL)


def answers(accuracy, tokens, share):
    return PerProblem(
        accuracy=np.asarray(accuracy),
        tokens=np.full(NUM, float(tokens)),
        share=np.asarray(share),
        truncated=np.zeros(NUM),
    )


STANDARD = answers(np.where(LEVEL == 0, 0.5, 0.0), 10, np.zeros(NUM))
EXTENDED = answers(np.where(LEVEL == 0, 0.9, 0.0), 40, np.ones(NUM))


def judge(share_P, accuracy, tokens, consistency=None, own=(None, None), budget=0.5):
    result = PerProblem(accuracy=accuracy, tokens=np.full(NUM, float(tokens)), share=share_P, truncated=np.zeros(NUM))
    allocated = Allocated(budget=budget, variant="sampled", result=result, own_standard=own[0], own_extended=own[1])
    return figures_of_merit(allocated, STANDARD, EXTENDED, PROBLEMS, consistency or {}, num_draws=100)


@pytest.mark.parametrize("to_gains, expected", [(0.5, 0.0), (1.0, 1.0), (0.75, 0.5)])
def test_oracle_share_runs_from_a_blind_draw_to_the_oracle(to_gains, expected):
    share = np.where(LEVEL == 0, to_gains, 1 - to_gains)
    merit = judge(share, (1 - share) * STANDARD.accuracy + share * EXTENDED.accuracy, 25)
    assert merit["oracle_share"] == pytest.approx(expected)
    assert merit["waste"] == pytest.approx(1 - to_gains)
    assert merit["share_interval"] == pytest.approx([0.5, 0.5], abs=0.1)


def test_gain_ratio_gives_self_consistency_its_best_mix_at_the_policys_cost():
    share = np.where(LEVEL == 0, 1.0, 0.0)
    base = STANDARD.accuracy
    curve = SelfConsistency(
        standard=base, accuracy=np.array([base, base, base + 0.1]), relative_cost=np.array([1.0, 2, 3])
    )
    merit = judge(share, EXTENDED.accuracy, 25, {"cold_start": curve, "pretrained": curve})
    # Gain 0.2 at cost 2.5, where a mix of one and three votes gains 0.075 (the vote of two buys nothing).
    assert merit["gain_ratio_cold_start"] == pytest.approx(0.2 / 0.075)
    assert merit["gain_ratio_pretrained"] == pytest.approx(0.2 / 0.075)
    dear = judge(share, EXTENDED.accuracy, 35, {"cold_start": curve})
    assert dear["gain_ratio_cold_start"] is None
    assert "measured from 1.00 to 3.00" in dear["reasons"]["gain_ratio_cold_start"]
    even = SelfConsistency(standard=base, accuracy=np.array([base, base, base]), relative_cost=np.array([1.0, 2, 3]))
    flat = judge(share, EXTENDED.accuracy, 15, {"cold_start": even})
    assert flat["gain_ratio_cold_start"] is None
    assert "standard error" in flat["reasons"]["gain_ratio_cold_start"]


def noisy(seed=3):
    """A policy that sends 80 % of the first level's problems to extended, with single noisy responses."""
    rng = np.random.default_rng(seed)
    share = (rng.random(NUM) < np.where(LEVEL == 0, 0.8, 0.2)).astype(float)
    right = (rng.random(NUM) < np.where(share, EXTENDED.accuracy, STANDARD.accuracy)).astype(float)
    base = (rng.random((8, NUM)) < STANDARD.accuracy).mean(0)
    tokens = rng.uniform(5, 15, NUM)
    return share, right, SelfConsistency(
        standard=base, accuracy=np.array([base, base + 0.05, base + 0.08]),
        relative_cost=np.array([1.0, 2, 3])[:, None] * tokens / 10,
    )  # fmt: skip


def test_every_figure_has_an_interval_that_holds_it():
    share, right, curve = noisy()
    merit = judge(share, right, 25, {"cold_start": curve, "pretrained": curve}, own=(STANDARD, EXTENDED))
    names = ["accuracy", "share", "share_error", "relative_cost", "oracle_share", "oracle_share_own",
             "oracle_share_tokens", "gain_ratio_cold_start", "gain_ratio_pretrained", "waste", "retained"]  # fmt: skip
    for name in names:
        low, high = merit[f"{name}_interval"]
        assert low <= merit[name] <= (np.inf if high is None else high), name
        assert name == "relative_cost" or high is None or high > low, name
    assert merit["share_error_interval"][0] == pytest.approx(merit["share_interval"][0] - 0.5)
    assert merit["rank_correlation_interval"] == [1.0, 1.0]


def test_no_interval_without_a_number():
    merit = judge(np.full(NUM, 1.0), STANDARD.accuracy, 50)
    for name in merit["reasons"]:
        assert merit.get(f"{name}_interval") is None


def test_own_accuracies_isolate_the_allocation():
    """Better bodies lift the plain oracle share; a blind draw stays at 0 by the policy's own."""
    share = np.full(NUM, 0.5)
    own = answers(STANDARD.accuracy + 0.1, 10, share * 0), answers(EXTENDED.accuracy + 0.1, 40, share * 0 + 1)
    merit = judge(share, 0.5 * own[0].accuracy + 0.5 * own[1].accuracy, 25, own=own)
    assert merit["oracle_share"] == pytest.approx(1.0)
    assert merit["oracle_share_own"] == pytest.approx(0.0, abs=1e-12)
    assert merit["erosion"]["extended"]["difference"] == pytest.approx(0.1)


def test_erosion_is_paired():
    shift = np.tile([-0.2, -0.2, 0.0, 0.0], NUM // 4)
    own = answers(STANDARD.accuracy + shift, 10, np.zeros(NUM)), EXTENDED
    merit = judge(np.full(NUM, 0.5), STANDARD.accuracy, 25, own=own)
    stderr = shift.std(ddof=1) / np.sqrt(NUM)
    expected = {"difference": -0.1, "stderr": stderr, "ratio": -0.1 / stderr}
    assert merit["erosion"]["standard"] == pytest.approx(expected)


@pytest.mark.parametrize("share, name", [(1.0, "oracle_share"), (0.0, "waste")])
def test_no_number_without_a_reason(share, name):
    merit = judge(np.full(NUM, share), STANDARD.accuracy, 50)
    assert merit[name] is None and merit["reasons"][name]
    assert merit["oracle_share_tokens"] is None and "outside" in merit["reasons"]["oracle_share_tokens"]
    assert merit["rank_correlation"] is None and merit["reasons"]["rank_correlation"]
    assert all(merit[key] is None for key in merit["reasons"] if key != "erosion")


def test_summarise_keeps_range_and_reasons():
    head = {"experiment": "e", "budget": 0.25, "variant": "calibrated"}
    erosion = {"standard": {"difference": 0.1, "stderr": 0.1, "ratio": None}}
    one = head | {"seed": 0, "share": 0.2, "binds": True, "waste": None, "share_interval": [0, 1], "erosion": erosion}
    two = head | {
        "seed": 1,
        "share": 0.3,
        "binds": False,
        "waste": None,
        "erosion": erosion,
        "reasons": {"waste": "why"},
    }
    (found,) = summarise([[one], [two]])
    assert found["share"] == pytest.approx({"mean": 0.25, "min": 0.2, "max": 0.3, "num_seeds": 2})
    assert found["binds"]["mean"] == 0.5
    assert found["waste"] is None and found["reasons"] == {"waste": "why"}
    assert found["erosion"]["standard"]["difference"]["num_seeds"] == 2
    assert found["erosion"]["standard"]["ratio"] is None
    assert "share_interval" not in found and "seed" not in found
