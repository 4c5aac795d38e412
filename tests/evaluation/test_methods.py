import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.table import hold_against
from ibpo.evaluation.comparison import (
    CompareOptions,
    PerProblem,
    Problems,
    Reference,
    VoteCurve,
    by_number,
    compare,
    find_problems,
    mix,
)
from ibpo.evaluation.importing import COLD_START, import_responses
from ibpo.evaluation.methods import (
    Yardsticks,
    compare_methods,
    figures_of_merit,
    load_run,
    mean_over_seeds,
    summarise,
)
from ibpo.evaluation.responses import Responses, write_table
from ibpo.tasks import local_rows

KEYS = [
    *("experiment", "method", "budget", "seed", "num_problems", "accuracy", "stderr", "extended_share"),
    *("share_by_level", "accuracy_by_level", "mean_tokens", "relative_cost", "truncated_share"),
]


def choose(calibration_p, test_p, share):
    """An independent rule without ties: above the (m + 1)-th largest."""
    m = int(share * len(calibration_p))
    return test_p > np.sort(calibration_p)[::-1][m]


@pytest.fixture
def result(build_store, tmp_path):
    return compare_methods(build_store(tmp_path), "voting", 3, choose, ["easy", "medium"], num_draws=50)


def row_of(result, method, budget=None):
    (row,) = [row for row in result.rows if (row["method"], row["budget"]) == (method, budget)]
    return row


def merit_of(result, variant, budget):
    (merit,) = [m for m in result.merits if (m["variant"], m["budget"]) == (variant, budget)]
    return merit


def test_rows_have_exactly_the_agreed_keys_and_are_json(result):
    assert all(list(row) == KEYS for row in result.rows)
    json.dumps([result.rows, result.merits], allow_nan=False)
    assert {(row["experiment"], row["seed"], row["num_problems"]) for row in result.rows} == {("voting", 3, 100)}


def test_methods_in_order(result):
    names = list(dict.fromkeys(row["method"] for row in result.rows))
    votes = [f"self-consistency ({model}) maj@{k}" for model in ("cold start", "pretrained") for k in (1, 2, 3, 4)]
    assert names == [
        *("standard only", "extended only", "random mix", *votes),
        *(f"self-consistency ({name}) maj@{k}" for name in ("IBPO", "RAFT") for k in (2, 4)),
        "RAFT without budget",
        *("IBPO sampled", "IBPO calibrated", "oracle by level"),
        *("IBPO forced standard", "RAFT forced standard", "IBPO forced extended", "RAFT forced extended"),
    ]


@pytest.mark.parametrize(
    "method, budget, accuracy, share, tokens",
    [
        ("standard only", None, 0.5, 0.0, 10),
        ("extended only", None, 0.7, 1.0, 32),
        ("random mix", 0.25, 0.55, 0.25, 15.5),
        ("IBPO sampled", 0.25, 0.6, 0.3, 16),
        ("IBPO calibrated", 0.25, 0.625, 0.25, 15),
        ("IBPO calibrated", 0.5, 0.7, 0.5, 23),
        ("oracle by level", 0.25, 0.625, 0.25, 15),
        ("oracle by level", 0.5, 0.7, 0.4, 18),
        ("RAFT without budget", None, 0.7, 1.0, 32),
        ("IBPO forced extended", None, 0.7, 1.0, 32),
    ],
)
def test_numbers_equal_the_closed_form(result, method, budget, accuracy, share, tokens):
    row = row_of(result, method, budget)
    assert row["accuracy"] == pytest.approx(accuracy)
    assert row["extended_share"] == pytest.approx(share)
    assert row["mean_tokens"] == pytest.approx(tokens)
    assert row["relative_cost"] == pytest.approx(tokens / 10)


def test_by_level_and_stderr(result):
    row = row_of(result, "IBPO calibrated", 0.25)
    assert row["share_by_level"] == pytest.approx({"easy": 0, "medium": 0.625, "unknown": 0})
    per_problem = [1.0] * 40 + [0.75] * 25 + [0.25] * 15 + [0.0] * 20
    assert row["stderr"] == pytest.approx(np.std(per_problem, ddof=1) / 10)


