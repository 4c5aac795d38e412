import base64
import csv
import hashlib
import itertools
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ibpo.budget import parse_budget
from ibpo.cli import app
from ibpo.commands.options import open_router
from ibpo.data import LogColumns
from ibpo.endpoint import Endpoint
from ibpo.errors import IbpoError
from ibpo.routing import as_text
from ibpo.routing.curve import judge_curve
from ibpo.routing.evaluate import default_budgets, evaluate_router, score_unseen
from ibpo.routing.fit import as_mix, embedder, fit_router, read_routed_log
from ibpo.routing.router import Scores, load_router, save_router
from ibpo.serving.calibration import load_calibration
from ibpo.serving.gateway import FittedRouter
from tests.openai_server import QuietServer

pytest.importorskip("sklearn")

NOUNS = ["apples", "boats", "coins", "doors", "eggs"]


def log_rows(num_problems=150, seed=0, informative=True):
    """Half of the problems are hard: those with many numbers, or any. Only extended reasoning solves them."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(num_problems):
        hard = rng.random() < 0.5
        count = rng.integers(6, 9) if (hard if informative else rng.random() < 0.5) else rng.integers(2, 4)
        numbers = " + ".join(str(x) for x in rng.integers(1, 99, count))
        prompt = f"{rng.choice(NOUNS)}: what is {numbers}?"
        for name, tokens, right in (("short", 50, 0.1 if hard else 0.9), ("long", 400, 0.9)):
            for _ in range(4):
                length = int(tokens * rng.uniform(0.8, 1.2))
                reward = int(rng.random() < right)
                rows.append(
                    {
                        "id": f"p{p}",
                        "prompt": prompt,
                        "group": name,
                        "reward": reward,
                        "tokens": length,
                        "digits": int(count),
                    }
                )
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table_of(tmp_path, **kwargs):
    return read_routed_log(write(tmp_path / "log.jsonl", log_rows(**kwargs)), columns=LogColumns())


def test_a_prompt_under_several_ids_does_not_judge_what_was_learned_from_it(tmp_path):
    """Gains of chance, one per prompt, each prompt under three ids: nothing can be told of an unseen one."""
    rng = np.random.default_rng(0)
    rows = []
    for p in range(240):
        words = " ".join(rng.permutation(NOUNS)[:3]) + f" {rng.integers(10**6)}"
        right = {"short": int(rng.random() < 0.5), "long": int(rng.random() < 0.5)}
        for copy, name in itertools.product(range(3), right):
            tokens = 400 if name == "long" else 50
            rows.append(
                {"problem": f"{p}-{copy}", "prompt": words, "group": name, "reward": right[name], "cost": tokens}
            )
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns())
    assert len(table.problems) == 720 and len(set(table.alike().tolist())) == 240
    gain = table.reward[:, 1] - table.reward[:, 0]
    embedded = rng.normal(size=(240, 16))[[int(name.partition("-")[0]) for name in table.problems]]
    for seen in (None, embedded):
        predicted = score_unseen(table, embedded=seen).gain[:, 1]
        assert abs(float(np.mean((predicted - predicted.mean()) * (gain - gain.mean())))) < 0.1 * float(gain.var())


def test_turns_of_a_conversation_are_held_out_together(tmp_path):
    """How hard a conversation is was chance, and a later turn's prompt holds the earlier ones: +.195 for sure."""
    rng, rows = np.random.default_rng(0), []
    for c in range(40):
        hard, messages = rng.random() < 0.5, []
        for turn in range(5):
            words = " ".join(rng.permutation(NOUNS)[:3])
            messages = [*messages, {"role": "user", "content": f"{words} {c * 7919 % 1000} {turn}"}]
            for name, tokens in (("short", 50), ("long", 400)):
                right = rng.random() < (0.1 if hard and name == "short" else 0.9)
                row = {"id": f"{c}-{turn}", "messages": messages, "group": name, "reward": int(right)}
                rows.append({**row, "tokens": tokens})
            messages = [*messages, {"role": "assistant", "content": "ok"}]
    rng.shuffle(rows)
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns())
    of_turn = dict(zip(table.problems, table.alike().tolist(), strict=True))
    assert len(set(of_turn.values())) == 40
    assert all(of_turn[f"{c}-{turn}"] == of_turn[f"{c}-0"] for c in range(40) for turn in range(5))
    [row] = evaluate_router(table, [parse_budget("long=50%")], score_unseen(table), draws=50)
    assert row["gain_over_mix"] < 0.05
    # Examples that all prompts begin with are no turn, and a number that begins as another one is another.
    for others in ([], ["example"]):  # once there is such a prompt
        shots = [f"example\nanswer\n{name}" for name in table.problems[len(others) :]]
        assert len(set(replace(table, prompts=[*others, *shots]).alike().tolist())) == 200
    assert len(set(replace(table, prompts=[f"q {i}" for i in range(200)]).alike().tolist())) == 200


