"""Bad input ends in one line: some hundreds out of the generator, and what it found, each with the right line."""

import json
import sys

import pytest
from typer.testing import CliRunner

from ibpo.cli import COMMANDS, app
from ibpo.errors import one_line
from tests.bad_inputs import ROOT, Inputs, plain_rows, run, run_command, stopped


def error_of(*args):
    """The one line of a command that refuses."""
    assert run_command(*args) == "refused"
    return next(x for x in CliRunner().invoke(app, list(args)).stderr.splitlines() if x.startswith("error: "))


@pytest.fixture
def log(tmp_path):
    """Writes a log whose first row is changed."""

    def write(name="log.jsonl", **changed):
        rows = plain_rows()
        rows[0] |= changed
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(0, tmp_path_factory.mktemp("inputs"))


def test_what_is_changed_is_valid_before(inputs, monkeypatch):
    monkeypatch.chdir(inputs.folder)
    with stopped():
        taken = {name: run_command(*inputs.valid(name)) for name in COMMANDS if name != "doctor"}
        commands = inputs.written()
        for name in inputs.own:
            inputs.restore(name)
        taken |= {name: run_command(*command) for name, command in commands.items()}
    assert {name for name, verdict in taken.items() if verdict != "taken"} == {"replay"}  # it needs a trained run


def test_three_hundred_bad_inputs(monkeypatch):
    # pytest's own hook fails where something is dropped while the stack is full, as deeply nested inputs make it.
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    counts, findings = run(300, 1)
    assert not findings
    assert all(row["refused"] for row in counts.values()) and sum(row["taken"] for row in counts.values()) > 10


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_toml_of_thousands_of_digits_or_brackets(tmp_path, value):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((ROOT / "recipes" / "gsm8k_smoke.toml").read_text().replace("steps = 3", f"steps = {value}"))
    assert error_of("train", str(recipe)).startswith(f"error: {recipe}: is not TOML: ")
    plan = tmp_path / "plan.toml"
    plan.write_text(f"[budget.tokens]\nmean = {value}\n")
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"t": 1, "output_tokens": 5}\n')
    assert error_of("simulate", str(trace), "--plan", str(plan)).startswith(f"error: {plan}: is not TOML: ")
    valid = str(ROOT / "recipes" / "gsm8k_smoke.toml")
    assert "train.steps" in error_of("train", valid, "--set", f"train.steps={value}")


def test_a_mean_of_400_digits(tmp_path):
    plan, trace = tmp_path / "plan.toml", tmp_path / "trace.jsonl"
    plan.write_text(f"[budget.tokens]\nmean = {'9' * 400}\n")
    trace.write_text('{"t": 1, "output_tokens": 5}\n')
    assert "mean is a number of 400 digits; give a number below 1e308" in error_of(
        "simulate", str(trace), "--plan", str(plan)
    )


@pytest.mark.parametrize("line", ['{"question": ' + "9" * 5000 + "}", "[" * 100_000])
def test_problems_with_thousands_of_digits_or_brackets(tmp_path, line):
    path = tmp_path / "problems.jsonl"
    path.write_text(line + "\n")
    assert error_of("task", "check", str(path)).startswith(f"error: {path} line 1: is not JSON: ")


def test_a_response_group_is_a_text_or_a_number(log):
    assert error_of("allocate", log(response_group=["a"])).endswith(
        "line 1, column 'response_group': is a list; the response group must be a text or a number; name a value in it "
        "with --columns response_group=response_group.0"
    )
    for empty in ([], {}):
        assert "line 1, column 'response_group': no value" in error_of("allocate", log(response_group=empty))
        assert "line 1, column 'problem_id': no value" in error_of("allocate", log(problem_id=empty))


def test_no_problem_is_called_nan(log):
    for command in ("allocate", "report"):
        assert "column 'problem_id': no " in error_of(command, log(problem_id=float("nan")))


def test_a_row_unlike_the_tools_other_rows_is_named(tmp_path):
    rows = [{"input": f"q{i}", "output": "so 4", "gts": "4", "score": 1.0, "step": 1} for i in range(6)]
    del rows[3]["output"]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = error_of("allocate", str(path))
    assert said == f"error: {path}, line 4: is not as verl rollouts are written: no 'output'; fix or drop the row"


def test_offsets_of_a_damaged_arrow_file_are_not_followed(tmp_path):
    import pyarrow as pa

    valid = pa.array([row["problem_id"] for row in plain_rows()])
    offsets = bytearray(valid.buffers()[1].to_pybytes())
    offsets[20:24] = (10**9).to_bytes(4, "little")  # the ends are right, so a quick look sees nothing
    wrong = pa.StringArray.from_buffers(len(valid), pa.py_buffer(bytes(offsets)), valid.buffers()[2])
    path = tmp_path / "log.arrow"
    rows = pa.Table.from_pylist(plain_rows())
    table = rows.set_column(0, "problem_id", wrong)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert error_of("allocate", str(path)).startswith(f"error: {path}: cannot be read as Arrow: ")


def test_a_damaged_run_is_named(inputs, monkeypatch):
    monkeypatch.chdir(inputs.folder)
    with stopped():
        commands = inputs.written()
        for name, data, said in (
            ("run/config.toml", b"\xff\xfe", "config.toml: is damaged: "),
            ("run/config.toml", b"[train]\nsteps = " + b"9" * 5000, "config.toml: is damaged: "),
            ("run/results.json", b"{", "results.json: is damaged; remove it"),
            ("run/results.json", b'{"held_out": [{}]}', "results.json: is damaged; remove it"),
        ):
            for other in inputs.own:
                inputs.restore(other)
            (inputs.folder / "written" / name).write_bytes(data)
            assert said in error_of(*commands[name])


def test_an_error_is_one_line_whatever_a_name_holds():
    assert error_of("calibrate", "x.jsonl", "--columns", "two\nlines\x1b[2J").startswith(
        "error: --columns two; lines\\x1b[2J: needs score=..."
    )
    assert len(error_of("train", "x.toml", "--set", "9" * 5000)) < 1000
    assert one_line("a\n\n  b\u2028c\td") == "a; b; c\\td"


@pytest.mark.parametrize("command", ["allocate", "eval", "report", "route", "simulate"])
def test_a_seed_is_not_negative(inputs, command):
    result = CliRunner().invoke(app, [*inputs.valid(command), "--seed", "-1"])
    assert result.exit_code == 2 and result.stderr.startswith("Usage: ") and "--seed" in result.stderr


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_in_the_place_of_a_file_to_write(inputs, folder):
    assert error_of(*inputs.valid("calibrate"), "--out", folder) == f"error: {folder}: is a folder; name a file in it"


def test_numbers_of_draws_end_somewhere(inputs):
    for command, option in (("allocate", "--num-splits"), ("report", "--num-splits"), ("route", "--draws")):
        result = CliRunner().invoke(app, [*inputs.valid(command), option, "9" * 30])
        assert result.exit_code == 2 and result.stderr.startswith("Usage: ") and option in result.stderr
