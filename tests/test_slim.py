"""Notebooks and pictures in fewer bytes: what is seen stays, and what cannot be made small is refused."""

import base64
import io

import nbformat
import numpy as np
import pytest
from PIL import Image

from cunet import slim
from cunet.errors import InputError


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def noise(side: int = 600, values: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, values, (side, side, 3), dtype=np.uint8)


def notebook(*outputs: dict) -> nbformat.NotebookNode:
    shown = [nbformat.v4.new_output("display_data", data=data) for data in outputs]
    cells = [nbformat.v4.new_markdown_cell("# Words"), nbformat.v4.new_code_cell("x", outputs=shown)]
    content = nbformat.v4.new_notebook(cells=cells)
    content.metadata["papermill"] = {"start_time": "now"}
    return content


def encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_a_picture_of_few_colours_or_many_keeps_every_pixel():
    for drawn in (noise(40, 2), noise(40)):
        assert (pixels(slim.smaller(png(drawn))) == drawn).all()
    assert len(slim.smaller(png(noise(40, 2)))) < len(png(noise(40, 2))) / 4


def test_what_is_transparent_becomes_white():
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    assert (pixels(slim.smaller(png(clear))) == 255).all()


def test_a_palette_comes_near_the_colours():
    ramp = np.stack([np.tile(np.arange(256, dtype=np.uint8), (64, 1))] * 3, -1)
    ramp[..., 1] //= 2
    ramp[32:, :, 2] = 40
    assert np.abs(pixels(slim.smaller(png(ramp), colours=256)) - ramp).mean() < 3


def test_a_notebook_keeps_what_pages_show_and_loses_the_rest():
    data = {"image/png": encoded(png(noise(20, 2))), "image/svg+xml": "<svg/>", "text/plain": "<Figure>"}
    content = nbformat.reads(slim.notebook_text(notebook(data), "a"), as_version=4)
    (output,) = content.cells[1].outputs
    assert output.data.keys() == {"image/png", "text/plain"} and "papermill" not in content.metadata
    assert (pixels(base64.b64decode(output.data["image/png"])) == noise(20, 2)).all()


def test_links_to_other_notebooks_lead_to_the_executed_ones():
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("See [06](06_sampling.py).")])
    (cell,) = nbformat.reads(slim.notebook_text(content, "a"), as_version=4).cells
    assert cell.source == "See [06](06_sampling.ipynb)."


def test_above_the_limit_pictures_get_fewer_colours_then_fewer_pixels_and_none_is_dropped():
    large, small = noise(900), noise(60, 2)
    data = [{"image/png": encoded(png(picture))} for picture in (large, small)]
    text = slim.notebook_text(notebook(*data), "a", limit=400_000)
    assert len(text.encode()) <= 400_000
    first, second = (
        base64.b64decode(o.data["image/png"]) for o in nbformat.reads(text, as_version=4).cells[1].outputs
    )
    assert slim.STAGES[0][1] <= pixels(first).shape[1] < 900 and (pixels(second) == small).all()


def test_what_stays_too_large_is_refused_with_the_cells_that_make_it_so():
    with pytest.raises(
        InputError, match=r"executed/a.ipynb has \d+ kB, and at most 100 kB .*cell 2 \(\d+ kB\)"
    ):
        slim.notebook_text(notebook({"text/html": "x" * 200_000}), "executed/a.ipynb", limit=100_000)


def test_where_that_is_not_enough_they_get_smaller_still():
    text = slim.notebook_text(notebook({"image/png": encoded(png(noise(900)))}), "a", limit=100_000)
    (output,) = nbformat.reads(text, as_version=4).cells[1].outputs
    picture = pixels(base64.b64decode(output.data["image/png"]))
    colours, narrowest = slim.STAGES[1]
    assert narrowest <= picture.shape[1] < slim.STAGES[0][1]
    assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[-1]).tolist()}) <= colours