def test_copies_of_a_log_make_its_intervals_no_narrower(tmp_path):
    once = log_rows(60)
    copies = [{**row, "id": f"{row['id']}-{copy}"} for row in once for copy in range(3)]
    widths = []
    for rows in (once, copies):
        table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns())
        gain = np.array([len(prompt) % 3 / 3 for prompt in table.prompts])
        scores = Scores(np.stack([0 * gain, gain], axis=1), table.cost)
        [row] = evaluate_router(table, [parse_budget("long=50%")], scores, draws=300)
        row |= judge_curve(table, scores, draws=300)
        widths.append([np.diff(row[f"{name}_interval"])[0] for name in ("value", "gain_over_mix", "apgr", "aiq")])
    assert (np.array(widths[1]) > 0.75 * np.array(widths[0])).all()  # they were 1 / sqrt(3) of it


def test_regret_is_near_zero_where_prompts_tell_the_gain(tmp_path):
    table = table_of(tmp_path)
    assert table.groups == ("short", "long")
    rows = evaluate_router(table, [parse_budget("long=50%"), *default_budgets(table)], score_unseen(table), draws=50)
    half = rows[0]
    assert half["spent"] == pytest.approx(0.5, abs=0.01)
    # The oracle picks the luck of four responses too; what can be known is what one on unseen responses gets.
    assert half["gain_over_mix"] > 0.15
    assert half["gain_over_mix_interval"][0] > 0.1
    assert half["value"] > half["oracle_unseen"] - 0.03
    assert half["captured"] > 0.6
    for row in rows:
        assert row["mix"] <= row["oracle"] + 1e-9
        assert row["regret"] == pytest.approx(row["oracle"] - row["value"])
        assert row["regret_of_mix"] == pytest.approx(row["regret"] + row["gain_over_mix"])


def test_where_prompts_tell_nothing_the_router_is_a_random_mix(tmp_path):
    table = table_of(tmp_path, informative=False)
    row = evaluate_router(table, [parse_budget("long=50%")], score_unseen(table), draws=50)[0]
    assert abs(row["gain_over_mix"]) < 0.06
    assert row["gain_over_mix_interval"][0] < 0 < row["gain_over_mix_interval"][1]
    assert abs(row["captured"]) < 0.3
    router = fit_router(table)
    gain = router.scores(table.prompts).gain[:, 1]
    assert gain.std() < 0.15
    assert gain.mean() == pytest.approx((table.reward[:, 1] - table.reward[:, 0]).mean(), abs=1e-6)


def test_leave_one_out_is_leaving_one_out(tmp_path):
    from sklearn.linear_model import Ridge

    from ibpo.routing.fit import _ALPHAS, _leave_one_out

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 2))
    for alpha, left in _leave_one_out(x @ x.T, y)[2:6]:
        assert alpha in _ALPHAS
        residual = np.zeros((12, 2))
        for i in range(12):
            rest = np.arange(12) != i
            residual[i] = y[i] - Ridge(alpha=alpha).fit(x[rest], y[rest]).predict(x[i : i + 1])[0]
        # The whole data's centre stands for that of the others: equal but for the centring.
        assert (left**2).mean(axis=0) == pytest.approx((residual**2).mean(axis=0), rel=0.12)


def test_the_file_keeps_every_bit(tmp_path):
    table = table_of(tmp_path, num_problems=40)
    router = fit_router(table, source={"file": "log.jsonl"}, report={"budgets": []})
    path, again = tmp_path / "router.json", tmp_path / "again.json"
    save_router(router, path)
    found = load_router(path)
    save_router(found, again)
    assert path.read_bytes() == again.read_bytes()
    for name, array in router.arrays.items():
        assert found.arrays[name].tobytes() == np.asarray(array, float).tobytes()
    for one, other in zip(router.scores(table.prompts), found.scores(table.prompts), strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)
    assert found.source["num_problems"] == 40
    gain, cost = found.scores(["short?"])
    assert gain.shape == cost.shape == (1, 2)
    assert found.scores([]).gain.shape == (0, 2)
    with pytest.raises(IbpoError, match="prompts: is one text; give a list"):
        found.scores("short?")  # not six of one letter each
    for one, other in zip(found.scores(["cut \ud83d off"]), found.scores(["cut ? off"]), strict=True):
        assert one.tolist() == other.tolist()  # half of a character, as JSON may hold it
    assert gain[0, 0] == 0.0
    assert (cost > 0).all()
    single = np.vstack([found.scores([prompt]).gain for prompt in table.prompts[:5]])
    assert single == pytest.approx(found.scores(table.prompts[:5]).gain, abs=1e-12)
    chat = found.scores([[{"role": "user", "content": [{"type": "text", "text": table.prompts[0]}]}]])
    assert chat.gain[0] == pytest.approx(single[0], abs=1e-12)


