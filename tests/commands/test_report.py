"""`ibpo report`: files in, a page out; the page in a real browser where there is one."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from tests.pages import FILE, copied, opened, prints

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
GAME24 = ROOT.parent / "shared" / "data" / "game24" / "responses.jsonl.gz"


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def rows():
    rng, made = random.Random(0), []
    for p in range(24):
        for name, chance, cost in (("low", 0.9 - 0.3 * (p % 3), 100), ("high", 0.95 - 0.1 * (p % 3), 900)):
            for _ in range(4):
                right = rng.random() < chance
                made.append(
                    {"problem_id": f"p{p}", "effort": name, "correct": right, "tokens": cost * rng.uniform(0.5, 1.5)}
                    | {"level": p % 3, "subject": "ab"[p % 2], "answer": "1" if right else "2"}
                    | {"question": f"<script>alert({p})</script>", "response": "because | it\nis " + "so " * 700}
                    | {"reasoning_tokens": cost / 2, "finish_reason": "stop" if rng.random() < 0.9 else "length"}
                )
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    result = run(file, "--out", folder / "out", "--num-splits", 4)
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_the_files(page):
    assert {path.name for path in page.iterdir()} == {"report.html", "report.md", "report.json", "figures"}
    figures = {path.name for path in (page / "figures").iterdir()}
    assert figures == {f"{name}{kind}" for name in ("tradeoff", "levels", "shares") for kind in (".png", ".svg")}
    for path in (page / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    data = json.loads((page / "report.json").read_text())
    assert data["parts"][""]["standard"] == "low"


def test_the_page_loads_nothing_and_trusts_no_text(page):
    html = (page / "report.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert not re.search(r"<(link|iframe|img|object|embed)\b|\bsrc=|@import|url\((?!#)", html)
    outside = re.findall(r'(?:href|xlink:href)="([^"#][^"]*)"', html)
    assert outside == []
    assert html.count('role="img" aria-label="') == 3 and "more characters" in html


def test_what_others_published_stands_apart(page):
    html = (page / "report.html").read_text()
    before, after = html.split('id="published"')
    assert "2501.17974" in after and "2501.17974" not in before
    assert "not measured here" in after
    assert "2501.17974" not in (page / "report.json").read_text()


def test_markdown_tables_are_whole(page):
    lines = (page / "report.md").read_text().splitlines()
    assert any("![Accuracy against cost." in line for line in lines)
    widths = []
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        if widths and widths[-1] is not None and cells is not None:
            assert cells == widths[-1], line
        widths.append(cells)


def test_what_is_wrong_and_what_was_cut_off_are_told_apart(page):
    part = json.loads((page / "report.json").read_text())["parts"][""]
    for row in part["configurations"]:
        overall = row["numbers"]["overall"]
        assert overall["wrong"]["truncated"]["value"] == 0 and overall["cut off"]["truncated"]["value"] == 1
    text = (page / "report.md").read_text()
    assert "mean tokens, cut off" in text
    [head] = [line for line in text.splitlines() if line.startswith("| Level |")]
    for name in ("pass@1", "maj@4", "median tokens", "thinking", "truncated", "mean tokens, wrong"):
        assert f"| {name} |" in head
    assert any(line.startswith("| Domain |") for line in text.splitlines())


def demo_run(folder):
    """A demo run's folder, as far as the page reads it: a policy that holds .5 and one that holds none."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = random.Random(1)
    for name, chance in (("cold_start__standard", 0), ("cold_start__extended", 1), ("ibpo-0.5__sampled", 0.6)):
        made = []
        for p in range(40):
            for sample in range(4):
                extended = rng.random() < chance
                right = rng.random() < (0.9 if extended or p % 2 else 0.2)
                made.append(
                    {"problem_id": f"p{p:02}", "level": str(p % 2), "sample": sample, "reward": float(right)}
                    | {"response_group": "extended" if extended else "standard", "tokens": 40 if extended else 10}
                    | {"finish_reason": "stop", "predicted_answer": "1", "completion": "it is 1", "prompt": "q"}
                )
        path = folder / "thinking" / "seed0" / "responses" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(made), path)
    steps = [{"step": i, "ibpo/share/extended": 0.5, "ibpo/price/extended": 0.1} for i in range(1, 30)]
    (folder / "thinking" / "seed0" / "policies" / "ibpo-0.5").mkdir(parents=True)
    metrics = folder / "thinking" / "seed0" / "policies" / "ibpo-0.5" / "metrics.json"
    metrics.write_text(json.dumps([*steps, {"step": 29, "train_runtime": 1.0}]))
    (folder / "settings.json").write_text(json.dumps({"seeds": [0], "num_problems": 40}))


