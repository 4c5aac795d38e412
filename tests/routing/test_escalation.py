"""After the cheap answer: what it shows, what is bought after it, and when that pays."""

import csv
import json
import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ibpo.data import LogColumns
from ibpo.errors import IbpoError
from ibpo.routing import (
    Scores,
    escalation_verdict,
    judge_escalation,
    load_router,
    read_first_answers,
    read_routed_log,
    read_shown,
    score_unseen,
)
from ibpo.routing.fit import _leave_one_out
from tests.routing.test_router import run, write

pytest.importorskip("sklearn")


def rows_of(num_problems=120, seed=0, tells=True, cheap=100, expensive=1000, num_answers=4):
    """Half of the problems are beyond the short answers; prompts do not tell which, lengths and agreement may."""
    rng, rows = np.random.default_rng(seed), []
    for p in range(num_problems):
        hard = rng.random() < 0.5
        for group, tokens, right in (("short", cheap, 0.1 if hard else 0.95), ("long", expensive, 0.9)):
            for _ in range(num_answers):
                reward = int(rng.random() < right)
                wordy = 2.0 if tells and group == "short" and not reward else 1.0
                text = f"So it is {777 if reward else rng.integers(100, 700)}"
                row = {"id": f"p{p}", "prompt": f"q {p % 7}", "group": group}
                size = int(tokens * wordy * rng.uniform(0.8, 1.2))
                rows.append({**row, "reward": reward, "tokens": size, "response": text})
    return rows


def read(tmp_path, rows, **kwargs):
    path = write(tmp_path / "log.jsonl", rows)
    table = read_routed_log(path, columns=LogColumns())
    return table, read_first_answers(path, table, **kwargs)


def test_what_an_answer_shows():
    assert read_shown(tokens=9) == {"tokens": math.log(10)}
    for text, refused in (
        ("I'm sorry, but no.", 1),
        ("I cannot help.", 1),
        ("  ", 1),
        ("I\u2019m sorry", 1),
        ("I can\u2019t", 1),
        ("I can: 7", 0),
        ("7", 0),
    ):
        assert read_shown(texts=[text])["refused"] == refused
    assert read_shown(texts=["It is 1/2", "Thus 0.5"], answers=["1/2", "0.5"])["agree"] == 1
    assert read_shown(texts=["It is 7", "Thus $8"])["agree"] == 0
    assert read_shown(answers=[None, None])["agree"] == 0
    assert read_shown(logprob=float("nan"), failed=True, tokens=float("nan")) == {"failed": 1.0}
    assert read_shown(logprob=-(10**400), failed=True, tokens=10**400) == {"failed": 1.0}
    with pytest.raises(IbpoError, match="need lists"):
        read_shown(texts="I'm sorry, but no.")  # not 18 texts of a letter each


def test_long_answers_agree_word_for_word(monkeypatch):
    """Two answers of 14 kB, nested boxes, took the judge of mathematics 38 seconds; a gateway answered nobody then."""
    asked = []
    monkeypatch.setattr("ibpo.routing.escalation.representatives", lambda answers: asked.append(answers) or answers)
    nested = "\\boxed{" * 2000 + "}" * 2000
    assert read_shown(texts=[nested, nested + "\n"])["agree"] == 1.0
    assert read_shown(texts=[nested, "x" + nested])["agree"] == 0.0
    assert asked == []
    assert read_shown(texts=["7", "7.0"])["agree"] == 0.0 and asked == [["7", "7.0"]]  # it is asked about short ones


def test_a_csv_shows_what_json_lines_show(tmp_path):
    """Its cells are texts: lengths, log-probabilities and checks were not seen."""
    rows = [{**row, "logprob": -0.5, "check_failed": i % 3 == 0} for i, row in enumerate(rows_of(20))]
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    first = read_first_answers(path, read_routed_log(path, columns=LogColumns()), num_answers=1)
    found = read(tmp_path, rows, num_answers=1)[1]
    assert first.shown == found.shown and set(first.shown) >= {"tokens", "logprob", "failed"}
    assert all(first.table.numbers[name] == found.table.numbers[name] for name in first.shown)


