"""Pages in headless Chromium: the browser of the system, driven by playwright, and judged by axe-core."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LISTENER = """
window.asked = [];
document.addEventListener("show-input", ({ detail }) => window.asked.push(detail));
"""  # for single inputs that are asked for


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: the page was not used in a browser")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: the page was not used in a browser")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, address: str = "", *, width: int = 1280, **settings: Any) -> Iterator[Any]:
    """A page that has been opened: it may ask for no other file, and must run without an error."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.split(":")[0] != "data" else None)
    page.add_init_script(LISTENER)
    page.goto(path.as_uri() + address)
    yield page
    context.close()
    assert [text for text in wrong if not text.startswith(path.as_uri())] == []


def complaints(page: Any) -> str:
    """What axe-core finds, with all of its rules."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: accessibility was not judged")
    found = axe.Axe().run(page)
    return found.generate_report() if found.violations_count else ""
