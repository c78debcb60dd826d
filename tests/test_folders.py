"""Where things are: folders of runs, names of files, and files that are written whole or not at all."""

import os
import shutil
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


def test_a_file_is_replaced_by_a_draft_that_is_on_the_disk_and_not_by_half_of_one(tmp_path, monkeypatch):
    path, synced, real = tmp_path / "new" / "x", [], os.fsync

    def fsync(handle):
        synced.append(os.fstat(handle).st_size)
        assert not path.exists()
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with folders.replacing(path) as draft:
            draft.write_bytes(b"old")
    assert path.read_bytes() == b"old" and synced == [3]
    with pytest.raises(KeyboardInterrupt), folders.replacing(path) as draft:
        draft.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_writers_of_one_file_at_once_have_drafts_of_their_own(tmp_path):
    """Threads of one process, and containers with equal pids that share a folder."""
    with folders.replacing(tmp_path / "f") as one, folders.replacing(tmp_path / "f") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "f").read_text() == "one" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError), folders.replacing(tmp_path / "f") as draft:
        draft.write_text("half")
        shutil.copy(draft, tmp_path / draft.name.replace(draft.name[-3:], "abc"))  # of one that is killed
        raise OSError
    assert len(list(tmp_path.iterdir())) == 2
    folders.clean(tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_has_no_room_is_refused_before_it_is_computed(tmp_path):
    folders.check_room(tmp_path / "new" / "f", 1000)
    with pytest.raises(InputError, match="f will take .* MiB free. Make room"):
        folders.check_room(tmp_path / "new" / "f", 2**60)
    assert not list(tmp_path.iterdir())


def test_drafts_of_killed_writers_are_cleaned_away_and_those_of_other_files_are_not(tmp_path):
    names = ["f[1]", ".f[1].tmp-7", ".f[1].x.tmp-7", ".f1.tmp-7"]
    for name in names:
        (tmp_path / name).touch()
    folders.clean(tmp_path / "f[1]")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(set(names) - {".f[1].tmp-7"})


def test_what_is_written_anew_is_newer_than_what_jobs_made_under_a_clock_that_was_ahead(tmp_path):
    made, path = tmp_path / "result.json", tmp_path / "job.sources"
    made.touch()
    ahead = made.stat().st_mtime_ns + 10**14
    os.utime(made, ns=(ahead, ahead))
    folders.write_if_new(path, "one", folders.newest([made]))
    written = path.stat().st_mtime_ns
    assert written > ahead
    folders.write_if_new(path, "one", folders.newest([made]))
    assert path.stat().st_mtime_ns == written
