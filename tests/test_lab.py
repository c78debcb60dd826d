"""JupyterLab as `make lab` starts it: on loopback, with a token, the notebooks a double click away."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from conftest import wait_for

from cunet import lab


def test_its_files_stay_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    lab.configure()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [tmp_path / "venv" / "lab" / "config" / "labconfig" / "default_setting_overrides.json"]
    assert json.loads(written[0].read_text()) == lab.SETTINGS
    places = [value for name, value in lab.environment().items() if name != "JUPYTER_PREFER_ENV_PATH"]
    assert all(Path(place).is_relative_to(tmp_path / "venv" / "lab") for place in places)


def test_the_viewer_of_python_files_is_jupytexts():
    viewers = lab.SETTINGS["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers == {"python": "Jupytext Notebook"}


def test_it_listens_on_loopback_only_and_asks_for_the_token(tmp_path):
    """Start it for real, from another working folder, with a home and a PATH that have nothing in them."""
    clean = {**os.environ, "HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    clean.pop("DISPLAY", None)
    log = open(tmp_path / "log", "w+")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command = [sys.executable, "-m", "cunet.lab", *arguments]
    server = subprocess.Popen(command, cwd=tmp_path, env=clean, stdout=log, stderr=log)
    try:

        def address():
            return re.search(
                r"http://127\.0\.0\.1:(\d+)(\S+)\?token=(\w{32,})", (tmp_path / "log").read_text()
            )

        def answers():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        said, opened, token = wait_for(address, "the address").groups()
        wait_for(answers, "an answer")
        assert int(said) == port
        assert opened == "/lab/tree/notebooks/00_start_here.py"
        api = f"http://127.0.0.1:{port}/api/contents/notebooks"
        with urllib.request.urlopen(f"{api}?token={token}", timeout=30) as answer:
            assert any(item["name"].startswith("00_") for item in json.load(answer)["content"])
        try:
            status = urllib.request.urlopen(api, timeout=30).status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == 403
        listening = subprocess.run(
            ["cat", f"/proc/{server.pid}/net/tcp"], capture_output=True, text=True
        ).stdout
        addresses = re.findall(rf"^ +\d+: (\w+):{port:04X} 00000000:0000 0A", listening, re.MULTILINE)
        assert addresses == ["0100007F"]
        assert not (tmp_path / "home").exists()
    finally:
        server.kill()
        server.wait()
        log.close()
