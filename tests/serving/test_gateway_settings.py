"""The gateway's files: settings, keys, and whether they fit the budgets."""

import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibpo.cli import app
from ibpo.errors import IbpoError
from ibpo.serving.controller import ServingPolicy
from ibpo.serving.gateway.settings import (
    build_policy,
    build_settings,
    check_groups,
    check_router,
    find_cautions,
    keys_from_environment,
    new_key,
    read_keys,
    read_settings,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[upstrem]\nurl = 'http://x'", r"upstrem: unknown table; did you mean upstream\?"),
        ("[upstream]\nurl = 'ftp://x'", r"upstream.url: must begin with http:// or https://"),
        ("[upstream]\nretries = 'many'", r"upstream.retries: needs a whole number, got 'many'"),
        ("[limits]\nmax_body = 3", r"limits.max_body: unknown key; did you mean max_body_bytes\?"),
        ("[limits]\nmax_body_bytes = 3", r"limits.max_body_bytes: must be at least 1024, got 3"),
        ("[[model]]\nname = 'm'", r"model.1.response_group: is missing; add response_group"),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a b'}]", r"model.1.response_group.1.name: .*, not 'a b'"),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a'}, {name = 'a'}]", "two response groups of one name"),
        (
            "[[model]]\nname = 'm'\nchoose = ['probe']\nresponse_group = [{name = 'a'}]",
            "a probe needs a response group",
        ),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', efort = 'x'}]",
            r"unknown key; known here|did you mean",
        ),
        ("[[model]\n", "is not TOML"),
        ("refuse = ['/x']", "refuse: no longer exists, as only what is listed is passed on"),
        ("allow = ['/v1/rerank']", "'/v1/rerank' is not a method and path; write e.g. 'POST /v1/rerank'"),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', body = {max_completion_tokens = 9}}]",
            "max_completion_tokens is the group's cap, which is also reserved",
        ),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a', body = {n = 9}}]", "n is set by the caller"),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', max_tokens = 9, max_thinking_tokens = 9}]",
            "give less than max_tokens",
        ),
        ("[upstream]\nurl = 'http://127.0.0.1:80000/v1'", "upstream.url: is not an address"),
        ("[upstream]\nurl = 'http://[::1/v1'", "upstream.url: is not an address"),
        ("[upstream]\nurl = 'http://me:x@h/v1'\nkey_env = 'K'", "url: holds a user, and key_env names a key"),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', chat_template_kwargs = {day = 2026-07-26}}]",
            "holds a date, which JSON does not have",
        ),
        ("[[model]]\nname = 'm'\nresponse_group = [{name = 'a', body = {top_p = inf}}]", "that JSON does not have"),
        (
            "[[model]]\nname = 'm'\nresponse_group = [{name = 'a', body = {options = {num_predict = 9}}}]",
            "options holds a cap or a count",
        ),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(IbpoError) as error:
        read_settings(path)
    assert re.search(said, str(error.value)), error.value
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_example_of_the_documentation_is_read(tmp_path):
    page = (Path(__file__).parent.parent.parent / "docs" / "how-to" / "gateway.md").read_text(encoding="utf-8")
    path = tmp_path / "gateway.toml"
    path.write_text(re.findall(r"```toml\n(# ibpo serve.*?)```", page, re.DOTALL)[0])
    settings, plan = read_settings(path)
    check_groups(settings, ServingPolicy.from_dict(plan))
    assert [group.name for group in settings.model_of("any").response_group] == ["standard", "extended"]
    assert settings.model_of("any").choose == ["caller", "router", "probe"]


def test_examples_of_money_sessions_and_the_calendar_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "money-and-sessions.md").read_text(encoding="utf-8")
    snippets = {text.split("\n")[0]: text for text in re.findall(r"```toml\n(\[.*?)```", page, re.DOTALL)}
    path = tmp_path / "gateway.toml"
    # Tables after [[model]] would still be read: TOML's order of tables is free.
    path.write_text("".join(snippets[f"[{name}]"] for name in ("budget.money", "conversation", "session")))
    settings, tables = read_settings(path)
    policy = build_policy(settings, tables)
    check_groups(settings, policy)
    assert {budget.name: budget.mean for budget in policy.budgets} == {"money": 0.004, "tokens": math.inf}
    assert settings.session is not None and settings.session.totals() == {"money": 0.5}
    assert settings.calendar.totals("month") == {"money": 400.0, "tokens": 5e7}
    (model,) = settings.model
    price = model.price_of(model.response_group[1])
    assert price is not None and (price.cached_input, price.reasoning) == (0.125, 10.0)


