"""`make site`: a run as a web site that needs no network: its notebooks, results and claims, and the library.

Sphinx and myst-nb turn the notebooks into pages as they were executed; nothing runs again. From a run's files
this module writes what Sphinx reads: a page of figures and tables under the paper's own numbers, a page of
claims, one page a module. Wherever a notebook names a claim (C16) or a part of the library
(`cunet.ode.solve`) the site has a link, and each claim's entry leads to its notebook and to the functions
that this calls.
"""

import argparse
import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from cunet import folders, pages, paper, report, runs, scorecard
from cunet.claims import CLAIMS
from cunet.errors import InputError, command
from cunet.pages import nbformat  # imported there without what takes 2 s

ASSETS = Path(__file__).resolve().parent / "assets" / "site"
PACKAGE = Path(__file__).resolve().parent
MATHJAX = "tex-svg-full.js"  # formulas as SVG: one file, no fonts
LEFT_OUT: set[str] = {"__init__", "__main__"}  # modules without a page
SMOKE = "Smoke run: its numbers mean nothing."
# what stays as it is when words get links: code, formulas, links
KEPT = re.compile(
    r"(```.*?```|``.+?``|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\[[^\]]*\]\([^)]*\)|^#.*?$)", re.S | re.M
)


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
    results = runs.results(run_dir)
    if not results:
        raise InputError(f"{folders.shown(run_dir)} has no results to show: run `cunet reproduce` first.")
    shutil.copytree(ASSETS, source, ignore=shutil.ignore_patterns("__pycache__", "*.css"))
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
    card = _claims(run_dir)
    _write(source / "claims.md", claims_page(card, notebooks))
    _write(source / "results.md", _results_page(run_dir, results, notebooks, source))
    _modules(source)
    _write(source / "index.md", index_page(run_dir.name, results, card, notebooks))


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


# ------------------------------------------------------------------------------------------- notebooks


def _notebooks(run_dir: Path, results: dict[str, dict], source: Path) -> dict[str, list[str]]:
    """Write the page of each executed notebook; returns what each uses of the library, by job."""
    used: dict[str, list[str]] = {}
    found = {job: run_dir / "executed" / f"{job}.ipynb" for job in results}
    read = {job: pages.read(path) for job, path in found.items() if path.is_file()}
    titles = {job: pages.title(notebook, job) for job, notebook in read.items()}
    for job, notebook in read.items():
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        used[job] = uses(code)
        twins = list(titles.values()).count(titles[job]) > 1
        linked(notebook, titles[job] + (": " + job.partition("-")[2] if twins else ""), used[job])
        _write(source / "notebooks" / f"{job}.ipynb", nbformat.writes(notebook))
    return used


def linked(notebook: nbformat.NotebookNode, title: str, used: list[str]) -> None:
    """Give a notebook its title, links where it names claims and the library, and a list of what it uses."""
    named: set[str] = set()
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            cell.source = with_links(cell.source)
            named |= set(re.findall(r"\[(C\d\d)\]\(#claim-", cell.source))
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if first is not None:
        first.source = re.sub(r"^# .+$", lambda _: f"# {title}", first.source, count=1, flags=re.M)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    words = ["## See also"]
    if named:
        words.append("Claims: " + ", ".join(f"[{claim}](#{_anchor(claim)})" for claim in sorted(named)) + ".")
    if used:
        words.append("Of the library: " + ", ".join(f"{{py:obj}}`{name}`" for name in used) + ".")
    words.append("All figures and tables of the run: {doc}`/results`.")
    notebook.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(words)))
    notebook.nbformat_minor = 5


def with_links(text: str) -> str:
    """Markdown with a link at each claim's name, and at each name of the library in backticks."""
    parts = KEPT.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(
                r"\bC\d\d\b", lambda m: f"[{m[0]}](#{_anchor(m[0])})" if m[0] in CLAIMS else m[0], part
            )
        elif re.fullmatch(r"`cunet(\.\w+)+`", part):
            parts[i] = "{py:obj}" + part
    return "".join(parts)