def resigned(row):
    row.pop("sha256", None)
    return {**row, "sha256": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()}


def changed(row, name):
    weights = np.frombuffer(base64.b64decode(row["arrays"]["intercept"]["float64"])).copy()
    if name == "weights":
        weights[0] += 1e-12
    elif name == "not finite":
        weights[0] = np.nan
    elif name == "too short":
        weights = weights[:-1]
    row["arrays"]["intercept"] = {"shape": [len(weights)], "float64": base64.b64encode(weights.tobytes()).decode()}
    return row


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda row: changed(row, "weights"), "has been changed since it was written"),
        (lambda row: {**row, "groups": ["long", "short"]}, "has been changed since it was written"),
        (lambda row: {**row, "version": 0}, "of version 0, this ibpo reads 3; make it again with ibpo route fit"),
        (lambda row: {**row, "kind": "ibpo.calibration"}, "no router"),
        (lambda row: resigned(changed(row, "not finite")), "not finite"),
        (lambda row: resigned(changed(row, "too short")), r"array intercept is \(2,\), not \(3,\)"),
        (lambda row: resigned({**row, "groups": ["a"]}), "damaged"),
        (lambda row: resigned({**row, "arrays": {}}), "damaged"),
        (lambda row: resigned({**row, "groups": "ab"}), "groups is 'ab'"),
        (lambda row: resigned({**row, "groups": ["a", "a"]}), "groups are"),
        (lambda row: resigned({**row, "report": None}), "report is None"),
        (lambda row: resigned({**row, "source": 3}), "source is 3"),
        (lambda row: resigned({**row, "embedding": True}), "embedding is True"),
        (lambda row: resigned({**row, "embedding": {"a": 1}}), "are not texts"),
        (lambda row: [row], "no router"),
    ],
)
def test_a_changed_or_old_file_is_refused(tmp_path, change, message):
    path = tmp_path / "router.json"
    save_router(fit_router(table_of(tmp_path, num_problems=20)), path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(IbpoError, match=message):
        load_router(path)


@pytest.mark.parametrize(
    "embedding", [{"model": "m"}, {"base_url": "http://x/v1"}, {"model": "m", "sha256": "0", "layers": "two"}]
)
def test_embeddings_from_nowhere_are_one_line(tmp_path, embedding):
    path, prompts = tmp_path / "router.json", tmp_path / "prompts.jsonl"
    save_router(fit_router(table_of(tmp_path, num_problems=20)), path)
    path.write_text(json.dumps(resigned({**json.loads(path.read_text()), "embedding": embedding})))
    prompts.write_text('{"prompt": "x"}\n')
    done = CliRunner().invoke(app, ["route", "score", str(path), str(prompts), "--out", str(tmp_path / "s.jsonl")])
    assert done.exit_code and "does not say where its embeddings come from" in done.output


@pytest.mark.parametrize("report", [{"budgets": 3}, {"budgets": [1]}, {"curve": "x"}])
def test_a_report_that_was_changed_is_one_line(tmp_path, report):
    path = tmp_path / "router.json"
    save_router(fit_router(table_of(tmp_path, num_problems=20)), path)
    path.write_text(json.dumps(resigned({**json.loads(path.read_text()), "report": report})))
    result = run("route", "show", path)
    assert result.exit_code == 2
    assert "its report is damaged" in result.output.splitlines()[-1]


def test_no_prompt_gains_more_than_any_in_the_log(tmp_path):
    """One of a million characters was expected to gain 18, where all rewards are 0 or 1."""
    table = table_of(tmp_path)
    seen = table.reward[:, 1] - table.reward[:, 0]
    gain = fit_router(table).scores(["x" * 10**5, "9 + " * 10**5, "日本語のテキスト", "", *table.prompts]).gain[:, 1]
    assert seen.min() <= gain.min() and gain.max() <= seen.max()


def test_a_file_of_something_else_is_refused(tmp_path):
    for name, data in (("a", b"\x80\x04pickle"), ("b", b"{"), ("c", b"[" * 100_000)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IbpoError, match=r"cannot be read|not JSON"):
            load_router(tmp_path / name)
    with pytest.raises(IbpoError, match="cannot be read"):
        load_router(tmp_path / "none.json")


def test_numbers_may_stand_in_for_prompts(tmp_path):
    rows = [{name: x for name, x in row.items() if name != "prompt"} for row in log_rows()]
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns(), numbers=["digits"])
    router = fit_router(table)
    assert not router.uses_text
    gain = router.scores([""] * 2, {"digits": [2.0, 8.0]}).gain[:, 1]
    assert gain[0] < 0.2 < 0.6 < gain[1]
    with pytest.raises(IbpoError, match="needs the number 'digits'"):
        router.scores(["x"])
    with pytest.raises(IbpoError, match="one finite number for each of 1"):
        router.scores(["x"], {"digits": [float("nan")]})


