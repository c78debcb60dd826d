"""`make lab`: JupyterLab on this machine only, with a token, open at the first notebook.

A .py of notebooks/ opens as a notebook by a double click, any other .py as text: JupyterLab chooses a viewer
by a file's type, and a small extension (assets/lab) gives files named like 01_ode_block.py a type of their
own. The extension, the settings and everything else that JupyterLab writes stay in the repository, in
.cache/lab: nobody's own JupyterLab changes.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from cunet import folders

EXTENSION = Path(__file__).resolve().parent / "assets" / "lab"
TYPE, VIEWER = "percent-notebook", "Jupytext Notebook"
SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {TYPE: VIEWER}},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # all cells: find and print see them
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def folder() -> Path:
    """Where JupyterLab's files go."""
    return folders.root() / ".cache" / "lab"


def environment() -> dict[str, str]:
    """Environment variables that keep JupyterLab's files in `folder` and put our kernel first."""
    home = folder()
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_PATH": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {name: str(home / place) for name, place in places.items()} | {"JUPYTER_PREFER_ENV_PATH": "1"}


def loosening() -> set[str]:
    """Variables around us that could give JupyterLab another token, or none, or further settings."""
    return {name for name in os.environ if name.startswith("JUPYTER")} - set(environment())


def configure() -> None:
    """Write the settings and the extension that make .py files of notebooks/ open as notebooks."""
    config = folder() / "config" / "labconfig" / "default_setting_overrides.json"
    folders.write_atomically(config, json.dumps(SETTINGS, indent=1) + "\n")
    name = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))["name"]
    shutil.copytree(EXTENSION, folder() / "data" / "labextensions" / name, dirs_exist_ok=True)
    # ipykernel's own says "Python 3 (ipykernel)", and saving would write that into a notebook's header
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    kernel |= {"display_name": "Python 3", "language": "python", "metadata": {"debugger": True}}
    spec = folder() / "data" / "kernels" / "python3" / "kernel.json"
    folders.write_atomically(spec, json.dumps(kernel, indent=1) + "\n")
    (folder() / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)


def command(port: int | None = None, browser: bool = True) -> list[str]:
    """JupyterLab's command line: loopback only, a fresh token, the repository as root. What it says goes over
    any settings of the system or the user.

    Arguments:
        port: the one to listen on, or nothing; None takes JupyterLab's usual one, or the next that is free.
        browser: whether JupyterLab opens one.
    """
    first = next(iter(sorted((folders.root() / "notebooks").glob("00_*.py"))), None)
    opened = f"/lab/tree/notebooks/{first.name}" if first else "/lab"
    return [
        *(sys.executable, "-m", "jupyter", "lab"),
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.identity_provider_class=cunet.lab_token.FreshToken",
        f"--ServerApp.root_dir={folders.root()}",
        f"--LabApp.default_url={opened}",
        *((f"--ServerApp.port={port}", "--ServerApp.port_retries=0") if port is not None else ()),
        *(() if browser else ("--no-browser",)),
        *(("--allow-root",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()),
    ]


def main() -> None:
    """`python -m cunet.lab`: become JupyterLab. There is no option for another address, or for no token."""
    parser = argparse.ArgumentParser(prog="python -m cunet.lab", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int, help="the port to listen on (default: 8888, or the next free)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    given = parser.parse_args()
    screen = bool(os.environ.get("DISPLAY")) or not sys.platform.startswith("linux")
    configure()
    for name in loosening():
        del os.environ[name]
    os.environ.update(environment())
    print(
        "JupyterLab: open the address with the token that it prints; Ctrl-C twice ends it.", file=sys.stderr
    )
    line = command(given.port, screen and not given.no_browser)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
