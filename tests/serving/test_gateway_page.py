"""The live page in a real browser, on a desk and on a phone, by day and by night."""

import pytest

from ibpo.errors import IbpoError
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
        assert tab.locator("#tenants tbody th").all_inner_texts() == ["gold", "quiet"]
        assert "% of at most 30.0 %" in tab.locator("article").first.inner_text()
        # Not wait_for_function: its polling wants eval, which the page's policy forbids.
        tab.locator("article path").nth(3).wait_for(state="attached")
        assert tab.locator("article path").count() == 4
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.evaluate(CONTRAST) > 7
        tab.screenshot(path=tmp_path / f"page-{width}-{theme}.png", full_page=True)
        assert said == [] and {address.rpartition("/")[0] for address in asked if "data:" not in address} == {url}


def headline(tab, state):
    """The headline once it has this state: its text and the badges' states."""
    tab.locator(f"#headline.{state}").wait_for()
    return tab.locator("#headline").inner_text(), tab.locator("#budgets .badge").all_inner_texts()


@pytest.mark.slow
def test_no_green_while_a_budget_is_over(world, browser):
    """Each state by real requests: a share that is kept, tokens of which the cheapest answer takes too many."""
    upstream = world.upstream()
    plan = {
        "budget": {"extended": {"mean": 0.3, "response_group": "extended"}, "tokens": {"mean": 8, "overdraft": 400}}
    }
    _, url, _ = world.gateway(upstream.url, plan=plan)
    with opened(browser, url, 360, "dark") as (tab, said, _):
        assert "\u2026 Too early to tell: extended, tokens." in headline(tab, "unknown")[0]
        bulk(world, url, [{}] * 20)
        assert "inside the allowed fluctuation of 400" in headline(tab, "within")[0]
        # What a screen reader says changes with the state, and not with every number.
        told = tab.locator("#spoken").inner_text()
        assert told.startswith("No budget is beyond its bound")
        bulk(world, url, [{"x-ibpo-gain": "0"}] * 280)
        words, badges = headline(tab, "over")
        assert words.startswith("\u2716 Over budget: tokens.") and "a budget of 8 cannot be kept" in words
        assert sorted(badges) == ["\u2714 Kept", "\u2716 Over"]
        assert tab.title().startswith("\u2716") and tab.locator("#spoken").inner_text() == "Over budget: tokens."
        color = tab.evaluate("getComputedStyle(document.getElementById('headline')).borderLeftColor")
        assert color == "rgb(240, 152, 106)" and tab.evaluate(FITS)
        assert said == []
    _, url, _ = world.gateway(upstream.url)
    bulk(world, url, [{"x-ibpo-gain": "0"}] * 170)
    with opened(browser, url, 1280, "light") as (tab, said, _):
        words, badges = headline(tab, "kept")
        assert words == "\u2714 The budget is kept." and badges == ["\u2714 Kept"] and said == []


@pytest.mark.slow
def test_a_gateway_that_is_gone_and_comes_back(browser):
    """Old numbers are never shown as live ones; a restart is said; nothing flickers and the focus stays."""
    with World() as world:
        upstream = world.upstream()
        with World() as first:
            _, url, _ = first.gateway(upstream.url)
            bulk(world, url, [{"x-ibpo-gain": "0"}] * 170)
            with opened(browser, url, 1280, "light") as (tab, _, _):
                headline(tab, "kept")
                tab.locator("#failures .scroll").first.focus()
                tab.evaluate("window.kept = document.querySelector('article .badge')")
                bulk(world, url, [{"x-ibpo-gain": "0"}] * 7)
                tab.get_by_text("177", exact=True).first.wait_for()
                assert tab.evaluate("window.kept === document.querySelector('article .badge')")
                assert tab.evaluate("document.activeElement.className") == "scroll"
                port = int(url.rpartition(":")[2])
                first.run(first.stack.aclose())
                words, _ = headline(tab, "gone")
                assert "Not live: no answer from the gateway." in words and "they are not live" in words
                assert tab.locator("#live").inner_text().startswith("not live since ")
                assert tab.locator("#headline.kept").count() == 0 and tab.title().startswith("?")
                after = "getComputedStyle(document.querySelector('.badge'), '::after').content"
                assert "when last seen" in tab.evaluate(after)
                assert "no answer from the gateway" in tab.locator("#spoken").inner_text()
                world.gateway(upstream.url, port=port)
                headline(tab, "unknown")
                assert "Another process answers since" in tab.locator("#scope").inner_text()
                assert tab.locator("#live").inner_text().startswith("live: ")


@pytest.mark.slow
def test_without_javascript_and_without_a_store(world, browser, tmp_path):
    upstream = world.upstream()
    gateway, url, _ = world.gateway(upstream.url, state=str(tmp_path / "budget.sqlite"))
    bulk(world, url, [{"x-ibpo-gain": "0"}] * 170)
    with opened(browser, url, 360, "light", java_script_enabled=False) as (tab, _, _):
        said = tab.locator("body").inner_text()
        assert "The budget is kept." in said and "0.0 % of 170 requests, allowed 30.0 %." in said
        assert "loaded anew every ten seconds" in said and "connecting" not in said
    with opened(browser, url, 360, "light") as (tab, _, _):
        headline(tab, "kept")
        snapshot = gateway.governor.controller.snapshot

        async def fail():
            raise IbpoError("it is locked; wait")

        gateway.governor.controller.snapshot = fail
        words, _ = headline(tab, "gone")
        assert "the store of the budget cannot be read: it is locked; wait" in words
        gateway.governor.controller.snapshot = snapshot
        headline(tab, "kept")


FITS = "document.documentElement.scrollWidth <= window.innerWidth"
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
