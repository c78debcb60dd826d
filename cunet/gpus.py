"""GPUs of one machine, for jobs at once: Snakemake counts them, and a job that starts takes free ones.

A profile with `gpus: 8` gives Snakemake a resource of eight, of which each job asks for what its rule needs
(`cunet.estimate.gpus_asked`), so that jobs at once never need more. Which GPUs they are a job finds out for
itself: there is a file a GPU, in a folder of this user's on this machine. Whoever computes on the GPU locks
it (`flock`), and the system drops the lock when the process ends, however it ends. So two runs of one user
share, too, if they name GPUs alike and have one folder for temporary files ($TMPDIR). A job that needs
several waits until as many are free at once; nothing keeps free ones for it.

What a killed job left running, a kernel or a training, would still be on its GPU. So a job writes a word into
the file of a GPU that it takes, and marks all that it starts with this word; the next one that takes the GPU
ends what is marked so, before it starts anything (see `cunet.processes`).

On a cluster nothing of this happens: there the queue hands out GPUs.
"""

import contextlib
import fcntl
import json
import os
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from cunet import processes
from cunet.errors import ChainError, InputError

SHARED = "CUNET_GPUS"  # set by the chain for its jobs: what `Shared` says, as JSON
HOLDER = "CUNET_GPU_HOLDER"  # set by a job for what it starts: its word
VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE = 0.5  # seconds between two looks for free GPUs, where a job that has just ended still holds its own


@dataclass(frozen=True)
class Shared:
    """names: the GPUs that jobs share, as CUDA_VISIBLE_DEVICES names them. rules: of Snakemake's rules, those
    whose jobs compute on GPUs -> how many a job. folder: of the locks."""

    names: list[str]
    rules: dict[str, int]
    folder: str

    def variables(self) -> dict[str, str]:
        """The environment variable that tells the jobs."""
        return {SHARED: json.dumps(asdict(self))}

    def __str__(self) -> str:
        counts = {rule.removeprefix("notebook_"): count for rule, count in self.rules.items()}
        each = ", ".join(f"{count} for {name}" for name, count in counts.items())
        return f"GPUs {','.join(self.names)}, shared by the jobs at once: {each or 'no job asks for one'}"


def share(count: int, rules: dict[str, int], there: int = 0) -> Shared:
    """What jobs share: `count` GPUs, of those that `$CUDA_VISIBLE_DEVICES` names if it is set.

    rules: rule -> GPUs that one of its jobs asks for. there: how many the machine has; 0: unknown or none.

    Raises:
        InputError: a job asks for more, or there are fewer.
    """
    for rule, asked in rules.items():
        if asked > count:
            stem = rule.removeprefix("notebook_")
            raise InputError(
                f"A job of {stem} asks for {asked} GPUs, but gpus={count} is all that the profile lets jobs "
                f"have. Set gpus={asked}, if this machine has as many, or lower {stem}.devices."
            )
    names = visible()
    if names is None:
        names = [str(number) for number in range(count)]
    elif len(names) < count:
        raise InputError(
            f"gpus={count}, but {VISIBLE}={os.environ[VISIBLE]} names {len(names)}: set gpus={len(names)}, "
            "or name more there."
        )
    parts = any(name.startswith("MIG-") for name in names)  # CUDA counts one of these a process
    if 0 < there < count and not parts:
        raise InputError(f"gpus={count}, but this machine has {there}: set gpus={there}.")
    return Shared(names[:count], rules, str(folder()))


def visible() -> list[str] | None:
    """The GPUs that `$CUDA_VISIBLE_DEVICES` names, which end at a -1; None if it is not set."""
    said = os.environ.get(VISIBLE)
    if said is None:
        return None
    names = [name.strip() for name in said.split(",")]
    names = names[: names.index("-1")] if "-1" in names else names
    return list(dict.fromkeys(filter(None, names)))


def folder() -> Path:
    """Where the locks are: a folder of this user's, on this machine and in no run; made if needed.

    Raises InputError where another user has made it, or it is no folder.
    """
    path = Path(tempfile.gettempdir()) / f"cunet-gpus-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()  # not of what a link leads to
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"{path}, where GPUs are locked, is no folder of yours. Set TMPDIR to one.")
    return path


@contextlib.contextmanager
def taken(rule: str) -> Iterator[list[str] | None]:
    """For the time of a `with` block, take as many free GPUs as a job of `rule` needs; this process and what
    it starts see them alone, by `$CUDA_VISIBLE_DEVICES`, or none, if it needs none.

    Waits until there are as many. Gives their names; None where no GPUs are shared, and nothing changes.
    """
    told = os.environ.get(SHARED)
    if not told:
        yield None
        return
    shared, word = Shared(**json.loads(told)), uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        names = _take(shared, shared.rules.get(rule, 0), word, stack)
        variables = {VISIBLE: ",".join(names), HOLDER: word, SHARED: ""}  # what a job starts shares no more
        stack.enter_context(processes.environment(**variables))
        yield names


def _take(shared: Shared, count: int, word: str, stack: contextlib.ExitStack) -> list[str]:
    """Lock `count` GPUs, all or none; `stack` lets go of them. One job at a time looks: two that need several
    each hold what the other waits for."""
    if not count:
        return []
    waiting = False
    while True:
        found: list[tuple[str, IO[str]]] = []
        with open(Path(shared.folder) / "look.lock", "a") as look, contextlib.ExitStack() as attempt:
            fcntl.flock(look, fcntl.LOCK_EX)
            for name in shared.names:
                if len(found) < count and (stream := _locked(_file(shared, name))):
                    found.append((name, attempt.enter_context(stream)))
            if len(found) == count:
                stack.push(attempt.pop_all())
                break
        if not processes.guarded():
            raise ChainError("The chain that started this job has been killed.")
        if not waiting:
            print(f"Waits for {count} of the GPUs {','.join(shared.names)}.", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(PAUSE)
    for _, stream in found:
        stream.seek(0)
        if left := stream.read().strip():
            processes.end_marked(HOLDER, left)
        stream.truncate(0)
        stream.write(word)
        stream.flush()
        stack.push(_cleared(stream))
    return [name for name, _ in found]


def _cleared(stream: IO[str]) -> Callable[..., None]:
    """An exit of a `with` block: after one in order, nobody has to look for what is left on this GPU."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            stream.truncate(0)

    return close


def _file(shared: Shared, name: str) -> Path:
    return Path(shared.folder) / f"gpu-{name.replace('/', '_')}.lock"


def _locked(path: Path) -> IO[str] | None:
    """The open file, locked; None if somebody else holds it."""
    stream = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stream
    except BlockingIOError:
        stream.close()
        return None