@contextmanager
def embedding_server(vector_of, status=200):
    """A real server on loopback that answers POST /v1/embeddings."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body))
            data = [
                {"object": "embedding", "index": i, "embedding": vector_of(text)}
                for i, text in reversed(list(enumerate(body["input"])))
            ]
            reply = {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 7}}
            text = json.dumps(reply if status == 200 else {"error": {"message": "no such model"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def test_embeddings_come_from_an_endpoint(tmp_path):
    pytest.importorskip("openai")
    table = table_of(tmp_path, num_problems=80)
    with embedding_server(lambda text: [float(text.count("+")), float(len(text) % 3)]) as (url, seen):
        embed = embedder(Endpoint(base_url=url, model="e"), batch_size=32)
        embedded = embed(table.prompts)
        assert embedded[:, 0].tolist() == [text.count("+") for text in table.prompts]
        assert [path for path, _ in seen] == ["/v1/embeddings"] * 3
        router = fit_router(table, embedded=embedded, embedding={"base_url": url, "model": "e"})
        path = tmp_path / "router.json"
        save_router(router, path)
        found = load_router(path, embed=embed)
        gain = found.scores(["boats: what is 1 + 2?", "boats: what is 1 + 2 + 3 + 4 + 5 + 6 + 7?"]).gain[:, 1]
        assert gain[0] < gain[1] - 0.3
        with pytest.raises(IbpoError, match="fitted on embeddings by 'e'"):
            load_router(path).scores(["x"])
    with embedding_server(lambda text: [1.0], status=404) as (url, _):
        embed = embedder(Endpoint(base_url=url, model="e", max_retries=0))
        with pytest.raises(IbpoError, match=r"not found: .*no such model"):
            embed(["x"])
    with embedding_server(lambda text: [1.0] * len(text)) as (url, _):
        embed = embedder(Endpoint(base_url=url, model="e", max_retries=0))
        with pytest.raises(IbpoError, match="no embedding of every text"):
            embed(["x", "yy"])


def test_a_router_of_embeddings_is_fitted_judged_replayed_and_served(tmp_path):
    """On embeddings alone: the prompts are shuffled letters, and only the server knows what they mean."""
    pytest.importorskip("openai")
    rows, meaning = log_rows(60), {}
    for row in rows:
        number = meaning.setdefault(row["prompt"], (len(meaning), row["prompt"].count("+")))[0]
        row["prompt"] = f"q{number}"
    counted = {f"q{number}": float(count) for number, count in meaning.values()}
    log, out, scored = write(tmp_path / "log.jsonl", rows), tmp_path / "router.json", tmp_path / "scored.jsonl"
    with embedding_server(lambda text: [counted.get(text, 0.0), 1.0]) as (url, seen):
        fitted = run(
            "route",
            "fit",
            log,
            "--out",
            out,
            "--draws",
            20,
            "--budget",
            "long=50%",
            "--embed",
            f"url={url},model=e",
        )
        assert fitted.exit_code == 0, fitted.output
        (row,) = load_router(out).report["budgets"]
        assert row["captured"] > 0.5  # held out, and by the embedding: the words tell nothing
        done = run(
            "route", "score", out, write(tmp_path / "p.jsonl", [{"prompt": "q0"}, {"prompt": "q1"}]), "--out", scored
        )
        assert done.exit_code == 0, done.output
        trace = write(tmp_path / "t.jsonl", [{"t": i / 9, "output_tokens": 5} for i in range(40)])
        replayed = run(
            "simulate", trace, "--budget", "long=50%", "--gains", log, "--router", out, "--assume", "num_requests=200"
        )
        assert replayed.exit_code == 0, replayed.output
        before = len(seen)
        router = FittedRouter(open_router(out, f"url={url}", max_retries=0, timeout_seconds=120.0), "router.json")
        hard, easy = (
            next(text for text, count in counted.items() if (count > 4) == is_hard) for is_hard in (True, False)
        )
        gain = [router.gain({"messages": [{"role": "user", "content": text}]}).gain["long"] for text in (hard, easy)]
        assert gain[0] > gain[1] + 0.3
        assert len(seen) == before + 2
    with pytest.raises(IbpoError, match="cannot be read"):
        open_router(out, f"key_file={tmp_path / 'no key'}")
    with pytest.raises(IbpoError, match="needs embeddings"):
        FittedRouter(load_router(out), "router.json")


def test_a_router_s_gains_are_calibrated(tmp_path):
    """`route score`, then `calibrate` on what it wrote: gains below 0 and all."""
    log, out, scored = write(tmp_path / "log.jsonl", log_rows(60)), tmp_path / "router.json", tmp_path / "scored.jsonl"
    assert run("route", "fit", log, "--out", out, "--draws", 20, "--budget", "long=50%").exit_code == 0
    assert run("route", "score", out, log, "--out", scored).exit_code == 0
    made = run("calibrate", scored, "--columns", "score=gain.long", "--out", tmp_path / "c.json")
    assert made.exit_code == 0, made.output
    gains = [json.loads(line)["gain"]["long"] for line in scored.read_text().splitlines()]
    threshold = load_calibration(tmp_path / "c.json").threshold(0.25)
    assert np.mean(threshold.choose(gains)) == pytest.approx(0.25, abs=0.02)
    several = run("calibrate", scored, "--columns", "score=gain", "--out", tmp_path / "d.json")
    assert several.exit_code == 2
    assert several.output.startswith(
        f"error: {scored} line 1, column 'gain': holds several numbers; name one of gain.short, gain"
    )
    assert (
        "no value in column 'longer'; --columns score=... names one of 'short', 'long'"
        in run("calibrate", scored, "--columns", "score=gain.longer").output
    )


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_fit_show_and_score_on_the_command_line(tmp_path, kind):
    rows, log, out = log_rows(60), tmp_path / f"log.{kind}", tmp_path / "router.json"
    if kind == "jsonl":
        write(log, rows)
    else:
        with open(log, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    done = run("route", "fit", log, "--out", out, "--draws", 20, "--budget", "long=50%", "--budget", "tokens=200")
    assert done.exit_code == 0, done.output
    assert "60 problems, 480 responses" in done.output
    report = load_router(out).report
    assert [row["budget"] for row in report["budgets"]] == ["long=0.5", "tokens=200"]
    assert load_router(out).source["columns"]["prompt"] == "prompt"
    shown = run("route", "show", out)
    assert shown.exit_code == 0
    assert "num_problems: 60" in shown.output
    prompts, scored = write(tmp_path / "prompts.jsonl", [{"prompt": "eggs: what is 1 + 2?"}] * 3), tmp_path / "s.jsonl"
    assert run("route", "score", out, prompts, "--out", scored).exit_code == 0
    lines = [json.loads(line) for line in scored.read_text().splitlines()]
    assert len(lines) == 3
    # Three prompts at a time and one go through other kernels: the last bits are the processor's.
    alone = load_router(out).scores([lines[0]["prompt"]])
    for line in lines:
        assert list(line["gain"]) == list(line["cost"]) == ["short", "long"]
        assert list(line["gain"].values()) == pytest.approx(alone.gain[0], rel=1e-9, abs=1e-9)
        assert list(line["cost"].values()) == pytest.approx(alone.cost[0], rel=1e-9, abs=1e-9)
        assert np.argmax(list(line["gain"].values())) == alone.gain[0].argmax()
    trace = write(tmp_path / "t.jsonl", [{"t": i / 9, "output_tokens": 5} for i in range(40)])
    arguments = (
        "simulate",
        trace,
        "--budget",
        "long=50%",
        "--gains",
        log,
        "--router",
        out,
        "--assume",
        "num_requests=300",
    )
    simulated = run(*arguments)
    assert simulated.exit_code == 0, simulated.output
    assert "fitted on this very log" in simulated.output
    assert run(*arguments[:4], "--router", out).output == "error: --router: needs --gains, a log with prompts\n"


def test_fit_leaves_bad_rows_out_and_adds_other_tables(tmp_path):
    """Its messages named `--on-error skip`, which it did not have; rewards often are in a table of their own."""
    rows = log_rows(40)
    whole, out = write(tmp_path / "whole.jsonl", rows), tmp_path / "router.json"
    assert run("route", "fit", whole, "--out", out, "--draws", 20).exit_code == 0
    plain = load_router(out)
    bad = [{**rows[0], "reward": "?"}, {**rows[1], "id": "p900", "problem_id": "p900", "prompt": None}]
    bad += [{**row, "id": "p901", "problem_id": "p901", "prompt": None} for row in rows[:8]]
    log = write(tmp_path / "bad.jsonl", [*rows, *bad])
    refused = run("route", "fit", log, "--out", out, "--draws", 20)
    assert refused.exit_code == 2 and "line 321, column 'reward'" in refused.output
    done = run("route", "fit", log, "--out", out, "--draws", 20, "--on-error", "skip")
    assert done.exit_code == 0, done.output
    assert "1 bad rows left out, the first: " in done.output
    assert "problems without a response of every response group, or a prompt: 2 left out" in done.output
    assert load_router(out).scores([rows[0]["prompt"]]).gain.tolist() == plain.scores([rows[0]["prompt"]]).gain.tolist()
    # The rewards beside the log.
    asked = [{"custom_id": f"r{i}", **{k: v for k, v in row.items() if k != "reward"}} for i, row in enumerate(rows)]
    rewards = write(
        tmp_path / "rewards.jsonl", [{"custom_id": f"r{i}", "reward": row["reward"]} for i, row in enumerate(rows)]
    )
    done = run("route", "fit", write(tmp_path / "asked.jsonl", asked), rewards, "--out", out, "--draws", 20,
               "--columns", "problem=id")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = load_router(out)
    assert found.scores([rows[0]["prompt"]]).gain.tolist() == plain.scores([rows[0]["prompt"]]).gain.tolist()
    assert found.source["tables"] == ["rewards.jsonl"]


FIT = ["route", "fit"]


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        (log_rows(5), [], "5 different problems in 5 folds: a router needs at least 2 folds and 10 problems"),
        (log_rows(12), ["--folds", "50"], "12 different problems in 50 folds: a router needs"),
        (log_rows(20)[4:8], [], "has one response group, long"),
        (log_rows(12), ["--columns", "prompt=text"], "no column 'text'; name one of 'id', 'prompt'"),
        ([{**row, "prompt": ""} for row in log_rows(12)], ["--columns", "prompt=prompt"], "column 'prompt': no prompt"),
        ([{**row, "prompt": 7} for row in log_rows(12)], [], "column 'prompt': a prompt is int; it must be text"),
        ([{**row, "prompt": str(i)} for i, row in enumerate(log_rows(12))], [], "problem 'p0' has another prompt"),
        ([{**row, "prompt": None} for row in log_rows(12)], [], "no column with the prompt"),
        (log_rows(12), ["--number", "level"], "line 1, column 'level': there is none; name one of 'id', 'prompt'"),
        ([{**row, "level": None} for row in log_rows(12)], ["--number", "level"], "None is not a finite number"),
        ([{**row, "level": 1e160} for row in log_rows(12)], ["--number", "level"], "1e+160 is above 1e+100; give"),
        (log_rows(20), ["--budget", "tokens=10"], "budget tokens=10: cannot be kept: the cheapest response"),
        (log_rows(12), ["--number", "reward"], "so that it is not known before answering"),
        (log_rows(12), ["--number", "tokens"], "so that it is not known before answering"),
        (log_rows(12), ["--budget", "longer=30%"], "is named 'longer'; there are short, long"),
        (log_rows(12), ["--budget", "dollars=3"], "is named 'dollars'"),
        (log_rows(12), ["--embed", "url=http://127.0.0.1:1/v1"], "needs url=... and model=..."),
        (log_rows(12), ["--part", "group"], "column 'group' holds short, long; name one of them with --part"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, rows, arguments, message):
    result = run(*FIT, write(tmp_path / "log.jsonl", rows), "--out", tmp_path / "r.json", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not Path(tmp_path / "r.json").exists()


def test_blanks_around_identifiers_are_nothing(tmp_path):
    """`ibpo allocate` reads such a log; the prompts of its problems were not found."""
    rows = [{**row, "id": f"{row['id']} ", "group": f" {row['group']}"} for row in log_rows(40)]
    result = run(*FIT, write(tmp_path / "log.jsonl", rows), "--out", tmp_path / "r.json", "--draws", "10")
    assert result.exit_code == 0, result.output


def test_numbers_of_prompts_may_be_texts_and_stand_in_tables(tmp_path):
    rows = [{**row, "meta": {"level": f"{int(row['id'][1:]) % 5}"}} for row in log_rows(40)]
    log, out = write(tmp_path / "log.jsonl", rows), tmp_path / "r.json"
    result = run(*FIT, log, "--out", out, "--draws", "10", "--number", "meta.level")
    assert result.exit_code == 0, result.output
    for level, code in (("3", 0), ("hard", 2), (10**400, 2)):
        prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "what is 1 + 2?", "meta": {"level": level}}])
        scored = run("route", "score", out, prompts, "--out", tmp_path / "scores.jsonl")
        assert scored.exit_code == code, scored.output
        assert code == 0 or "number 'meta.level': needs one finite number" in scored.output


def test_prompts_to_score_may_be_of_any_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [{**row, "level": int(row["id"][1:]) % 5} for row in log_rows(40)]
    out, scored = tmp_path / "r.json", tmp_path / "scores.jsonl"
    fitted = run(*FIT, write(tmp_path / "log.jsonl", rows), "--out", out, "--draws", "10", "--number", "level")
    assert fitted.exit_code == 0, fitted.output
    asked = {"prompt": ["what is 1 + 2?", "what is 3 + 4?"], "level": [1, 4]}
    frame = pandas.DataFrame({**asked, "at": pandas.to_datetime(["2026-12-01", "2026-12-02"])})
    frame.to_csv(tmp_path / "prompts.csv", index=False)
    frame.to_parquet(tmp_path / "prompts.parquet")
    expected = load_router(out).scores(asked["prompt"], {"level": asked["level"]})
    gains = []
    for name in ("prompts.csv", "prompts.parquet"):
        done = run("route", "score", out, tmp_path / name, "--out", scored)
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in scored.read_text().splitlines()]
        assert [line["at"][:10] for line in lines] == ["2026-12-01", "2026-12-02"]
        gains.append([line["gain"]["long"] for line in lines])
    assert gains[0] == gains[1] and gains[0] == pytest.approx(expected.gain[:, 1])


@pytest.mark.parametrize("kind", ["jsonl", "json in csv", "python in csv"])
def test_chats_are_read_as_the_gateway_reads_them_in_any_table_and_without_the_answer(tmp_path, kind):
    """In a CSV they were looked at as JSON: what a server asks had none of its braces and names of roles."""

    def chat(p, answer):
        return [{"role": "user", "content": f"what is {'9' * (2 + p % 7)} + {p}?"}, *answer]

    rows, size = [], 30
    for p, name in itertools.product(range(size), ("short", "long")):
        answer = [{"role": "assistant", "content": f"{name} {p}"}]
        row = {"id": f"p{p}", "messages": chat(p, answer), "group": name, "reward": (p + len(name)) % 2}
        rows.append({**row, "tokens": 50 if name == "short" else 400})
    path, prompts = tmp_path / "log.jsonl", tmp_path / "prompts.jsonl"
    asked = [{"messages": chat(p, [])} for p in range(size)]
    if kind == "jsonl":
        write(path, rows)
        write(prompts, asked)
    else:
        shown = json.dumps if kind == "json in csv" else str
        path, prompts = tmp_path / "log.csv", tmp_path / "prompts.csv"
        for file, table in ((path, rows), (prompts, asked)):
            with file.open("w", newline="") as text:
                writer = csv.DictWriter(text, table[0])
                writer.writeheader()
                writer.writerows({**row, "messages": shown(row["messages"])} for row in table)
    table = read_routed_log(path, columns=LogColumns())
    by_problem = dict(zip(table.problems, table.prompts, strict=True))
    assert by_problem == {f"p{p}": as_text(chat(p, [])) for p in range(size)}
    router = replace(fit_router(table), source={"columns": table.columns})
    save_router(router, tmp_path / "router.json")
    done = run("route", "score", tmp_path / "router.json", prompts, "--out", tmp_path / "scores.jsonl")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    expected = router.scores([row["messages"] for row in asked])
    assert [line["cost"]["long"] for line in lines] == pytest.approx(expected.cost[:, 1])
    prompts = write(tmp_path / "bad.jsonl", [*asked, {"messages": 5}])
    done = run("route", "score", tmp_path / "router.json", prompts, "--out", tmp_path / "scores.jsonl")
    assert "line 31, column 'messages': a prompt is int; it must be text or a list of chat" in done.output


def test_a_response_group_that_is_free_is_predicted_to_be_free(tmp_path):
    """It was predicted to cost .05 of the log's unit, fifty times what the other one cost, and never asked."""
    rows = [
        {"problem": f"p{p:03}", "response_group": name, "reward": float(name == "api" or p % 2 == 0),
         "money": 0.001 * (name == "api"), "prompt": "hard one" if p % 2 else "easy one two"}
        for p in range(60)
        for name in ("local", "api")
    ]  # fmt: skip
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns(cost="money"))
    scores = score_unseen(table)
    assert np.allclose(scores.cost, [0.0, 0.001])
    rows = evaluate_router(table, [parse_budget("money=0.0005")], scores, draws=10)
    assert rows[0]["spent"] == pytest.approx(0.0005) and rows[0]["value"] == 1.0
    assert fit_router(table).scores(["easy one two", "hard one"]).cost[:, 0].tolist() == [0.0, 0.0]


