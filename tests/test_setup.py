"""The set-up files agree with one another, and with what the tests run on."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def closure(*extras: str) -> set[str]:
    """Names of all installed packages that the project needs, directly or not."""
    queue = [("cunet", extra) for extra in ("", *extras)]
    seen = set(queue)
    while queue:
        name, extra = queue.pop()
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = {(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)}
            queue += needed - seen
            seen |= needed
    return {canonicalize_name(name) for name, _ in seen} - {"cunet"}


def imported(folder: str) -> set[str]:
    """Top-level packages that the Python files of a folder import."""
    names = set()
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    here = {path.stem for path in (ROOT / folder).glob("*.py")}
    return names - set(sys.stdlib_module_names) - {"cunet"} - here


def declared(*extras: str) -> set[str]:
    texts = PROJECT["dependencies"] + [t for e in extras for t in PROJECT["optional-dependencies"][e]]
    return {canonicalize_name(Requirement(text).name) for text in texts}


@pytest.mark.parametrize(
    "folder, extras, also",
    [
        ("cunet", (), {"traitlets", "jupyter-server"}),  # come with jupyterlab, and cannot be absent
        ("tests", ("dev",), {"traitlets", "packaging"}),
        ("notebooks", (), {"ipython"}),
    ],
)
def test_everything_imported_is_declared(folder, extras, also):
    providers = importlib.metadata.packages_distributions()
    optional = {"denoising_diffusion_pytorch", "bm3d", "onnxruntime"}  # used when they are there
    names = {
        canonicalize_name(providers.get(name, [name])[0])
        for name in imported(folder) - (optional if folder == "cunet" else set())
    }
    assert names - also <= declared(*extras)


def test_every_package_needed_is_pinned_as_installed():
    installed = {name: importlib.metadata.version(name) for name in closure("dev")}
    assert {name: pins().get(name) for name in installed} == installed


@pytest.mark.parametrize("extra", ["browser", "onnx", "site", "slurm"])
def test_what_an_extra_names_is_pinned_at_a_version_that_it_allows(extra):
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), text


def test_constraints_hold_nothing_of_this_machine():
    text = (ROOT / "constraints.txt").read_text()
    assert re.fullmatch(r"(#.*\n|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+\n)+", text)
    assert pins()["torch"] == "2.14.1" and pins()["torchvision"] == "0.29.1"


def test_conda_environment_installs_this_repository_as_pip_does():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    assert environment["dependencies"][-1]["pip"] == ["--constraint constraints.txt", "--editable .[dev]"]
    assert "--constraint constraints.txt --editable '.[dev]'" in (ROOT / "Makefile").read_text()


def test_one_python_and_one_set_of_versions_everywhere():
    """conda, the container and the workflow have the Python of constraints.txt, and install by make."""
    python = re.search(r"Python (3\.\d+)", (ROOT / "constraints.txt").read_text())[1]
    assert f"python={python}" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    for job, target in (("test", "make test"), ("browser", "make test-browser")):
        steps = workflow["jobs"][job]["steps"]
        assert steps[-1]["run"] == target
        assert [s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", "")] == [python]
    container = (ROOT / "Containerfile").read_text()
    assert re.findall(r"^FROM \S+/python:(\S+?)-", container, re.M) == [python]
    assert "RUN make setup" in container and "pip install" not in container
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hooks[0]["repo"], len(hooks)] == ["local", 1]  # the environment's ruff, not one of its own
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in hooks[0]["hooks"])


def test_the_container_holds_the_repository():
    """Each file named in it is there, and what `make setup` and the tests read comes along."""
    lines = [
        line.split()[1:] for line in (ROOT / "Containerfile").read_text().splitlines() if line[:5] == "COPY "
    ]
    copied = {name for *names, _ in lines for name in names}
    assert all((ROOT / name).exists() for name in copied)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    outside = {".ci", ".gitignore", "papermill_runs"}  # of the runs, the profiles come along
    paths = [path.split("/") for path in listed.stdout.split()]
    assert {first for first, *_ in paths} - outside <= copied
    assert {f"{first}/{rest[0]}" for first, *rest in paths if first == "papermill_runs"} <= copied


def outside_make() -> dict[str, str]:
    """The environment, without what a `make` around these tests has put into it."""
    inside = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROFILE", "RUN", "JOBS", "SET")
    return {name: value for name, value in os.environ.items() if name not in inside}


def test_setup_is_quick_and_installs_nothing_when_current(tmp_path):
    """With the key of the present files, `make setup` does not call pip; with another it does."""
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    key = subprocess.run(
        "cat pyproject.toml constraints.txt | cksum", shell=True, cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    make = ["make", "--no-print-directory", "setup", f"VENV={environment}", f"PYTHON={python}"]

    (environment / ".setup").write_text("another key\n")
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True, env=outside_make())
    assert "pip install" in (tmp_path / "called").read_text()
    assert (environment / ".setup").read_text().strip() == key

    (tmp_path / "called").unlink()
    said = subprocess.run(
        make, cwd=ROOT, check=True, capture_output=True, text=True, env=outside_make()
    ).stdout
    assert "up to date" in said and "pip" not in (tmp_path / "called").read_text()


def test_make_says_what_is_missing_without_a_python(tmp_path):
    make = ["make", "setup", f"VENV={tmp_path / 'none'}", "PYTHON="]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, env=outside_make())
    assert done.returncode and "No Python 3.11 or later" in done.stderr


def test_what_a_user_names_reaches_the_command_as_it_is(tmp_path):
    """`make -n` shows what the shell would get; the command is replaced by one that prints its words."""
    make = ["make", "-n", "reproduce", "VENV=v", "RUN=it's; touch x", "JOBS=2", "SET=seeds=[0,1] a=*"]
    lines = subprocess.run(
        make, cwd=ROOT, check=True, capture_output=True, text=True, env=outside_make()
    ).stdout
    recipe = lines[lines.index("set -f") :].replace("v/bin/python", "printf '%s\\n'")
    given = {"PROFILE": "laptop", "RUN": "it's; touch x", "JOBS": "2", "SET": "seeds=[0,1] a=*"}
    done = subprocess.run(
        ["sh", "-c", recipe], cwd=tmp_path, check=True, capture_output=True, text=True, env=os.environ | given
    )
    expected = "-m cunet reproduce --profile laptop --set seeds=[0,1] --set a=* --run|it's; touch x|--jobs 2"
    words = [w for part in expected.split("|") for w in (part.split() if part[:2] != "it" else [part])]
    assert done.stdout.split("\n")[:-1] == words and not list(tmp_path.iterdir())


def test_cleaning_removes_what_was_drawn_or_computed_and_no_data_set_that_was_fetched(tmp_path):
    made = [".cache/lab/a", *(f".cache/datasets/{name}/a" for name in ("drawn", "decoded", "features"))]
    fetched = [".cache/datasets/celeba/a", ".cache/datasets/church_outdoor_train_lmdb/data.mdb"]
    for name in (*made, *fetched, *(f"{folder}/a" for folder in ("cunet", "tests", "notebooks"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    make = ["make", "-f", str(ROOT / "Makefile"), "clean"]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, env=outside_make())
    assert not [name for name in made if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in fetched)


def test_everything_kept_in_the_default_data_folder_is_cleaned():
    """Each folder that the library makes there is named in the Makefile."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cunet").glob("*.py"))
    made = re.search(r"^MADE := .*datasets/,(.*)\)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert set(re.findall(r"data_root\(\) / \"(\w+)\"", code)) == set(made)


def test_citation_names_the_paper_and_the_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert citation["version"] == PROJECT["version"]
    assert citation["references"][0]["title"] == "The Missing U for Efficient Diffusion Models"


def test_notebooks_and_runs_stay_out_of_git_but_profiles_and_the_reference_run_go_in():
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT).returncode == 0

    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    assert ignored("notebooks/01_ode_block.ipynb") and ignored("papermill_runs/laptop/results/a.json")
    assert not ignored("papermill_runs/profiles/laptop.yaml")
    assert not ignored("papermill_runs/reference/results/01_ode_block.json")
