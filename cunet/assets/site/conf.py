"""Sphinx's settings for the site; `cunet.site` copies this file beside the pages that it writes."""

import json
from pathlib import Path

from cunet import docstrings

_site = json.loads(Path(__file__).with_name("site.json").read_text(encoding="utf-8"))

project = "The Missing U, rebuilt"
author = "the authors of this repository"
release = _site["release"]
language = "en"
highlight_language = "none"  # of indented lines in docstrings; cells say what they are
smartquotes = False
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]

# notebooks are shown as they were executed, never run again
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_ipywidgets_js = {}  # would come from a CDN
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_disable_syntax = ["html_block", "html_inline"]  # tags in words are text; docutils.conf has the rest
myst_dmath_double_inline = True
myst_update_mathjax = True
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

# one file, from a package: no CDN, no fonts to load
mathjax_path = "mathjax/tex-svg-full.js"
# without TeX's commands for links, styles and further files: a formula of a notebook runs nothing
mathjax3_config = {
    "options": {"enableMenu": False},
    "svg": {"fontCache": "global"},
    "tex": {"packages": {"[-]": ["html", "require", "autoload"]}},
}

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
default_role = "py:obj"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"{project}: run {_site['run']}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"announcement": _site["announcement"]} if _site["announcement"] else {}
pygments_style = "default"
pygments_dark_style = "github-dark"


def _docstring(app, what, name, obj, options, lines):
    """Before napoleon sees them: our docstrings are plain words."""
    lines[:] = docstrings.to_rst(lines)


def _skip(app, what, name, obj, skip, options):
    """The fields of a named tuple carry a docstring that says nothing."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-skip-member", _skip)
