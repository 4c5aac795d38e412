"""Whole files or none: what was there stays until the new one is whole, and others may read it as they could before."""

from __future__ import annotations

import os

import pytest

from ibpo.errors import IbpoError
from ibpo.runs import atomic_file, write_text_atomic


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
