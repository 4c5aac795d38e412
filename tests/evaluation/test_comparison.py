import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibpo.errors import IbpoError
from ibpo.evaluation.comparison import CompareOptions, areas, compare
from ibpo.evaluation.metrics import RankedSteps, by_level_picks
from ibpo.evaluation.report.tables import tables_of
from ibpo.evaluation.responses import Responses, coarse_levels


def responses(num_problems=40, num_responses=4, seed=0, **changes):
    """Easy problems that both solve, hard ones that only "high" solves; "high" costs five times as much."""
    rng, rows = np.random.default_rng(seed), []
    for p in range(num_problems):
        hard = p % 2
        for name, chance, cost in (("low", 0.9 - 0.8 * hard, 10), ("high", 0.9, 50)):
            for _ in range(num_responses):
                right = rng.random() < chance
                row = {"problem": f"p{p}", "configuration": name, "reward": float(right), "level": str(hard)}
                row |= {"tokens": cost * rng.uniform(0.8, 1.2), "answer": "1" if right else str(rng.integers(2, 4))}
                rows.append(row | {"response_group": name, "completion": "text"} | changes)
    return Responses.from_rows(rows)


def changed(responses, **columns):
    every: dict[str, Any] = {name: getattr(responses, name) for name in Responses.__dataclass_fields__}
    return Responses(**(every | columns))


def test_everything_that_the_page_says():
    found = compare(responses())
    json.dumps(found, allow_nan=False)
    assert found["standard"] == "low" and found["num_problems"] == 40 and found["levels"] == ["0", "1"]
    low, high = found["configurations"]
    assert low["difference"] is None and low["relative_cost"]["value"] == 1
    assert high["relative_cost"]["value"] == pytest.approx(5, rel=0.1)
    expected = (
        high["numbers"]["overall"]["all"]["pass@1"]["value"] - low["numbers"]["overall"]["all"]["pass@1"]["value"]
    )
    assert high["difference"]["value"] == pytest.approx(expected)
    assert [p["k"] for p in found["votes"]["low"]] == [1, 2, 3, 4]
    assert found["mix"][0]["line"] == pytest.approx(low["numbers"]["overall"]["all"]["pass@1"]["value"])
    assert len(found["allocation"]) == 5 and set(found["oracles"]) == {"by problem", "by level"}


def test_allocation_finds_what_is_worth_it_and_is_honest():
    found = compare(responses(num_problems=200))
    middle = found["allocation"][2]
    assert middle["spent"] == pytest.approx(middle["budget"], rel=0.05)
    assert middle["gain"] > 0.1 and middle["reward"] <= middle["in_sample"]
    assert found["share_by_level"]["1"]["high"] > 0.9 > 0.2 > found["share_by_level"]["0"]["high"]


def test_nothing_is_gained_where_nothing_can_be():
    """Both configurations alike on every problem: what looks like a gain on the deciding half is luck."""
    rng = np.random.default_rng(1)
    rows = [
        {"problem": p, "configuration": name, "reward": float(rng.random() < 0.5), "tokens": cost}
        for p, (name, cost), _ in itertools.product(range(300), (("low", 10), ("high", 50)), range(4))
    ]
    for row in compare(Responses.from_rows(rows))["allocation"]:
        assert abs(row["gain"]) < 4 * row["gain_stderr"] and row["in_sample"] > row["reward"]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_the_greedy_choice_is_within_one_step_of_the_best(num_problems, num_configurations, seed):
    rng = np.random.default_rng(seed)
    reward = rng.integers(0, 5, (num_problems, num_configurations)).astype(np.float64) / 4
    cost = rng.integers(1, 9, (num_problems, num_configurations)).astype(np.float64)
    amount = rng.uniform(cost.min(1).mean(), cost.max(1).mean() + 1)
    pick = RankedSteps(reward, cost).within(amount)
    every = np.arange(num_problems)
    assert cost[every, pick].mean() <= amount + 1e-9
    best = max(
        reward[every, list(choice)].sum()
        for choice in itertools.product(range(num_configurations), repeat=num_problems)
        if cost[every, list(choice)].mean() <= amount + 1e-9
    )
    assert reward[every, pick].sum() >= best - (reward.max() - reward.min()) - 1e-9


def test_by_level_knows_no_problem():
    rng = np.random.default_rng(2)
    reward, cost = rng.random((50, 2)), np.tile([1.0, 5.0], (50, 1))
    level = np.array(["a"] * 25 + ["b"] * 25)
    reward[:25, 1] += 1
    (rule,) = by_level_picks([3.0], level)
    pick = rule(reward, cost, np.ones_like(cost))
    assert pick[:25].mean() == 1 and pick[25:].mean() == 0


