"""The process: keys and pages, readiness, its log."""

import json
import subprocess
import sys

import openai
import pytest

from tests.serving.world import HASHED, KEYS, ask, call, client_of


def test_keys_make_tenants_and_stay_here(world, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "the upstream's key")
    upstream = world.upstream()
    plan = {"budget": {"extended": {"mean": 0.3, "response_group": "extended"}}, "fair_share": 0.5}
    gateway, url, rows = world.gateway(upstream.url, plan=plan, keys=HASHED, upstream={"key_env": "UPSTREAM_KEY"})
    for tenant in ("gold", "gold", "quiet"):
        ask(client_of(url, KEYS[tenant]))
    assert {h["Authorization"] for h in upstream.headers} == {"Bearer the upstream's key"}
    shown = world.snapshot(gateway)
    assert {row["name"]: row["num_requests"] for row in shown["tenants"]} == {"gold": 2, "quiet": 1}
    for wrong in ("the key of the gold tenanT", "", "the operator's own key"):
        refused = openai.AuthenticationError if wrong != KEYS["operator"] else openai.PermissionDeniedError
        with pytest.raises((refused, openai.OpenAIError)):
            ask(client_of(url, wrong or "x"))
    assert world.snapshot(gateway)["budgets"][0]["num_requests"] == 3
    bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in KEYS.items()}
    for page in ("/", "/budget", "/budget.json", "/metrics"):
        assert call(f"{url}{page}")[0] == 401
        assert call(f"{url}{page}", headers=bearer["gold"])[0] == 403
        assert call(f"{url}{page}", headers=bearer["operator"])[0] == 200
    page = call(f"{url}/", headers=bearer["operator"])[1]
    assert "frame-ancestors 'none'" in page["Content-Security-Policy"]
    _, _, text = call(f"{url}/metrics", headers=bearer["operator"])
    assert b'ibpo_requests_total{outcome="answered",response_group=' in text
    assert b'ibpo_tenant_used{budget="extended",tenant="gold"}' in text
    everything = json.dumps(rows()) + text.decode()
    assert not any(key in everything for key in [*KEYS.values(), "the upstream's key"])


def test_bodies_are_logged_where_asked_for_only(world):
    upstream = world.upstream()
    for asked in (False, True):
        _, url, rows = world.gateway(upstream.url, log_bodies=asked)
        ask(client_of(url), "a secret")
        world.wait_until(lambda rows=rows: any(row["event"] == "request" for row in rows()))
        assert ("a secret" in json.dumps(rows())) is asked


def test_ready_until_it_drains(world):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, keys=HASHED)
    assert call(f"{url}/ready")[0] == 200  # without a key: load balancers have none
    gateway.access.draining = True
    assert call(f"{url}/ready")[::2] == (503, b'{"ready": false}')
    headers = {"Authorization": f"Bearer {KEYS['gold']}"}
    status, _, said = call(f"{url}/v1/chat/completions", {"model": "m", "messages": []}, headers)
    assert status == 503 and b'"draining"' in said and upstream.requests == []


def test_the_face_names_what_programs_use_and_imports_it_when_it_is_used():
    import ibpo.serving.gateway as face

    assert all(getattr(face, name) is not None for name in face.__all__)
    with pytest.raises(AttributeError, match="Servise"):
        _ = face.Servise  # pyright: ignore[reportAttributeAccessIssue]
    code = "import sys, ibpo.serving.gateway; print({'aiohttp', 'pydantic', 'numpy'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
    code = "import sys; from ibpo.cli import app; app(['serve', '--help'], standalone_mode=False);"
    code += "print({'aiohttp', 'numpy'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "set()"
