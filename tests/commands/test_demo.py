"""The main command: what it refuses, in one line; and a whole quick run that is interrupted and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.data import files_below

ROOT = Path(__file__).parent.parent.parent
ROW = {
    "experiment",
    "method",
    "budget",
    "seed",
    "num_problems",
    "accuracy",
    "stderr",
    "extended_share",
    "share_by_level",
    "accuracy_by_level",
    "mean_tokens",
    "relative_cost",
    "truncated_share",
}
INTERRUPT_AFTER_S = 25.0


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


def assert_one_line(result, message):
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert message in lines[0], lines[0]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "nonsense"], "--experiment: 'nonsense' is not one of thinking, voting, both"),
        (["--budget", "extended=1.5"], "--budget extended=1.5: a share is at most 1"),
        (["--budget", "0.5"], "--budget 0.5: of what? Name it: extended=0.5"),
        (["--budget", "extended=50%", "--budget", "extended=-0.1"], "--budget extended=-0.1: '-0.1' is not an amount"),
        (["--budget", "standard=50%"], "no response group is named 'standard'; there are extended"),
        (["--budget", "tokens=50"], "--budget tokens=50: the demo's budgets are largest shares of extended reasoning"),
    ],
)
def test_bad_options(arguments, message, tmp_path):
    runs = tmp_path / "runs"
    assert_one_line(run(*arguments, "--runs", runs), message)
    assert not runs.exists()


def test_a_run_of_other_settings_is_refused(tmp_path):
    pytest.importorskip("trl")
    directory = tmp_path / "mine"
    directory.mkdir()
    before = json.dumps({"num_problems": 17, "num_calibration": 4_096, "num_steps": 40, "from_scratch": False})
    (directory / "settings.json").write_text(before)
    result = run("--quick", "--name", "mine", "--runs", tmp_path)
    assert_one_line(result, f"{directory} holds a run with num_problems = 17, this one asks for 600")
    assert (directory / "settings.json").read_text() == before
    (directory / "settings.json").write_text("{")
    assert_one_line(run("--quick", "--name", "mine", "--runs", tmp_path), "settings.json: not readable")
    assert {path.name for path in directory.iterdir()} == {"settings.json", ".lock"}


def test_a_folder_of_something_else_or_in_use_is_left_as_it_is(tmp_path):
    """A second demo with another budget changed the settings of the first before it was refused."""
    pytest.importorskip("trl")
    from ibpo.runs import working_in

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    result = run("--quick", "--name", "mine", "--runs", tmp_path)
    assert_one_line(result, "holds something else than a run of the demo; choose another --name")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"thesis.tex", ".lock"}
    with working_in(tmp_path / "used"):
        result = run("--quick", "--name", "used", "--runs", tmp_path, "--budget", "extended=10%")
        assert_one_line(result, "another process of ibpo is using it")
        assert {path.name for path in (tmp_path / "used").iterdir()} == {".lock"}


def test_a_runs_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(run("--quick", "--runs", tmp_path / "file"), "file")


def start(runs, home):
    """As it runs installed: the package alone, without the repository around it."""
    package = home / "site-packages" / "ibpo"
    if not package.exists():
        shutil.copytree(ROOT / "ibpo", package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from ibpo.cli import main; main()"
    arguments = ["demo", "--quick", "--budget", "extended=0.5", "--runs", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def written(directory):
    """Time of the last change of every file of a job that is finished."""
    found = files_below(directory) if directory.exists() else ()
    whole = (path for path in found if path.name.endswith(".jsonl.gz") and not path.name.startswith("."))
    return {path: path.stat().st_mtime_ns for path in whole}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_goes_on_after_an_interruption_and_leaves_its_page(tmp_path):
    pytest.importorskip("trl")
    runs, home = tmp_path / "runs", tmp_path / "home"
    home.mkdir()
    directory = runs / "thinking-quick"
    first = start(runs, home)
    try:
        # Not before something is finished: else nothing is there that could be done again, and nothing is tested.
        deadline = time.monotonic() + 300
        time.sleep(INTERRUPT_AFTER_S)
        while not written(directory):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        first.send_signal(signal.SIGINT)
        _, stderr = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, stderr
    assert f"the same command goes on from {directory}" in stderr
    assert "Traceback" not in stderr
    assert not (directory / "results.json").exists()
    kept = written(directory)
    assert kept

    second = start(runs, home)
    try:
        stdout, stderr = second.communicate(timeout=520)
    finally:
        second.kill()
    assert second.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert str((directory / "report.html").resolve()) in stdout.replace("\n", "")
    after = written(directory)
    assert all(after[path] == when for path, when in kept.items())  # what was finished is not done again

    rows = json.loads((directory / "results.json").read_text())
    assert rows
    for row in rows:
        assert set(row) == ROW
        assert row["experiment"] == "thinking" and row["seed"] == 0 and row["num_problems"] == 600
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["extended_share"] <= 1
    assert {row["budget"] for row in rows} == {None, 0.5}
    data = json.loads((directory / "report.json").read_text())
    assert data["answer"].startswith(data["parts"]["thinking"]["lead"]["text"])
    said, verdict = data["answer"].splitlines(), data["parts"]["thinking"]["lead"]["verdict"]
    assert said[1].startswith("A quick run") and verdict in ("gain", "loss", "no conclusion")
    gain = data["parts"]["thinking"]["lead"]["gain"]
    assert (verdict == "gain") == (gain["low"] > 0) and (verdict == "loss") == (gain["high"] < 0)
    markdown = (directory / "report.md").read_text()
    assert all(line in stdout and line in markdown for line in said)
    for name in ("report.html", "frontier.png", "share_by_level.png", "merits.json"):
        assert (directory / name).stat().st_size > 0
