"""The two homes of a notebook, JupyterLab and a text editor: an edit in one never undoes one in the other.

JupyterLab reads and saves through Jupytext's contents manager. A save writes the .py, and beside it an .ipynb
that holds the outputs and that git ignores. The .py is the truth: JupyterLab takes every cell's source from
it, and from the .ipynb only the outputs of cells that are the same. (`jupytext --sync`, which nothing here
calls, takes the newer of the two files for the truth, and can undo an edit.) Each order is played with the
.ipynb older than the .py and with the .ipynb newer, as it is after a copy that keeps times.
"""

import os
import shutil
from pathlib import Path

import jupytext
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
IN_LAB, IN_EDITOR = "edited_in_lab = 1", "edited_in_editor = 2"

each = pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
both_orders = pytest.mark.parametrize(  # the harder one for all, the other for the shortest
    "source, ipynb_newer",
    [*((path, True) for path in NOTEBOOKS), (NOTEBOOKS[0], False)],
    ids=[*(path.stem for path in NOTEBOOKS), "00, the .py newer"],
)


class Lab:
    """A folder notebooks/ with one of ours, and JupyterLab's view of it."""

    def __init__(self, root: Path, source: Path):
        (root / "notebooks").mkdir(parents=True)
        shutil.copy(ROOT / "notebooks" / "jupytext.toml", root / "notebooks")
        self.py = Path(shutil.copy(source, root / "notebooks"))
        self.ipynb = self.py.with_suffix(".ipynb")
        self.contents = jupytext.TextFileContentsManager()
        self.contents.root_dir = str(root)
        self.path = f"notebooks/{self.py.name}"

    def open(self) -> dict:
        return self.contents.get(self.path, content=True, type="notebook")

    def save(self, model: dict) -> None:
        self.contents.save({"type": "notebook", "format": "json", "content": model["content"]}, self.path)

    def edit(self) -> None:
        """Open, add a line to the last cell of code, keep an output in it, save."""
        model = self.open()
        cell = [cell for cell in model["content"]["cells"] if cell["cell_type"] == "code"][-1]
        cell["source"] += "\n" + IN_LAB
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "an output\n"}]
        self.save(model)

    def edit_as_text(self) -> None:
        """What a text editor does: a line after the parameters cell's first."""
        text = self.py.read_text(encoding="utf-8")
        marker = '# %% tags=["parameters"]\n'
        assert text.count(marker) == 1
        self.py.write_text(text.replace(marker, f"{marker}{IN_EDITOR}\n"), encoding="utf-8")

    def date(self, ipynb_newer: bool) -> None:
        """Set the two files' times an hour apart."""
        for path, newer in ((self.py, not ipynb_newer), (self.ipynb, ipynb_newer)):
            when = path.stat().st_mtime - (0 if newer else 3600)
            os.utime(path, (when, when))


def edited(text: str) -> str:
    """A notebook's text as it is after both edits."""
    assert text.endswith("\n")
    marker = '# %% tags=["parameters"]\n'
    return text.replace(marker, f"{marker}{IN_EDITOR}\n") + IN_LAB + "\n"


@each
def test_saving_in_jupyterlab_without_an_edit_changes_nothing(source, tmp_path):
    lab = Lab(tmp_path, source)
    for _ in range(2):  # alone, and beside the .ipynb of the first save
        lab.save(lab.open())
        assert lab.py.read_bytes() == source.read_bytes() and lab.ipynb.is_file()


@both_orders
def test_an_edit_in_the_editor_after_one_in_jupyterlab_keeps_both(source, ipynb_newer, tmp_path):
    lab = Lab(tmp_path, source)
    lab.edit()
    lab.edit_as_text()
    lab.date(ipynb_newer)
    model = lab.open()
    code = [cell for cell in model["content"]["cells"] if cell["cell_type"] == "code"]
    assert IN_EDITOR in code[0]["source"] and IN_LAB in code[-1]["source"]
    assert code[-1]["outputs"][0]["text"] == "an output\n"
    lab.save(model)
    assert lab.py.read_text(encoding="utf-8") == edited(source.read_text(encoding="utf-8"))


@both_orders
def test_an_edit_in_jupyterlab_after_one_in_the_editor_keeps_both(source, ipynb_newer, tmp_path):
    lab = Lab(tmp_path, source)
    lab.save(lab.open())
    lab.edit_as_text()
    lab.date(ipynb_newer)
    lab.edit()
    assert lab.py.read_text(encoding="utf-8") == edited(source.read_text(encoding="utf-8"))


def test_with_the_stock_settings_a_newer_ipynb_stands_in_the_way(tmp_path):
    """What the line `outdated_text_notebook_margin` of jupytext.toml is for."""
    lab = Lab(tmp_path, NOTEBOOKS[0])
    settings = lab.py.parent / "jupytext.toml"
    kept = [line for line in settings.read_text().splitlines() if not line.startswith("outdated_")]
    settings.write_text("\n".join(kept) + "\n")
    lab.edit()
    lab.edit_as_text()
    lab.date(ipynb_newer=True)
    with pytest.raises(Exception, match="is more recent than"):
        lab.open()