def test_areas_stand_over_the_costs_that_a_curve_reaches():
    found = compare(responses(num_problems=100))
    mix, votes = found["areas"][0], {row["name"]: row for row in found["areas"]}["votes, low"]
    low, high = (row["cost"]["value"] for row in found["configurations"])
    assert (mix["name"], mix["low"], mix["high"], mix["mix"]) == ("random mix", low, high, None)
    ends = [row["numbers"]["overall"]["all"]["pass@1"]["value"] for row in found["configurations"]]
    assert mix["area"]["value"] == pytest.approx(sum(ends) / 2)
    assert mix["area"]["low"] < mix["area"]["value"] < mix["area"]["high"]
    # Four votes reach no farther than four responses; the random mix beside them is cut off there too.
    assert votes["high"] == pytest.approx(4 * low) and votes["mix"]["value"] < mix["area"]["value"]


def test_no_area_outside_the_range():
    flat = np.ones((1, 20))
    point, line = (2 * flat, flat), (np.vstack([flat, 3 * flat]), np.vstack([0 * flat, flat]))
    assert areas({"point": point, "beyond": line}, 4, 5) == []
    [row] = areas({"point": point, "line": line}, 2, 9, mix="point")
    assert (row["low"], row["high"], row["mix"]) == (2, 3, None) and row["area"].value == pytest.approx(0.75)


def test_a_curve_of_nearly_one_cost_has_no_area():
    """Most draws of the problems turn its two points round, or miss the range: there is no interval."""
    rng = np.random.default_rng(0)
    cost_KP, right_KP = rng.normal(2, 1, (2, 50)), rng.random((2, 50)) < 0.5
    cost_KP[1] += cost_KP[0].mean() - cost_KP[1].mean() + 1e-3
    assert areas({"nearly": (cost_KP, right_KP.astype(float))}, 0, 9) == []


def test_only_common_problems_count():
    both = responses()
    keep = ~((both.configuration == "high") & (both.problem == "p0"))
    found = compare(both.where(keep))
    assert (found["num_problems"], found["num_left_out"]) == (39, 1) and "1 problems" in found["notes"][0]
    with pytest.raises(IbpoError, match="no problem was answered by every configuration"):
        compare(
            both.where(
                ((both.configuration == "high") & (both.problem == "p0"))
                | (both.problem == "p1") & (both.configuration == "low")
            )
        )


def choosing(share_easy, share_hard, num_problems=300, seed=5):
    """The two of `responses`, and a policy that answers these parts of the levels as "high" does."""
    both = responses(num_problems=num_problems, num_responses=8)
    rng, rows = np.random.default_rng(seed), []
    for p in range(num_problems):
        for _ in range(8):
            high = rng.random() < (share_hard if p % 2 else share_easy)
            chance = 0.9 if high or not p % 2 else 0.1
            row = {
                "problem": f"p{p}",
                "configuration": "policy",
                "reward": float(rng.random() < chance),
                "level": p % 2,
            }
            rows.append(row | {"tokens": 50.0 if high else 10.0, "response_group": "high" if high else "low"})
    more = Responses.from_rows(rows)
    columns = {n: np.concatenate([getattr(both, n), getattr(more, n)]) for n in Responses.__dataclass_fields__}
    return Responses(**columns)


@pytest.mark.parametrize(("easy", "hard", "expected"), [(0.5, 0.5, 0.0), (0.0, 1.0, 1.0), (0.25, 0.75, 0.5)])
def test_the_oracle_share_runs_from_a_blind_draw_to_the_oracle(easy, hard, expected):
    found = compare(choosing(easy, hard), CompareOptions(num_splits=2))
    assert found["among"] == ["low", "high"] and found["oracle_knows"] == "levels"
    share = {row["name"]: row["oracle_share"] for row in found["configurations"]}
    assert share["low"] is None and share["high"] is None
    assert share["policy"]["value"] == pytest.approx(expected, abs=0.1)
    assert share["policy"]["low"] <= share["policy"]["value"] <= share["policy"]["high"]
    assert share["policy"]["high"] - share["policy"]["low"] < 0.4


def test_an_oracle_that_knows_problems_has_its_optimism_removed():
    """Rewards that are pure noise: the best of each problem's responses is no better on its other responses."""
    rows = choosing(0.5, 0.5)
    noise = (np.random.default_rng(0).random(len(rows)) < 0.5).astype(float)
    found = compare(changed(rows, reward=noise, level=np.full(len(rows), "", object)), CompareOptions(num_splits=2))
    assert found["oracle_knows"] == "problems"
    assert all(row["oracle_share"] is None for row in found["configurations"])


