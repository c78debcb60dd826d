"""What runs the chain: Snakemake on this machine, or through it a cluster.

An engine other than this machine is a folder of papermill_runs/executors/ with Snakemake's settings for it.
What each rule asks of a machine there, GPUs, memory and time, follows from the estimate of its jobs.
"""

import sys
from pathlib import Path

from cunet import folders, gpus
from cunet.chain import Plan
from cunet.errors import InputError
from cunet.parameters import nearest
from cunet.processes import cores


def find(name: str) -> Path:
    """The folder of Snakemake's settings for an engine; InputError if there is none of that name."""
    there = folders.root() / "papermill_runs" / "executors"
    for folder in (there / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in there.glob("*/config.yaml"))
    raise InputError(
        f"There is no engine {name!r}{nearest(name, known)}. Engines are {', '.join(known) or 'none'}, the "
        f"folders of {folders.shown(there)}; the path of a folder with a config.yaml works too."
    )


def shared_gpus(plan: Plan) -> gpus.Shared | None:
    """The GPUs of this machine that a profile hands out to its jobs; None where it hands out none.

    Raises InputError where a job asks for more, or this machine has fewer. Says so where PyTorch sees none.
    """
    if not plan.profile.gpus:
        return None
    import torch

    from cunet import estimate

    there = torch.cuda.device_count()
    if not there:
        print("PyTorch sees no GPU here: the jobs compute on the processor.", file=sys.stderr)
    return gpus.share(plan.profile.gpus, estimate.gpus_asked(plan), there)


def command(
    plan: Plan,
    jobs: int,
    dry_run: bool,
    extra: list[str],
    executor: Path | None = None,
    shared: gpus.Shared | None = None,
) -> list[str]:
    """Snakemake's command line for a run.

    executor: a folder with its settings for other machines. shared: GPUs that it counts on this one.
    """
    threads = max(1, cores() // jobs)
    extra = list(extra)
    here = [*("--cores", str(jobs * threads)), *("--config", f"threads={threads}")]
    if shared:
        here += _merged("--resources", [f"gpu={len(shared.names)}"], extra)
        here += _merged("--set-resources", [f"{rule}:gpu={n}" for rule, n in shared.rules.items()], extra)
    return [
        *(sys.executable, "-m", "cunet.snakemake_main"),
        *("--snakefile", str(folders.root() / "Snakefile")),
        *("--directory", str(plan.run_dir)),
        *(_elsewhere(plan, executor, extra) if executor else here),
        *("--scheduler", "greedy"),
        "--rerun-incomplete",
        "--nolock",  # a run has a lock of ours, which cannot be left behind
        *(["--dry-run"] if dry_run else []),
        *extra,
    ]


def _elsewhere(plan: Plan, executor: Path, extra: list[str]) -> list[str]:
    """Snakemake's arguments for other machines: its settings, and what each rule asks of a machine."""
    from cunet import estimate  # it imports torch

    asked = estimate.resources(estimate.on_cluster(plan))
    words = [f"{rule}:{key}={value}" for rule, mine in asked.items() for key, value in mine.items()]
    return ["--profile", str(executor), *_merged("--set-resources", words, extra)]


def _merged(option: str, words: list[str], extra: list[str]) -> list[str]:
    """An option of Snakemake's with its words. Of several it hears the last alone: if `extra` has one, ours
    are put into it, before the user's, which so go over them."""
    if option in extra and words:
        at = extra.index(option) + 1
        extra[at:at] = words
        return []
    return [option, *words] if words else []
