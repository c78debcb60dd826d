"""Two data sets drawn from seeds: `avatars` stands in for CelebA, `landscapes` for LSUN Church.

DiceBear turns a seed string into an SVG (which hair, which glasses, which colours, how far the head leans),
resvg turns the SVG into pixels, and neither needs a download. Train and test seeds differ by construction,
and the pose, the background and the colours vary continuously, so that no two images are alike. Each data
set is rendered once, into one safetensors file with a JSON card beside it; a second build gives the same
bytes.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from cunet import folders, processes
from cunet.errors import InputError

SIDE = 64
SIDES = (64, 32)
COUNTS = {"train": 30_000, "test": 5_000}
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")
RECIPES = {
    "avatars": {
        "styles": ["toon-head", "personas", "micah", "avataaars"],
        "options": {
            "backgroundColor": [
                "#b6e3f4", "#c0aede", "#d1d4f9", "#ffd5dc", "#ffdfbf",
                "#c8e6c9", "#f5f5f5", "#90a4ae", "#546e7a", "#8d6e63",
            ],
            "backgroundColorFill": ["solid", "linear"],
            "backgroundColorAngle": [-90, 90],
            "flip": ["none", "horizontal"],
            "scale": [1.05, 1.25],
            "rotate": [-5, 5],
            "translateX": [-4, 4],
            "translateY": [2, 8],
        },
    },
    "landscapes": {"styles": ["landscape"], "options": {}},
}  # fmt: skip


def seed(name: str, split: str, index: int) -> str:
    """The seed string of image `index`; the split's name is part of it, so splits share none."""
    return f"{name}-{split}-{index}"


@lru_cache
def definition(style: str) -> dict:
    """DiceBear's definition of a style, with its artist and licence under `meta`."""
    return json.loads(files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8"))


def _versions() -> dict[str, str]:
    """Versions of the packages that draw; an InputError when one is missing."""
    try:
        return {package: metadata.version(package) for package in PACKAGES}
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"The data sets avatars and landscapes are drawn by {', '.join(PACKAGES)}, and {error.name} is "
            "not installed; run `make setup`, or pip install the three."
        ) from error


@lru_cache
def _style(style: str):
    from dicebear import Style

    return Style(definition(style))


def render(name: str, split: str, index: int, side: int = SIDE) -> np.ndarray:
    """Draw one image: uint8 (3, side, side), the same for the same arguments on every run."""
    import resvg_py
    from dicebear import Avatar
    from PIL import Image

    recipe = RECIPES[name]
    style = recipe["styles"][index % len(recipe["styles"])]
    svg = Avatar(_style(style), {"seed": seed(name, split, index), **recipe["options"]}).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).transpose(2, 0, 1)


def _render_range(job: tuple[str, str, int, int]) -> np.ndarray:
    name, split, start, stop = job
    return np.stack([render(name, split, index) for index in range(start, stop)])


def _render_all(name: str, counts: dict[str, int], workers: int, progress: bool) -> dict[str, np.ndarray]:
    """uint8 (count, 3, SIDE, SIDE) a split, rendered in blocks by `workers` processes."""
    images = {split: np.empty((count, 3, SIDE, SIDE), np.uint8) for split, count in counts.items()}
    jobs = [
        (name, split, start, min(start + 50, count))
        for split, count in counts.items()
        for start in range(0, count, 50)
    ]
    bar = tqdm(total=sum(counts.values()), desc=f"drawing {name}", unit="image", disable=not progress)

    def collect(blocks: Iterator[np.ndarray]) -> None:
        for (_, split, start, stop), block in zip(jobs, blocks, strict=True):
            images[split][start:stop] = block
            bar.update(stop - start)

    with bar:
        if workers == 1:
            collect(map(_render_range, jobs))
        else:  # spawn: a forked child of a process with torch's threads can hang
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                try:
                    collect(pool.map(_render_range, jobs))
                except BrokenProcessPool as error:
                    raise InputError(
                        f"A process that drew {name} ended before its time. Either memory ran out, or this "
                        "is a script that loads data outside of `if __name__ == '__main__':`, so that new "
                        "processes run it again: put its work below such a line."
                    ) from error
                except BaseException:  # Ctrl-C, say: not before all that is still waiting has been drawn
                    pool.shutdown(cancel_futures=True)
                    raise
    return images


def _halve(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, rounded: uint8 (N, 3, S, S) -> (N, 3, S/2, S/2)."""
    total = sum(images[..., row::2, column::2].astype(np.uint16) for row in (0, 1) for column in (0, 1))
    return np.rint(total / 4).astype(np.uint8)


def credits(name: str) -> list[dict[str, str]]:
    """Artist, licence and attribution of every style in the data set, as the style's author wrote them."""
    metas = [(style, definition(style)["meta"]) for style in RECIPES[name]["styles"]]
    return [
        {
            "style": style,
            "creator": meta["creator"]["name"],
            "license": meta["license"]["name"],
            "text": meta["license"]["text"],
        }
        for style, meta in metas
    ]


def path(name: str, root: Path, counts: dict[str, int] | None = None) -> Path:
    """Where the rendered file lies; its name holds a hash of the recipe: another recipe, another file."""
    recipe = json.dumps([RECIPES[name], counts or COUNTS, SIDES], sort_keys=True)
    return root / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}.safetensors"


