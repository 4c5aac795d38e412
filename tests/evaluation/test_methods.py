import json

import numpy as np
import pytest
from ibpo.evaluation.compare import compare, load_responses, mean_over_seeds
from ibpo.evaluation.store import by_sample, find_problems

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
    return compare(build_store(tmp_path), "voting", 3, choose, ["easy", "medium"], num_draws=50)


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
        ("IBPO forced extended", 0.5, 0.7, 1.0, 32),
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
    rows = {row["budget"]: row for row in result.rows if row["method"] == "self-consistency (IBPO) maj@4"}
    assert set(rows) == {0.25, 0.5} and rows[0.5]["relative_cost"] == pytest.approx(4)
    assert rows[0.5]["accuracy"] == pytest.approx(0.5)  # its forced responses are those of the cold start here


def test_each_row_comes_with_its_result(result):
    assert len(result.results) == len(result.rows)
    for row, one in zip(result.rows, result.results, strict=True):
        assert one.accuracy.mean() == pytest.approx(row["accuracy"]) and one.accuracy.shape == (100,)


def test_merits_of_the_calibrated_policy(result):
    merit = merit_of(result, "calibrated", 0.25)
    for name in ("oracle_share", "oracle_share_own", "oracle_share_tokens", "rank_correlation"):
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
    assert merit["oracle_share"] == pytest.approx((0.6 - 0.56) / (0.65 - 0.56))
    low, high = merit["oracle_share_interval"]
    assert low < merit["oracle_share"] < high
    low, high = merit["share_interval"]
    assert 0.2 < low < 0.3 < high < 0.4


def test_what_was_not_sampled_is_left_out(build_store, tmp_path):
    directory = build_store(tmp_path)
    for path in [*directory.glob("*/raft*"), *directory.glob("*/pretrained*"), *directory.glob("choices/*")]:
        path.unlink()
    for path in directory.glob("responses/ibpo-*__standard.parquet"):
        path.unlink()
    result = compare(directory, "voting", 0, choose, num_draws=2)
    methods = {row["method"] for row in result.rows}
    assert not [m for m in methods if "RAFT" in m or "pretrained" in m or "calibrated" in m]
    merit = merit_of(result, "sampled", 0.5)
    assert merit["oracle_share_own"] is None and "not sampled" in merit["reasons"]["oracle_share_own"]
    assert merit["gain_ratio_pretrained"] is None and list(merit["erosion"]) == ["extended"]


def test_missing_cold_start_and_other_problems_are_told(build_store, tmp_path):
    directory = build_store(tmp_path / "a")
    other = build_store(tmp_path / "b", num=50)
    raft = "responses/raft__sampled.parquet"
    (directory / raft).write_bytes((other / raft).read_bytes())
    with pytest.raises(ValueError, match="raft__sampled: 50 problems"):
        compare(directory, "voting", 0, choose)
    (directory / "responses/cold_start__extended.parquet").unlink()
    with pytest.raises(ValueError, match="cold_start__extended"):
        compare(directory, "voting", 0, choose)


def test_load_responses_sorts_by_problem_and_sample(build_store, tmp_path):
    responses = load_responses(build_store(tmp_path))
    columns = responses["ibpo-0.25", "sampled"]
    assert columns["problem_id"][:5].tolist() == ["p0000"] * 4 + ["p0001"]
    assert columns["sample"][:5].tolist() == [0, 1, 2, 3, 0]
    assert by_sample(columns, "reward").shape == (100, 4)


def test_levels_come_in_natural_order():
    names = ["unknown", "9-12", "4-5", "2", "10"]
    columns = {"problem_id": np.array(list("abcde")), "level": np.array(names, dtype=object)}
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