def test_a_response_group_may_be_called_as_the_cost(tmp_path):
    """The budgets that nobody had given were refused as ones on that group."""
    rows = [{**row, "group": "tokens" if row["group"] == "long" else row["group"]} for row in log_rows(20)]
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns())
    assert [budget.name for budget in default_budgets(table)] == ["cost"] * 3
    rows = evaluate_router(table, default_budgets(table), Scores(0 * table.reward, table.cost), draws=10)
    assert [row["spent"] > 40 for row in rows] == [True] * 3


def test_a_third_of_thirty_problems_are_ten(tmp_path):
    """As a float a third is less, and the tenth problem did not fit."""
    rows = [
        {"problem": f"p{p:03}", "response_group": name, "reward": float(name == "large"), "tokens": n, "prompt": "same"}
        for p in range(30)
        for name, n in (("small", 1), ("large", 4)) * 2
    ]
    table = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=LogColumns(cost="tokens"))
    asked = [parse_budget(text) for text in ("large=1/3", "large=2/3")]
    third, two = evaluate_router(table, asked, score_unseen(table), draws=10, num_splits=4)
    assert third["share"]["large"] * 30 == 10 and two["share"]["large"] * 30 == 20
    assert third["oracle_unseen"] == pytest.approx(1 / 3) and two["oracle_unseen"] == pytest.approx(2 / 3)


