"""A headless Chromium for the browser tests: the system's own, driven by Playwright, its network watched."""

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE = 120_000  # ms that a page may take for anything: the tests also run on slow machines
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium; `make test-browser` has installed it, or said how."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "There is no Chromium: on Debian, apt-get install chromium fonts-dejavu-core."
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def watched(browser: Browser, allowed: tuple[str, ...], **options) -> tuple[Page, list[str]]:
    """A page, and a list that fills with whatever goes wrong in it.

    Arguments:
        browser: from `chromium`.
        allowed: beginnings of the addresses that the page may ask for, beside those inside it.
        options: of `Browser.new_page`, for example viewport.
    """
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    inside = (*allowed, "data:", "blob:")
    page.on("pageerror", lambda error: wrong.append(f"error in the page: {error}"))
    page.on("request", lambda r: r.url.startswith(inside) or wrong.append(f"request for {r.url}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status} for {r.url}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url} {r.failure}"))
    return page, wrong