def built(file: Path) -> bool:
    """Whether a rendered file and its card are there; `load` says whether they are whole. A card without a
    hash of its own is of earlier code: what belongs to it is drawn again."""
    card = file.with_suffix(".json")
    return file.is_file() and card.is_file() and b'"card_sha256"' in card.read_bytes()


def card(name: str, root: Path) -> dict[str, Any]:
    """What the card of a data set in `root` says, `build` lists it; empty when it was not drawn yet.

    Raises:
        InputError: the card was edited or is damaged.
    """
    file = path(name, root)
    return read_card(file) if built(file) else {}


def read_card(file: Path) -> dict[str, Any]:
    """The card of a rendered file; InputError unless it is as it was written."""
    card = file.with_suffix(".json")
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        if content["card_sha256"] == _seal(content):
            return content
        problem = "its content does not have the card_sha256 that it carries"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise InputError(
        f"The card {card} of a drawn data set was edited or is damaged ({problem}); delete it, and the data "
        "set will be drawn again."
    )


def _seal(card: dict[str, Any]) -> str:
    """SHA-256 of a card, whatever `card_sha256` it carries."""
    rest = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check(name: str, root: Path) -> None:
    """Raise InputError if a data set would have to be drawn in `root` and the packages for it are missing."""
    if not built(path(name, root)):
        _versions()


def build(
    name: str,
    root: Path,
    counts: dict[str, int] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render a data set into one file, unless it is there already.

    Args:
        name: "avatars" or "landscapes".
        root: folder of the file; made when missing.
        counts: images a split; `COUNTS` by default.
        workers: processes; every core that this process may use by default.
        progress: show a bar with rate and time left.

    Returns:
        The safetensors file. It holds uint8 tensors "<split>/<side>"; its JSON card (same name) holds the
        SHA-256 of the file, of every tensor and of the card itself, the recipe, the package versions, the
        credits, and how near test images come to training images. Both appear at once when they are whole,
        and a second process waits for the first.
    """
    target, counts = path(name, root, counts), counts or COUNTS
    if not built(target) and getattr(current_process(), "_inheriting", False):  # as the standard library asks
        raise SystemExit(1)  # a script run again by a process that is to draw; it would wait for its parent
    with processes.locked(target.with_suffix(".lock"), f"the data set {name}", wait=math.inf):
        if built(target):
            return target
        folders.clean(target)
        folders.check_room(target, 3 * sum(counts.values()) * sum(side**2 for side in SIDES))
        versions, tensors = _versions(), {}
        for split, images in _render_all(name, counts, workers or processes.cores(), progress).items():
            tensors |= {f"{split}/64": images, f"{split}/32": _halve(images)}
        with folders.replacing(target) as draft:
            save_file(tensors, draft)
            card = _card(name, counts, draft, tensors) | {"packages": versions, "credits": credits(name)}
            card["near_duplicates"] = _near_duplicates(tensors)
            card["card_sha256"] = _seal(card)
            folders.write_atomically(target.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return target


def _card(name: str, counts: dict[str, int], file: Path, tensors: dict[str, np.ndarray]) -> dict:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "name": name,
        "counts": counts,
        "seeds": seed(name, "{split}", "{index}"),
        "recipe": RECIPES[name],
        "sha256": digest,
        "tensors": {key: _digest(images) for key, images in sorted(tensors.items())},
    }


def _near_duplicates(tensors: dict[str, np.ndarray]) -> dict[str, float]:
    """How near the test images come to the training images at the smallest side, where they differ least: the
    fields of `cunet.neighbours.Duplicates`, rounded, so that a processor's rounding does not show."""
    import torch

    from cunet.neighbours import near_duplicates  # here: what only draws needs no torch

    test, train = (torch.from_numpy(tensors[f"{split}/{min(SIDES)}"]) for split in ("test", "train"))
    found = near_duplicates(test, train)._asdict()
    return {"side": min(SIDES)} | {key: round(value, 4) for key, value in found.items()}


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def load(file: Path, split: str, side: int) -> np.ndarray:
    """One tensor of a rendered file, uint8 (N, 3, side, side), after its SHA-256 has been compared with the
    card's.

    Raises:
        InputError: the file or its card is damaged.
    """
    key = f"{split}/{side}"
    expected = read_card(file)["tensors"][key]
    try:
        with safe_open(file, "numpy") as store:
            images = store.get_tensor(key)
        found = _digest(images)
    except Exception as error:  # safetensors raises kinds of its own
        found = f"{type(error).__name__}: {error}"
    if found != expected:
        raise InputError(
            f"The drawn data set {file} is damaged ({key}: found {found}, expected {expected}); delete it, "
            "and it will be drawn again."
        )
    return images
