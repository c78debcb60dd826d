"""The two homes of a notebook, JupyterLab and a text editor: an edit in one never undoes one in the other.

JupyterLab reads and saves through Jupytext's contents manager. A save writes the .py, and beside it an .ipynb
that holds the outputs and that git ignores. The .py is the truth: JupyterLab takes every cell's source from
it, and from the .ipynb only the outputs of cells that are the same. (`jupytext --sync`, which nothing here
calls, takes the newer of the two files for the truth, and can undo an edit.) Each order is played with the
.ipynb older than the .py and with the .ipynb newer, as it is after a copy that keeps times.

The dangerous order is the third: JupyterLab holds the notebook open, an editor changes the .py, JupyterLab
saves. The contents manager would write what it is given. What stands in the way is a question that JupyterLab
asks it before each save, whether the file is still the one that was opened (by its hash), and a dialog if it
is not. Here the question is asked as JupyterLab 4 does; `tests/browser` has the dialog.
"""

import os
import shutil
from pathlib import Path

import jupytext
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
IN_LAB, IN_EDITOR = "edited_in_lab = 1", "edited_in_editor = 2"


class Conflict(Exception):
    """JupyterLab would show its dialog "File Changed", and not save."""


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
        return self.contents.get(self.path, content=True, type="notebook", require_hash=True)

    def hash(self) -> str:
        """What JupyterLab asks before it saves, and after."""
        return self.contents.get(self.path, content=False, require_hash=True)["hash"]

    def save(self, model: dict) -> None:
        """Raises Conflict if the file is not the one that the model was opened from, or last saved as."""
        if self.hash() != model["hash"]:
            raise Conflict(self.path)
        self.contents.save({"type": "notebook", "format": "json", "content": model["content"]}, self.path)
        model["hash"] = self.hash()

    def edit(self) -> None:
        """Open, add a line to the last cell of code, keep an output in it, save."""
        self.save(self.edited(self.open()))

    def edited(self, model: dict) -> dict:
        """What is open, with a line more in the last cell of code, and an output."""
        cell = [cell for cell in model["content"]["cells"] if cell["cell_type"] == "code"][-1]
        cell["source"] += "\n" + IN_LAB
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "an output\n"}]
        return model

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


@pytest.mark.parametrize("paired", [True, False], ids=["saved before", "never saved"])
@pytest.mark.parametrize("ipynb_newer", [True, False], ids=["the .ipynb newer", "the .py newer"])
def test_a_notebook_held_open_in_jupyterlab_is_not_saved_over_an_edit_in_the_editor(
    paired, ipynb_newer, tmp_path
):
    source = NOTEBOOKS[0]
    lab = Lab(tmp_path, source)
    if paired:
        lab.save(lab.open())
    held = lab.edited(lab.open())
    lab.edit_as_text()
    if paired:
        lab.date(ipynb_newer)
    in_editor = lab.py.read_bytes()
    for _ in range(2):  # the automatic save tries again
        with pytest.raises(Conflict):
            lab.save(held)
    assert lab.py.read_bytes() == in_editor and IN_EDITOR.encode() in in_editor
    lab.save(lab.edited(lab.open()))  # the dialog's "Revert", and the edit made again
    assert lab.py.read_text(encoding="utf-8") == edited(source.read_text(encoding="utf-8"))


def test_saving_again_and_again_in_jupyterlab_raises_no_false_alarm(tmp_path):
    lab = Lab(tmp_path, NOTEBOOKS[0])
    held = lab.open()
    lab.save(held)
    lab.save(lab.edited(held))
    lab.save(held)
    assert IN_LAB in lab.py.read_text(encoding="utf-8")


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
