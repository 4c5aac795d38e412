import gzip
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import fit_router, read_routed_log
from ibpo.serving.calibration import load_calibration
from ibpo.serving.controller import ServingPolicy
from ibpo.serving.simulation.simulate import Requests, simulate
from ibpo.serving.simulation.summary import average_windows, find_reachable, summarise
from ibpo.serving.simulation.traffic import read_trace, recorded_requests, repeat_trace, synthetic_requests, with_caps


def requests(num_requests, seed=0, failures=0.1, tenants=("a", "b")):
    rng = np.random.default_rng(seed)
    cost = np.stack([rng.gamma(2, 300, num_requests), rng.gamma(2, 4000, num_requests)], axis=1)
    return Requests(
        time=np.cumsum(rng.exponential(0.01, num_requests)),
        groups=("standard", "extended"),
        gain=np.stack([np.zeros(num_requests), rng.random(num_requests)], axis=1),
        cost=cost,
        estimate=np.tile(cost.mean(axis=0), (num_requests, 1)),
        seconds=cost / 2000,
        failed=rng.random(num_requests) < failures,
        tenant=rng.choice(tenants, num_requests).tolist(),
        slice_name=[""] * num_requests,
    )


PLAN = {
    "budget": {"share": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 2500.0}},
    "fair_share": 0.5,
}


def test_a_simulation_counts_what_was_answered_and_keeps_the_bound():
    came, plan = requests(2500), ServingPolicy.from_dict(PLAN)
    done = simulate(came, plan)
    figures = summarise(came, done, plan)
    answered = ~came.failed
    share, tokens = figures["budgets"]
    assert share["spent"] == (done.choice[answered] == 1).mean()
    assert tokens["spent"] == pytest.approx(came.cost[np.arange(2500), done.choice][answered].mean())
    assert figures["num_failed"] == came.failed.sum() > 150
    assert tokens["spent"] <= 2500 * 1.02
    for row in figures["budgets"]:
        assert not row["bound_broken"]
        assert row["overdraft"] <= row["largest_bound"] + 1e-6
    assert 0.8 <= figures["value_kept"] <= 1 + 1e-9
    assert [row["tenant"] for row in figures["tenants"]] == ["a", "b"]
    assert sum(row["num_requests"] for row in figures["tenants"]) == answered.sum()


@pytest.mark.parametrize("in_flight", [20, 600])
@pytest.mark.parametrize("overcommit", [1e5, float("inf")])
def test_caps_are_kept_ready_and_the_budget_is_used_nevertheless(in_flight, overcommit):
    came = requests(4000, failures=0.0)
    came = replace(came, time=np.arange(4000) * (2500 / 2000) / in_flight)  # 2,000 tokens a second each
    came = with_caps(came, {"standard": 2400.0, "extended": 32768.0})
    assert came.cost[:, 0].max() == 2400
    plan = ServingPolicy.from_dict(
        {"budget": {"tokens": {"mean": 2500.0, "overdraft": 25000.0, "overcommit": overcommit}}}
    )
    done = simulate(came, plan)
    figures = summarise(came, done, plan)
    (row,) = figures["budgets"]
    assert not row["bound_broken"]
    assert row["overdraft"] <= row["largest_bound"] <= 25000 + min(overcommit, done.most_in_flight * 32768)
    if math.isinf(overcommit):
        assert 0.5 * in_flight <= figures["most_in_flight"] <= 2 * in_flight
        assert row["spent"] == pytest.approx(2500, rel=0.04)
        assert figures["value_kept_as_predicted"] >= 0.97
    # Only the allowance makes them rare: three extended responses fill it.
    elif in_flight == 600:
        assert row["spent"] < 1500


