"""Photographs from folders and archives that the user has fetched: CelebA, LSUN Church, any folder of images.

Every photograph is cropped to its centred square (the short side long) and resized to the asked size with
an anti-aliased bilinear filter: CelebA's 178 x 218 loses 20 rows above and below. Decoding 160,000 JPEG
files takes minutes, so the result is kept as one uint8 file under the data root, named after a fingerprint
of the sources.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from cunet import folders, storage
from cunet.errors import InputError
from cunet.processes import cores

UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError)
"""What Pillow raises for files that are no pictures, or damaged ones."""
META, SPARE = ((40, 44), (136, 144), (144, 152)), 16  # of LMDB, see `_refuse_cut`
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


@dataclass
class Photos:
    """The photographs of one split: `read(item)` gives a path or encoded bytes for each item."""

    items: Sequence
    read: Callable[..., Path | bytes]
    fingerprint: str
    labels: Tensor | None = None


def celeba(root: Path, split: str) -> Photos:
    """CelebA through torchvision's loader (which compares the MD5 of its lists); labels are the 40
    attributes.

    Raises:
        InputError: the files are missing or damaged.
    """
    from torchvision.datasets import CelebA

    try:
        dataset = CelebA(str(root), split=split, target_type="attr", download=False)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"CelebA was not found in {root / 'celeba'} ({error}). Fetch img_align_celeba.zip and the "
            "files list_eval_partition.txt, identity_CelebA.txt, list_attr_celeba.txt, "
            "list_bbox_celeba.txt and list_landmarks_align_celeba.txt from "
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, put them there and unpack the archive "
            "there, or use a folder of images as `folder:PATH`. The environment variable CUNET_DATA moves "
            "the root."
        ) from error
    paths = [root / "celeba" / "img_align_celeba" / name for name in dataset.filename]
    return Photos(paths, Path, _fingerprint(root / "celeba", paths), dataset.attr)


def lsun_church(root: Path, split: str) -> Photos:
    """LSUN's outdoor churches from their LMDB files; the validation set serves as test.

    The values are read with `lmdb` itself and not with torchvision's `LSUN`, which pickles its list of keys
    into the working directory and later trusts any file of that name.

    Raises:
        InputError: the package or the files are missing.
    """
    part = {"train": "train", "test": "val"}[split]
    folder = root / f"church_outdoor_{part}_lmdb"
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise InputError(
            "LSUN Church is kept in LMDB files, and the package lmdb is not installed; run `pip install "
            "lmdb`."
        ) from error
    if not (folder / "data.mdb").is_file():
        raise InputError(
            f"LSUN Church was not found: {folder / 'data.mdb'} does not exist. Fetch "
            "church_outdoor_train_lmdb.zip and church_outdoor_val_lmdb.zip from "
            "http://dl.yf.io/lsun/scenes/ and unpack both there, or use a folder of images as "
            "`folder:PATH`. The environment variable CUNET_DATA moves the root."
        )
    _refuse_cut(folder / "data.mdb")
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise InputError(f"The LMDB file in {folder} cannot be opened ({error}); fetch it again.") from error
    with environment.begin() as transaction:
        keys = list(transaction.cursor().iternext(keys=True, values=False))

    def read(key: bytes) -> bytes:
        with environment.begin() as transaction:
            return transaction.get(key)

    return Photos(keys, read, _fingerprint(folder, [folder / "data.mdb"]))


def _refuse_cut(file: Path) -> None:
    """Raise InputError for an LMDB file that ends before its last page: reading there ends the process.

    Each of its first two pages (MDB_meta in LMDB's mdb.c) has the size of a page at byte 40, the number of
    the last page at 136 and that of the transaction at 144. The later transaction counts. Pages at the very
    end may never have been written, where they were given up at once: hence the `SPARE` ones.
    """
    size, page, found = file.stat().st_size, 0, []
    with file.open("rb") as stream:
        for _ in range(2):
            stream.seek(page)
            head = stream.read(152)
            page, last, transaction = (int.from_bytes(head[i:j], sys.byteorder) for i, j in META)
            found.append((transaction, (last + 1) * page))
    if size < max(found)[1] - SPARE * page:
        raise InputError(
            f"The LMDB file {file} is cut: it has {size} bytes, and its last page ends at byte "
            f"{max(found)[1]}. Fetch it again."
        )


def folder(root: Path, split: str) -> Photos:
    """Every image below a folder, in the order of the names.

    Sub-folders `train` and `test` are the splits where both exist; otherwise every tenth image is a test
    image.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise InputError(
            f"The folder of images {root} does not exist; give an existing one as `folder:PATH`."
        )
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    base = root / split if divided else root
    paths = sorted(file for file in base.rglob("*") if file.suffix.lower() in EXTENSIONS)
    if not divided:
        paths = [file for index, file in enumerate(paths) if (index % 10 == 9) == (split == "test")]
    if not paths:
        raise InputError(
            f"The folder {base} has no image for the split {split!r}; expected files ending in "
            f"{', '.join(EXTENSIONS)}: at least ten, or the sub-folders train and test with at least one "
            "each."
        )
    return Photos(paths, Path, _fingerprint(root, paths))


def decode(photos: Photos, image_size: int, cache: Path, name: str) -> Tensor:
    """Photographs as uint8 (N, 3, image_size, image_size), from the cache when they were decoded before."""
    file = cache / f"{name}-{image_size}-{photos.fingerprint[:16]}.safetensors"
    found = storage.kept(file)
    if found is not None:
        return found
    count = len(photos.items)
    folders.check_room(file, count * 3 * image_size**2)
    images = np.empty((count, 3, image_size, image_size), np.uint8)
    with ThreadPool(cores()) as pool:  # Pillow decodes without Python's lock
        squares = pool.imap(partial(_square, photos.read, image_size), photos.items, chunksize=16)
        for index, square in enumerate(tqdm(squares, total=count, desc=f"decoding {name}", unit="image")):
            images[index] = square
    storage.keep(file, torch.from_numpy(images))
    return torch.from_numpy(images)


def _square(read: Callable[..., Path | bytes], image_size: int, item: Path | bytes) -> np.ndarray:
    """Centred square of one photograph, upright and resized: uint8 (3, image_size, image_size)."""
    source = read(item)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        raise InputError(
            f"The image {item} cannot be read ({error}); remove it or fetch it again."
        ) from error
    return np.asarray(square).transpose(2, 0, 1)


def _fingerprint(root: Path, paths: list[Path]) -> str:
    """Changes when a file is added, removed, renamed, resized or written again."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    for file in paths:
        stat = file.stat() if file.exists() else None
        digest.update(f"{file.relative_to(root)} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()