def test_a_demo_run_shows_its_budget_and_its_training(tmp_path):
    demo_run(tmp_path / "demo")
    result = run(tmp_path / "demo", "--out", tmp_path / "page", "--num-splits", 2)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "page" / "report.json").read_text())
    part = data["parts"]["thinking"]
    [kept] = part["budget_kept"]
    assert (kept["name"], kept["budget"], kept["in_training"]) == ("ibpo-0.5, sampled", 0.5, 0.5)
    assert 0.4 < kept["share"]["low"] < kept["share"]["value"] < kept["share"]["high"] < 0.8
    assert len(part["training"]) == 29 and part["training"][0]["price"] == 0.1
    figures = {path.stem for path in (tmp_path / "page" / "figures").glob("*.svg")}
    assert {"kept_thinking", "training_thinking", "choices_thinking"} <= figures
    share = {row["name"]: row["oracle_share"] for row in part["configurations"]}
    assert share["ibpo-0.5, sampled"]["low"] < share["ibpo-0.5, sampled"]["high"]
    assert "share in training" in (tmp_path / "page" / "report.md").read_text()
    assert data["what_ran"]["demo: num problems"] == "40"


def test_a_budget_on_another_group_is_not_called_broken(tmp_path):
    demo_run(tmp_path / "demo")
    result = run(tmp_path / "demo", "--out", tmp_path / "page", "--num-splits", 2, "--extended", "vote")
    assert result.exit_code == 0, result.output
    part = json.loads((tmp_path / "page" / "report.json").read_text())["parts"]["thinking"]
    assert part["budget_kept"] == [] and "--extended names another group" in " ".join(part["notes"])


def test_the_page_of_the_shipped_log(tmp_path):
    """Three efforts of two models; the oracle share of the middle one, between the cheapest and the most expensive."""
    log = ROOT / "examples" / "dual_mode_dev.jsonl.gz"
    result = run(log, "--out", tmp_path, "--num-splits", 2)
    assert result.exit_code == 0, result.output
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert len(parts) == 2
    for part in parts.values():
        low, *_, high = part["configurations"]
        assert low["cost"]["value"] < high["cost"]["value"] and part["allocation"]
        assert low["oracle_share"] is None and high["oracle_share"] is None


def one_row(**changes):
    return {"problem_id": "p1", "effort": "low", "correct": 1, "tokens": 10} | changes


def reported(tmp_path, rows, *more):
    """The page's data of some rows."""
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(tmp_path / "log.jsonl", "--out", tmp_path / "page", "--num-splits", 2, *more)
    assert result.exit_code == 0, result.output
    return json.loads((tmp_path / "page" / "report.json").read_text())


def test_whether_one_problem_kept_a_budget_is_not_known(tmp_path):
    """A single problem has no interval: the report ended in a traceback."""
    groups = ("standard", "extended", "standard")
    rows = [one_row(configuration="policy", response_group=group, budget=0.5) for group in groups]
    [said] = reported(tmp_path, rows)["parts"][""]["first_words"][:1]
    assert said == "Whether policy kept its budget is not known: 33.3% on one problem, 50.0% allowed."


@pytest.mark.parametrize(("num_extended", "said"), [(7, "policy kept its budget"), (8, "is not known")])
def test_a_share_that_is_the_budget_keeps_it(tmp_path, num_extended, said):
    """Seven of 21 responses are a third; as a mean over seven problems it rounds to a little more."""
    rows = [
        one_row(problem_id=f"p{n // 3}", configuration="policy", budget=1 / 3)
        | {"response_group": "extended" if n < num_extended else "standard"}
        for n in range(21)
    ]
    assert said in reported(tmp_path, rows)["parts"][""]["first_words"][0]