def test_what_is_in_flight_limits_the_windows_that_anybody_can_hold():
    came, plan = requests(6000, failures=0.0), ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2500.0}}})
    known = replace(came, estimate=came.cost)
    done = simulate(known, plan)
    assert find_reachable(known, done, plan, window=1000, warm_up=1000)[0].tolist() == [1.0] * 200
    # Lengths of 800 responses in flight at a time, with a standard deviation of some 70 % of their means.
    done = simulate(came, plan)
    share = find_reachable(came, done, plan, window=1000, warm_up=1000)[0].mean()
    assert 0.2 < share < 0.7
    row = summarise(came, done, plan)["budgets"][0]
    assert row["windows_within_1_percent"] <= share + 0.1
    assert row["windows_reachable"] == pytest.approx(share)
    # Against a controller of their own: failures of half of the requests are nobody's choice either.
    failing = replace(known, failed=np.random.default_rng(1).random(6000) < 0.5)
    assert find_reachable(failing, done, plan, window=1000, warm_up=1000)[0].mean() < share


def test_the_best_as_predicted_knows_no_more_than_the_controller():
    came, plan = requests(3000, failures=0.0), ServingPolicy.from_dict({"budget": {"tokens": {"mean": 2500.0}}})
    figures = summarise(came, simulate(came, plan), plan)
    # All extended responses are told to be of one length: nobody can tell the short ones, only the clairvoyant can.
    assert figures["value_kept"] < figures["value_kept_as_predicted"] <= 1 + 1e-9
    assert figures["value_kept_as_predicted"] > 0.9


def test_slices_fairness_and_the_series_are_reported():
    came = replace(requests(3000, failures=0.0), slice_name=["law" if i % 3 else "chat" for i in range(3000)])
    plan = {"budget": {"share": {"mean": 0.3, "response_group": "extended"}}}
    plan["slice"] = {"law": {"at_most": {"share": 0.1}}, "chat": {"at_least": {"share": 0.5}}}
    made = ServingPolicy.from_dict(plan)
    figures = summarise(came, simulate(came, made), made)
    chat, law = figures["slices"]
    assert (chat["slice"], law["slice"], law["num_requests"]) == ("chat", "law", 2000)
    assert law["share"]["spent"] <= 0.1 + 5 / 2000 and law["share"]["ceiling"] == 0.1
    assert chat["share"]["least_in_a_window"] >= 0.49 and chat["share"]["promised"] == 0.5
    (row,) = figures["budgets"]
    assert len(row["windows"]) == 3
    assert np.mean(row["windows"]) == pytest.approx(row["spent"])
    means = [tenant["share"]["spent"] for tenant in figures["tenants"]]
    assert row["fairness"] == pytest.approx(sum(means) ** 2 / 2 / sum(mean**2 for mean in means))


def test_a_simulation_is_the_same_again():
    came, plan = requests(500), ServingPolicy.from_dict(PLAN)
    assert simulate(came, plan).choice.tolist() == simulate(came, plan).choice.tolist()


def test_a_plan_of_unknown_costs_is_refused():
    with pytest.raises(IbpoError, match="no response group 'long'"):
        simulate(requests(10), ServingPolicy.from_dict({"budget": {"x": {"mean": 0.1, "response_group": "long"}}}))
    with pytest.raises(IbpoError, match="'tokens' only"):
        simulate(requests(10), ServingPolicy.from_dict({"budget": {"dollars": {"mean": 0.1}}}))


def test_a_budget_that_bounds_nothing_is_refused():
    """Its figures were not a number."""
    plan = ServingPolicy.from_dict({"budget": {"tokens": {"mean": math.inf}}})
    with pytest.raises(IbpoError, match="mean is inf, which bounds nothing; give the largest mean"):
        simulate(requests(10), plan)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_tenant_may_be_called_0(tmp_path, kind):
    """In JSON, as a number, it was nobody."""
    rows = [{"t": i, "output_tokens": 9, "tenant": i % 2, "slice": None if i % 3 else 0} for i in range(4)]
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        cells = [[row["t"], 9, row["tenant"], "" if row["slice"] is None else 0] for row in rows]
        text = "t,output_tokens,tenant,slice\n" + "".join(",".join(map(str, row)) + "\n" for row in cells)
    (tmp_path / f"trace.{kind}").write_text(text)
    trace = read_trace(tmp_path / f"trace.{kind}")
    assert (trace.tenant, trace.slice_name) == (["0", "1", "0", "1"], ["0", "", "", "0"])


