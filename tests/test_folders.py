"""Where things are: folders of runs, names of files, and files that are written whole or not at all."""

from pathlib import Path

import pytest

from cunet import checkpoints, folders
from cunet.errors import InputError


def test_relative_folders_are_inside_the_repository_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.resolve("papermill_runs/a") == folders.root() / "papermill_runs" / "a"
    assert folders.root() == Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", ["../elsewhere", "papermill_runs/../../x", ".", ""])
def test_folders_that_leave_the_repository_are_refused(folder):
    with pytest.raises(InputError, match="not inside the repository"):
        folders.resolve(folder)


def test_an_absolute_folder_is_taken_as_it_is(tmp_path):
    assert folders.resolve(tmp_path / "a" / ".." / "b") == tmp_path / "b"


def test_a_slug_leaves_names_of_files_as_they_were():
    stem = checkpoints.stem("mnist", "cunet", "smoke", 3)
    assert folders.slug(stem) == stem.replace("-", "_")
    assert folders.check_name(folders.slug("mnist-cunet@solver=rk4,steps=1-s0"), "table")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f"
    folders.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        folders.write_atomically(path, "new \udcff")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]