def test_no_part_has_the_figures_of_another(tmp_path):
    """Names that are alike but for signs, or without a Latin letter, were one file: the last part's pictures."""
    models = ["a/b", "a b", "A-b", "\u6a21\u578b\u7532", "\u6a21\u578b\u4e59"]
    rows = [
        one_row(model=model, effort=effort, tokens=(n + 1) * tokens, problem_id=f"p{p}")
        for n, model in enumerate(models)
        for effort, tokens in (("low", 10), ("high", 50))
        for p in range(2)
    ]
    reported(tmp_path, rows)
    shown = re.findall(r"\((figures/\S+\.png)\)", (tmp_path / "page" / "report.md").read_text())
    assert len({name.casefold() for name in shown}) == len(shown) == len(models)
    assert {path.name for path in (tmp_path / "page" / "figures").glob("*.png")} == {Path(name).name for name in shown}


def test_tokens_of_thinking_are_not_taken_from_money(tmp_path):
    """An answer of 0.005 dollars with 250 tokens of thinking had -249.995 tokens beside these."""
    (tmp_path / "prices.toml").write_text("[m]\ninput = 1.0\noutput = 10.0\n")
    rows = [
        one_row(problem_id=f"p{p}", model="m", effort=effort, prompt_tokens=50, completion_tokens=tokens)
        | {"reasoning_tokens": tokens // 2}
        for p in range(4)
        for effort, tokens in (("low", 100), ("high", 500))
    ]
    for row in rows:
        del row["tokens"]
    [part] = reported(tmp_path, rows, "--prices", tmp_path / "prices.toml")["parts"].values()
    every = [row["numbers"]["overall"]["all"] for row in part["configurations"]]
    assert part["cost_unit"] == "money" and every[1]["mean_tokens"]["value"] == pytest.approx(0.00505)
    assert [one["thinking_tokens"]["value"] for one in every] == [50, 250]
    assert not any("answer_tokens" in one for one in every)
    assert "| thinking tokens |" in (tmp_path / "page" / "report.md").read_text()


def test_runs_of_one_name_each_say_what_was_run(tmp_path):
    """`seed0/run` and `seed1/run`: the second took the first one's place in report.json."""
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}" / "run"
        folder.mkdir(parents=True)
        rows = [
            one_row(configuration="low", response_group="low", number=n, finish_reason="stop", reward=1)
            for n in range(2)
        ]
        (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {"model": "m", "seed": seed}
        about = {"settings": settings, "command": "ibpo eval", "engine": {}, "num_problems": 1}
        (folder / "eval.json").write_text(json.dumps(about | {"problems_fingerprint": "f"}))
    result = run(tmp_path / "seed0" / "run", tmp_path / "seed1" / "run", "--out", tmp_path / "page")
    assert result.exit_code == 0, result.output
    ran = json.loads((tmp_path / "page" / "report.json").read_text())["what_ran"]
    assert [ran[f"{tmp_path}/seed{seed}/run: settings"] for seed in (0, 1)] == ["seed 0", "seed 1"]


def test_a_configuration_of_the_same_cost_is_not_more(tmp_path):
    """Which problems want more: those that are given another way at the same cost do not."""
    rows = [
        one_row(problem_id=f"p{p}", effort=effort, tokens=tokens, level=str(p % 2))
        | {"correct": int(effort == "high" or (effort == "mid") == bool(p % 2))}
        for p in range(12)
        for effort, tokens in (("low", 10), ("mid", 10), ("high", 50))
        for _ in range(2)
    ]
    told = reported(tmp_path, rows)["parts"][""]["first_words"][-1]
    assert told == "No problem wants more than low there."


@pytest.mark.slow
@pytest.mark.skipif(not GAME24.is_file(), reason="needs ../shared/data")
def test_the_page_of_a_hundred_responses_a_problem(tmp_path):
    """20,000 responses of GPT-4 to the game of 24; what of them are bad rows is said, not hidden."""
    refused = run(GAME24, "--columns", "response_group=group", "--out", tmp_path / "none", "--num-splits", 2)
    assert refused.exit_code == 2 and "line 13201, column 'tokens'" in refused.stderr
    result = run(
        GAME24, "--columns", "response_group=group", "--on-error", "skip", "--out", tmp_path, "--num-splits", 2
    )
    assert result.exit_code == 0, result.output
    assert "responses of 2 configurations" in result.stderr
    data = json.loads((tmp_path / "report.json").read_text())
    (part,) = data["parts"].values()
    short, long = part["configurations"]
    # As published: 7.3 % of plain answers and 4.0 % of chains of thought are right (Yao et al., 2023, Table 2).
    assert [row["name"] for row in (short, long)] == ["standard", "extended"]
    assert short["numbers"]["overall"]["all"]["pass@1"]["value"] == pytest.approx(0.073, abs=0.002)
    assert long["numbers"]["overall"]["all"]["pass@1"]["value"] == pytest.approx(0.04, abs=0.002)
    assert short["cost"]["value"] < long["cost"]["value"]
    assert "left out" in data["what_ran"]["How they were read"]


def test_names_and_harnesses(tmp_path):
    result = run(
        f"one={FIXTURES / 'lighteval'}", f"two={FIXTURES / 'lighteval'}", "--judge", "exact", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "report.json").read_text())
    part = data["parts"]["community|digit_sums_repeats|0"]
    assert [row["name"] for row in part["configurations"]] == ["one", "two"]
    assert part["configurations"][1]["difference"]["value"] == 0
    assert "lighteval details" in data["what_ran"]["How they were read"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--standard", "none"], "none: no such configuration; there are low, high"),
        (["--only", "none"], "--only none: no such configuration"),
        (["--budget", "tokens=0.5"], "--budget tokens=0.5: the report allocates at parts of the way"),
        (["--columns", "reward=score"], "no column 'score'; there are 'problem_id'"),
    ],
)
def test_what_is_refused(page, more, said, tmp_path):
    result = run(page.parent / "log.jsonl", "--out", tmp_path, *more)
    assert result.exit_code == 2 and said in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output


