"""Executed notebooks as web pages that need no network and run no script.

Words are Markdown without raw HTML, formulas become MathML, code is coloured, pictures are inside the page.
HTML that a cell put out (a table, say) goes through a list of what is harmless. A page also carries a content
security policy under which a browser executes nothing and fetches nothing, whatever a notebook holds.
"""

import functools
import html
import json
import re
import struct
from base64 import b64decode
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

import bleach
import jinja2
from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from cunet.errors import InputError
from cunet.imports import IRI_GRAMMAR, hidden

with hidden(IRI_GRAMMAR):
    import nbformat

TEMPLATES = Path(__file__).resolve().parent / "assets" / "pages"
HARMLESS = set(
    "table thead tbody tfoot tr th td caption div span p pre code b i em strong br ul ol li".split()
)
ATTRIBUTES = {"*": ["class", "colspan", "rowspan", "scope"]}
FORMULA = set(
    "math mrow mi mn mo ms mtext mspace mstyle mpadded mphantom menclose mfrac msqrt mroot msub msup msubsup "
    "munder mover munderover mmultiscripts mprescripts none mtable mtr mtd".split()
)
FORMULA_ATTRIBUTES = set(
    "xmlns display displaystyle scriptlevel mathvariant mathsize mathcolor mathbackground stretchy "
    "symmetric fence separator form largeop movablelimits accent accentunder minsize maxsize lspace "
    "rspace width height depth voffset linethickness linebreak notation columnalign columnlines "
    "columnspacing rowlines rowspacing frame".split()
)
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LINK = re.compile(r"\[([^\]]*)\]\((\d\d_\w+)\.(?:py|ipynb)\)")  # in words, to another notebook


@functools.cache
def templates() -> jinja2.Environment:
    """The page templates; what is put into them is escaped unless it is Markup."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def read(path: Path) -> nbformat.NotebookNode:
    """An executed notebook; InputError if the file is damaged."""
    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The notebook {path} cannot be read: {reason}. Make its job again.") from None


def title(notebook: nbformat.NotebookNode, otherwise: str) -> str:
    """The text of the notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^# +(.+)$", cell.source, re.MULTILINE)):
            return re.sub(r"[*_`$]", "", found[1]).strip()
    return otherwise


def relinked(text: str, ending: str, jobs: Collection[str] | None = None) -> str:
    """Markdown whose links to notebooks, as in [06](06_sampling.py), lead to files of another ending.

    jobs: those that have such a file; a link to another is left as plain words. None: all have.
    """
    return LINK.sub(lambda m: f"[{m[1]}]({m[2]}.{ending})" if jobs is None or m[2] in jobs else m[1], text)


def page(notebook: nbformat.NotebookNode, name: str, smoke: bool, jobs: Collection[str] = ()) -> str:
    """An executed notebook as one HTML page. jobs: those with a page beside it, which links may lead to."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, "html", jobs)
    cells = [_cell(cell) for cell in notebook.cells]
    return (
        templates()
        .get_template("notebook.html")
        .render(title=title(notebook, name), name=name, cells=cells, smoke=smoke, style=style())
    )


def _cell(cell: nbformat.NotebookNode) -> dict[str, Any]:
    """A cell for the template: its kind, its source and its outputs as Markup."""
    if cell.cell_type == "markdown":
        return {"kind": "words", "source": markdown(cell.source), "outputs": [], "injected": False}
    source = Markup(highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True)))
    outputs = [shown for output in cell.get("outputs", []) if (shown := _output(output))]
    injected = "injected-parameters" in cell.metadata.get("tags", [])
    return {"kind": cell.cell_type, "source": source, "outputs": outputs, "injected": injected}


def _output(output: nbformat.NotebookNode) -> Markup:
    """One output of a cell: the richest form that is harmless."""
    if output.output_type == "stream":
        return _text(output.text, output.name)
    if output.output_type == "error":
        return _text("\n".join(output.traceback), "error")
    data = output.get("data", {})
    if "image/png" in data:
        return picture(re.sub(r"\s", "", data["image/png"]), "Output of the cell above")
    if "text/html" in data:
        return Markup('<div class="table">{}</div>').format(sanitised(data["text/html"]))
    if "text/markdown" in data:
        return Markup('<div class="words">{}</div>').format(markdown(data["text/markdown"]))
    if "text/latex" in data:
        return markdown(data["text/latex"])
    return _text(data["text/plain"], "result") if "text/plain" in data else Markup()


def _text(text: str, kind: str) -> Markup:
    """Plain text, without a terminal's colours; of a line rewritten by a progress bar, what it ended as."""
    lines = [line.rsplit("\r", 1)[-1] for line in ANSI.sub("", text).replace("\r\n", "\n").split("\n")]
    return Markup('<pre class="{}">{}</pre>').format(kind, "\n".join(lines).rstrip())


def picture(base64: str, alternative: str, scale: float = 1.0) -> Markup:
    """A PNG inside the page, `scale` page pixels for each of its own."""
    try:
        head = b64decode(base64, validate=True)[:24]
        width = struct.unpack(">I", head[16:20])[0] if head.startswith(b"\x89PNG") else 0
    except (ValueError, struct.error):
        width = 0
    if not width:
        return Markup("<p>(a damaged picture)</p>")
    return Markup('<img alt="{}" width="{}" src="data:image/png;base64,{}">').format(
        alternative, round(width * scale), base64
    )


def sanitised(text: str) -> Markup:
    """HTML without anything but tables, lists and text; what scripts and styles hold is dropped."""
    text = re.sub(r"<(script|style)\b.*?(</\1\s*>|$)", "", text, flags=re.IGNORECASE | re.DOTALL)
    return Markup(bleach.clean(text, tags=HARMLESS, attributes=ATTRIBUTES, strip=True, strip_comments=True))


@functools.cache
def _markdown() -> MarkdownIt:
    """Markdown with tables and formulas, without raw HTML, without pictures from elsewhere."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")
    parser.disable("image")
    parser.use(dollarmath_plugin, renderer=_formula, double_inline=True)
    return parser.use(amsmath_plugin, renderer=lambda text: _formula(text, {"display_mode": True}))


def markdown(text: str) -> Markup:
    """Markdown as HTML."""
    return Markup(_markdown().render(text))


def _formula(latex: str, options: dict) -> str:
    """A formula as MathML; as its LaTeX if that cannot be converted."""
    display = "block" if options.get("display_mode") else "inline"
    try:
        return mathml(Converter(display=display).convert_to_element(latex))
    except Exception:  # whatever the converter does not know
        return str(Markup("<code>{}</code>").format(latex))


def mathml(tree: Element) -> str:
    """A formula as HTML with its text escaped and without attributes that are no part of a formula.

    latex2mathml's own way to write its tree takes escapes back, so that a tag in \\text would be a tag of the
    page. Its symbols are character references in the text; they become what they stand for.

    Raises:
        ValueError: a tag that is no part of a formula.
    """
    for node in tree.iter():
        if node.tag not in FORMULA:
            raise ValueError(f"<{node.tag}> is no part of a formula")
        node.text = html.unescape(node.text or "")
        kept = {name: html.unescape(value) for name, value in node.items() if name in FORMULA_ATTRIBUTES}
        node.attrib.clear()
        node.attrib.update(kept)
    return tostring(tree, encoding="unicode", short_empty_elements=False)


@functools.cache
def style() -> Markup:
    """The pages' style sheet, the colours of code included."""
    light = HtmlFormatter(style="default").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    own = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return Markup(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}")


def as_text(value: Any) -> str:
    """A parameter or a setting as JSON writes it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