def uses(code: list[str]) -> list[str]:
    """The public names of the library that code calls or imports, such as "cunet.ode.solve", sorted."""
    tree = ast.Module([node for text in code for node in _parsed(text)], [])
    here: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cunet":
            here |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    names = {full for full in here.values() if full.removeprefix("cunet.") not in modules}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in here:
            owner = here[node.value.id]
            if owner.removeprefix("cunet.") in modules:
                names.add(f"{owner}.{node.attr}")
    return sorted(
        name for name in names if name.split(".")[-1].islower() or not name.split(".")[-1].isupper()
    )


def _parsed(text: str) -> list[ast.stmt]:
    """The statements of a cell, without its magics; none if it is no Python."""
    try:
        return ast.parse(re.sub(r"^[%!].*$", "", text, flags=re.M)).body
    except SyntaxError:
        return []


# --------------------------------------------------------------------------------------- pages of our own


def _anchor(claim: str) -> str:
    return f"claim-{claim.lower()}"


def _claims(run_dir: Path) -> pd.DataFrame:
    """The run's scorecard, a row a measurement, all text; without rows where the run has none."""
    path = run_dir / "scorecard.csv"
    if not path.is_file():
        return pd.DataFrame(columns=scorecard.COLUMNS)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def claims_page(card: pd.DataFrame, notebooks: dict[str, list[str]]) -> str:
    """Every claim of the paper: what it says, all that was measured, where, and with which functions."""
    overall = scorecard.overall(card)
    text = ["# Claims", "What the paper claims, what this run measured, and where.", ""]
    text += ["| | claim | verdict |", "|---|---|---|"]
    for claim in CLAIMS.values():
        verdict = overall.get(claim.id, scorecard.UNMEASURED)
        text.append(f"| [{claim.id}](#{_anchor(claim.id)}) | {_cell(claim.text)} | {_cell(verdict)} |")
    for claim in CLAIMS.values():
        rows = [row for row in card.to_dict("records") if row["id"] == claim.id]
        text += [
            "",
            f"({_anchor(claim.id)})=",
            f"## {claim.id}",
            "",
            f"{claim.text}.".replace("..", "."),
            "",
        ]
        text += [f"- **The paper** ({claim.place}): {claim.paper}"]
        for row in rows:
            if row["measured"] != "-":
                facts = ", ".join(row[key] for key in ("dataset", "size") if row[key] != "-")
                where = f" ({facts})" if facts else ""
                text.append(f"- **Measured**: {row['measured']}{where}: {row['verdict']}")
        text.append(f"- **Verdict**: {overall.get(claim.id, scorecard.UNMEASURED)}")
        for job in dict.fromkeys(row["notebook"] for row in rows if row["notebook"] in notebooks):
            text.append(f"- **Notebook**: {{doc}}`/notebooks/{job}`")
            if notebooks[job]:
                names = ", ".join(f"{{py:obj}}`{name}`" for name in notebooks[job])
                text.append(f"- **Functions** that this notebook calls: {names}")
    further = card[card["verdict"] == scorecard.BEYOND]
    if len(further):
        text += [
            "",
            "## Beyond the paper",
            "",
            "| question | measured | spread | notebook |",
            "|---|---|---|---|",
        ]
        for row in further.to_dict("records"):
            where = f"{{doc}}`/notebooks/{row['notebook']}`" if row["notebook"] in notebooks else "-"
            cells = (*(_cell(row[key]) for key in ("claim", "measured", "spread")), where)
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _results_page(run_dir: Path, results: dict, notebooks: dict, source: Path) -> str:
    """Each figure and table with its caption, the paper's own first, under the paper's numbers."""
    found = []
    for job, result in results.items():
        for kind in ("figures", "tables"):
            found += [(name, kind, caption, job) for name, caption in result["outputs"][kind].items()]
    found = sorted(item for item in found if item[0] != runs.SCORECARD)
    parts = {"The paper's figures and tables": [], "Beyond the paper": []}
    for name, kind, caption, job in found:
        beyond = report.place(name) == "Beyond the paper"
        slug = re.sub(r"^(fig\d+[a-z]?|tab\d+[a-z]?|ext)_", "", name).replace("_", " ")
        head = slug.capitalize() if beyond else f"{report.place(name).removesuffix(' of the paper')}: {slug}"
        where = f"From {{doc}}`/notebooks/{job}`." if job in notebooks else ""
        show = _figure if kind == "figures" else _table
        item = [f"### {head}", "", show(run_dir, name, caption, source), "", where, ""]
        parts[list(parts)[beyond]] += item
    text = ["# Figures and tables", ""]
    for head, items in parts.items():
        text += [f"## {head}", "", *(items or ["None in this run.", ""])]
    return "\n".join(text)