def test_votes_cost_what_they_take(result):
    rows = [row for row in result.rows if row["method"].startswith("self-consistency (pretrained)")]
    assert [row["relative_cost"] for row in rows] == pytest.approx([1, 2, 3, 4])
    # Three wrong answers that never agree, one right: the vote is a draw among those seen.
    assert [row["accuracy"] for row in rows] == pytest.approx([0.5] * 4)


def test_a_trained_policy_votes_too(result):
    row = row_of(result, "self-consistency (IBPO) maj@4")
    assert row["relative_cost"] == pytest.approx(4)
    assert row["accuracy"] == pytest.approx(0.5)  # its forced responses are those of the cold start here


def test_policies_that_write_differently_are_told_apart(build_store, tmp_path):
    directory = build_store(tmp_path)
    path = directory / "responses" / "ibpo-0.5__extended.jsonl.gz"
    rows = [row for _, row in local_rows(path)]
    write_table(path, [row | {"reward": 1 - row["reward"]} for row in rows])
    result = compare_methods(directory, "voting", 3, choose, ["easy", "medium"], num_draws=50)
    for method, right in (("self-consistency (IBPO) maj@4", [0.5, 0.5]), ("IBPO forced extended", [0.7, 0.3])):
        found = {row["budget"]: row["accuracy"] for row in result.rows if row["method"] == method}
        assert found == pytest.approx(dict(zip((0.25, 0.5), right, strict=True)))
    assert {merit["budget"]: merit["erosion"]["extended"]["difference"] for merit in result.merits} == pytest.approx(
        {0.25: 0.0, 0.5: -0.4}
    )


def test_each_row_comes_with_its_result(result):
    assert len(result.results) == len(result.rows)
    for row, one in zip(result.rows, result.results, strict=True):
        assert one.accuracy.mean() == pytest.approx(row["accuracy"]) and one.accuracy.shape == (100,)


def test_merits_of_the_calibrated_policy(result):
    merit = merit_of(result, "calibrated", 0.25)
    for name in ("oracle_share", "oracle_share_own", "rank_correlation"):
        assert merit[name] == pytest.approx(1.0), name
    assert (merit["binds"], merit["waste"], merit["waste_level_share"]) == (True, 0.0, pytest.approx(0.6))
    assert merit["share_error"] == pytest.approx(0.0)
    assert merit["retained"] == pytest.approx(0.625 / 0.7)
    assert merit["erosion"]["standard"] == {"difference": 0.0, "stderr": 0.0, "ratio": None}
    assert merit["gain_ratio_cold_start"] is None
    assert "standard error" in merit["reasons"]["gain_ratio_cold_start"]


def test_merits_where_the_budget_does_not_bind(result):
    merit = merit_of(result, "calibrated", 0.5)
    assert merit["binds"] is False
    assert merit["waste"] == pytest.approx(0.2)
    assert merit["oracle_share"] == pytest.approx(1.0)


def test_merits_of_the_sampled_policy(result):
    merit = merit_of(result, "sampled", 0.25)
    assert merit["share_error"] == pytest.approx(0.05)
    # At a cost of 16, where a standard response costs 10 and an extended one 32: the best choice gains 0.15.
    assert merit["oracle_share"] == pytest.approx((0.6 - (0.5 + 0.2 * 6 / 22)) / (0.65 - (0.5 + 0.2 * 6 / 22)))
    low, high = merit["oracle_share_interval"]
    assert low < merit["oracle_share"] < high
    low, high = merit["share_interval"]
    assert 0.2 < low < 0.3 < high < 0.4


def test_what_was_not_sampled_is_left_out(build_store, tmp_path):
    directory = build_store(tmp_path)
    for path in [*directory.glob("*/raft*"), *directory.glob("*/pretrained*"), *directory.glob("choices/*")]:
        path.unlink()
    for path in directory.glob("responses/ibpo-*__standard.jsonl.gz"):
        path.unlink()
    result = compare_methods(directory, "voting", 0, choose, num_draws=2)
    methods = {row["method"] for row in result.rows}
    assert not [m for m in methods if "RAFT" in m or "pretrained" in m or "calibrated" in m]
    merit = merit_of(result, "sampled", 0.5)
    assert merit["oracle_share_own"] is None and "not sampled" in merit["reasons"]["oracle_share_own"]
    assert merit["gain_ratio_pretrained"] is None and list(merit["erosion"]) == ["extended"]


