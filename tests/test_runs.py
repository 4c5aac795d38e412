"""Whole files or none: what was there stays until the new one is whole, and others may read it as they could before."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest

from ibpo.errors import IbpoError
from ibpo.runs import atomic_file, atomic_files, write_text_atomic


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_text_atomic(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file.json"]


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
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(("a", "b", "last"), "old")

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
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found.get("last", "new") == "new" and ("last" not in found or set(found.values()) == {"new"})
