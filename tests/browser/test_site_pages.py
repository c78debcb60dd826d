"""The site of a run in Chromium, as wide as a desk and a phone: nothing from outside, formulas, search."""

import http.server
import threading

import nbformat
import pytest
from chromium import chromium, watched
from matplotlib.figure import Figure

from cunet import runs, site, site_pages

WIDTHS = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
PAGES = ("index", "claims", "results", "notebooks/03_sde", "library/ode")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The site of a run with one notebook that has a long formula and wide code, served on loopback."""
    folder = tmp_path_factory.mktemp("site")
    run = runs.Run(folder / "run", "03_sde", "laptop", {"seed": 0})
    figure = Figure(figsize=(8, 3))
    figure.subplots().plot([1, 2])
    run.save_figure(figure, "fig04_wide", "A wide figure.")
    run.save_result({})
    words = (
        "# 03 · A page\n\n$$"
        + " + ".join(f"\\frac{{x_{i}}}{{y_{i}}}" for i in range(60))
        + "$$\n\n$a^2$, C01"
    )
    cells = [nbformat.v4.new_markdown_cell(words), nbformat.v4.new_code_cell("x = 1  # " + "wide " * 60)]
    (folder / "run" / "executed").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "run" / "executed" / "03_sde.ipynb")
    few = folder / "cunet"  # one module: all of them take a minute
    few.mkdir()
    (few / "ode.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_pages, "PACKAGE", few)
        built = site.build(folder / "run", folder / "site").parent

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(built), **options)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_the_width_and_ask_for_nothing_outside(address, browser, width):
    page, wrong = watched(browser, (address,), viewport=WIDTHS[width])
    for name in PAGES:
        page.goto(f"{address}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    page.goto(f"{address}/notebooks/03_sde.html")
    page.locator("mjx-container svg").nth(1).wait_for()  # set, not left as LaTeX
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()
    assert wrong == []


def test_search_finds_a_function_and_leads_to_it(address, browser):
    page, wrong = watched(browser, (address,))
    page.goto(f"{address}/search.html?q=leapfrog")
    page.locator("#search-results a", has_text="leapfrog").first.click()
    page.wait_for_url("**/library/*.html*")
    page.close()
    assert wrong == []


def test_dark_mode_changes_the_page_and_is_kept(address, browser):
    page, wrong = watched(browser, (address,), color_scheme="light")
    page.goto(f"{address}/index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator(".theme-toggle:visible").first.click()
    if page.evaluate("document.body.dataset.theme") != "dark":  # it goes round: light, dark, as the system
        page.locator(".theme-toggle:visible").first.click()
    assert page.evaluate("document.body.dataset.theme") == "dark"
    page.goto(f"{address}/claims.html")
    assert page.evaluate("document.body.dataset.theme") == "dark"
    assert page.evaluate(background) != light
    page.close()
    assert wrong == []
