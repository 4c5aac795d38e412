"""The first sentences of a page: what made-up tables of responses make them claim, and where they are said."""

import json
import random
import re

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.evaluation.comparison import CompareOptions, compare
from ibpo.evaluation.methods import compare_methods
from ibpo.evaluation.report import answer_of, conclude, lead_of_methods
from ibpo.evaluation.report.lead import budget_text, more_text, over_seeds, problems_needed
from ibpo.evaluation.responses import Responses

COSTS = {"standard": 10, "extended": 50}


def rows(choose, num_problems=60, num_responses=4, *, budget=None, forced=("standard", "extended"), seed=0):
    """Extended responses help on every other problem; `choose(problem, random)` is when the policy answers so."""
    rng, made = random.Random(seed), []
    for p in range(num_problems):
        for n in range(num_responses):
            ways = {name: name for name in forced}
            if choose is not None:
                ways["policy"] = "extended" if choose(p, rng) else "standard"
            for name, group in ways.items():
                right = rng.random() < (0.9 if group == "extended" and p % 2 else 0.2)
                made.append(
                    {"problem": f"p{p}", "configuration": name, "response_group": group, "number": n}
                    | {"reward": float(right), "tokens": COSTS[group], "answer": "1" if right else f"{n}"}
                    | ({"budget": budget} if name == "policy" and budget is not None else {})
                )
    return made


def lead(made):
    responses = Responses.from_rows(made)
    part = compare(responses, CompareOptions(num_splits=4))
    said = conclude(responses, part, "tokens", num_splits=4, seed=0)
    return said["lead"] | {"answer": answer_of({"": said})}


def sometimes(share):
    return lambda p, rng: rng.random() < share


def test_a_policy_that_chooses_well_gains():
    said = lead(rows(lambda p, _: p % 2))
    assert said["verdict"] == "gain" and said["gain"]["low"] > 0.05
    assert re.match(r"policy gains \+\d\d\.\d points \(95 %: \+\d+\.\d to \+\d\d\.\d\) over a random mix", said["text"])
    assert "o conclusion on policy" not in said["text"]


def test_a_policy_that_chooses_badly_loses():
    said = lead(rows(lambda p, _: not p % 2))
    assert said["verdict"] == "loss" and said["gain"]["high"] < -0.1
    assert re.match(r"policy loses: −\d\d\.\d points \(95 %: −\d\d\.\d to −\d\d\.\d\) against", said["text"])
    assert "policy gains" not in said["text"]


def test_a_policy_that_chooses_blindly_is_no_conclusion():
    said = lead(rows(sometimes(0.5)))
    assert said["verdict"] == "no conclusion" and said["gain"]["low"] < 0 < said["gain"]["high"]
    assert said["text"].startswith("No conclusion on policy: ") and "That may be chance" in said["text"]
    assert "policy gains" not in said["text"] and "policy loses" not in said["text"]


@pytest.mark.parametrize("num_problems", [1, 2, 5])
def test_few_problems_claim_nothing(num_problems):
    """Their numbers are those of a clear gain."""
    said = lead(rows(lambda p, _: p % 2, num_problems, budget=0.5))
    assert said["verdict"] == "no conclusion" and not re.search(r"\bgains?\b", said["text"])
    assert f"Too few problems for any conclusion: {num_problems}; at least 6 are needed." in said["text"]
    assert "nan" not in said["text"]
    if num_problems == 1:
        assert "budget is not known" in said["text"]


def test_a_budget_that_was_not_kept_is_said_by_how_much():
    said = lead(rows(sometimes(0.8), budget=0.5))["text"]
    [over] = re.findall(r"policy did not keep its budget: \+(\d+\.\d) points too many, more than chance explains", said)
    assert 25 < float(over) < 35 and "50.0% allowed" in said


def test_a_budget_that_was_missed_by_chance_is_not_called_broken():
    share = {"value": 0.53, "low": 0.48, "high": 0.58}
    said = budget_text("policy", 0.5, share)
    assert said.startswith(
        "Whether policy kept its budget is not known: +3.0 points too many, which may be chance; 53.0%"
    )
    assert budget_text("policy", 0.5, share | {"value": 0.5}).startswith(
        "policy kept its budget: 50.0% of its responses"
    )


@pytest.mark.parametrize(
    ("binds", "why"),
    [
        (False, "points unused: the budget has slack"),
        (True, "points unused, although extended responses gain something on more problems"),
        (None, "It left 20.0 points unused."),
    ],
)
def test_a_budget_with_slack_is_said(binds, why):
    said = budget_text("it", 0.5, {"value": 0.3, "low": 0.26, "high": 0.34}, binds=binds)
    assert said.startswith("It kept its budget: 30.0% of its responses extended (95 %: 26.0% to 34.0%), 50.0% allowed.")
    assert why in said