def test_a_full_disk_is_said_and_leaves_no_half_of_a_page(page, tmp_path):
    """A limit on the size of files stands in for the disk."""
    code = (
        "import resource, signal, sys; from ibpo.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); main()"
    )
    command = ["report", str(page.parent / "log.jsonl"), "--out", str(tmp_path / "out"), "--num-splits", "1"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "make room" in done.stderr and "Traceback" not in done.stderr
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(name.startswith((".", "report")) for name in left)


def test_a_file_in_the_place_of_the_folder(page, tmp_path):
    (tmp_path / "out").write_text("")
    result = run(page.parent / "log.jsonl", "--out", tmp_path / "out", "--num-splits", 1)
    assert result.exit_code == 2 and "out: cannot be written" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375], ids=["laptop", "phone"])
def test_in_a_browser(page, browser, width, theme):
    url = (page / "report.html").as_uri()
    with opened(browser, url, width, theme, **FILE) as (tab, said, asked):
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        boxes = tab.evaluate(
            "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width,"
            " s.querySelectorAll('path').length, s.getAttribute('aria-label').length])"
        )
        assert len(boxes) == 3
        for shown, paths, words in boxes:
            assert 200 < shown <= width and paths > 10 and words > 40
        # Text is legible in either theme: contrast of ink on paper.
        assert tab.evaluate(CONTRAST) > 7
        column = tab.locator("#p0-t1 thead th", has_text="mean tokens").first
        for direction in ("descending", "ascending"):
            column.get_by_role("button").click()
            assert column.get_attribute("aria-sort") == direction
            index = column.evaluate("cell => cell.cellIndex")
            values = tab.evaluate(
                "index => [...document.querySelectorAll('#p0-t1 tbody tr')].map(r => +r.cells[index].dataset.sort)",
                index,
            )
            assert values == sorted(values, reverse=direction == "descending") and len(set(values)) == 2
        lines = [line.split("\t") for line in copied(tab, "p0-t1").splitlines()]
        assert lines[0][:2] == ["Configuration", "pass@1"] and {line[0] for line in lines[1:]} == {"low", "high"}
        assert len({len(line) for line in lines}) == 1 and "%" in lines[1][1]
        tab.locator("summary", has_text="By level").click()
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.screenshot(path=page.parent / f"{theme}-{width}.png", full_page=True)  # for whoever wants to look
        assert prints(tab)
        assert said == [] and asked == [url]


