"""A LiteLLM proxy with the plug-in, a process of its own in an environment of its own (`litellm_env.sh`)."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from ibpo.serving.controller import TokenBucket
from ibpo.serving.stores import open_store
from tests.serving.world import call

VARIABLE = "IBPO_LITELLM_PYTHON"
KEY = f"sk-{secrets.token_hex(8)}"
ROOT = Path(__file__).parents[2]
GATEWAY = """
{budget}

[[model]]
name = "*"
{model}
{groups}
"""
PLUGIN = """
from ibpo.serving.plugins.litellm import BudgetLogger

budget = BudgetLogger({config!r}, state={state!r}, log={log!r})
"""
HELPERS = '''
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth


class Refuser(CustomLogger):
    """A guardrail of somebody else's, after the plug-in: refuses before the call, or the answer."""

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if "refuse before" in str(data.get("messages")):
            raise HTTPException(status_code=403, detail="refused")

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        if "refuse after" in str(data.get("messages")):
            raise HTTPException(status_code=403, detail="refused")


async def auth(request, api_key):
    if not api_key.startswith("sk-"):
        raise Exception("no key")
    team = {"sk-gold": "gold", "sk-other": "nobody"}.get(api_key)
    return UserAPIKeyAuth(api_key=api_key, team_id=team)


refuser = Refuser()
'''


class Proxy:
    """Runs until `stop`; `rows` are the plug-in's log, `accounts` what its store holds."""

    def __init__(self, folder: Path, upstream: str, *, budget: str, groups: str, model: str = "", retries: int = 0):
        python = Path(os.environ[VARIABLE])
        self.log, self.state, self.output = folder / "log.jsonl", folder / "state.db", folder / "proxy.txt"
        (folder / "gateway.toml").write_text(GATEWAY.format(budget=budget, groups=groups, model=model))
        config = {"config": str(folder / "gateway.toml"), "state": str(self.state), "log": str(self.log)}
        (folder / "ibpo_budget.py").write_text(PLUGIN.format(**config))
        (folder / "helpers.py").write_text(HELPERS)
        deployments = {
            "m": {"model": "openai/m"},
            "v": {"model": "hosted_vllm/m"},
            "plain": {"model": "openai/gpt-4o"},
            "capped": {"model": "openai/o3-mini", "max_completion_tokens": 4000, "n": 3},
            "away": {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1"},
        }
        models = [
            {"model_name": name, "litellm_params": {"api_base": upstream, "api_key": "k", **row}}
            for name, row in deployments.items()
        ]
        settings = {
            "callbacks": ["ibpo_budget.budget", "helpers.refuser"],
            "num_retries": retries,
            "request_timeout": 3,
            "fallbacks": [{"away": ["m"]}],
            "cache": True,
            "cache_params": {"type": "local", "mode": "default_off"},
            "enable_caching_on_provider_specific_optional_params": True,
        }
        general = {"custom_auth": "helpers.auth"}
        whole = {"model_list": models, "litellm_settings": settings, "general_settings": general}
        whole["router_settings"] = {"disable_cooldowns": True}  # else an error in one test is a 429 in the next
        (folder / "config.yaml").write_text(json.dumps(whole))  # JSON is YAML
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        command = [str(python.parent / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--num_workers", "1"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self):
        give_up = time.monotonic() + 240
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise AssertionError(self.output.read_text()[-3000:])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rows(self):
        """The lines of the requests that have ended."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [row for row in map(json.loads, lines) if row["event"] == "request"]

    def wait_rows(self, count):
        give_up = time.monotonic() + 60
        while len(self.rows()) < count and time.monotonic() < give_up:
            time.sleep(0.05)
        rows = self.rows()
        assert len(rows) == count, rows
        return rows

    def account(self):
        store = open_store(str(self.state), ["tokens"])
        try:
            rows = store.accounts().get("total")
            return rows[0] if rows else TokenBucket()
        finally:
            store.close()

    def post(self, path, body, *, key=KEY, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(f"{self.url}{path}", body, {"Authorization": f"Bearer {key}", **named})