@pytest.mark.parametrize("num_answers", [1, 2])
def test_every_cheap_answer_is_a_row_whose_costs_hold_what_was_spent(tmp_path, num_answers):
    rows = rows_of(12)
    table, first = read(tmp_path, rows, num_answers=num_answers)
    assert first.shown == ("tokens", "characters", "refused", *(["agree"] if num_answers == 2 else []))
    assert len(first.table.problems) == len(first.place) == 12 * 4
    assert first.table.count.sum() == len(rows)
    at = 0
    for name in table.problems:
        short = [row for row in rows if row["id"] == name and row["group"] == "short"]
        long = [row for row in rows if row["id"] == name and row["group"] == "long"]
        for i, row in enumerate(short):
            others = [short[(i + k) % 4] for k in range(num_answers)]
            spent = sum(other["tokens"] for other in others)
            assert first.table.problems[at] == name == table.problems[first.place[at]]
            assert first.table.reward[at].tolist() == [row["reward"], np.mean([other["reward"] for other in long])]
            expensive = np.mean([other["tokens"] for other in long])
            assert first.table.cost[at] == pytest.approx([spent, spent + expensive])
            assert first.table.numbers["tokens"][at] == pytest.approx(math.log1p(row["tokens"]))
            if num_answers == 2:
                assert first.table.numbers["agree"][at] == (others[0]["response"] == others[1]["response"])
            at += 1


def test_further_columns_are_shown_where_they_are_numbers(tmp_path):
    rows = [{**row, "check": i % 2} for i, row in enumerate(rows_of(12))]
    _, first = read(tmp_path, rows, num_answers=1, columns=["check"])
    assert first.shown[-1] == "check" and set(first.table.numbers["check"]) == {0.0, 1.0}
    rows[0]["check"] = "no"
    with pytest.raises(IbpoError, match=r"line 1, column 'check': 'no' is not a finite number"):
        read(tmp_path, rows, num_answers=1, columns=["check"])


def test_a_column_of_the_right_answers_does_not_say_whether_two_agree(tmp_path):
    """Data sets call it `answer`: every two answers agreed."""
    rows = rows_of(40)
    agree = [
        read(tmp_path, [{**row, **more(row)} for row in rows], num_answers=2)[1].table.numbers["agree"]
        for more in (lambda _: {}, lambda _: {"answer": "777"}, lambda row: {"answer": row["response"].split()[-1]})
    ]
    assert agree[0] == agree[1] == agree[2] and set(agree[0]) == {0.0, 1.0}


def test_a_problem_is_left_out_with_all_its_answers():
    rng = np.random.default_rng(0)
    x, y, problem = rng.normal(size=(18, 4)), rng.normal(size=(18, 2)), np.repeat(np.arange(9), [1, 2, 3] * 3)
    for alpha, left in _leave_one_out(x @ x.T, y, problem)[2:6]:
        residual = np.zeros((18, 2))
        for i in range(9):
            rest = problem != i
            residual[~rest] = y[~rest] - Ridge(alpha=alpha).fit(x[rest], y[rest]).predict(x[~rest])
        # The whole data's centre stands for that of the others: equal but for the centring.
        assert (left**2).mean(axis=0) == pytest.approx((residual**2).mean(axis=0), rel=0.15)
    single = _leave_one_out(x @ x.T, y)
    for (_, ours), (_, theirs) in zip(_leave_one_out(x @ x.T, y, np.arange(18)), single, strict=True):
        assert np.array_equal(ours, theirs)


def test_unseen_scores_hold_out_whole_problems(tmp_path):
    rows = rows_of(40, tells=False)
    for row in rows:  # the prompt is the problem's name: whoever has seen one of its answers knows them all
        row["prompt"] = " ".join([row["id"]] * 9)
    table, first = read(tmp_path, rows, num_answers=1)
    scores = score_unseen(first.table)
    truth = first.table.reward[:, 1] - table.reward[first.place, 0]
    assert abs(np.corrcoef(scores.gain[:, 1], truth)[0, 1]) < 0.4


def test_it_pays_where_the_answer_tells_and_not_where_it_tells_nothing_or_costs_too_much(tmp_path):
    found = {}
    for name, tells, cheap in (("tells", True, 100), ("silent", False, 100), ("costly", True, 800)):
        table, first = read(tmp_path, rows_of(tells=tells, cheap=cheap), num_answers=1)
        judged = judge_escalation(table, score_unseen(table), first, score_unseen(first.table), draws=50)
        found[name] = (*escalation_verdict(judged), judged)
    pays, said, judged = found["tells"]
    assert pays and said.startswith("pays: mean reward")
    assert judged["after_over_before"] > 0.05
    assert judged["after_over_mix_interval"][0] > 0
    assert not found["silent"][0] and found["silent"][1].startswith("does not pay")
    assert not found["costly"][0]


