"""Real servers as processes, with a real, if tiny, language model that adds digits: `transformers serve` and vLLM."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# As of a hybrid model: the template opens the response group.
TEMPLATE = "{{ messages[-1]['content'] }}{{ ' <think>' if enable_thinking else ' <answer>' }}"
VLLM = "IBPO_VLLM"
"""Names an environment that has vLLM: `tests/vllm/make_env.sh`."""


def vllm_program(name: str) -> Path:
    """`vllm` or `python` of the environment that `IBPO_VLLM` names; the test is skipped where it names none."""
    folder = os.environ.get(VLLM)
    if not folder:
        pytest.skip(f"{VLLM} names no environment with vLLM (tests/vllm/make_env.sh makes one)")
    return Path(folder).resolve() / "bin" / name


def vllm_environment(**more: str) -> dict[str, str]:
    """What a vLLM without a GPU needs, and no calls to anybody."""
    return {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **more,
    }


@contextmanager
def serving(
    folder: Path, engine: str = "transformers", *, experiment: str = "thinking", template: str = TEMPLATE, **generation
) -> Iterator[tuple[str, str]]:
    """(name of the model, base URL); `generation` goes into its generation_config.json."""
    if engine == "vllm":
        from experiments.widen_heads import write_widened

        program = vllm_program("vllm")
        model = write_widened(f"embedded:{experiment}", folder / experiment)
        if generation.get("do_sample") is False:  # vLLM does not know do_sample
            generation["temperature"] = 0.0
        how = [
            "--enforce-eager",
            "--dtype",
            "float32",
            "--max-model-len",
            "512",
            "--max-num-seqs",
            "16",
            "--max-logprobs",
            "20",
        ]
        environment = vllm_environment()
    else:
        pytest.importorskip("uvicorn")
        from ibpo.demo import model_path

        program = Path(sys.executable).with_name("transformers")
        if not program.exists():
            pytest.skip("no `transformers serve` here")
        model = Path(shutil.copytree(model_path(experiment), folder / experiment))
        how = ["--device", "cpu"]
        cache = folder / "hub"
        cache.mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    config = model / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}))
    (model / "chat_template.jinja").write_text(template)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "serve", model, *how, "--host", "127.0.0.1", "--port", port]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(list(map(str, command)), env=environment, stdout=said, stderr=said) as server,
    ):
        try:
            if not _answers(server, port):
                said.seek(0)
                raise AssertionError(said.read().decode(errors="replace")[-3000:])
            yield str(model), f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it does, or has ended: a vLLM starts for a minute on an idle machine."""
    give_up = time.monotonic() + 900
    while time.monotonic() < give_up and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                return True
        except OSError:
            time.sleep(0.5)
    return False
