"""Completion by the tab key, through the script that each shell is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ENVIRONMENT = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
DRIVER = """
source <(ibpo --show-completion bash)
complete -p ibpo > /dev/null
COMP_LINE="$1" COMP_POINT=${#1}
_ibpo_completion ibpo
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Calls the function as readline does, with the line that was typed."""
CASES = {
    "ibpo al": ["allocate"],
    "ibpo route ": ["fit", "show", "score"],
    "ibpo allocate --wi": ["--wide"],
    "ibpo serve --by ": ["thinking", "effort"],
    "ibpo serve --by=ef": ["effort"],
    "ibpo report x --on-error s": ["skip"],
    "ibpo allocate x --columns re": ["response_group=", "reward="],
    "ibpo allocate x --columns reward=r,co": ["r,cost="],
    "ibpo eval m t --engine dt": ["dtype="],
    "ibpo eval m gsm8k_": ["gsm8k_train"],
    "ibpo eval embedded:th": ["thinking"],
    "ibpo simulate t --assume fai": ["failures="],
    "ibpo collect l --limit m": ["money="],
    "ibpo groups check m --response-group thinking_": ["thinking_off", "thinking_on"],
    "ibpo models get sm": ["smollm2"],
    "ibpo demo --experiment v": ["voting"],
    "ibpo train x --set train.st": ["train.steps="],
    "ibpo allocate x --holdout y --bu": ["--budget"],
    "ibpo allocate respon": [""],  # nothing: bash goes on with files
}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize("line", CASES)
def test_bash_completes(line):
    done = subprocess.run(["bash", "-c", DRIVER, "bash", line], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.stdout.splitlines(), done.stderr) == (CASES[line], "")


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish")
def test_fish_completes(tmp_path):
    code = "ibpo --show-completion fish | source; complete -C 'ibpo a'; complete -C 'ibpo serve --by '"
    environment = ENVIRONMENT | {"HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("allocate\tSay which") and rest == ["effort", "thinking"], done.stderr


def test_zsh_is_given_words_with_their_help():
    environment = ENVIRONMENT | {"_IBPO_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "ibpo allocate --wi"}
    done = subprocess.run([BIN / "ibpo"], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith('_arguments \'*: :(("--wide":"More columns'), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_named_shell_is_installed(shell, tmp_path):
    environment = ENVIRONMENT | {"HOME": str(tmp_path)}
    command = [BIN / "ibpo", "--install-completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([BIN / "ibpo", "--show-completion", shell], capture_output=True, text=True)
    where = {
        "bash": ".bash_completions/ibpo.sh", "zsh": ".zfunc/_ibpo", "fish": ".config/fish/completions/ibpo.fish",
    }  # fmt: skip
    assert (tmp_path / where[shell]).read_text().strip() == shown.stdout.strip()


def test_an_unknown_shell_is_refused():
    done = subprocess.run([BIN / "ibpo", "--show-completion", "tcsh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --show-completion tcsh: no such shell; name one of bash, zsh, fish")


@pytest.mark.parametrize(("line", "command"), [("ibpo al", None), ("ibpo replay x --bu", "replay")])
def test_completion_imports_only_the_command_in_question(line, command):
    code = """
import os, sys
from ibpo.cli import COMMANDS, app
try:
    app(prog_name="ibpo")
except SystemExit:
    pass
modules = {where.partition(":")[0] for where, _ in COMMANDS.values()}
print("loaded:", sorted(name for name in modules if f"ibpo.commands.{name}" in sys.modules))
"""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_IBPO_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT | words)
    assert done.stdout.splitlines()[-1] == f"loaded: {[command] if command else []}", done.stderr
    assert done.stdout.splitlines()[0] == ("--budget" if command else "allocate")
