"""Pictures as files: a user's own, read, denoised in overlapping tiles and written; samples, on a sheet.

What becomes of pictures that are not a plain 8-bit image of the network's size and kind:

    larger than the network's side    cut into tiles of that side which overlap, and are blended
    smaller                           mirrored at its edges up to that side, and cut back
    colour, network of grey images    each of the three channels is denoised as a grey image
    grey, network of colour images    shown to the network as three equal channels; their mean is taken
    turned by its EXIF data           turned upright
    transparent, but nowhere          read without its transparency
    palette, CMYK                     read as RGB
    really transparent, animated, 16 bits a channel, not PNG or JPEG    refused
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from . import folders
from .datasets import from_uint8, to_uint8
from .denoisers import SMALLEST, Denoiser
from .errors import InputError
from .photos import UNREADABLE
from .sampling import progress_bar, whole_numbers

FORMATS = ("PNG", "JPEG", "MPO")  # MPO: a camera's JPEG with a second picture behind the first


def read(path: str | Path) -> Tensor:
    """A PNG or JPEG as float32 (1, C, H, W) in [-1, 1]; C is 1 for grey pictures, else 3.

    Raises InputError where it cannot be read, or is animated, transparent or of 16 bits a channel.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            _refuse(image, data, path)
            grey = image.mode in ("1", "L", "LA")
            pixels = np.array(ImageOps.exif_transpose(image).convert("L" if grey else "RGB"))
    except InputError:
        raise
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"The picture {path} cannot be read ({reason}). Give an existing, whole PNG or JPEG file."
        ) from error
    return from_uint8(torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None])


def _refuse(image: Image.Image, data: bytes, path: Path) -> None:
    """Raise InputError for pictures that would be read as something else than they are."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{path} is animated, {image.n_frames} frames: save one frame as PNG and give that.")
    if image.format not in FORMATS:
        raise InputError(f"{path} is a {image.format} file: save it as PNG or JPEG and give that.")
    # Pillow cuts colour PNGs of 16 bits to 8 without a word; byte 24 of the file is their bit depth
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
        raise InputError(f"{path} has 16 bits a channel: save it with 8 bits and give that.")
    if "A" in image.getbands() or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            raise InputError(
                f"{path} is transparent in places, and what lies behind is not known: save it on a "
                "background, without transparency, and give that."
            )


def denoise(
    denoiser: Denoiser,
    picture: Tensor,
    noise_level: float,
    overlap: int | None = None,
    progress: bool = False,
) -> Tensor:
    """A noisy picture made clean.

    denoiser: of `cunet.denoisers`; its attributes `channels` and `side` say what it takes, None is any.
    picture: float (1, C, H, W) in [-1, 1], C of 1 or 3.    noise_level: standard deviation of its noise where
    black is 0 and white is 1, above 0, at most 1.
    overlap: pixels that tiles share, at least, below half a side; by default a quarter of it.

    Returns a tensor like picture. Raises InputError for arguments outside these ranges.
    """
    if not 0 < noise_level <= 1:
        raise InputError(
            f"The noise level {noise_level!r} cannot be used: expected the noise's standard deviation, above "
            "0 and at most 1, where black is 0 and white is 1 (divide by 255 if yours is in grey levels)."
        )
    noise_std = 2 * noise_level  # from black to white it is 2 in [-1, 1]
    planes = picture
    if denoiser.channels == 1:
        planes = picture.transpose(0, 1)  # channels become images
    elif denoiser.channels == 3:
        planes = picture.expand(-1, 3, -1, -1)
    clean = tiled(denoiser, planes, noise_std, denoiser.side, overlap, progress)
    if denoiser.channels == 1:
        clean = clean.transpose(0, 1)
    return clean if clean.shape == picture.shape else clean.mean(1, keepdim=True)


def tiled(
    denoiser: Denoiser,
    images: Tensor,
    noise_std: float,
    side: int | None,
    overlap: int | None = None,
    progress: bool = False,
    batch_size: int = 64,
) -> Tensor:
    """Denoise images of any size in square tiles, blended by weights that fall towards a tile's edge.

    images: float (N, C, H, W).    side: of a tile; None denoises every image as a whole.    overlap: see
    `denoise`.    batch_size: tiles a call.    Returns a tensor like images.
    """
    height, width = images.shape[-2:]
    least = side or SMALLEST
    margins = [(0, 0), (0, 0), (0, max(0, least - height)), (0, max(0, least - width))]
    images = torch.from_numpy(np.pad(images.numpy(), margins, mode="symmetric"))
    if side is None:
        return denoiser(images, noise_std)[..., :height, :width]
    overlap = side // 4 if overlap is None else overlap
    whole_numbers(overlap=(overlap, 0))
    if 2 * overlap >= side:
        raise InputError(f"overlap={overlap}: tiles of {side} pixels can share less than half of them.")
    rows, columns = (starts(length, side, overlap) for length in images.shape[-2:])
    places = [(i, top, left) for i in range(len(images)) for top in rows for left in columns]
    rise = (torch.arange(side) + 0.5).minimum(side - torch.arange(side) - 0.5).clamp(max=max(overlap, 0.5))
    window = rise[:, None] * rise[None, :]
    total, weights = torch.zeros_like(images), torch.zeros(images.shape[-2:])
    for top in rows:
        for left in columns:
            weights[top : top + side, left : left + side] += window
    with progress_bar(len(places), f"{len(places)} tiles", progress) as bar:
        for begin in range(0, len(places), batch_size):
            group = places[begin : begin + batch_size]
            tiles = torch.stack([images[i, :, y : y + side, x : x + side] for i, y, x in group])
            for (i, y, x), tile in zip(group, denoiser(tiles, noise_std), strict=True):
                total[i, :, y : y + side, x : x + side] += window * tile
            bar.update(len(group))
    return (total / weights)[..., :height, :width]


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis: evenly, from 0 to length - side, sharing `overlap` pixels or more."""
    count = 1 - (-(length - side) // (side - overlap))
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def write(path: str | Path, picture: Tensor) -> Path:
    """Save float (1, C, H, W) in [-1, 1] as an 8-bit PNG, all of it or nothing; the folder is made if needed.

    Returns the path.
    """
    path = Path(path)
    pixels = to_uint8(picture[0]).permute(1, 2, 0).numpy()
    with folders.replacing(path) as draft:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(draft, format="PNG")
    return path


def write_sheet(images: Tensor, out: Path, name: str) -> Path:
    """A PNG sheet of the first 64 images, and all as a uint8 NumPy array (N, H, W, C); each file all of it
    or nothing. images: float (N, C, H, W) in [-1, 1]. Returns the path of the sheet."""
    from torchvision.utils import save_image

    sheet, looks = out / f"{name}.png", {"nrow": 8, "normalize": True, "value_range": (-1, 1), "padding": 1}
    with folders.replacing(sheet.with_suffix(".npy")) as draft, open(draft, "wb") as stream:
        np.save(stream, to_uint8(images).permute(0, 2, 3, 1).numpy())
    with folders.replacing(sheet) as draft:
        save_image(images[:64], draft, format="PNG", **looks)
    return sheet
