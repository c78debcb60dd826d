"""The command that makes a job's results again, from what the job itself knows of its parameters."""

from __future__ import annotations

import json
import shlex

from . import folders
from .parameters import declaration
from .runs import Run


def command(run: Run) -> str:
    """The command line for the notebook that opened `run`: with the run's parameters file, if the chain wrote
    one, else with each parameter that is not as the notebook has it.

    Paths are relative to the repository's root, where the command belongs.
    """
    notebook = f"notebooks/{run.job.partition('-')[0]}.py"
    words = [".venv/bin/cunet", "notebook", notebook, "--out", folders.shown(run.run_dir)]
    given = run.run_dir / "params" / f"{run.job}.yaml"
    if given.is_file():
        words += ["-f", folders.shown(given)]
    else:
        declared = declaration(folders.root() / notebook)
        for name, value in run.parameters.items():
            if value != declared.get(name):
                words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
