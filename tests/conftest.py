"""No test depends on the clock, a broken one is an error; and what tests of pages share: a real browser."""

import shutil

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """No doctests are looked for in tests: with --doctest-ignore-import-errors a broken test file would be skipped."""
    found = yield
    return [collector for collector in found if not isinstance(collector, DoctestModule)]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
