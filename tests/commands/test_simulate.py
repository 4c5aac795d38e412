"""What `ibpo simulate` says of a trace."""

import json

import pytest
from typer.testing import CliRunner

from ibpo.cli import app


@pytest.mark.parametrize(
    ("publisher", "read", "other"),
    [({"hash_ids": [1]}, "ms", "s"), ({"chat_id": 1, "hash_ids": [1]}, "s", "ms")],
    ids=["mooncake", "bailian"],
)
def test_the_unit_of_the_times_is_told_with_another_one_to_paste(tmp_path, publisher, read, other):
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": n * 500, "output_length": 9, **publisher} for n in range(40)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["simulate", str(trace), "--budget", "extended=30%"]
    said = CliRunner().invoke(app, call).output
    assert f"column timestamp read in {read}; another unit: --assume time_unit={other}" in said
    said = CliRunner().invoke(app, [*call, "--assume", f"time_unit={other}"]).output
    assert f"column timestamp read in {other};" in said


def test_dates_have_no_unit_to_name_another_one_for(tmp_path):
    trace = tmp_path / "azure.csv"
    rows = [f"2024-05-10 00:00:{n:02}.0000000+00:00,100,{9 + n}" for n in range(40)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    said = CliRunner().invoke(app, ["simulate", str(trace), "--budget", "extended=30%"]).output
    assert "requests of 39.0 seconds, column TIMESTAMP read in dates\n" in said
    assert "time_unit" not in said