def test_prompts_and_numbers_are_those_of_the_part(tmp_path):
    """Numbers were means over the rows of all parts, and prompts of another part were refused."""
    rows = [
        {**row, "model": model, "hard": len(row["id"]) + 100 * (model == "n"), "Prompt": f"{row['prompt']} {model}"}
        for row in log_rows(12) for model in "mn"
    ]  # fmt: skip
    for row in rows:
        del row["prompt"]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_routed_log(path, columns=LogColumns(by="model"), numbers=["hard"], part="m")
    assert max(table.numbers["hard"]) == 3 and table.prompts[0].endswith(" m")


def test_what_is_read_is_not_written_over(tmp_path):
    """`route fit log.jsonl --out log.jsonl` left a router where the log had been."""
    log, link = write(tmp_path / "log.jsonl", log_rows(20)), tmp_path / "link.jsonl"
    link.symlink_to(log)
    router = tmp_path / "router.json"
    save_router(fit_router(read_routed_log(log, columns=LogColumns())), router)
    before = log.read_bytes(), router.read_bytes()
    for arguments, name in (
        (["route", "fit", log, "--out", link], "log.jsonl"),
        (["route", "score", router, log, "--out", log], "log.jsonl"),
        (["route", "score", router, log, "--out", router], "router.json"),
        (["simulate", log, "--budget", "long=30%", "--gains", log, "--router", router, "--out", router], "router.json"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2 and f"is {name} itself, which would be lost" in done.output.replace("\n", " ")
    assert before == (log.read_bytes(), router.read_bytes())


def test_the_output_is_looked_at_before_any_fitting(tmp_path):
    arguments = ["route", "fit", str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]
    assert "is a folder; name a file in it" in CliRunner().invoke(app, arguments).stderr


def test_a_prompt_that_the_first_row_lacks_is_asked_for(tmp_path):
    """With --number all prompts were left out silently, and without it there was "no column with the prompt"."""
    rows = log_rows(12)
    rows[0]["prompt"] = None
    path = write(tmp_path / "log.jsonl", rows)
    columns = LogColumns(problem="id", response_group="group")
    for prompt, numbers in ((None, ["digits"]), (None, []), ("prompt", [])):
        with pytest.raises(IbpoError, match="line 1, column 'prompt': no prompt; fill it in"):
            read_routed_log(path, columns=columns, prompt=prompt, numbers=numbers)
    # A column that holds nothing is none, nor is one that only some rows have beside one that all have.
    rows = [
        {**row, "question": row["prompt"] or "eggs", "prompt": "" if i else "a template"} for i, row in enumerate(rows)
    ]
    rows[0]["question"] = rows[1]["question"]
    found = read_routed_log(write(tmp_path / "log.jsonl", rows), columns=columns)
    assert found.columns["prompt"] == "question"
    assert (
        read_routed_log(
            write(tmp_path / "log.jsonl", [{**row, "question": None, "prompt": None} for row in rows]),
            columns=columns,
            numbers=["digits"],
        ).prompts
        == [""] * 12
    )


def test_embeddings_of_another_length_are_said(tmp_path):
    """A server that runs another model now ended in a ValueError on shapes."""
    table = table_of(tmp_path, num_problems=30)
    embedded = np.random.default_rng(0).normal(size=(30, 6))
    router = fit_router(table, embedded=embedded, embedding={"base_url": "http://127.0.0.1", "model": "e"})
    for bad in (np.zeros((2, 9)), np.zeros((1, 6)), np.full((2, 6), np.nan)):
        with pytest.raises(IbpoError, match=r"not \(2, 6\) finite numbers: this router was fitted on those by 'e'"):
            replace(router, embed=lambda _, bad=bad: bad).scores(["a", "b"])
    assert replace(router, embed=lambda _: np.zeros(0)).scores([]).gain.shape == (0, 2)


def test_a_mix_needs_no_numbers(tmp_path):
    log, out = write(tmp_path / "log.jsonl", [{**row, "level": 3} for row in log_rows(40)]), tmp_path / "r.json"
    run(*FIT, log, "--out", out, "--draws", "10", "--number", "level")
    mix = as_mix(load_router(out))
    assert mix.is_mix and mix.scores(["a", "b"]).gain.shape == (2, 2)
    save_router(mix, out)
    prompts = write(tmp_path / "p.jsonl", [{"question": "a"}])
    done = run("route", "score", out, prompts, "--out", tmp_path / "s.jsonl")
    assert done.exit_code == 0, done.output