def test_missing_cold_start_and_other_problems_are_told(build_store, tmp_path):
    directory = build_store(tmp_path / "a")
    other = build_store(tmp_path / "b", num=50)
    raft = "responses/raft__sampled.jsonl.gz"
    (directory / raft).write_bytes((other / raft).read_bytes())
    with pytest.raises(ValueError, match="raft__sampled: 50 problems"):
        compare_methods(directory, "voting", 0, choose)
    (directory / "responses/cold_start__extended.jsonl.gz").unlink()
    with pytest.raises(ValueError, match="cold_start__extended"):
        compare_methods(directory, "voting", 0, choose)


def test_load_run_sorts_by_problem_and_sample(build_store, tmp_path):
    responses, choices = load_run(build_store(tmp_path))
    columns = responses["ibpo-0.25", "sampled"]
    assert columns.problem[:5].tolist() == ["p0000"] * 4 + ["p0001"]
    assert columns.number[:5].tolist() == [0, 1, 2, 3, 0]
    assert len(choices["ibpo-0.25", "test"]) == 100
    assert by_number(columns, "reward").shape == (100, 4)


def test_levels_come_in_natural_order():
    names = ["unknown", "9-12", "4-5", "2", "10"]
    columns = Responses.from_rows({"problem": p, "level": name} for p, name in zip("abcde", names, strict=True))
    assert find_problems(columns).levels == ("2", "4-5", "9-12", "10", "unknown")
    assert find_problems(columns, ["10", "absent"]).levels == ("10", "2", "4-5", "9-12", "unknown")


def test_mean_over_seeds(result):
    other = [row | {"seed": 4, "accuracy": row["accuracy"] + 0.1} for row in result.rows]
    merged = mean_over_seeds([*result.rows, *other])
    assert len(merged) == len(result.rows)
    assert merged[0]["accuracy"] == pytest.approx(0.55)
    assert merged[0]["stderr"] == pytest.approx(result.rows[0]["stderr"])
    assert merged[0]["accuracy_range"] == pytest.approx([0.5, 0.6])
    assert (merged[0]["seed"], merged[0]["num_seeds"], merged[0]["budget"]) == (None, 2, None)


def test_mean_over_seeds_of_figures_with_intervals():
    row = {"experiment": "e", "method": "m", "budget": None, "seed": 0, "accuracy": 0.5, "stderr": 0.1}
    figure = {"value": 1.0, "low": 0.0, "high": None}
    rows = [row | {"ratio": None, "num_updates": None}, row | {"ratio": figure, "num_updates": 10},
            row | {"ratio": figure | {"value": 2.0, "high": 3.0}, "num_updates": 10}]  # fmt: skip
    [merged] = mean_over_seeds(rows)
    assert merged["ratio"] == {"value": 1.5, "low": 0.0, "high": 3.0} and merged["num_updates"] == 10


NUM = 200
LEVEL = np.arange(NUM) % 2  # level 0: extended gains 0.4; level 1: nothing
PROBLEMS = Problems(problem_id=np.arange(NUM).astype(str), levels=("gains", "hopeless"), level=LEVEL)


def answers(accuracy, tokens, share):
    return PerProblem(
        accuracy=np.asarray(accuracy),
        tokens=np.full(NUM, float(tokens)),
        share=np.asarray(share),
        truncated=np.zeros(NUM),
    )


STANDARD = answers(np.where(LEVEL == 0, 0.5, 0.0), 10, np.zeros(NUM))
EXTENDED = answers(np.where(LEVEL == 0, 0.9, 0.0), 40, np.ones(NUM))


def table(of, problems=PROBLEMS):
    """Two responses to each problem, each of them with the averages of all: both halves say the same."""
    rows = [
        {"problem": str(p), "level": problems.levels[level], "reward": of.accuracy[i], "tokens": of.tokens[i]}
        | {"response_group": "extended" if of.share[i] else "standard", "truncated": 0.0, "number": number}
        for number in (0, 1)
        for i, (p, level) in enumerate(zip(problems.problem_id, problems.level, strict=True))
    ]
    return Responses.from_rows(rows)


