"""`ibpo doctor`: what it finds here, and in what is broken on purpose."""

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ibpo.commands import doctor

SCRIPT = Path(sys.executable).with_name("ibpo")
BROKEN = {
    "aiohttp": "raise ImportError('libssl.so.9: cannot open shared object file')",
    "redis": "import os; os.abort()",
}


def run(*args, path=None, **more):
    environment = dict(os.environ) | ({"PYTHONPATH": str(path)} if path else {}) | more
    done = subprocess.run([SCRIPT, "doctor", *args], capture_output=True, text=True, env=environment, timeout=240)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The report of an environment in which two libraries are broken, and one cannot even be looked for."""
    folder = tmp_path_factory.mktemp("broken")
    for name, code in BROKEN.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    done = run("--json", path=folder)
    return done.returncode, json.loads(done.stdout)


def row_of(report, what):
    [row] = [row for row in report["rows"] if row["what"] == what]
    return row


@pytest.mark.slow
def test_what_is_broken_is_named_with_its_message_and_fix(broken):
    status, report = broken
    assert status == 1 and report["healthy"] is False
    serve = row_of(report, "serve")
    assert serve["status"] == "broken" and "ImportError: libssl.so.9: cannot open shared object file" in serve["found"]
    assert serve["fix"].startswith("pip install --force-reinstall aiohttp")
    redis = row_of(report, "redis")
    assert redis["status"] == "broken" and "its import ended Python by SIGABRT" in redis["found"]


@pytest.mark.slow
def test_a_crash_hides_nothing_else(broken):
    _, report = broken
    assert row_of(report, "base")["status"] == "ok"
    assert row_of(report, "solver")["status"] in ("ok", "limited")
    assert row_of(report, "code isolation")["status"] in ("ok", "limited")


@pytest.mark.slow
def test_every_extra_of_the_metadata_is_a_row_and_has_a_purpose(broken):
    _, report = broken
    extras = [row["what"] for row in report["rows"] if row["section"] == "extras"]
    assert extras == sorted(distribution("ibpo").metadata.get_all("Provides-Extra") or [])
    assert set(extras) == set(doctor.PURPOSES)
    for row in report["rows"]:
        assert row["purpose"], row["what"]
        assert row["fix"] or row["status"] == "ok", row["what"]


@pytest.mark.slow
def test_the_versions_are_those_of_the_metadata(broken):
    _, report = broken
    assert row_of(report, "base")["versions"]["numpy"] == distribution("numpy").version
    assert report["python"].startswith(".".join(map(str, sys.version_info[:3])))


def test_probes_of_broken_modules_end_each_for_itself(monkeypatch, tmp_path):
    for name, code in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = doctor.probe(["aiohttp", "redis", "json"])
    assert said["aiohttp"] == {"error": "ImportError: libssl.so.9: cannot open shared object file"}
    assert said["redis"]["error"].startswith("its import ended Python by SIGABRT")
    assert "error" not in said["json"]
    needed = [p for p in doctor._packages()["serve"] if p.name == "aiohttp"]
    row = doctor._extra_row("serve", needed, said)
    assert row.status == "broken" and row.fix.startswith("pip install --force-reinstall aiohttp")


def test_every_extra_of_the_metadata_has_a_purpose():
    extras = distribution("ibpo").metadata.get_all("Provides-Extra") or []
    assert sorted(extras) == sorted(doctor.PURPOSES)
    assert set(doctor._packages()) == {"", *extras}


def test_a_probe_that_hangs_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "MOST_SECONDS", 3.0)
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = doctor.probe(["sleeper", "json", "no_such_module"])
    assert said["sleeper"] == {"error": "no answer within 3 seconds"}
    assert "error" not in said["json"]
    assert said["no_such_module"]["error"].startswith("ModuleNotFoundError")


def test_a_row_lacks_what_is_too_old():
    found = doctor.Package(name="numpy", wanted=">=99", module="numpy", version="2.4", is_there=True, is_met=False)
    row = doctor._extra_row("serve", [found], {})
    assert (row.status, row.found, row.fix) == (
        "missing", "lacks numpy >=99 (here: 2.4)", "pip install 'ibpo[serve]'",
    )  # fmt: skip


def test_no_gpu_is_not_broken_and_other_methods_of_trl_are_said():
    said = {"torch": "2.13.0", "cuda": None, "hip": None, "mps": False, "devices": []}
    assert doctor._gpu_row(said).status == "limited"
    card = said | {"cuda": "13.0", "devices": [{"name": "H200", "mib": 143771}]}
    assert doctor._gpu_row(card).found == "torch 2.13.0, built for CUDA 13.0; H200 (143,771 MiB)"
    row = doctor._seam_row({"changed": ["_compute_loss"]})
    assert row.status == "limited" and "the source of _compute_loss" in row.found


@pytest.mark.parametrize("width", [50, 80])
def test_the_text_fits_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        doctor._extra_row("serve", [], {}),
        doctor._isolation_row({"reason": "a probe could read outside its folder: failed " + "x " * 60}),
        doctor._vllm_row(None),
    ]
    doctor._print(rows, [])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("  limited code isolation") for line in lines)
