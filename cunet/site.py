"""`make site`: a run as a web site that needs no network: its notebooks, results and claims, and the library.

Sphinx and myst-nb turn the notebooks into pages as they were executed; nothing runs again. From a run's files
this module writes what Sphinx reads, see `cunet.site_pages`: a page of figures and tables under the paper's
own numbers, a page of claims, one page a module.
"""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cunet import folders, pages, run_outputs, runs, site_pages
from cunet.errors import InputError, command
from cunet.pages import nbformat  # imported there without what takes 2 s

ASSETS = Path(__file__).resolve().parent / "assets" / "site"
MATHJAX = "tex-svg-full.js"  # formulas as SVG: one file, no fonts
SMOKE = "Smoke run: its numbers mean nothing."


def build(run_dir: str | Path, target: str | Path) -> Path:
    """Make the site of a run.

    Arguments:
        run_dir: the run's folder, see `cunet.folders.resolve`.
        target: folder of the site; made anew if it holds an earlier one.

    Returns:
        Path of the site's index.html.

    Raises:
        InputError: the run has no results or a damaged file, `target` holds something else, or Sphinx failed.
    """
    run_dir, target = folders.resolve(run_dir), Path(target)
    if target.exists() and any(target.iterdir()) and not (target / "objects.inv").is_file():
        raise InputError(f"{target} holds something that is not a site: name another folder for the pages.")
    with tempfile.TemporaryDirectory(prefix="cunet-site-") as work:
        source, html = Path(work) / "source", Path(work) / "html"
        write_source(run_dir, source)
        _sphinx(source, html)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(html, target, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo*"))
    return target / "index.html"


def write_source(run_dir: Path, source: Path) -> None:
    """Write everything that Sphinx reads."""
    results = run_outputs.results(run_dir)
    if not results:
        raise InputError(f"{folders.shown(run_dir)} has no results to show: run `cunet reproduce` first.")
    shutil.copytree(ASSETS, source, ignore=shutil.ignore_patterns("__pycache__", "*.css", "snippets"))
    (source / "_static" / "mathjax").mkdir(parents=True)
    shutil.copy(ASSETS / "site.css", source / "_static")
    shutil.copy(mathjax(), source / "_static" / "mathjax")
    smoke = any(result["profile"] == runs.SMOKE for result in results.values())
    settings = {
        "run": run_dir.name,
        "release": importlib.metadata.version("cunet"),
        "announcement": SMOKE if smoke else "",
    }
    (source / "site.json").write_text(json.dumps(settings), encoding="utf-8")
    notebooks = _notebooks(run_dir, results, source)
    card = run_outputs.card(run_dir)
    written = {
        "claims": site_pages.claims_page(card, notebooks),
        "results": site_pages.outputs_page(run_dir, results, notebooks, source),
        "index": site_pages.index_page(run_dir.name, results, card, notebooks),
        "ecosystem": site_pages.ecosystem_page(ASSETS),
    }
    written |= {f"library/{name}": text for name, text in site_pages.module_pages().items()}
    for name, text in written.items():
        _write(source / f"{name}.md", text)


def _notebooks(run_dir: Path, results: dict[str, dict], source: Path) -> dict[str, list[str]]:
    """Write the page of each executed notebook; returns what each uses of the library, by job."""
    read = dict(run_outputs.notebooks(run_dir, results))
    titles = run_outputs.told_apart({job: pages.title(notebook, job) for job, notebook in read.items()})
    used = {}
    for job, notebook in read.items():
        used[job] = site_pages.uses([cell.source for cell in notebook.cells if cell.cell_type == "code"])
        site_pages.linked(notebook, titles[job], used[job], read)
        _write(source / "notebooks" / f"{job}.ipynb", nbformat.writes(notebook))
    return used


def mathjax() -> Path:
    """MathJax's file in the package that brings it."""
    for file in importlib.metadata.files("sphinx-mathjax-offline") or []:
        if file.name == MATHJAX:
            return Path(file.locate())
    raise InputError(
        "MathJax is not installed: call `make site`, which installs it, or pip install '.[site]'."
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _sphinx(source: Path, html: Path) -> None:
    """Run Sphinx; its warnings go to stderr, its failure becomes an InputError."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", str(source), str(html)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stderr.replace(str(source), "")
    if done.returncode:
        tail = "\n".join(said.strip().splitlines()[-8:])
        raise InputError(f"Sphinx failed on the pages of this run; it ends with:\n{tail}")
    print(said, end="", file=sys.stderr)


@command
def main() -> int:
    """`python -m cunet.site RUN [FOLDER]`: RUN is a folder, or the name of a run."""
    parser = argparse.ArgumentParser(prog="python -m cunet.site", description="A run as a web site.")
    parser.add_argument("run", help="a run's folder, or its name")
    parser.add_argument("folder", nargs="?", default="site", help="where to put the site (default: site)")
    given = parser.parse_args()
    path = build(folders.find(given.run), given.folder)
    print(f"Site: open {folders.shown(path)}, or put {folders.shown(path.parent)} on any web server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