def curve(accuracy, cost):
    """Votes: accuracy `[K, P]`, cost `[K, P]` or `[K]` relative to a standard response."""
    accuracy, cost = np.array(accuracy), 10 * np.array(cost)
    cost = np.broadcast_to(cost if cost.ndim > 1 else cost[:, None], accuracy.shape)
    return VoteCurve(points=[{}] * len(accuracy), accuracy=accuracy, cost=cost)


def judge(share_P, accuracy, tokens, votes=None, own=(None, None), budget=0.5):
    result = PerProblem(accuracy=accuracy, tokens=np.full(NUM, float(tokens)), share=share_P, truncated=np.zeros(NUM))
    yardsticks = Yardsticks(table(STANDARD), table(EXTENDED), PROBLEMS, votes or {}, num_draws=100)
    reference = Reference(table(own[0]), table(own[1]), PROBLEMS.problem_id, num_draws=100) if all(own) else None
    return figures_of_merit(result, budget, yardsticks, own, reference)


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
    votes = curve([base, base, base + 0.1], [1.0, 2, 3])
    merit = judge(share, EXTENDED.accuracy, 25, {"cold_start": votes, "pretrained": votes})
    # Gain 0.2 at cost 2.5, where a mix of one and three votes gains 0.075 (the vote of two buys nothing).
    assert merit["gain_ratio_cold_start"] == pytest.approx(0.2 / 0.075)
    assert merit["gain_ratio_pretrained"] == pytest.approx(0.2 / 0.075)
    expensive = judge(share, EXTENDED.accuracy, 35, {"cold_start": votes})
    assert expensive["gain_ratio_cold_start"] is None
    assert "measured from 1.00 to 3.00" in expensive["reasons"]["gain_ratio_cold_start"]
    flat = judge(share, EXTENDED.accuracy, 15, {"cold_start": curve([base, base, base], [1.0, 2, 3])})
    assert flat["gain_ratio_cold_start"] is None
    assert "standard error" in flat["reasons"]["gain_ratio_cold_start"]


def noisy(seed=3):
    """A policy that sends 80 % of the first level's problems to extended, with single noisy responses."""
    rng = np.random.default_rng(seed)
    share = (rng.random(NUM) < np.where(LEVEL == 0, 0.8, 0.2)).astype(float)
    right = (rng.random(NUM) < np.where(share, EXTENDED.accuracy, STANDARD.accuracy)).astype(float)
    base = (rng.random((8, NUM)) < STANDARD.accuracy).mean(0)
    tokens = rng.uniform(5, 15, NUM)
    return share, right, curve([base, base + 0.05, base + 0.08], np.array([1.0, 2, 3])[:, None] * tokens / 10)


def test_every_figure_has_an_interval_that_holds_it():
    share, right, votes = noisy()
    merit = judge(share, right, 25, {"cold_start": votes, "pretrained": votes}, own=(STANDARD, EXTENDED))
    names = ["accuracy", "share", "share_error", "relative_cost", "oracle_share", "oracle_share_own",
             "gain_ratio_cold_start", "gain_ratio_pretrained", "waste", "retained"]  # fmt: skip
    for name in names:
        low, high = merit[f"{name}_interval"]
        assert low - 1e-9 <= merit[name] <= (np.inf if high is None else high) + 1e-9, name
        assert high is None or high > low or name == "relative_cost", name
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
    assert merit["oracle_share"] is None and "outside" in merit["reasons"]["oracle_share"]
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