CONTRAST = """() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


def test_the_first_lines_say_what_to_do(page, tmp_path):
    """Half of today's tokens, by the words of `ibpo allocate`, and who wants them; a budget that was kept, or not."""
    first, wants = json.loads((page / "report.json").read_text())["parts"][""]["first_words"]
    assert first.startswith("At half of today's tokens: ") and "% of today's" in first
    assert re.search(r"goes to \d+ of 24 problems; by level, .* more than low: 2: \d+%", wants)
    text = (page / "report.md").read_text()
    data = json.loads((page / "report.json").read_text())
    assert data["answer"] == data["parts"][""]["lead"]["text"] and text.index("low is right on") < text.index(first)
    made = [{**row, "effort": "low"} for row in rows()]
    file = tmp_path / "one.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run(file, "--out", tmp_path / "one", "--num-splits", 2).exit_code == 0
    [only] = json.loads((tmp_path / "one" / "report.json").read_text())["parts"][""]["first_words"]
    assert only == "What half of the tokens would buy is not known: it takes two ways of answering to choose."
    assert (tmp_path / "one" / "report.md").read_text().splitlines()[2].startswith("No conclusion on choosing")
    demo_run(tmp_path / "demo")
    assert run(tmp_path / "demo", "--num-splits", 2).exit_code == 0
    [part] = json.loads((tmp_path / "demo" / "report.json").read_text())["parts"].values()
    assert "its budget" in part["first_words"][0] and "50.0% allowed" in part["first_words"][0]


def test_problems_that_want_the_money_are_named_where_levels_have_no_names(tmp_path):
    made = [
        {"id": f"p{p}", "effort": effort, "correct": int(effort == "high" or p > 9), "tokens": cost}
        for p in range(60) for effort, cost in (("low", 100), ("high", 900)) for _ in range(4)
    ]  # fmt: skip
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run(file, "--out", tmp_path / "out", "--num-splits", 4).exit_code == 0
    first, wants = json.loads((tmp_path / "out" / "report.json").read_text())["parts"][""]["first_words"]
    assert "choose per problem" in first and "100% of today's" not in first
    assert wants == "80% of what that spends above low goes to 8 of 60 problems: p0, p1, p2, p3, p4, ..."


