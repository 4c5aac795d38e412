"""`transformers serve` as a process: a real server with a real, if tiny, language model that adds digits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

# As of a hybrid model: the template opens the response group.
TEMPLATE = "{{ messages[-1]['content'] }}{{ ' <think>' if enable_thinking else ' <answer>' }}"


@contextmanager
def serving(folder: Path, **generation):
    """(name of the model, base URL); `generation` goes into its generation_config.json."""
    pytest.importorskip("uvicorn")
    from ibpo.demo import model_path

    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        pytest.skip("no `transformers serve` here")
    model = Path(shutil.copytree(model_path("thinking"), folder / "thinking"))
    config = model / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache = folder / "hub"
    cache.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [program, "serve", model, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            give_up = time.monotonic() + 280
            while time.monotonic() < give_up and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            yield str(model), f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