def test_without_baselines_there_is_no_conclusion():
    said = lead(rows(lambda p, _: p % 2, forced=()))
    assert said["verdict"] == "no conclusion" and said["gain"] is None
    assert "it takes a random mix of two configurations to compare with" in said["text"]
    assert re.search(r"policy is right on \d\d\.\d% \(95 %: \d\d\.\d% to \d\d\.\d%\)\.", said["text"])
    said = lead(rows(lambda p, _: p % 2, forced=("standard",)))
    assert said["verdict"] == "no conclusion" and "policy gains" not in said["text"]


def test_nothing_is_concluded_from_a_configuration_without_answers():
    """It is wrong on everything since nothing of it could be read: no loss by choosing worse."""
    made = rows(lambda p, _: p % 2)
    for row in made:
        if row["configuration"] == "policy":
            row |= {"answer": None, "reward": 0.0}
    said = lead(made)["text"]
    assert said.startswith("No conclusion from policy: none of its responses gives an answer.")
    assert "policy loses" not in said and "policy gains" not in said


def test_choosing_per_problem_is_claimed_where_its_interval_says_so():
    said = lead(rows(None, num_problems=300))
    assert said["verdict"] == "gain"
    assert said["text"].startswith("Choosing per problem with half of today's tokens gains +")
    alike = rows(None, num_problems=80)
    rng = random.Random(1)
    for row in alike:  # extended helps everywhere alike
        row["reward"] = float(rng.random() < (0.8 if row["response_group"] == "extended" else 0.3))
    said = lead(alike)
    assert said["verdict"] == "no conclusion"
    assert said["text"].startswith("No conclusion on choosing per problem with half of today's tokens")
    assert "standard is right on" in said["text"] and ": a gain of +" in said["text"]


def test_the_most_accurate_of_several_is_held_against_the_standard_one():
    made = [
        {"problem": f"p{p}", "configuration": name, "reward": float((p * 7 + n) % 10 < of_ten), "tokens": tokens}
        for p in range(40)
        for n in range(2)
        for name, of_ten, tokens in (("a", 5, 10), ("b", 5, 20), ("c", 5, 40))
    ]
    said = lead(made)["text"]
    assert "No conclusion between a and " in said and "picked as the best of 2, which flatters it" in said
    worse = [row | {"reward": 0.0 if row["configuration"] != "a" else row["reward"]} for row in made]
    assert ": a loss, −50.0 points (95 %: −" in lead(worse)["text"]


def test_all_twins_say_the_same(tmp_path):
    """Terminal, Markdown, HTML and JSON."""
    file = tmp_path / "log.jsonl"
    made = rows(sometimes(0.5), budget=0.3)
    names = {"problem": "problem_id"}
    lines = (json.dumps({names.get(key, key): value for key, value in row.items()}) for row in made)
    file.write_text("".join(f"{line}\n" for line in lines))
    done = CliRunner().invoke(app, ["report", str(file), "--out", str(tmp_path / "page"), "--num-splits", "4"])
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "page" / "report.json").read_text())
    said = data["answer"]
    assert said == data["parts"][""]["lead"]["text"]
    assert said.startswith("policy did not keep its budget: +") and "No conclusion on policy" in said
    assert said in done.stderr
    html = (tmp_path / "page" / "report.html").read_text()
    assert f'<p class="lead">{said}</p>'.replace("'", "&#39;") in html
    assert said in (tmp_path / "page" / "report.md").read_text()


def choose(calibration_p, test_p, share):
    return test_p > sorted(calibration_p, reverse=True)[int(share * len(calibration_p))]


@pytest.fixture(scope="module")
def methods(build_store, tmp_path_factory):
    directory = build_store(tmp_path_factory.mktemp("store"))
    return compare_methods(directory, "voting", 0, choose, ["easy", "medium"], num_draws=50)


def changed(merits, budget=0.5, variant="sampled", **changes):
    return [one | changes if (one["budget"], one["variant"]) == (budget, variant) else one for one in merits]


def test_the_lead_of_a_demo_is_its_gain_over_a_random_mix_of_the_same_cost(methods):
    kept = changed(methods.merits, share=0.5, share_interval=[0.45, 0.55])  # as it is, it breaks its budget
    said = lead_of_methods("voting", methods.rows, kept)
    [merit] = [one for one in methods.merits if (one["budget"], one["variant"]) == (0.5, "sampled")]
    assert said["gain"]["value"] == pytest.approx(merit["above_random_mix"])
    assert [said["gain"]["low"], said["gain"]["high"]] == pytest.approx(merit["above_random_mix_interval"])
    assert said["verdict"] == "gain" and said["budget"] == 0.5
    assert said["text"].startswith("Voting: The trained policy at a budget of 50% gains +")
    assert "of 100 unseen problems; always extended 70.0%, never 50.0%." in said["text"]
    assert "another seed may give another number" in said["text"]
    assert "At the other budgets: 25%: " in said["text"]
    assert {(one["budget"], one["variant"]) for one in said["by_budget"]} == {
        (q, variant) for q in (0.25, 0.5) for variant in ("sampled", "calibrated")
    }