def test_a_log_of_dollars_is_read_and_shown_as_money(tmp_path):
    """`cost_usd` was not looked at: each response cost 1; with prices a cell of the table read "0 (0 to 0)"."""
    made = [
        {"id": f"p{p}", "effort": effort, "correct": int(effort == "high" or p > 9), "cost_usd": cost}
        for p in range(40) for effort, cost in (("low", 0.001), ("high", 0.0125)) for _ in range(4)
    ]  # fmt: skip
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run(file, "--out", tmp_path / "out", "--num-splits", 4).exit_code == 0
    part = json.loads((tmp_path / "out" / "report.json").read_text())["parts"][""]
    assert part["cost_unit"] == "money" and "money" in part["first_words"][0]
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| 12.50 | 0.0125 | 0.0125 | 0.0125 |" in table and "| 0.001 | 0.001 | 0.001 |" in table
    # Beside tokens it is another unit, and no number of them.
    counted = [row | {"tokens": 7} for row in made if row["effort"] == "low"]
    (tmp_path / "counted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in counted))
    file.write_text("".join(json.dumps(row) + "\n" for row in made if row["effort"] == "high"))
    result = run(tmp_path / "counted.jsonl", file, "--out", tmp_path / "both", "--num-splits", 4)
    assert result.exit_code == 2 and "high: no response has a cost; add its tokens" in result.output


@pytest.mark.parametrize("costs", [(0, 900), (0, 0)])
def test_what_is_free_has_a_page(tmp_path, costs):
    """Nothing is so many times as expensive as what costs nothing; both ended in a traceback."""
    file = tmp_path / "log.jsonl"
    free = [row | {"tokens": costs[row["effort"] == "high"], "reasoning_tokens": 0} for row in rows()]
    file.write_text("".join(json.dumps(row) + "\n" for row in free))
    result = run(file, "--out", tmp_path / "out", "--num-splits", 2)
    assert result.exit_code == 0, result.output
    told = (tmp_path / "out" / "report.md").read_text()
    assert ("high on" in told) and (f"at {costs[1]} tokens" in told) and "nan" not in told


def test_identifiers_may_hold_digits_that_are_no_numbers(tmp_path):
    file = tmp_path / "log.jsonl"
    powers = [row | {"problem_id": f"what is {row['problem_id']}\u00b2", "level": "\u00b2"} for row in rows()]
    file.write_text("".join(json.dumps(row) + "\n" for row in powers))
    assert run(file, "--out", tmp_path / "out", "--num-splits", 2).exit_code == 0


def test_names_that_are_equal_as_numbers_have_an_order():
    from ibpo.evaluation.responses import natural

    assert sorted({"1", "01", "001", "q2", "q10", "q1", "q1a"}, key=natural) == [
        "001", "01", "1", "q1", "q1a", "q2", "q10",
    ]  # fmt: skip


def test_a_misspelt_configuration_beside_a_right_one_is_said(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    result = run(file, "--only", "low", "--only", "hihg", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "--only hihg: no such configuration; there are low, high" in result.stderr


def test_of_many_configurations_twelve_are_shown_first(tmp_path):
    """The standard one, the most expensive one and the policy among them; all stand behind a fold, also on GitHub."""
    made = [
        one_row(problem_id=f"p{p}", configuration=f"c{i:02}", tokens=10 * (i + 1), response_group="standard", number=0)
        | {"correct": int((p + i) % 3 == 0)}
        for i in range(14)
        for p in range(8)
    ]
    made += [
        row | {"configuration": "policy", "budget": 0.5, "tokens": 75} for row in made if row["configuration"] == "c00"
    ]
    made += [row | {"response_group": "extended", "number": 1} for row in made if row["configuration"] == "policy"]
    data = reported(tmp_path, made)
    assert len(data["parts"][""]["configurations"]) == 15
    text = (tmp_path / "page" / "report.md").read_text()
    first, _, folded = text.partition("<details><summary>All configurations (15)</summary>\n\n| Configuration |")
    shown = [line.split(" | ")[0][2:] for line in first.splitlines() if line.startswith("| ")][2:]
    assert "12 of 15 configurations" in first
    assert len(shown) == 12 and {"c00", "c13", "policy"} <= set(shown) and "Shown first: c00" in first
    rows_of = [line.split(" | ")[0][2:] for line in folded.partition("</details>")[0].splitlines()[2:] if line]
    assert len(rows_of) == 15 and set(shown) < set(rows_of)
    html = (tmp_path / "page" / "report.html").read_text()
    assert "<summary>All configurations (15)</summary>" in html and 'id="p0-t1-all"' in html
    assert "It shows the 12 of 15 configurations that the table shows first." in html


def evaluated(folder, model, right, budget=None):
    """An `ibpo eval` run whose policy chooses by itself, as far as the page reads it."""
    folder.mkdir()
    rows = [
        {"problem_id": f"p{p}", "configuration": "chooses itself", "number": n, "reward": float(right(p)), "tokens": 9,
         "response_group": ("standard", "extended")[n], "finish_reason": "stop", "prompt": f"{p} + 1 =",
         "budget": budget} for p in range(12) for n in range(2)
    ]  # fmt: skip
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = {"configuration": "chooses itself", "budget": budget, "group": "extended", "run": "RUN",
               "steps": [{"step": n, "share": 0.4, "price": 0.1} for n in range(9)]}  # fmt: skip
    about = {"command": "ibpo eval", "engine": {}, "settings": {"model": model, "task": "sums"}, "num_problems": 12,
             "problems_fingerprint": "0", "trained": trained if budget else None}  # fmt: skip
    (folder / "eval.json").write_text(json.dumps(about))
    return folder


def test_two_models_are_two_rows_each_with_its_own_training(tmp_path):
    """They were one row, right on half, and its training that of the one."""
    base = evaluated(tmp_path / "base", "m", lambda p: False)
    tuned = evaluated(tmp_path / "tuned", "RUN/model", lambda p: True, budget=0.5)
    result = run(base, tuned, "--out", tmp_path / "page", "--num-splits", 2)
    assert result.exit_code == 0, result.output
    [part] = json.loads((tmp_path / "page" / "report.json").read_text())["parts"].values()
    found = {row["name"]: row["numbers"]["overall"]["all"]["pass@1"]["value"] for row in part["configurations"]}
    assert found == {"base: chooses itself": 0.0, "tuned: chooses itself": 1.0}
    [kept] = part["budget_kept"]
    assert (kept["name"], kept["in_training"]) == ("tuned: chooses itself", pytest.approx(0.4))
    assert {step["configuration"] for step in part["training"]} == {"tuned: chooses itself"} and part["training"]
    # A difference on all of twelve problems alike is no certainty.
    difference = part["configurations"][1]["difference"] or part["configurations"][0]["difference"]
    assert abs(difference["value"]) == 1 and difference["high"] - difference["low"] > 0.2
    again = run(f"before={base}", f"after={tuned}", "--out", tmp_path / "page", "--num-splits", 2)
    assert again.exit_code == 0 and "| before |" in (tmp_path / "page" / "report.md").read_text()


def test_a_demo_with_a_name_is_held_against_its_cold_start(tmp_path):
    demo_run(tmp_path / "demo")
    assert run(f"x={tmp_path / 'demo'}", "--out", tmp_path / "page", "--num-splits", 2).exit_code == 0
    [part] = json.loads((tmp_path / "page" / "report.json").read_text())["parts"].values()
    assert part["reference"] == ["x: cold start, standard", "x: cold start, extended"]
    assert part["budget_kept"][0]["in_training"] == 0.5


def test_six_problems_that_all_say_the_same_have_an_interval(tmp_path):
    """It read: 80.0 % (80.0 to 80.0)."""
    made = [
        {"id": p, "effort": effort, "correct": int(n < right), "tokens": cost}
        for p in range(6) for effort, right, cost in (("low", 4, 10), ("high", 5, 30)) for n in range(5)
    ]  # fmt: skip
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert run(file, "--out", tmp_path / "out", "--num-splits", 2).exit_code == 0
    text = (tmp_path / "out" / "report.md").read_text()
    intervals = re.findall(r"([+−]?[\d.]+) ?%? \(([+−]?[\d.]+) to ([+−]?[\d.]+)\)", text)
    assert intervals and all(low != high for _, low, high in intervals), intervals


def test_what_a_log_lacks_is_said_at_once_and_the_command_to_paste_works(tmp_path):
    """`report` named one column after the other, and no command."""
    path = tmp_path / "log.csv"
    rows = [f"{mode},{item},{r},{t}" for item in "abc" for mode, r, t in (("fast", 0, 120), ("slow", 1, 900))]
    path.write_text("\n".join(["mode of it,item,ok,n", *rows]) + "\n")
    result = run(path, "--out", tmp_path / "page")
    assert result.exit_code == 2 and result.stderr.count("no column for the") == 4
    *args, columns, pairs = shlex.split(result.stderr.rpartition("try: ibpo ")[2])
    assert columns == "--columns" and pairs == "problem=item,response_group=mode of it,reward=ok,cost=n"
    assert CliRunner().invoke(app, [*args, columns, pairs]).exit_code == 0
    page = json.loads((tmp_path / "page" / "report.json").read_text())
    (part,) = page["parts"].values()
    assert [(one["name"], one["cost"]["value"]) for one in part["configurations"]] == [("fast", 120), ("slow", 900)]


def test_rewards_that_a_log_lacks_are_put_into_its_folder(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("request_id,problem_id,effort,tokens\n1,a,low,5\n2,a,high,9\n")
    result = run(path, "--out", tmp_path / "page")
    assert result.exit_code == 2 and "put that table into the log's folder and name the folder" in result.stderr