def test_means_of_runs_are_those_of_every_run():
    cost = np.random.default_rng(0).random(50)
    assert average_windows(cost, 7) == pytest.approx([cost[i : i + 7].mean() for i in range(44)])
    assert average_windows(cost, 80) == pytest.approx([cost.mean()])


ROWS = [{"t": i * 0.5, "output_tokens": 10 + i % 7, "gain": i % 5 / 5, "tenant": "ab"[i % 2]} for i in range(40)]


@pytest.fixture(params=["jsonl.gz", "csv", "parquet"])
def trace_file(request, tmp_path):
    path = tmp_path / f"trace.{request.param}"
    if request.param == "jsonl.gz":
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)
    elif request.param == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in [ROWS[0], *(row.values() for row in ROWS)]))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def test_traces_of_every_form_are_read(trace_file):
    trace = read_trace(trace_file)
    assert trace.time.tolist() == [row["t"] for row in ROWS]
    assert trace.output_tokens.tolist() == [row["output_tokens"] for row in ROWS]
    assert trace.gain is not None
    assert trace.gain.tolist() == pytest.approx([row["gain"] for row in ROWS])
    assert trace.tenant == [row["tenant"] for row in ROWS]
    longer = repeat_trace(trace, 100)
    assert (np.diff(longer.time) > 0).all()
    assert longer.tenant == (trace.tenant * 3)[:100]
    made = synthetic_requests(trace, factor=3.0)
    assert made.cost[:, 1].tolist() == [3.0 * row["output_tokens"] for row in ROWS]


def test_recorded_gains_are_the_mean_rewards_of_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    rows = [
        {"problem_id": p, "response_group": g, "reward": r, "tokens": t}
        for p, g, r, t in [
            ("x", "long", 1, 90), ("x", "short", 0, 10), ("x", "short", 1, 20),
            ("y", "short", 1, 15), ("y", "long", 0, 80), ("z", "short", 1, 15),
        ]
    ]  # fmt: skip
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace_path = tmp_path / "t.jsonl"
    trace_path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = recorded_requests(read_trace(trace_path), log)
    assert made.groups == ("short", "long")
    assert {tuple(row) for row in made.gain.tolist()} == {(0.5, 1.0), (1.0, 0.0)}
    assert {tuple(row) for row in made.estimate.tolist()} == {(15.0, 90.0), (15.0, 80.0)}
    assert set(made.cost[:, 0]) == {10.0, 20.0, 15.0}


