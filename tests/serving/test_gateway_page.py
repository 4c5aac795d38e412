"""The live page in a real browser, on a desk and on a phone, by day and by night."""

import pytest

from tests.pages import opened
from tests.serving.world import HASHED, KEYS, World, bulk

PLAN = {
    "budget": {"extended": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 25, "overdraft": 450}},
    "fair_share": 0.5,
}


@pytest.fixture(scope="module")
def served():
    with World() as world:
        upstream = world.upstream()
        gateway, url, _ = world.gateway(upstream.url, plan=PLAN, keys=HASHED)
        ask(world, url, 600)  # what lengths really are is known by then: a change of what is expected is no alarm
        yield world, gateway, url


def ask(world, url, count, *, least=0.0, spread=1.0):
    tenants = [("gold", "quiet")[number % 4 == 0] for number in range(count)]
    rows = [
        {"Authorization": f"Bearer {KEYS[tenant]}", "x-ibpo-gain": str(least + spread * (37 * number % 100) / 100)}
        for number, tenant in enumerate(tenants)
    ]
    return bulk(world, url, rows)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375], ids=["laptop", "phone"])
def test_page(served, browser, tmp_path, width, theme):
    world, gateway, url = served
    credentials = {"username": "me", "password": KEYS["operator"]}
    with opened(browser, f"{url}/budget", width, theme, http_credentials=credentials) as (tab, said, asked):
        tab.locator("article").nth(1).wait_for()
        ask(world, url, 200, spread=0.3)
        ask(world, url, 160, least=0.7, spread=0.3)  # harder all at once: the alarm
        before = world.snapshot(gateway)["budgets"][0]["num_requests"]
        ask(world, url, 4)
        # Live: new numbers, tenants, the alarm and the history come without a reload.
        tab.get_by_text(f"{before + 4:,}", exact=True).first.wait_for()
        tab.get_by_text("Drift alarm").wait_for()
        assert tab.locator("tbody th").all_inner_texts() == ["gold", "quiet"]
        assert "% of at most 30.0 %" in tab.locator("article").first.inner_text()
        # Not wait_for_function: its polling wants eval, which the page's policy forbids.
        tab.locator("article path").nth(3).wait_for(state="attached")
        assert tab.locator("article path").count() == 4
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.evaluate(CONTRAST) > 7
        tab.screenshot(path=tmp_path / f"page-{width}-{theme}.png", full_page=True)
        assert said == [] and {address.rpartition("/")[0] for address in asked if "data:" not in address} == {url}


CONTRAST = """(() => {
  const linear = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const light = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(linear);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ink = light(getComputedStyle(document.body).color);
  const paper = light(getComputedStyle(document.documentElement).backgroundColor);
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
})()"""
