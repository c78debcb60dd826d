"""Where a number comes from: versions of the code and the packages, the machine, the files that were read."""

import ast
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

TRAINING = (
    *("training", "training_progress", "batches", "recipe", "validation", "diffusion", "datasets"),
    *("inputs", "models", "model_names", "unet", "continuous", "blocks", "depth", "ode", "outside"),
    *("released", "precision"),
)
"""The modules that decide what a training computes."""

SAMPLING = (
    *("shards", "sampling", "samplers", "diffusion", "alexnet", "datasets", "inputs"),
    *("models", "model_names", "unet", "continuous", "blocks", "depth", "ode", "outside", "released"),
    "precision",
)
"""The modules that decide what samples a trained network gives, and their features."""

DENOISING = (
    *("denoising", "trajectories", "metrics", "alexnet", "frechet", "kernel_distance", "neighbours"),
    *("sampling", "samplers", "diffusion", "datasets", "inputs"),
    *("models", "model_names", "unet", "continuous", "blocks", "depth", "ode", "outside", "released"),
    "precision",
)
"""The modules that decide how a network denoises an image, and its scores."""

DENOISERS = (*DENOISING, "denoiser_training", "denoisers", "batches", "recipe")
"""The modules that decide what the training of a denoiser that is no diffusion network computes, and those
that `denoisers` imports for scores."""

NEUTRAL = {
    "errors": "what is refused has no result",
    "provenance": "names results",
    "storage": "keeps tensors as they are",
    "folders": "says where files are",
    "checkpoints": "keeps weights as `precision` rounds them; their hash is part of a set's name",
    "assets": "hands on files whose hash it has compared",
    "drawn": "makes images, whose hash a card holds",
    "photos": "reads images, whose hash a card holds",
    "sources": "names and counts data sets",
    "launch": "starts processes, as the settings say",
    "running": "computes the same, compiled or not",
    "resume": "goes on with what was saved, to the same bits",
    "denoiser_state": "goes on with what was saved, to the same bits",
}
"""What modules of the four lists import, and why it decides no number of theirs."""

WEIGHTS = "alexnet/SHA256SUMS"  # names AlexNet's weights by their hashes


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def environment() -> dict:
    """What produced a result: code version, the project's dependencies, Python, processor, threads."""
    torch = sys.modules.get("torch")  # asked when the notebook used it, not imported only for being asked
    threads = torch.get_num_threads() if torch else os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1
    return {
        "code_version": code_version(),
        "packages": _packages(),
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": int(threads),
    }


@functools.cache
def code_version() -> str:
    """The commit, with `+changes` if the library or the notebooks differ from it; outside git a hash of the
    library's files."""
    package = Path(__file__).resolve().parent
    top = _git("rev-parse", "--show-toplevel")
    if top and Path(top).resolve() == package.parent:
        changed = _git("status", "--porcelain", "--", "cunet", "notebooks")
        return (_git("rev-parse", "--short=12", "HEAD") or "uncommitted") + ("+changes" if changed else "")
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"files-{digest.hexdigest()[:12]}"


@functools.cache
def training_code() -> str:
    """Hash of what the modules of `TRAINING` say, see `code`."""
    return code(TRAINING)


@functools.cache
def denoiser_code() -> str:
    """Hash of what the modules of `DENOISERS` say, see `code`."""
    return code(DENOISERS)


@functools.cache
def sampling_code() -> str:
    """Hash of what the modules of `SAMPLING` say, see `code`, and of the weights behind the features."""
    return _code_and_weights(SAMPLING)


@functools.cache
def denoising_code() -> str:
    """Hash of what the modules of `DENOISING` say, see `code`, and of the weights behind the scores."""
    return _code_and_weights(DENOISING)


def _code_and_weights(modules: tuple[str, ...]) -> str:
    weights = sha256(Path(__file__).with_name("assets") / WEIGHTS)
    return hashlib.sha256(f"{code(modules)} {weights}".encode()).hexdigest()


def code(modules: tuple[str, ...]) -> str:
    """Hash of what modules of the library say: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant):
                    body[0] = ast.Pass()
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    """Output of a git command in the repository, empty if there is no git or no repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _packages() -> dict[str, str]:
    """Versions of the packages that the project itself depends on."""
    try:
        required = importlib.metadata.requires("cunet") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    versions = {}
    for requirement in required:
        name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
        if "extra ==" in requirement:
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