def run(*arguments):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_simulate_reports_and_writes(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    out = tmp_path / "figures.json"
    arguments = ("--assume", "num_requests=2500", "--assume", "failures=0.1", "--out", out, "--warm-up", "200")
    result = run(path, "--budget", "extended=30%", *arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["num_requests"] == 2500
    assert figures["budgets"][0]["largest_above"] <= 0.011
    assert {row["tenant"] for row in figures["tenants"]} == {"a", "b"}
    assert "value kept" in result.output
    plan = tmp_path / "plan.toml"
    plan.write_text("fair_share = 0.5\n[budget.tokens]\nmean = 40.0\n")
    assert run(path, "--plan", plan).exit_code == 0


def test_a_budget_that_nobody_can_use_up_has_slack(tmp_path):
    """No window was within 1 %, and all of them were "reachable"."""
    path = tmp_path / "trace.jsonl"
    rows = [{"t": i, "output_tokens": 100 + i % 7, "gain": (i % 10) / 10} for i in range(1200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["simulate", str(path), "--budget", "tokens=400000"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "budget tokens has slack: the most expensive responses to all requests would spend" in said
    (line,) = [line for line in result.stdout.splitlines() if line.strip().startswith("tokens ")]
    assert line.split().count("–") == 2
    bound = CliRunner().invoke(app, ["simulate", str(path), "--budget", "extended=30%"])
    assert "slack" not in bound.stdout and "–" not in bound.stdout


def test_gains_of_a_calibration_are_drawn_from_its_scores(tmp_path):
    """What `ibpo calibrate` writes is what `ibpo simulate` takes: the policy's own choice on this traffic."""
    trace, scores, file = tmp_path / "t.jsonl", tmp_path / "p.jsonl", tmp_path / "calibration.json"
    trace.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    scores.write_text("".join(json.dumps({"p_extended": p}) + "\n" for p in [0.1, 0.3, 0.8, 0.9]))
    made = CliRunner().invoke(app, ["calibrate", str(scores), "--floor", "0.5", "--out", str(file)])
    assert made.exit_code == 0, made.output
    drawn = synthetic_requests(repeat_trace(read_trace(trace), 2000), calibration=load_calibration(file)).gain
    values, counts = np.unique(drawn[:, 1].round(9), return_counts=True)
    assert values.tolist() == pytest.approx([-0.4, -0.2, 0.3, 0.4])
    assert (np.abs(counts - 500) < 100).all()
    arguments = ("--gains", file, "--assume", "num_requests=2000", "--out", tmp_path / "f.json")
    result = run(trace, "--budget", "extended=75%", *arguments)
    assert result.exit_code == 0, result.output
    # Half of the prompts are not above the floor: they are never answered extended, whatever the budget.
    assert json.loads((tmp_path / "f.json").read_text())["budgets"][0]["spent"] == pytest.approx(0.5, abs=0.04)
    refused = run(trace, "--budget", "extended=75%", *arguments, "--router", file)
    assert "--router: needs --gains, a log with prompts" in refused.output
    alone = run(trace, "--budget", "extended=75%", *arguments, "--embed", "url=http://127.0.0.1:9/v1,model=m")
    assert alone.exit_code == 2 and "--embed: is for --router" in alone.output


@pytest.mark.parametrize(
    "text, arguments, message",
    [
        ('{"t": 0}', ["--budget", "extended=30%"], "line 1: no value in column 'output_tokens'"),
        ('{"t": 0, "output_tokens": "a"}', ["--budget", "extended=30%"], "'a' is not a finite number, at least 0"),
        ('{"t": 1, "output_tokens": 1}\n{"t": 0, "output_tokens": 1}', ["--budget", "tokens=3"], "2: column 't' falls"),
        ("", ["--budget", "tokens=3"], "no requests"),
        ('{"t": 0, "output_tokens": 1}', [], "give either --budget"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=30%"], "a percentage of what?"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "extendde=0.3"], "there is no response group 'extendde'"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "x"], "needs NAME=AMOUNT"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "extended>=10%"], "at_least in --plan"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=0.5x"], "nothing is spent before the first request"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "a@x=1=0.2"], "[slice.NAME] at_most"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=3", "--max-tokens", "extended"], "not like extended="),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=3", "--max-tokens", "x=9"], "no such response group"),
        ('{"t": 0, "output_tokens": 347}', ["--budget", "tokens=200"], "the cheapest responses cost 347 per request"),
        (
            '{"t": 0, "output_tokens": 1}',
            ["--budget", "extended=30%", "--budget", "standard=60%"],
            "allow 90% of the requests together",
        ),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=3", "--assume", "time_unit=h"], "is not one of s, ms"),
        ('{"t": 0, "output_tokens": 1}', ["--budget", "tokens=3", "--assume", "factor=inf"], "must be from 0.001 to"),
        ('{"t": 0, "output_tokens": 1}', ["--plan", "none.toml"], "none.toml: cannot be read: "),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, text, arguments, message):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    result = run(path, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("first", [0, 1_700_000_000])
def test_the_unit_of_the_times_is_guessed_aloud(tmp_path, unit, first):
    """Ten requests a second for six seconds, whatever the file counts in."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    trace = tmp_path / "trace.jsonl"
    rows = [{"t": (first + i / 10) * per_second, "output_tokens": 5} for i in range(61)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_trace(trace)
    assert found.unit == unit and found.time[-1] == pytest.approx(6.0, abs=1e-3)
    assert read_trace(trace, unit="s").time[-1] == pytest.approx(6.0 * per_second)
    from ibpo.cli import app

    result = CliRunner().invoke(app, ["simulate", str(trace), "--budget", "extended=30%"])
    assert result.exit_code == 0 and f"requests of 6.0 seconds, column t read in {unit}" in result.stderr


def test_the_advised_budget_works_when_pasted(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"t": i, "output_tokens": 1000 + i % 3}) + "\n" for i in range(50)))
    result = run(trace, "--budget", "tokens=10")
    assert result.exit_code == 2 and "the cheapest responses cost 1,001 per request" in result.output
    advised = result.output.strip().rpartition("write ")[2]
    assert run(trace, "--budget", advised).exit_code == 0, advised


def test_a_group_that_no_budget_bounds_is_said(tmp_path):
    trace, log = tmp_path / "trace.jsonl", tmp_path / "log.jsonl"
    trace.write_text("".join(json.dumps({"t": i, "output_tokens": 5}) + "\n" for i in range(30)))
    rows = [
        {"id": f"p{i}", "response_group": name, "reward": reward, "tokens": tokens}
        for i in range(5)
        for name, reward, tokens in (("low", 0.2, 10), ("high", 0.5, 100), ("xhigh", 0.9, 900))
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from ibpo.cli import app

    for budget, said in ((["high=30%"], "xhigh"), (["high=30%", "xhigh=10%"], ""), (["high=30%", "tokens=300"], "")):
        options = [part for text in budget for part in ("--budget", text)]
        result = CliRunner().invoke(app, ["simulate", str(trace), "--gains", str(log), *options])
        assert result.exit_code == 0, result.output
        assert ("caution: no budget bounds" in result.stderr) is bool(said) and said in result.stderr


@pytest.mark.parametrize(
    ("name", "unit", "column", "seconds", "num_failed"),
    [
        ("azure_2023_conv.csv", "", "TIMESTAMP", 7.0654321, 0),
        ("azure_2024_code_1week.csv", "", "TIMESTAMP", 1.101234, 0),
        ("burstgpt_1.csv", "s", "Timestamp", 37.0, 1),
        ("burstgpt_3.csv", "s", "Timestamp", 37.0, 1),
        ("mooncake.jsonl", "ms", "timestamp", 0.0, 0),
        ("bailian.jsonl", "s", "timestamp", 1.37, 0),
    ],
)
def test_published_traces_are_read_as_they_are(name, unit, column, seconds, num_failed):
    trace = read_trace(Path(__file__).parent.parent / "fixtures" / "logs" / "traces" / name)
    assert (trace.unit, trace.time_column, trace.num_failed) == (unit, column, num_failed)
    assert trace.time[0] == 0 and trace.time[1] == pytest.approx(seconds, abs=1e-5)
    assert trace.output_tokens[:2].tolist() == [41, 96] and len(trace.time) == 8 - num_failed


def test_dates_that_are_none_are_named(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:99,1,2\n")
    with pytest.raises(IbpoError, match=r"line 2, column 'TIMESTAMP': .* is not a date; write it as"):
        read_trace(path)


def test_a_gain_that_the_first_row_lacks_is_not_drawn_at_random(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{**row, "gain": 0.5} for row in ROWS]
    del rows[0]["gain"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(IbpoError, match="line 1: no value in column 'gain'; a trace needs it in all rows"):
        read_trace(path)
    path.write_text("".join(json.dumps(row | {"output_tokens": True}) + "\n" for row in ROWS))
    with pytest.raises(IbpoError, match="True is not a finite number"):
        read_trace(path)


def test_how_a_log_of_gains_was_read_is_said(tmp_path):
    trace, log = tmp_path / "t.jsonl", tmp_path / "log.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = [
        {"problem": p, "effort": g, "reward": p % 2, "tokens": 7 * p + n} for p in range(9) for n, g in enumerate("xy")
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) * 2)
    done = run(trace, "--budget", "y=30%", "--gains", log, "--out", tmp_path / "out.json")
    assert done.exit_code == 0 and "18 of 36 rows say what an earlier row says" in done.stderr


def test_money_is_not_simulated_as_tokens(tmp_path):
    """An answer of .02 dollars took .0004 seconds, and no budget of tokens was ever spent."""
    trace, log = tmp_path / "trace.jsonl", tmp_path / "log.jsonl"
    trace.write_text("".join(json.dumps({"t": i, "output_tokens": 9}) + "\n" for i in range(30)))
    rows = [
        {"id": f"p{i}", "prompt": f"q {i}", "group": group, "reward": i % 2, "cost_usd": cost, "long": 1e5 * cost}
        for i in range(20)
        for group, cost in (("low", 0.001), ("high", 0.02))
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(IbpoError, match=r"column 'cost_usd' holds money, .* with --columns cost=COLUMN$"):
        recorded_requests(read_trace(trace), log)
    router = fit_router(read_routed_log(log, columns=LogColumns()))
    with pytest.raises(IbpoError, match="the router expects costs in 'cost_usd', and a simulation counts tokens"):
        recorded_requests(read_trace(trace), log, cost="long", router=router)
    assert recorded_requests(read_trace(trace), log, cost="long").cost.max() == pytest.approx(2000)


def test_all_columns_of_a_log_of_gains_can_be_named(tmp_path):
    """`--columns` overrules what was found everywhere; here it named the response group alone."""
    trace, log, out = (tmp_path / name for name in ("t.jsonl", "log.jsonl", "out.json"))
    trace.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = [{"asked": p, "how": how, "points": 10, "spent": 5 + n} for p in "ab" for n, how in enumerate(("x", "y"))]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "problem=asked,response_group=how,reward=points/10,cost=spent"
    done = run(trace, "--budget", "y=30%", "--gains", log, "--columns", columns, "--warm-up", 0, "--out", out)
    assert done.exit_code == 0, done.output


def test_clocks_that_are_set_back_are_no_disorder(tmp_path):
    """Dates without an offset fall there, and sorting them would mix two hours into one."""
    zone, begins = ZoneInfo("Europe/Berlin"), datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    path = tmp_path / "trace.jsonl"

    def write(form):
        dates = [(begins + timedelta(minutes=i)).astimezone(zone).strftime(form) for i in range(180)]
        path.write_text("".join(json.dumps({"t": date, "output_tokens": 9}) + "\n" for date in dates))

    write("%Y-%m-%d %H:%M:%S")
    with pytest.raises(IbpoError, match=r"line 121: column 't' falls; .* if the clocks were set back: 2026-10-25T02"):
        read_trace(path)
    write("%Y-%m-%dT%H:%M:%S%z")
    assert np.diff(read_trace(path).time).tolist() == [60.0] * 179


def test_dates_have_no_unit(tmp_path):
    """Given time_unit=ms, seconds between dates were taken for milliseconds."""
    lines = [json.dumps({"t": f"2026-11-29 12:00:{i:02}", "output_tokens": 5}) for i in range(30)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    assert read_trace(path).time[-1] == 29 == read_trace(path, unit="s").time[-1]
    with pytest.raises(IbpoError, match="column 't': holds dates, which have no unit; leave time_unit=ms out"):
        read_trace(path, unit="ms")
    # As Mooncake publishes its traces, but for the dates.
    path.write_text("\n".join(lines).replace('"t"', '"hash_ids": [1], "timestamp"'))
    assert read_trace(path).time[-1] == 29


def test_a_budget_that_no_simulation_knows_is_not_compared_with_tokens(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({"t": i, "output_tokens": 50}) for i in range(30)))
    done = CliRunner().invoke(app, ["simulate", str(path), "--budget", "money=3"])
    assert done.exit_code and "shares of response groups and 'tokens' only" in done.output


def test_prompts_are_for_a_router(tmp_path):
    trace, log = tmp_path / "t.jsonl", tmp_path / "log.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    log.write_text("{}\n")
    done = run(trace, "--budget", "y=30%", "--gains", log, "--columns", "prompt=ask")
    assert done.exit_code == 2 and "--columns prompt=ask: prompts are for --router" in done.output
