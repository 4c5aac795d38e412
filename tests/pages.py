"""A page in a real browser: what it says on its console, asks for, copies and prints."""

from contextlib import contextmanager

FILE = {"offline": True, "permissions": ["clipboard-read", "clipboard-write"]}
"""Options for a page that is one file."""


@contextmanager
def opened(browser, url, width, theme, **options):
    """Yields (tab, what the console said, what the page asked for); `options` of the browser's context."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme, **options)
    tab = context.new_page()
    tab.set_default_timeout(120_000)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(url)
    yield tab, said, asked
    context.close()


def copied(tab, table):
    """Press the button that copies a table; what the clipboard holds then."""
    button = tab.locator(f"button.copy[data-table='{table}']")
    button.click()
    tab.locator(f"button.copy[data-table='{table}']", has_text="Copied").wait_for()
    return tab.evaluate("navigator.clipboard.readText()")


def prints(tab):
    """Whether the page fits on paper: a PDF comes out, nothing is cut off at the right, buttons and links are gone."""
    tab.emulate_media(media="print", color_scheme="dark")
    tab.set_viewport_size({"width": 720, "height": 1000})  # A4 less its margins
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    light = "getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()"
    hidden = "[...document.querySelectorAll('nav, button.copy')].every(e => getComputedStyle(e).display === 'none')"
    open_ = "[...document.querySelectorAll('details')].every(e => e.open)"
    fits = "[...document.querySelectorAll('figure svg')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    whole = "document.documentElement.scrollWidth <= innerWidth + 1"  # tables, too
    found = [tab.evaluate(one) for one in (hidden, open_, fits, whole)] + [tab.evaluate(light) == "#ffffff"]
    pdf = tab.pdf(format="A4")
    tab.emulate_media(media="screen")
    return all(found) and pdf.startswith(b"%PDF") and len(pdf) > 20_000