def test_examples_of_tenants_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "serve-tenants.md").read_text(encoding="utf-8")
    keys_file, lines = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "keys.toml").write_text(keys_file)
    keys = read_keys(tmp_path / "keys.toml")
    assert {tenant for _, tenant in keys.rows} == {"gold", "operator"}
    (tmp_path / "gateway.toml").write_text(lines)
    settings, tables = read_settings(tmp_path / "gateway.toml")
    policy = build_policy(settings, tables)
    assert policy.tenants["gold"].at_least == {"extended": 0.2}
    assert set(keys.slices["gold"]) >= set(policy.slices) == {"law"}


def test_a_router_has_to_know_the_response_groups():
    """One that knows others would predict nothing."""
    known = ("standard", "extended")
    for names, choose, refused in (
        (("standard", "extended"), ["router"], False),
        (("low", "high"), ["caller"], False),
        (("low",), ["router"], False),
        (("low", "high"), ["caller", "router"], True),
        (("standard", "extended", "most"), ["router"], True),
    ):
        groups = [{"name": name} for name in names]
        settings = build_settings({"model": [{"name": "m", "choose": choose, "response_group": groups}]}, "file")
        if refused:
            with pytest.raises(IbpoError, match="knows the response groups standard, extended, and model 'm' has"):
                check_router(settings, known)
        else:
            check_router(settings, known)


def test_the_operator_is_told_what_bounds_the_tokens():
    groups = [
        {"name": "standard", "tokens": 400, "max_tokens": 4096},
        {"name": "extended", "tokens": 5000, "max_tokens": 16384},
    ]
    tables = {"limits": {"max_in_flight": 100}, "model": [{"name": "m", "response_group": groups}]}

    def said(budget, **change):
        changed = {**tables, "model": [{"name": "m", "response_group": [groups[0], {**groups[1], **change}]}]}
        return find_cautions(build_settings(changed, "file"), ServingPolicy.from_dict({"budget": budget}))

    assert said({"b": {"mean": 0.3, "response_group": "extended"}}) == []
    (unbounded,) = said({"b": {"mean": 0.3, "response_group": "standard"}})
    assert "response group extended of model m has no budget" in unbounded
    (bound,) = said({"tokens": {"mean": 2000, "overdraft": 20000}})
    assert "overspent by 1,158,400 tokens" in bound  # 20,000 and 100 x 11,384
    (tight,) = said({"tokens": {"mean": 2000, "overcommit": 30000}})
    assert "room for the caps of about 2 answers at a time, and 100 may be in flight" in tight
    assert (
        "no hard bound, as extended of model m has no max_tokens"
        in said({"tokens": {"mean": 2000}}, max_tokens=None)[0]
    )
    tables["session"] = {"tokens": 10_000, "idle_seconds": 600}
    assert "before four times upstream.total_seconds, 14400" in said({"tokens": {"mean": 2000, "overdraft": 20000}})[1]
    tables["upstream"] = {"url": "http://127.0.0.1:1/v1", "total_seconds": 150}
    assert len(said({"tokens": {"mean": 2000, "overdraft": 20000}})) == 1


@pytest.mark.parametrize("name", ["", "a\nb", "a, b", "a=1"])
def test_a_budget_has_a_name_that_headers_can_say(name):
    """Each answer was a 500 once it had been generated."""
    settings = build_settings({"model": [{"name": "*", "response_group": [{"name": "a"}, {"name": "b"}]}]}, "t")
    policy = ServingPolicy.from_dict({"budget": {name: {"mean": 0.3, "response_group": "b"}}})
    with pytest.raises(IbpoError, match="give it a name of one line"):
        check_groups(settings, policy)


