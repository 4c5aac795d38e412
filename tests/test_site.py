"""The documentation's site: it is built without a warning (`make docs`), and read here in a real browser."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest

from tests.conftest import CHROMIUM

ROOT = Path(__file__).parent.parent


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.anchors = set(), set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links |= {values[name] for name in ("href", "src") if values.get(name)}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site and its address."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; `make docs` builds the site all the same")
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def pages(folder):
    """Their addresses below the site's, without the last slash; the first page's is empty."""
    found = (path.relative_to(folder).parent.as_posix() for path in folder.rglob("index.html"))
    return sorted("" if name == "." else name for name in found)


@pytest.mark.slow
def test_no_link_of_the_site_is_broken(site):
    folder, _ = site
    read = {}
    for path in folder.rglob("index.html"):
        parser = Links()
        parser.feed(path.read_text(encoding="utf-8"))
        read[path] = parser
    assert len(read) > 60
    broken = []
    for path, parser in read.items():
        here = f"http://site/{path.relative_to(folder).parent}/".replace("/./", "/")
        for link in parser.links:
            target = urlparse(urljoin(here, link))
            if target.netloc not in ("site", "127.0.0.1:8000") or target.scheme != "http":
                continue
            file = folder / unquote(target.path).lstrip("/")
            file = file / "index.html" if file.is_dir() or not file.suffix else file
            if not file.is_file() or (
                target.fragment and file in read and unquote(target.fragment) not in read[file].anchors
            ):
                broken.append((here, link))
    assert broken == []


@pytest.mark.slow
def test_every_page_has_a_markdown_twin_and_is_listed_for_language_models(site):
    folder, _ = site
    listed = (folder / "llms.txt").read_text(encoding="utf-8")
    for page in pages(folder):
        twin = folder / page / "index.md"
        assert twin.is_file() and f"/{page}/index.md".replace("//", "/") in listed, page
    assert len((folder / "llms-full.txt").read_text(encoding="utf-8")) > 100_000


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")], ids=["desktop", "phone"])
def test_pages_have_no_error_and_fit_the_screen(site, browser, width, scheme):
    folder, address = site
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    errors, outside = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(address) else outside.append(request.url))
    wide = []
    for name in pages(folder):
        page.goto(f"{address}{name}{'/' * bool(name)}")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
    assert (errors, outside, wide) == ([], [], [])
    dark = page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
    assert dark == (scheme == "dark")
    context.close()


@pytest.mark.slow
def test_search_finds_a_page(site, browser):
    _, address = site
    page = browser.new_page()
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("overdraft", delay=20)
    page.wait_for_selector(".md-search-result__link", timeout=30_000)
    found = page.eval_on_selector_all(".md-search-result__link", "links => links.map(link => link.href)")
    assert any("glossary" in link or "why-budgets-hold" in link for link in found), found
    page.close()
