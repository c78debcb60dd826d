"""Where things are: the repository, a run's folder, and what a file in it may be called."""

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from cunet.errors import InputError

ROOT = "CUNET_ROOT"  # set by the user, rarely: the repository's root
DATA = "CUNET_DATA"  # set by the user: the data sets that do not ship, see `cunet.datasets.data_root`


def root() -> Path:
    """The repository: `$CUNET_ROOT`, else the folder above this package if it has notebooks/, else here."""
    if os.environ.get(ROOT):
        return Path(os.environ[ROOT]).resolve()
    above = Path(__file__).resolve().parents[1]
    return above if (above / "notebooks").is_dir() else Path.cwd()


def fix_roots() -> None:
    """Make the folders that variables of a command name absolute: what it starts works in other folders."""
    for name in (ROOT, DATA):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())


def resolve(run_dir: str | Path) -> Path:
    """The absolute path of a run's folder.

    Arguments:
        run_dir: relative to the repository's root, and inside it; or absolute, to work elsewhere on purpose.

    Raises:
        InputError: a relative path that leaves the repository.
    """
    path = Path(run_dir)
    if path.is_absolute():
        return Path(os.path.normpath(path))
    full = Path(os.path.normpath(root() / path))
    if full == root() or root() not in full.parents:
        raise InputError(
            f"The run folder {str(run_dir)!r} is not inside the repository {root()}. Give a folder such as "
            "'papermill_runs/interactive', or an absolute path if the results really belong elsewhere."
        )
    return full


def find(name: str) -> Path:
    """The folder of a run, by its path or by its name in papermill_runs/."""
    here = Path(name).absolute()
    return here if (here / "results").is_dir() else resolve(Path("papermill_runs") / name)


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be part of a file's name anywhere, else raise InputError."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,120}", name):
        raise InputError(
            f"{name!r} cannot be the name of a {what}: use letters, digits and _ . + - only, beginning with "
            "a letter, a digit or _, at most 121 characters, as in 'fig04_noising'."
        )
    return name


def slug(text: str, mark: str = "_") -> str:
    """A text as part of a file's name: what `check_name` refuses, and - if `mark` is _, becomes the mark."""
    return re.sub(r"[^A-Za-z0-9_.+]" if mark == "_" else r"[^A-Za-z0-9_.+-]", mark, text)


def shown(path: str | Path) -> str:
    """A path as people should read it: relative to the repository's root if inside, else absolute."""
    full = Path(os.path.normpath(Path(path).absolute()))
    return full.relative_to(root()).as_posix() if root() in full.parents else str(full)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that no reader, and no crash, ever sees half of it.

        with replacing(path) as draft:
            draft.write_bytes(data)

    draft: a path in the folder of `path`, which is made if needed. What the block writes there is flushed to
    the disk (fsync) and takes the place of `path`; where the block or the disk fails, `path` stays as it was
    and the draft is deleted. A process that is killed leaves its draft: see `clean`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield draft
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file by way of `replacing`."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_if_new(path: Path, text: str, after: int = 0) -> None:
    """Write a text file unless it has this content already: then its time stays, too.

    after: a time in nanoseconds, see `newest`, that what is written is later than, even if a clock was ahead.
    """
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text)
        not_older([path], after + 10**7)


def newest(paths: Iterable[Path]) -> int:
    """The latest of the times of files, in nanoseconds; 0 without any."""
    return max((path.stat().st_mtime_ns for path in paths), default=0)


def not_older(paths: Iterable[Path], than: int) -> None:
    """Give files at least a time, in nanoseconds, see `newest`.

    So they count as made afterwards, even where the clock was set back meanwhile, for those who go by times:
    Snakemake deletes what a job has just made if it seems older than what the job waited for.
    """
    for path in paths:
        if path.stat().st_mtime_ns < than:
            os.utime(path, ns=(than, than))


def clean(path: Path) -> None:
    """Delete the drafts of writers of `path` that were killed. The caller holds the lock of `path`."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        draft.unlink(missing_ok=True)


def _host() -> str:
    """A few digits that tell machines and containers apart, which may share a folder and have equal pids."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def check_room(path: Path, size: int) -> None:
    """Raise InputError unless a file of `size` bytes has room where `path` will be, before it is computed."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise InputError(
            f"{path} will take {size / 2**20:.1f} MiB, but {there} has {free / 2**20:.1f} MiB free. Make "
            "room, or let CUNET_DATA name a folder on a larger disk, and start again."
        )


def check_writable(out: Path) -> None:
    """Raise InputError if results could not be written to `out`, before the work for them starts."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(
            f"The folder {out} cannot be written to: {there} is a file or read-only. Choose another."
        )