def test_budget_and_groups_belong_together():
    tables = {"model": [{"name": "m", "response_group": [{"name": "a"}, {"name": "b", "max_tokens": 9000}]}]}
    settings = build_settings(tables, "file")
    check_groups(settings, ServingPolicy.from_dict({"budget": {"b": {"mean": 0.3, "response_group": "b"}}}))
    check_groups(settings, ServingPolicy.from_dict({"budget": {"tokens": {"mean": 500}}}))
    for budget, said in (
        ({"c": {"mean": 0.3, "response_group": "c"}}, "no model has a response group 'c'"),
        ({"watts": {"mean": 3}}, "a gateway counts tokens and money"),
        ({"money": {"mean": 3}}, "model 'm' has no price for response group 'a'"),
        ({"tokens": {"mean": 20, "overdraft": 100}}, "expected to take 512"),
        ({"tokens": {"mean": 20, "overdraft": 400, "burst": 0}}, "room for 420 tokens at a time, .* to take 512"),
        ({"tokens": {"mean": 500, "overdraft": 2500, "overcommit": 100}}, "raise overcommit to 9000"),
    ):
        with pytest.raises(IbpoError, match=said):
            check_groups(settings, ServingPolicy.from_dict({"budget": budget}))


def test_keys_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    (first, line), (second, other) = new_key(), new_key()
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys]\ngold = ["{line}"]\nquiet = "{other}"\n')
    assert first not in path.read_text()
    keys = read_keys(path)
    assert (keys.tenant_of(f"Bearer {first}"), keys.tenant_of(f"bearer  {second} ")) == ("gold", "quiet")
    assert keys.tenant_of(f"Bearer {line}") is None and keys.tenant_of("Bearer") is None
    monkeypatch.setenv("THE_KEYS", f"gold={first}, quiet={second}")
    assert keys_from_environment("THE_KEYS") == keys
    for text, said in (
        ("", "is empty"),
        ("gold", "needs TENANT=KEY"),
        ("gold=short", "at least 16"),
        (f"a b={first}", "letters"),
    ):
        monkeypatch.setenv("THE_KEYS", text)
        with pytest.raises(IbpoError, match=said) as error:
            keys_from_environment("THE_KEYS")
        assert first not in str(error.value)
    for text, said in (
        ("", "needs one table"),
        (f"[keys]\ngold = ['{first}']", "sha256"),
        (f"[keys]\na = '{line}'\nb = '{line}'", "one key is given twice"),
        ("[keys\n", "is not TOML"),
        (f"[keys]\na = '{line}'\n[slices]\nb = ['law']", "slices.b: there is no such tenant"),
        (f"[keys]\na = '{line}'\n[slices]\na = 'law'", "slices.a: needs a list"),
    ):
        path.write_text(text)
        with pytest.raises(IbpoError, match=said):
            read_keys(path)


@pytest.mark.parametrize("tenant", ["gold", "gold.eu", "7-up_x"])
def test_the_line_of_a_new_key_is_one_of_the_file(tmp_path, tenant):
    """With a dot in the name it was a table inside a table."""
    made = CliRunner().invoke(app, ["serve", "--keys", f"new:{tenant}"])
    assert made.exit_code == 0, made.output
    key, line = (row.partition(": ")[2] for row in made.stdout.splitlines())
    (tmp_path / "keys.toml").write_text(f"[keys]\n{line}\n")
    assert read_keys(tmp_path / "keys.toml").tenant_of(f"Bearer {key}") == tenant


@pytest.mark.parametrize("tenant", ["", "a b", "-a", "x" * 65, "a\n", "é"])
def test_no_key_is_made_for_what_is_no_name_of_a_tenant(tenant):
    made = CliRunner().invoke(app, ["serve", "--keys", f"new:{tenant}"])
    assert made.exit_code == 2 and "a tenant's name has letters, digits, _ . - only" in made.stderr


@pytest.mark.parametrize("text", ["budget = 0.3", '[[budget]]\nname = "tokens"\nmean = 2000'])
def test_budgets_that_are_no_tables_are_one_line(tmp_path, text):
    (tmp_path / "gateway.toml").write_text(text + "\n")
    options = ["--config", str(tmp_path / "gateway.toml"), "--upstream", "http://127.0.0.1:1/v1", "--listen", ":0"]
    made = CliRunner().invoke(app, ["serve", *options])
    assert made.exit_code == 2 and re.match(r"error: .*gateway.toml: budget: is .*; it must be a table\n", made.stderr)