def _figure(run_dir: Path, name: str, caption: str, source: Path) -> str:
    """A figure's Markdown; copies its picture."""
    picture = run_dir / "figures" / f"{folders.check_name(name, 'figure')}.png"
    if not picture.is_file():
        raise InputError(f"{folders.shown(picture)} is missing. Make its job again.")
    (source / "figures").mkdir(exist_ok=True)
    shutil.copy(picture, source / "figures")
    alternative = re.sub(r"\s+", " ", caption) or name
    return f":::{{figure}} /figures/{picture.name}\n:alt: {alternative}\n\n{caption}\n:::"


def _table(run_dir: Path, name: str, caption: str, source: Path) -> str:
    """A table's Markdown, as the run left it."""
    path = run_dir / "tables" / f"{folders.check_name(name, 'table')}.md"
    try:
        return f"{caption}\n\n{path.read_text(encoding='utf-8')}"
    except OSError:
        raise InputError(f"{folders.shown(path)} is missing. Make its job again.") from None


def _modules(source: Path) -> None:
    """One page a module of the library, from its docstrings."""
    names = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in LEFT_OUT)
    for name in names:
        page = f"# `cunet.{name}`\n\n```{{eval-rst}}\n.. automodule:: cunet.{name}\n   :members:\n```\n"
        _write(source / "library" / f"{name}.md", page)
    listed = "\n".join(names)
    text = f"# The library\n\nOne page a module.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    _write(source / "library" / "index.md", text)


def index_page(run: str, results: dict, card: pd.DataFrame, notebooks: dict[str, list[str]]) -> str:
    """The first page: what this is, how the claims fared, and the way to everything else."""
    profiles = ", ".join(sorted({result["profile"] for result in results.values()}))
    counts = ", ".join(f"{n} {verdict}" for verdict, n in scorecard.counts(card).items() if n)
    text = [
        "# The Missing U, rebuilt",
        f"*{paper.TITLE}*, reproduced notebook by notebook: a denoising diffusion model whose network is a",
        "continuous U-Net, built from blocks that solve a second-order neural ODE, against the usual U-Net.",
        "",
        f"These pages show the run **{run}** (profile {profiles}): its notebooks as they were executed,",
        "its figures and tables under the paper's own numbers, and each claim of the paper with what was",
        "measured.",
        "",
    ]
    if counts:
        text += [f"**The claims**: {counts}. {{doc}}`Each with its notebook <claims>`.", ""]
    entries = "\n".join(f"notebooks/{job}" for job in sorted(notebooks))
    text += ["```{toctree}", ":caption: Results", ":maxdepth: 1", "", "claims", "results", "```", ""]
    text += ["```{toctree}", ":caption: Notebooks", ":maxdepth: 1", "", entries, "```", ""]
    text += ["```{toctree}", ":caption: Library", ":maxdepth: 1", "", "library/index", "```", ""]
    return "\n".join(text)


# ---------------------------------------------------------------------------------------------- Sphinx


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