@pytest.fixture(scope="module")
def world():
    """Three levels: extended gains nothing, .5 and .2; votes gain .1 with three and .15 with five responses."""
    num, rng = 600, np.random.default_rng(0)
    level = np.arange(num) % 3
    problems = Problems(problem_id=np.arange(num).astype(str), levels=("a", "b", "c"), level=level)

    def result(rates, tokens, share):
        accuracy = (rng.random((num, 8)) < np.asarray(rates)[level][:, None]).mean(1)
        fill = np.full(num, float(share))
        return PerProblem(accuracy=accuracy, tokens=tokens + rng.random(num), share=fill, truncated=0 * fill)

    standard, extended = result([0.8, 0.2, 0.1], 10, 0), result([0.8, 0.7, 0.3], 60, 1)
    votes = VoteCurve(
        points=[{}] * 3,
        accuracy=np.array([standard.accuracy + gain for gain in (0.0, 0.1, 0.15)]),
        cost=np.array([k * standard.tokens for k in (1, 3, 5)]),
    )
    chosen = mix(standard, extended, np.array([0.0, 0.9, 0.3])[level])
    forced = table(standard, problems), table(extended, problems)
    return Yardsticks(*forced, problems, {"cold_start": votes}, num_draws=100), standard, extended, chosen


def test_every_row_has_the_figures_of_merit(world):
    yardsticks, standard, extended, chosen = world
    found, merit = hold_against(yardsticks, chosen), figures_of_merit(chosen, 0.4, yardsticks)
    for name in ("gain_ratio_cold_start", "oracle_share"):
        assert found[name]["value"] == merit[name], name
        assert [found[name]["low"], found[name]["high"]] == merit[f"{name}_interval"]
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    part = (chosen.tokens.mean() - standard.tokens.mean()) / (extended.tokens.mean() - standard.tokens.mean())
    blind = (1 - part) * standard.accuracy.mean() + part * extended.accuracy.mean()
    assert found["above_random_mix"]["value"] == pytest.approx(chosen.accuracy.mean() - blind)
    assert found["above_random_mix"]["low"] > 0.05


def test_the_ends_lie_on_the_mix_and_what_costs_more_has_no_number(world):
    yardsticks, standard, extended, _ = world
    for end in (standard, extended):
        found = hold_against(yardsticks, end)
        assert found["above_random_mix"]["value"] == pytest.approx(0, abs=1e-9)
        assert found["oracle_share"] is None  # the oracle has no room there
    found = hold_against(yardsticks, replace(extended, tokens=extended.tokens + 1))
    assert found == dict.fromkeys(["gain_ratio_cold_start", "above_random_mix", "oracle_share"])


def test_a_blind_draw_has_an_interval_around_nothing(world):
    yardsticks, standard, extended, _ = world
    share = hold_against(yardsticks, mix(standard, extended, np.full(600, 0.5)))["oracle_share"]
    assert share["value"] == pytest.approx(0, abs=1e-6) and share["low"] <= 1e-6 and share["high"] >= -1e-6


def test_no_ratio_at_hardly_more_than_the_cost_of_one_response(world):
    yardsticks, standard, extended, _ = world
    for more, there in ((1.001, False), (1.2, True)):
        found = hold_against(yardsticks, replace(extended, tokens=more * standard.tokens))["gain_ratio_cold_start"]
        assert (found is not None) is there, more


def test_one_folder_has_one_oracle_share(build_store, tmp_path):
    """The demo's figures of merit, the baselines' rows and `ibpo report` on the same folder: the same number."""
    seed_dir = build_store(tmp_path / "run" / "voting" / "seed0")
    found = compare_methods(seed_dir, "voting", 0, choose)
    [part] = import_responses([("", tmp_path / "run")]).parts.values()
    page, yardsticks = compare(part, CompareOptions(reference=COLD_START, num_splits=2)), found.yardsticks
    assert yardsticks is not None
    for budget in (0.25, 0.5):
        merit = merit_of(found, "sampled", budget)
        [own] = [one for one in page["configurations"] if one["name"] == f"ibpo-{budget:g}, sampled"]
        assert own["oracle_share"]["value"] == pytest.approx(merit["oracle_share"]) and 0 < merit["oracle_share"] < 1
        assert [own["oracle_share"][end] for end in ("low", "high")] == pytest.approx(merit["oracle_share_interval"])
        [(_, result)] = [
            (row, one)
            for row, one in zip(found.rows, found.results, strict=True)
            if (row["method"], row["budget"]) == ("IBPO sampled", budget)
        ]
        row = hold_against(yardsticks, result)
        assert row["oracle_share"]["value"] == merit["oracle_share"]
        assert own["above_random_mix"]["value"] == pytest.approx(row["above_random_mix"]["value"])