def test_the_paired_difference_twice():
    found = compare(responses(num_problems=200))["configurations"][1]
    closed, drawn = found["difference"], found["difference_bootstrap"]
    assert closed["value"] == pytest.approx(drawn["value"])
    for end in ("low", "high"):
        assert closed[end] == pytest.approx(drawn[end], abs=0.01) and closed[end] != drawn[end]


def test_differences_of_problems_that_are_all_alike_have_an_interval():
    """Right on all problems, or on none, is no certainty of the next one: there was no interval, or one of no width."""
    cost = {"low": 10, "middle": 30, "high": 50}
    rows = [
        {"problem": f"p{p}", "configuration": name, "response_group": name, "reward": float(name != "low"),
         "tokens": cost[name], "answer": "1"} for p in range(20) for name in cost for _ in range(2)
    ]  # fmt: skip
    found = {row["name"]: row for row in compare(Responses.from_rows(rows))["configurations"]}
    for number in ("difference", "difference_bootstrap", "above_random_mix"):
        one = found["middle"][number]
        assert one["value"] == pytest.approx(1 if number != "above_random_mix" else 0.5)
        assert one["low"] < one["value"] - 0.1 and one["high"] <= 1 and one["high"] - one["low"] > 0.1


def test_single_responses_have_no_held_out_allocation():
    found = compare(responses(num_responses=1))
    assert found["allocation"] == [] and "two responses" in found["notes"][0]


def test_policies_that_choose_are_no_alternatives():
    rows = responses()
    mixed = rows.response_group.copy()
    mixed[(rows.configuration == "high") & (np.arange(len(rows)) % 2 == 0)] = "low"
    found = compare(changed(rows, response_group=mixed))
    assert found["among"] == ["low"] and found["allocation"] == []
    assert compare(changed(rows, response_group=mixed), CompareOptions(among=["low", "high"]))["allocation"]


def test_what_is_refused():
    with pytest.raises(IbpoError, match="medium: no such configuration; there are low, high"):
        compare(responses(), CompareOptions(standard="medium"))
    with pytest.raises(IbpoError, match="low: no response has a cost"):
        compare(responses(tokens=None))


def test_unknown_tokens_of_a_problem_keep_its_accuracy():
    rows = responses()
    tokens = rows.tokens.copy()
    tokens[rows.problem == "p3"] = np.nan
    found = compare(changed(rows, tokens=tokens))
    assert found["num_problems"] == 40
    assert "39 problems" in found["notes"][0]


def test_texts_are_never_cut_into_classes():
    rows = [{"problem": i, "configuration": "c", "reward": 1, "level": f"name {i}"} for i in range(20)]
    assert len(set(coarse_levels(Responses.from_rows(rows)).level)) == 20


def test_a_problem_has_its_level_in_every_configuration():
    """Only one file named levels: which oracle there was hung on the order of the rows."""
    whole = responses(num_problems=12)
    low = whole.configuration == "low"
    some = changed(whole, level=np.where(low, whole.level, ""), domain=np.where(low, "sums", ""))
    every = changed(whole, domain=np.full(len(whole), "sums", dtype=object))
    expected = json.dumps(compare(every))
    for order in (np.arange(len(some)), np.arange(len(some))[::-1]):
        found = compare(some.where(order))
        assert set(found["oracles"]) == {"by problem", "by level"} and found["oracle_knows"] == "levels"
        for row in found["configurations"]:
            assert set(row["numbers"]) == {"overall", "level=0", "level=1", "domain=sums"}
    assert json.dumps(compare(some)) == expected


def test_a_configuration_that_is_named_twice_is_one():
    once, twice = (
        compare(responses(), CompareOptions(among=names)) for names in (("low", "high"), ("low", "high", "low"))
    )
    assert once == twice and once["allocation"]


def test_a_domain_of_one_configuration_has_its_row():
    """Those that the cheapest configuration had not answered were in no table."""
    whole = responses(num_problems=12)
    high = whole.configuration == "high"
    named = changed(whole, domain=np.where(high, "sums, addition", "sums"))
    [table] = [
        one for one in tables_of(compare(named) | {"cost_unit": "tokens"}) if one.caption.startswith("By domain")
    ]
    assert [[cell.text for cell in row[:2]] for row in table.rows] == [["sums", "low"], ["sums, addition", "high"]]