@pytest.mark.parametrize(
    ("gain", "verdict", "said"),
    [
        ((-0.02, [-0.043, 0.0015]), "no conclusion", "No conclusion on the trained policy at a budget of 50%: −2.0 "),
        ((-0.02, [-0.034, -0.001]), "loss", "a budget of 50% loses: −2.0 points (95 %: −3.4 to −0.1)"),
        ((0.02, [0.001, 0.04]), "gain", "The trained policy at a budget of 50% gains +2.0 points (95 %: +0.1 to +4.0)"),
        ((0.02, [0.0, 0.04]), "no conclusion", "No conclusion on the trained policy"),
        ((0.02, None), "no conclusion", "on the trained policy at a budget of 50%: +2.0 points (no interval)"),
        ((None, None), "no conclusion", "No conclusion on the trained policy"),
    ],
)  # fmt: skip
def test_a_demo_claims_what_its_interval_says(methods, gain, verdict, said):
    """A quick run called a gain of −17 to +1 % "against the claim": half widths made the interval's end a −0."""
    value, ends = gain
    merits = changed(methods.merits, above_random_mix=value, above_random_mix_interval=ends)
    found = lead_of_methods("voting", methods.rows, merits)
    assert found["verdict"] == verdict and said in found["text"]
    assert "-0" not in found["text"] and "−0.0" not in found["text"] and "nan" not in found["text"]


def test_a_demo_that_broke_its_budget_says_so_first(methods):
    merits = changed(methods.merits, share=0.6, share_interval=[0.55, 0.65])
    said = lead_of_methods("voting", methods.rows, merits)["text"]
    assert said.startswith(
        "Voting: The trained policy did not keep its budget: +10.0 points too many, more than chance"
    )
    slack = changed(methods.merits, share=0.3, share_interval=[0.25, 0.35], binds=False)
    assert "the budget has slack" in lead_of_methods("voting", methods.rows, slack)["text"]


def test_three_seeds_tell_what_one_does_not(methods):
    one = changed(methods.merits, above_random_mix=0.02, above_random_mix_interval=[-0.01, 0.05])
    assert lead_of_methods("voting", methods.rows, one)["verdict"] == "no conclusion"
    seeds = [merit | {"seed": seed} for seed in range(3) for merit in one]
    rows = [row | {"seed": seed} for seed in range(3) for row in methods.rows]
    said = lead_of_methods("voting", rows, seeds)
    assert said["verdict"] == "gain" and said["gain"]["low"] == pytest.approx(0.02 - 0.03 / 3**0.5)
    assert "The mean of 3 trainings, which got +2.0 to +2.0." in said["text"] and "per seed" in said["text"]


def test_a_demo_without_policies_or_baselines_claims_nothing(methods):
    said = lead_of_methods("voting", [row for row in methods.rows if "IBPO" not in row["method"]], [])
    assert said["verdict"] == "no conclusion" and "no policy was trained to keep a budget" in said["text"]
    bare = [row for row in methods.rows if row["method"].startswith("IBPO")]
    old = [{key: value for key, value in one.items() if "random_mix" not in key} for one in methods.merits]
    said = lead_of_methods("voting", bare, old)
    assert said["verdict"] == "no conclusion" and "there is no random mix of its cost to compare with" in said["text"]
    # An older run's figures of merit hold no gain over the random mix; its rows say it, without an interval.
    assert "(no interval)" in lead_of_methods("voting", methods.rows, old)["text"]
    assert lead_of_methods("voting", [], [])["verdict"] == "no conclusion"


def test_how_many_problems_would_tell_is_said_where_it_can_be():
    """Four evaluations of five: the difference is 2.8 standard errors then, whatever the number was."""
    one = {"value": 0.02, "low": -0.01, "high": 0.05}
    needed = problems_needed(one, 100)
    assert needed is not None
    stderr = 0.03 / 1.96 * (100 / needed) ** 0.5
    assert 0.02 / stderr == pytest.approx(2.8, abs=0.02)
    assert f"some {needed:,} problems in place of 100" in more_text(one, 100)
    assert "too close to 0" in more_text(one | {"value": 0.0001}, 100) and "some" not in more_text(
        one | {"value": 0}, 100
    )
    assert "Without an interval" in more_text({"value": 1.0, "low": None, "high": None}, 100)
    assert "Too few problems" in more_text(one, 5)


def test_the_mean_of_seeds_needs_all_of_them():
    ends = {"low": 0.1, "high": 0.3}
    assert over_seeds([{"value": 0.2, **ends}, {"value": None, "low": None, "high": None}]) is None
    found = over_seeds([{"value": 0.2, **ends}, {"value": 0.2, "low": None, "high": None}])
    assert found == {"value": 0.2, "low": None, "high": None}
    assert over_seeds([]) is None
