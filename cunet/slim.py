"""Executed notebooks and pictures in fewer bytes, for what git has to carry."""

import base64
import io
import json

from PIL import Image

from cunet import pages
from cunet.errors import InputError
from cunet.pages import nbformat  # imported there without what takes 2 s

LIMIT = 500_000  # bytes of an executed notebook
COLOURS = 256  # that a palette holds
# in a notebook above the limit: colours of all its pictures, and pixels that none is made narrower than; the
# second where the first was not enough. The run's folder of figures has them whole
STAGES = ((COLOURS, 500), (32, 240))
PICTURE = "image/png"
KEPT = {PICTURE, "text/html", "text/markdown", "text/latex", "text/plain"}  # what pages show of an output


def notebook_text(content: nbformat.NotebookNode, name: str, limit: int = LIMIT) -> str:
    """An executed notebook as text of at most `limit` bytes.

    What no page shows is left out: other forms of an output, papermill's times. If that is not enough, its
    pictures get a palette and then the largest of them fewer pixels, in `STAGES`. Links to other notebooks
    lead to the executed ones beside it.

    Raises:
        InputError: it stays too large; the message names the cells whose outputs are the largest.
    """
    content.metadata.pop("papermill", None)
    for cell in content.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "markdown":
            cell.source = pages.relinked(cell.source, "ipynb")
    for data in _outputs(content):
        for kind in data.keys() - KEPT:
            del data[kind]
        if PICTURE in data:
            data[PICTURE] = _recoded(data[PICTURE])
    text = nbformat.writes(content) + "\n"
    for colours, narrowest in STAGES:
        if len(text.encode()) > limit:
            for data in _outputs(content, PICTURE):
                data[PICTURE] = _recoded(data[PICTURE], colours)
            text = nbformat.writes(content) + "\n"
        while len(text.encode()) > limit and _shrink(content, colours, narrowest):
            text = nbformat.writes(content) + "\n"
    if len(text.encode()) > limit:
        raise InputError(_too_large(content, name, len(text.encode()), limit))
    return text


def smaller(picture: bytes, colours: int = 0, scale: float = 1.0) -> bytes:
    """A PNG in fewer bytes, on white; with `colours` = 0 and `scale` = 1 no visible pixel changes.

    colours: of a palette, up to 256; 0 keeps all. scale: of both sides. Returns the bytes that came in if
    those are fewer and nothing was to be scaled.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if scale != 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    few = image.getcolors(COLOURS)
    if few or colours:
        image = image.quantize(min(colours or COLOURS, COLOURS), Image.Quantize.MEDIANCUT, dither=0)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue() if scale != 1 or len(stream.getvalue()) < len(picture) else picture


def _recoded(text: str, colours: int = 0, scale: float = 1.0) -> str:
    """`smaller` of a picture as a notebook holds it."""
    return base64.b64encode(smaller(base64.b64decode(text), colours, scale)).decode()


def _outputs(content: nbformat.NotebookNode, kind: str = "text/plain") -> list[dict]:
    """The data of each output that has a form of that kind, or a picture."""
    found = [
        output.data
        for cell in content.cells
        for output in cell.get("outputs", ())
        if output.output_type in ("display_data", "execute_result")
    ]
    return [data for data in found if kind in data or PICTURE in data]


def _shrink(content: nbformat.NotebookNode, colours: int, narrowest: int) -> bool:
    """Make the largest picture that may become narrower so; False if there is none."""
    for data in sorted(_outputs(content, PICTURE), key=lambda data: -len(data[PICTURE])):
        width = Image.open(io.BytesIO(base64.b64decode(data[PICTURE]))).width
        if width > narrowest:
            data[PICTURE] = _recoded(data[PICTURE], colours, max(0.8, narrowest / width))
            return True
    return False


def _too_large(content: nbformat.NotebookNode, name: str, size: int, limit: int) -> str:
    """What to say of a notebook that stays too large."""
    sizes = {
        i: sum(len(json.dumps(output)) for output in cell.get("outputs", ()))
        for i, cell in enumerate(content.cells, 1)
    }
    worst = sorted(sizes, key=lambda i: -sizes[i])[:3]
    where = ", ".join(f"cell {i} ({sizes[i] / 1000:.0f} kB)" for i in worst)
    return (
        f"{name} has {size / 1000:.0f} kB, and at most {limit / 1000:.0f} kB may be committed, though its "
        f"pictures were made smaller already. Its largest outputs are those of {where}: show less there."
    )