def test_copies_of_a_log_make_its_intervals_no_narrower(tmp_path):
    once = [{**row, "prompt": f"q {row['id']}"} for row in rows_of(60)]
    copies = [{**row, "id": f"{row['id']}-{copy}"} for row in once for copy in range(3)]
    widths = []
    for rows in (once, copies):
        table, first = read(tmp_path, rows, num_answers=1)
        tokens = np.array(first.table.numbers["tokens"])
        gain = 0.5 * (tokens > tokens.mean())
        after = Scores(np.stack([0 * gain, gain], axis=1), first.table.cost)
        found = judge_escalation(table, Scores(0 * table.reward, table.cost), first, after, draws=300)
        widths.append([np.diff(found[f"after_over_{name}_interval"])[0] for name in ("mix", "before")])
    assert (np.array(widths[1]) > 0.75 * np.array(widths[0])).all()  # they were 1 / sqrt(3) of it


def test_the_three_ways_by_hand(tmp_path):
    rows = []
    for p in range(10):  # the first answer of five problems is wrong, and shows it
        wrong = p < 5
        for group, tokens, reward in (("short", 20 if wrong else 10, not wrong), ("long", 100, True)):
            rows.append({"id": f"p{p}", "prompt": "q", "group": group, "reward": int(reward), "tokens": tokens})
    table, first = read(tmp_path, rows, num_answers=1)
    none = Scores(np.zeros((10, 2)), table.cost)
    knows = Scores(np.array([[0.0, float(p < 5)] for p in range(10)]), first.table.cost)
    found = judge_escalation(table, none, first, knows, draws=20)
    # Mix: from (15, .5) to (100, 1). After: (15, .5) to (15 + .5 x 100 = 65, 1), then flat.
    assert found["mix"] == found["before"] == pytest.approx(0.75)
    assert found["after_at"] == pytest.approx([0.5 + 0.5 * 21.25 / 50, 0.5 + 0.5 * 42.5 / 50, 1.0])
    assert found["after"] == pytest.approx((0.75 * 50 + 35) / 85, abs=2e-3)
    assert found["after_over_mix"] == pytest.approx(found["after"] - 0.75)


def test_fit_writes_the_escalation_where_it_pays(tmp_path):
    log, out = write(tmp_path / "log.jsonl", rows_of(100)), tmp_path / "router.json"
    fit = ["route", "fit", log, "--out", out, "--draws", "20"]
    done = run(*fit, "--first-answers", "1")
    assert done.exit_code == 0, done.output
    assert "after one answer of short (tokens, characters, refused): pays" in done.output
    assert "100 problems, 800 responses" in done.output and "mix is written" not in done.output
    router = load_router(out)
    assert router.first == {"answers": 1, "shown": ["tokens", "characters", "refused"]}
    assert router.source["num_problems"] == 100 and router.source["num_responses"] == 800
    short, wordy = (read_shown(tokens=size, texts=["So it is 777"]) for size in (100, 200))
    numbers = {name: [short[name], wordy[name]] for name in short}
    gain = router.scores(["q 1", "q 1"], numbers).gain[:, 1]
    assert gain[0] < 0.2 < 0.6 < gain[1]
    assert "only ibpo serve and the library" in run("route", "score", out, log).output
    quiet = write(tmp_path / "quiet.jsonl", rows_of(100, cheap=900))
    done = run("route", "fit", quiet, "--out", out, "--draws", "20", "--first-answers", "1")
    assert "does not pay" in done.output and load_router(out).first == {}


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        (rows_of(12, num_answers=1), ["--first-answers", "2"], "has 1 answer of 'short'; 2 are needed first"),
        (
            [{**{k: v for k, v in row.items() if k not in ("response", "tokens")}, "chars": 1} for row in rows_of(12)],
            ["--first-answers", "1", "--columns", "cost=chars"],
            "only the reward of an answer is known",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, rows, arguments, message):
    done = run("route", "fit", write(tmp_path / "log.jsonl", rows), "--out", tmp_path / "r.json", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output and done.output.count("\n") == 1


def test_a_file_that_decides_after_something_else_is_refused(tmp_path):
    log, out = write(tmp_path / "log.jsonl", rows_of(100)), tmp_path / "router.json"
    assert run("route", "fit", log, "--out", out, "--draws", "20", "--first-answers", "1").exit_code == 0
    row = json.loads(out.read_text())
    row["first"]["shown"] = ["mood"]
    import hashlib

    row.pop("sha256")
    row["sha256"] = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
    out.write_text(json.dumps(row))
    with pytest.raises(IbpoError, match="decides after"):
        load_router(out)
