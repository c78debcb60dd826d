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

import pytest
from conftest import ROOT, wait_for

from cunet import lab

EVERYWHERE, LOOPBACK = "00000000", "0100007F"  # as the kernel writes 0.0.0.0 and 127.0.0.1


def listening(port: int) -> list[str]:
    """The addresses, in the kernel's form, that some process listens on at a port; IPv4 and IPv6."""
    tables = [
        Path(f"/proc/net/{name}").read_text()
        for name in ("tcp", "tcp6")
        if Path(f"/proc/net/{name}").is_file()
    ]
    return re.findall(rf"^ +\d+: (\w+):{port:04X} [0:]+ 0A", "\n".join(tables), re.MULTILINE)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_its_files_stay_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("CUNET_ROOT", str(tmp_path))
    lab.configure()
    lab.configure()  # a second time finds the first one's files
    home = tmp_path / ".cache" / "lab"
    assert {path.name for path in tmp_path.iterdir()} == {".cache"}
    overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
    assert json.loads(overrides.read_text()) == lab.SETTINGS
    places = [value for name, value in lab.environment().items() if name != "JUPYTER_PREFER_ENV_PATH"]
    assert all(Path(place).is_relative_to(home) for place in places)


def test_files_named_as_notebooks_are_one_type_and_modules_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("CUNET_ROOT", str(tmp_path))
    lab.configure()
    extension = Path(lab.environment()["JUPYTER_DATA_DIR"]) / "labextensions" / "cunet-notebooks"
    build = json.loads((extension / "package.json").read_text())["jupyterlab"]["_build"]
    script = (extension / build["load"]).read_text(encoding="utf-8")
    pattern = json.loads(re.search(r"pattern: (\".*\"),", script)[1])
    viewers = lab.SETTINGS["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers == {lab.TYPE: "Jupytext Notebook"} and f'name: "{lab.TYPE}"' in script
    assert build["extension"] in script and "cunet-notebooks" in script
    assert all(re.search(pattern, path.name) for path in (ROOT / "notebooks").glob("*.py"))
    others = [*(ROOT / "cunet").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    assert not [path.name for path in others if re.search(pattern, path.name)]


@pytest.mark.parametrize("address, form", [("0.0.0.0", EVERYWHERE), ("127.0.0.1", LOOPBACK)])
def test_a_server_on_every_address_would_be_seen(address, form):
    """The check of the next test tells the two apart."""
    with socket.create_server((address, 0)) as server:
        assert listening(server.getsockname()[1]) == [form]


@pytest.mark.parametrize(
    "argument", ["--ip=0.0.0.0", "--ServerApp.ip=0.0.0.0", "--IdentityProvider.token=", "--por=1"]
)
def test_no_argument_opens_it_to_others(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab", argument])
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it started"))
    with pytest.raises(SystemExit) as stopped:
        lab.main()
    assert stopped.value.code == 2 and "unrecognized" in capsys.readouterr().err


def test_it_listens_on_loopback_only_and_asks_for_the_token(tmp_path):
    """Start it for real, from another working folder, with a home and a PATH that have nothing in them."""
    clean = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "CUNET_ROOT": str(tmp_path),
        "JUPYTER_TOKEN": "",  # this and the next would open it
        "JUPYTER_CONFIG_PATH": str(tmp_path / "settings"),
    }
    (tmp_path / "settings").mkdir()
    open_to_all = {"IdentityProvider": {"token": ""}, "PasswordIdentityProvider": {"token": ""}}
    (tmp_path / "settings" / "jupyter_server_config.json").write_text(json.dumps(open_to_all))
    lasting = tmp_path / ".cache" / "lab" / "config"  # as /etc/jupyter, which tests leave alone
    lasting.mkdir(parents=True)
    (lasting / "jupyter_server_config.json").write_text(
        json.dumps(open_to_all | {"FreshToken": {"token": ""}})
    )
    clean.pop("DISPLAY", None)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_start_here.py").write_text("# %%\n1\n")
    log = tmp_path / "log"
    port = free_port()
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "cunet.lab", "--port", str(port)]
        server = subprocess.Popen(command, cwd=tmp_path, env=clean, stdout=stream, stderr=stream)
    try:
        pattern = r"http://127\.0\.0\.1:(\d+)(\S+)\?token=(\w{32,})"
        said, opened, token = wait_for(lambda: re.search(pattern, log.read_text()), "the address").groups()
        wait_for(lambda: listening(port), "an open port")
        assert listening(port) == [LOOPBACK] and int(said) == port
        assert opened == "/lab/tree/notebooks/00_start_here.py"
        api = f"http://127.0.0.1:{port}/api/contents/notebooks"
        with urllib.request.urlopen(f"{api}?token={token}", timeout=60) as answer:
            assert [item["name"] for item in json.load(answer)["content"]] == ["00_start_here.py"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(api, timeout=60)
        assert refused.value.code == 403
        assert not (tmp_path / "home").exists()
    finally:
        server.kill()
        server.wait()
