"""The reference pages of the gateway list what there is: fields, defaults, metrics, errors, events, headers."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ibpo.serving.controller import BudgetPolicy, TenantPolicy
from ibpo.serving.gateway.settings import (
    CalendarSettings,
    ConversationSettings,
    GroupSettings,
    LimitSettings,
    ModelSettings,
    ProbeSettings,
    SessionSettings,
    Settings,
    UpstreamSettings,
)
from ibpo.serving.gateway.telemetry import BUDGET_VALUES, FAILURES, STATES, Metrics

ROOT = Path(__file__).parents[2]
FILE = (ROOT / "docs" / "reference" / "gateway.md").read_text(encoding="utf-8")
INTERFACE = (ROOT / "docs" / "reference" / "gateway-interface.md").read_text(encoding="utf-8")
SOURCE = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ibpo" / "serving" / "gateway").glob("*.py"))


def section(page, heading):
    """The text below a heading, up to the next of any level."""
    return re.split(r"^#+ ", page.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text):
    """The first cells of a section's tables -> all cells."""
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    found = {}
    for row in table:
        for name in re.findall(r"`([^`]+)`", row[0]):
            found.setdefault(name, row)
    return found


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("## `[upstream]`", UpstreamSettings),
        ("## `[limits]`", LimitSettings),
        ("## `[[model]]`", ModelSettings),
        ("### `[model.probe]`", ProbeSettings),
        ("### `[[model.response_group]]`", GroupSettings),
    ],
)
def test_fields_and_defaults_of_a_table(heading, model):
    listed = rows(section(FILE, heading))
    own = {name: field for name, field in model.model_fields.items() if name != "probe"}
    assert set(listed) == set(own)
    for name, field in own.items():
        said = listed[name][2]
        if field.is_required():
            assert said == "*required*", name
        elif isinstance(field.default, bool):
            assert said == f"`{str(field.default).lower()}`", name
        elif isinstance(field.default, int | float):
            assert float(said.strip("`").replace(",", "")) == field.default, name


def test_fields_of_the_other_tables():
    top = set(rows(section(FILE, "## Top level")))
    tables = {"upstream", "limits", "model", "session", "calendar", "conversation"}
    assert top == set(Settings.model_fields) - tables | {"fair_share", "explore"}
    assert set(rows(section(FILE, "## Budgets"))) == {x.name for x in fields(BudgetPolicy) if x.init} - {"name"}
    assert set(rows(section(FILE, "## Tenants and slices"))) == {x.name for x in fields(TenantPolicy)}
    totals = section(FILE, "## `[session]`, `[calendar]`, `[conversation]`")
    for table, model in (("session", SessionSettings), ("conversation", ConversationSettings)):
        assert {f"{table}.{name}" for name in model.model_fields} <= set(rows(totals))
        for name, field in model.model_fields.items():
            if field.default is not None:
                said = rows(totals)[f"{table}.{name}"][2]
                assert float(said.strip("`").replace(",", "")) == field.default, name
    assert set(CalendarSettings.model_fields) == {"time_zone", "hour", "day", "month"}
    assert all(name in totals for name in ("calendar.time_zone", "`calendar.hour`, `.day`, `.month`"))


def test_metrics_and_their_labels():
    listed = rows(section(INTERFACE, "## Metrics"))
    known: dict[str, set[str]] = {}
    registry: Any = Metrics().registry  # its collectors have no public names
    for collector, names in registry._collector_to_names.items():
        name = f"{collector._name}_total" if collector._type == "counter" else collector._name
        assert name in names
        known[name] = set(collector._labelnames)
    found = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in listed.items() if name.startswith("ibpo_")}
    assert found == known
    text = section(INTERFACE, "## Metrics")
    assert set(re.findall(r"`(\w+)`", listed["ibpo_budget"][2])) == set(BUDGET_VALUES)
    assert set(re.findall(r"`(\w+)`", listed["ibpo_budget_state"][2])) == set(STATES)
    assert set(FAILURES) <= set(re.findall(r"`(\w+)`", text))
    failures = set(re.findall(r'failures\.labels\("(\w+)"\)', SOURCE)) | {"router", "probe"}
    table = text[text.index("| `what` of") :].split("\n", 1)[1]
    assert set(rows(table)) == failures


def test_errors_and_events():
    codes = set(re.findall(r'Refusal\(\s*\d+, "(\w+)"', SOURCE))
    codes |= {f"upstream_{kind}" for kind in re.findall(r'UpstreamFault\("(\w+)"', SOURCE)}
    cells = re.findall(r"^\| [\d, ]+ \| (.*?) \|", section(INTERFACE, "## Errors"), re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"\w+", cell)} == codes
    events = set(re.findall(r'(?:log|self)\.write\(\s*"(\w+)"', SOURCE)) | {"log_gap"}
    table = section(INTERFACE, "## The log").partition("| field of")[0]
    assert set(rows(table)) - {"event"} == events


def test_headers():
    own = set(re.findall(r'"(x-ibpo-[a-z-]+)"', SOURCE)) | {"x-ibpo-slice", "x-ibpo-request-id", "x-ibpo-session-left"}
    own |= {f"x-ibpo-{name}" for name in ("price", "budget-left", "calendar-left", "used-up")}
    assert set(re.findall(r"x-ibpo-[a-z-]+", INTERFACE)) == own
