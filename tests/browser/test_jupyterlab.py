"""JupyterLab as a reader meets it: `make lab`, a double click, run, edit, save, in a real Chromium."""

import contextlib
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jupytext
import psutil
import pytest
import yaml
from chromium import PATIENCE, chromium, watched
from conftest import ROOT, wait_for

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.py"))
RUN_PATIENCE = 900_000  # ms for notebook 01 at smoke sizes; about 20 s on two idle cores
DONE = """() => { const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')
  const cells = [...panel.querySelectorAll('.jp-CodeCell')]
  return panel.querySelector('[data-mime-type="application/vnd.jupyter.error"]') || cells.length &&
    cells.every(cell => /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent)) }"""


@dataclass
class Lab:
    """A repository of its own, and a JupyterLab in it as `make lab` starts it."""

    root: Path
    address: str

    @property
    def base(self) -> str:
        return self.address.partition("/lab")[0]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab") / "my repo é"
    (root / "cunet").mkdir(parents=True)
    (root / "notebooks").mkdir()
    for path in [*(ROOT / "notebooks").glob("[0-9]*.py"), ROOT / "notebooks" / "jupytext.toml"]:
        shutil.copy(path, root / "notebooks")
    shutil.copy(ROOT / "cunet" / "ode.py", root / "cunet")
    make_small(root / "notebooks" / "01_ode_block.py")
    log = root.parent / "lab.log"
    home = {"HOME": str(root.parent / "home"), "CUNET_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "cunet.lab", "--no-browser"]
        server = subprocess.Popen(command, env=os.environ | home, stdout=stream, stderr=stream)
        try:
            found = wait_for(
                lambda: re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", log.read_text()), "the address"
            )
            yield Lab(root, found[0])
        finally:
            family = [server, *psutil.Process(server.pid).children(recursive=True)]  # the kernels, too
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            server.wait()


def make_small(path: Path) -> None:
    """Put the smoke profile's values into a notebook's parameters cell, comments kept."""
    text = path.read_text(encoding="utf-8")
    smoke = yaml.safe_load((ROOT / "papermill_runs" / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    for name, value in {"size": "smoke", **smoke["notebooks"][path.stem]}.items():
        text, found = re.subn(
            rf"^{name} = .*?(?=  #)", lambda _, n=name, v=value: f"{n} = {v!r}", text, flags=re.M
        )
        assert found == 1, name
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(lab, browser):
    """JupyterLab open at the address that it printed; nothing may go wrong, nothing come from outside."""
    page, wrong = watched(
        browser, (lab.base, lab.base.replace("http", "ws")), viewport={"width": 1280, "height": 1000}
    )
    page.goto(lab.address + "&reset", timeout=PATIENCE)
    page.locator("#jupyterlab-splash").wait_for(state="detached")
    panel(page).locator(".jp-Cell").first.wait_for()  # 00, which the address names
    yield page
    page.close()
    assert [text for text in wrong if not text.startswith("failed")] == []


def panel(page):
    """The notebook in front."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def double_click(page, name: str):
    """Open a file of the folder that the file browser shows, and wait for its tab."""
    page.locator(f'.jp-DirListing-item[title*="{name}"]').dblclick()
    page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current", has_text=name).wait_for()


def code_cells(path: Path) -> int:
    return sum(cell.cell_type == "code" for cell in jupytext.read(path, fmt="py:percent").cells)


def saved(page, until, what: str) -> None:
    """Save, and wait until the server has written; a question from JupyterLab is a failure."""
    page.keyboard.press("Control+s")
    for _ in range(PATIENCE // 100):
        if until():
            return
        assert not page.locator(".jp-Dialog").count(), page.locator(".jp-Dialog").inner_text()
        page.wait_for_timeout(100)
    raise AssertionError(what)


def test_the_printed_address_opens_the_first_notebook_with_a_kernel(page):
    assert "00_start_here.py" in page.url
    page.locator(
        "#jp-main-statusbar", has_text="| Idle"
    ).wait_for()  # the toolbar says idle before there is one
    page.locator("#jp-main-statusbar", has_text="Python 3").wait_for()


def test_a_double_click_opens_a_module_as_text(page, lab):
    before = (lab.root / "cunet" / "ode.py").read_bytes()
    page.locator(".jp-BreadCrumbs-home").click()
    page.locator('.jp-DirListing-item[title*="cunet"]').dblclick()
    double_click(page, "ode.py")
    page.locator(".jp-FileEditor .cm-content", has_text="import").wait_for()
    assert (lab.root / "cunet" / "ode.py").read_bytes() == before


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_double_click_opens_each_notebook_and_saving_it_unedited_changes_nothing(page, lab, name):
    path = lab.root / "notebooks" / name
    before, pair = path.read_bytes(), path.with_suffix(".ipynb")
    pair.unlink(missing_ok=True)
    double_click(page, name)
    cells = panel(page).locator(".jp-CodeCell")
    cells.first.wait_for()
    count = code_cells(path)
    wait = "n => document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell').length === n"
    page.wait_for_function(wait, arg=count)
    cells.first.click()
    unchanged = "the paired .ipynb was not written, or the .py is not what it was"
    saved(page, lambda: pair.is_file() and path.read_bytes() == before, unchanged)


def test_a_notebook_held_open_is_not_saved_over_an_edit_in_an_editor(page, lab):
    """The dangerous order: open here, edited there, saved here. JupyterLab asks first."""
    path = lab.root / "notebooks" / "12_scorecard.py"
    double_click(page, path.name)
    cell = panel(page).locator(".jp-CodeCell").first.locator(".cm-content")
    cell.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\nedited_in_browser = 1")
    text = path.read_text(encoding="utf-8")
    marker = '# %% tags=["parameters"]\n'
    assert text.count(marker) == 1
    in_editor = text.replace(marker, f"{marker}edited_in_editor = 2  # by another program\n")
    path.write_text(in_editor, encoding="utf-8")
    page.keyboard.press("Control+s")
    dialog = page.locator(".jp-Dialog", has_text="has changed on disk")
    dialog.wait_for()
    assert path.read_text(encoding="utf-8") == in_editor
    dialog.locator("button", has_text="Revert").click()
    panel(page).locator(".jp-CodeCell", has_text="edited_in_editor").wait_for()
    assert path.read_text(encoding="utf-8") == in_editor
    path.write_text(text, encoding="utf-8")  # as the tests after this one want it


def test_notebook_01_runs_to_its_end_and_an_edit_changes_its_cell_only(page, lab):
    path = lab.root / "notebooks" / "01_ode_block.py"
    double_click(page, path.name)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    page.wait_for_function(DONE, timeout=RUN_PATIENCE)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    assert panel(page).locator(".jp-CodeCell").count() == code_cells(path)
    errors = panel(page).locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.first.inner_text()
    pictures = panel(page).locator(".jp-RenderedImage img")
    pictures.nth(2).wait_for()
    assert pictures.first.evaluate("image => image.naturalWidth") > 100
    assert (lab.root / "papermill_runs" / "interactive" / "results" / "01_ode_block.json").is_file()

    before = path.read_text(encoding="utf-8")
    cell = panel(page).locator(".jp-CodeCell", has_text="def spring").locator(".cm-content")
    cell.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\nprint('edited in the browser')")
    page.keyboard.press("Control+Enter")
    panel(page).locator(".jp-OutputArea-output", has_text="edited in the browser").wait_for()
    saved(page, lambda: "edited in the browser" in path.read_text(encoding="utf-8"), "the .py was not saved")
    after = path.read_text(encoding="utf-8")
    changes = [
        line
        for line in difflib.ndiff(before.splitlines(), after.splitlines())
        if line.startswith(("+ ", "- "))
    ]
    assert changes == ["+ print('edited in the browser')"]
    assert after.index("def spring") < after.index("edited in the browser") < after.index("## 2.")
    pair = path.with_suffix(".ipynb")
    wait_for(lambda: pair.is_file() and "edited in the browser" in pair.read_text("utf-8"), "pairing")
    paired = json.loads(pair.read_text(encoding="utf-8"))
    assert paired["metadata"]["jupytext"]["formats"] == "ipynb,py:percent"
    tags = [cell.metadata.get("tags") for cell in jupytext.read(path, fmt="py:percent").cells]
    assert [cell["metadata"].get("tags") for cell in paired["cells"]] == tags and ["parameters"] in tags
    assert not (lab.root.parent / "home" / ".jupyter").exists(), "JupyterLab's files stay in the repository"
