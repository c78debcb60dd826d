"""`make lab`: JupyterLab on this machine only, with a token, open at the first notebook.

A .py of notebooks/ opens as a notebook by a double click. The settings that do this, and everything else that
JupyterLab writes, stay inside the repository's environment: nobody's own JupyterLab changes.
"""

import json
import os
import sys
from pathlib import Path

from cunet import runs

VIEWER = "Jupytext Notebook"
SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": VIEWER}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def folder() -> Path:
    """Where JupyterLab's files go: inside the virtual environment, else in the repository's .cache."""
    inside = sys.prefix != sys.base_prefix
    return (Path(sys.prefix) if inside else runs.root() / ".cache") / "lab"


def environment() -> dict[str, str]:
    """Environment variables that keep JupyterLab's files in `folder` and put our kernel first."""
    home = folder()
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {name: str(home / place) for name, place in places.items()} | {"JUPYTER_PREFER_ENV_PATH": "1"}


def configure() -> None:
    """Write the settings that make .py files open as notebooks."""
    config = folder() / "config" / "labconfig" / "default_setting_overrides.json"
    runs.write_atomically(config, json.dumps(SETTINGS, indent=1) + "\n")
    (folder() / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)


def command(arguments: list[str]) -> list[str]:
    """JupyterLab's command line: loopback only, a fresh token (its default), the repository as root."""
    first = next(iter(sorted((runs.root() / "notebooks").glob("00_*.py"))), None)
    opened = f"/lab/tree/notebooks/{first.name}" if first else "/lab"
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [
        *(sys.executable, "-m", "jupyter", "lab"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={runs.root()}",
        f"--LabApp.default_url={opened}",
        *root,
        *arguments,
    ]


def main() -> None:
    """Become JupyterLab."""
    configure()
    os.environ.update(environment())
    if not os.environ.get("DISPLAY") and sys.platform.startswith("linux"):
        sys.argv.append("--no-browser")
    print(
        "JupyterLab: open the address with the token that it prints; Ctrl-C twice ends it.", file=sys.stderr
    )
    line = command(sys.argv[1:])
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
