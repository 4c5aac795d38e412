"""Help: what each command says of itself, and what is loaded before it says so."""

import re
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ibpo.cli import COMMANDS, REMOVED, SECTIONS, app
from ibpo.commands.hints import SKIPPING
from ibpo.commands.options import read_pairs
from ibpo.errors import IbpoError

GROUPS = {"route": ("fit", "show", "score"), "groups": ("check",), "task": ("check",), "models": ("get",)}
PATHS = [[name, *part] for name in COMMANDS for part in ([[x] for x in GROUPS[name]] if name in GROUPS else [[]])]
NUM_OPTIONS = 134
CHOICES = ((["report"], "judge"), (["serve"], "by"))
"""Options whose few words Typer shows as their metavar, as it does for --on-error."""
HEAVY = ("aiohttp", "jinja2", "matplotlib", "numpy", "openai", "pandas", "pyarrow", "rich", "scipy", "sklearn", "torch",
         "transformers", "trl")  # fmt: skip
"""What no help loads. Typer itself loads pydantic as soon as a command has a parameter."""


def test_commands_that_can_leave_bad_rows_out_are_the_ones_that_errors_tell_of_it():
    group: Any = get_command(app)
    commands = {name: group.resolve_command(None, [name])[1] for name in COMMANDS}
    found = [name for name, command in commands.items() if any("--on-error" in one.opts for one in command.params)]
    assert sorted(found) == sorted(SKIPPING)


def test_every_command_is_listed_with_its_own_help():
    """`ibpo --help` imports no command, so the list is written down: it says what the commands say."""
    group: Any = get_command(app)
    assert list(group.commands) == list(COMMANDS)
    for name, (_, text) in COMMANDS.items():
        _, command, _ = group.resolve_command(None, [name])
        assert " ".join(command.help.split("\n\n")[0].split()) == text


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_list_of_commands_is_whole_and_nothing_is_cut_off(option):
    text = " ".join(CliRunner().invoke(app, [option]).output.split())
    for name, (_, line) in COMMANDS.items():
        assert f"{name} {line}" in text


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_every_command_has_an_example_of_it(path):
    shown = CliRunner().invoke(app, [*path, "-h"])
    assert shown.exit_code == 0
    assert f"Example: ibpo {' '.join(path)} " in " ".join(shown.output.split())


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_says_what_to_write_in_words(path):
    """No Python types, no conditions on x, no path of the source's docs, and no word that the house avoids."""
    text = CliRunner().invoke(app, [*path, "-h"], terminal_width=80).output
    assert not re.search(r"<\w|list\[|x>=|<=x|docs/|\{\w+\}|\bdear\b|\btold\b|and leave\.|\bone can\b|Of \w+:", text)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_every_option_with_a_value_has_a_metavar_and_a_help():
    for path, command in commands():
        for param in command.params:
            where = (path, param.name)
            assert param.help, where
            has_words = (path, param.name) in CHOICES or param.name == "on_error"
            assert param.metavar or getattr(param, "is_flag", False) or has_words, where


def test_every_command_is_in_one_section():
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)


def test_help_of_a_group_cuts_nothing_off():
    text = " ".join(CliRunner().invoke(app, ["route", "-h"]).output.split())
    assert "score Write the expected gain and cost of every response group for prompts." in text
    assert "..." not in text.partition("Commands:")[2]


def test_help_and_version_as_words():
    assert CliRunner().invoke(app, ["help"]).output == CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["help", "train"]).output == CliRunner().invoke(app, ["train", "-h"]).output
    assert CliRunner().invoke(app, ["version"]).output == CliRunner().invoke(app, ["--version"]).output


def commands():
    group: Any = get_command(app)
    for path in PATHS:
        _, command, _ = group.resolve_command(None, path[:1])
        yield path, command.commands[path[1]] if path[1:] else command


def test_the_number_of_options_is_pinned():
    """An option more is a decision; fewer is welcome: write the new number down."""
    options = [(path, p.name) for path, command in commands() for p in command.params if p.param_type_name == "option"]
    assert len([name for _, name in options if name != "help"]) == NUM_OPTIONS


def test_options_that_are_gone_say_what_says_the_same():
    for name, gone in REMOVED.items():
        for option, now in gone.items():
            refused = CliRunner().invoke(app, [name, "fit" if name == "route" else "x", option, "y"])
            assert refused.exit_code == 2 and f"{option} is now {now}" in " ".join(refused.output.split())


def test_pairs_of_field_and_column():
    assert read_pairs(["reward=r", "cost=a, b"], ("reward", "cost"), "--columns") == {"reward": "r", "cost": "a, b"}
    with pytest.raises(IbpoError, match=r"^--columns rewrad=x: unknown field rewrad; did you mean reward\?$"):
        read_pairs(["rewrad=x"], ("reward", "cost"), "--columns")
    with pytest.raises(IbpoError, match=r"^--columns reward: needs reward=\.\.\., with any of reward, cost$"):
        read_pairs(["reward"], ("reward", "cost"), "--columns")


def test_brackets_are_shown():
    assert "a recipe with [data]" in " ".join(CliRunner().invoke(app, ["task", "check", "-h"]).output.split())


def test_listing_the_commands_imports_none():
    code = "import sys; from ibpo.cli import app; app(['--help'], standalone_mode=False)\n"
    code += "print('loaded:', [x for x in sys.modules if x.startswith(('ibpo.', 'numpy', 'pydantic', 'rich'))])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "loaded: ['ibpo.errors', 'ibpo.cli']", result.stderr


def test_no_help_loads_anything_heavy():
    code = f"""
import sys
from ibpo.cli import app
for path in {PATHS!r}:
    app([*path, "--help"], standalone_mode=False)
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (path, found)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
