"""Whole files or none: what was there stays until the new one is whole, and others may read it as they could before."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import IbpoError
from ibpo.runs import LOCK, RunDir, atomic_file, atomic_files, working_in, write_text_atomic


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_text_atomic(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.json"]


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    """As root, a file put in the place of /dev/null or /dev/stdout would break every other program."""
    target, link, pipe = tmp_path / "target.txt", tmp_path / "link.txt", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target.name)
    write_text_atomic(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "target.txt"]
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_text_atomic(pipe, "through")
        assert reader.communicate(timeout=60)[0] == "through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_text_atomic(Path(os.devnull), "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_the_file_has_the_rights_that_the_user_gives_to_files(tmp_path):
    write_text_atomic(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(IbpoError, match=r"file/below.json: cannot be written: .*; name a folder that can"):
        write_text_atomic(tmp_path / "file" / "below.json", "x")


@pytest.mark.parametrize("moves", range(4))
def test_files_that_belong_together_are_never_mixed(tmp_path, monkeypatch, moves):
    """Killed after so many moves: an old last file is gone before any other is new."""
    with atomic_files(tmp_path, "last") as folder:
        for name in ("a", "b", "last"):
            (folder / name).write_text("old")
    with pytest.raises(KeyError), atomic_files(tmp_path, "last") as folder:
        (folder / "a").write_text("new")
        raise KeyError
    kept = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != LOCK}
    assert kept == dict.fromkeys(("a", "b", "last"), "old")

    done, replace = [], os.replace

    def killed(*arguments):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(arguments)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt) if moves < 3 else nullcontext(), atomic_files(tmp_path, "last") as folder:
        for name in ("a", "b", "last"):
            (folder / name).write_text("new")
    found = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != LOCK}
    assert found.get("last", "new") == "new" and ("last" not in found or set(found.values()) == {"new"})


HOLD = "import sys, time; from pathlib import Path; from ibpo.runs import working_in\n"
HOLD += "with working_in(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"


@pytest.fixture
def held(tmp_path):
    """A folder in which another process works, and that process."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    yield tmp_path / "run", process
    process.kill()
    process.wait()


def test_one_process_at_a_time_in_a_folder_and_a_killed_one_lets_go(held):
    folder, process = held
    with pytest.raises(IbpoError, match="another process of ibpo is using it; wait"), working_in(folder):
        pass
    process.kill()
    process.wait()
    with working_in(folder), pytest.raises(IbpoError), working_in(folder):
        pass
    assert not RunDir(folder).is_foreign


def test_a_second_allocate_leaves_with_one_line(held, tmp_path):
    folder, _ = held
    log = tmp_path / "log.jsonl"
    rows = [{"id": p, "effort": e, "reward": int(e == "b"), "tokens": t} for p in "xy" for e, t in (("a", 1), ("b", 5))]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["allocate", str(log), "--budget", "tokens=3", "--out", str(folder)])
    assert result.exit_code == 2 and "another process of ibpo is using it" in result.stderr
    assert [path.name for path in folder.iterdir()] == [LOCK]
