"""What Sphinx reads for the site of a run, as text: notebooks with links, claims, results, modules.

Wherever a notebook names a claim (C16) or a part of the library (`cunet.ode.solve`) it gets a link, and each
claim's entry leads to its notebook and to the functions that this calls. In every function below `notebooks`
says of each job with a page which names of the library it uses, see `uses`. The page on other libraries is
assets/site/ecosystem.md, with the programs beside it.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

import cunet
from cunet import pages, paper, run_outputs, runs, scorecard
from cunet.claims import CLAIMS, Claim
from cunet.pages import nbformat  # imported there without what takes 2 s
from cunet.wording import BEYOND, cell, paper_place

PACKAGE = Path(__file__).resolve().parent
SHOWN = ("image/png", "text/html", "text/markdown", "text/latex", "text/plain")  # of what a cell put out
ROOM = re.compile(r"^ {4}(\S[^:\n]*): (.*(?:\n {8}.*)*)$", re.M)  # of the package's docstring
LEFT_OUT: set[str] = {"__init__", "__main__"}  # modules without a page
# what stays as it is when words get links: code, formulas, links
KEPT = re.compile(
    r"(```.*?```|``.+?``|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|\[[^\]]*\]\([^)]*\)|^#.*?$)", re.S | re.M
)

# ------------------------------------------------------------------------------------------- notebooks


def linked(
    notebook: nbformat.NotebookNode, title: str, used: Sequence[str], jobs: Collection[str] = ()
) -> None:
    """Give a notebook its title, links where it names claims and the library, and a list of what it uses; of
    what its cells put out, keep what runs nothing. jobs: with a page, which its own links may lead to."""
    named: set[str] = set()
    for part in notebook.cells:
        part.metadata.pop("papermill", None)
        for output in part.get("outputs", []):
            _disarm(output.get("data", {}))
        if part.cell_type == "markdown":
            part.source = with_links(pages.relinked(part.source, "ipynb", jobs))
            named |= set(re.findall(r"\[(C\d\d)\]\(#claim-", part.source))
    first = next((part for part in notebook.cells if part.cell_type == "markdown"), None)
    if first is not None:
        first.source = re.sub(r"^# .+$", lambda _: f"# {title}", first.source, count=1, flags=re.M)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    words = ["## See also"]
    if named:
        words.append("Claims: " + ", ".join(f"[{claim}](#{_anchor(claim)})" for claim in sorted(named)) + ".")
    if used:
        words.append("Of the library: " + _objects(used) + ".")
    words.append("All figures and tables of the run: {doc}`/results`.")
    notebook.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(words)))
    notebook.nbformat_minor = 5


def _disarm(data: dict[str, str]) -> None:
    """Leave of an output's forms those without scripts, and of its HTML what is harmless."""
    for kind in set(data) - set(SHOWN):
        del data[kind]
    if "text/html" in data:
        data["text/html"] = str(pages.sanitised(data["text/html"]))


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


def uses(code: Sequence[str]) -> list[str]:
    """The public names of the library that code calls or imports, such as "cunet.ode.solve", sorted.

    code: a text a cell; one that is no Python is passed over. Constants are left out.
    """
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
    return sorted(name for name in names if not name.split(".")[-1].isupper())


def _parsed(text: str) -> list[ast.stmt]:
    """The statements of a cell, without its magics; none if it is no Python."""
    try:
        return ast.parse(re.sub(r"^[%!].*$", "", text, flags=re.M)).body
    except SyntaxError:
        return []


def _objects(names: Sequence[str]) -> str:
    """Links to names of the library, in a row."""
    return ", ".join(f"{{py:obj}}`{name}`" for name in names)


# ---------------------------------------------------------------------------------------------- claims


def _anchor(claim: str) -> str:
    return f"claim-{claim.lower()}"


def claims_page(card: pd.DataFrame, notebooks: Mapping[str, Sequence[str]]) -> str:
    """Every claim of the paper: what it says, all that was measured, where, and with which functions.

    card: the run's scorecard, see `run_outputs.card`.
    """
    verdicts = {claim: scorecard.UNMEASURED for claim in CLAIMS} | scorecard.overall(card).to_dict()
    text = ["# Claims", "What the paper claims, what this run measured, and where.", ""]
    text += ["| | claim | verdict |", "|---|---|---|"]
    for claim in CLAIMS.values():
        text.append(
            f"| [{claim.id}](#{_anchor(claim.id)}) | {cell(claim.text)} | {cell(verdicts[claim.id])} |"
        )
    rows = card.to_dict("records")
    for claim in CLAIMS.values():
        own = [row for row in rows if row["id"] == claim.id]
        text += _claim(claim, own, verdicts[claim.id], notebooks)
    text += _beyond([row for row in rows if row["verdict"] == scorecard.BEYOND], notebooks)
    return "\n".join(text) + "\n"


def _claim(
    claim: Claim, rows: Sequence[dict[str, str]], verdict: str, notebooks: Mapping[str, Sequence[str]]
) -> list[str]:
    """The lines of one claim. rows: of the scorecard."""
    text = ["", f"({_anchor(claim.id)})=", f"## {claim.id}", "", f"{claim.text}.".replace("..", "."), ""]
    text.append(f"- **The paper** ({claim.place}): {claim.paper}")
    for row in rows:
        if row["measured"] != "-":
            facts = ", ".join(row[key] for key in ("dataset", "size") if row[key] != "-")
            where = f" ({facts})" if facts else ""
            text.append(f"- **Measured**: {row['measured']}{where}: {row['verdict']}")
    text.append(f"- **Verdict**: {verdict}")
    for job in dict.fromkeys(row["notebook"] for row in rows if row["notebook"] in notebooks):
        text.append(f"- **Notebook**: {{doc}}`/notebooks/{job}`")
        if notebooks[job]:
            text.append(f"- **Functions** that this notebook calls: {_objects(notebooks[job])}")
    return text


def _beyond(rows: Sequence[dict[str, str]], notebooks: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines about what the paper does not claim, none if nothing was asked. rows: of the scorecard."""
    if not rows:
        return []
    text = ["", f"## {BEYOND}", ""]
    text += ["| question | measured | spread | notebook |", "|---|---|---|---|"]
    for row in rows:
        where = f"{{doc}}`/notebooks/{row['notebook']}`" if row["notebook"] in notebooks else "-"
        cells = (*(cell(row[key]) for key in ("claim", "measured", "spread")), where)
        text.append("| " + " | ".join(cells) + " |")
    return text


# --------------------------------------------------------------------------------- results, library, index


def outputs_page(
    run_dir: Path, results: Mapping[str, dict], notebooks: Mapping[str, Sequence[str]], source: Path
) -> str:
    """Each figure and table with its caption, the paper's own first, under the paper's numbers.

    source: Sphinx's folder; the pictures are copied into its folder `figures`.
    Raises InputError if a file of the run is missing or damaged.
    """
    found = []
    for job, result in results.items():
        for kind in ("figures", "tables"):
            found += [(name, kind, caption, job) for name, caption in result["outputs"][kind].items()]
    found = sorted(item for item in found if item[0] != runs.SCORECARD)
    parts: dict[str, list[str]] = {"The paper's figures and tables": [], BEYOND: []}
    own = next(iter(parts))
    for name, kind, caption, job in found:
        place = paper_place(name)
        slug = re.sub(r"^(fig\d+[a-z]?|tab\d+[a-z]?|ext)_", "", name).replace("_", " ")
        beyond = place == BEYOND
        head = slug.capitalize() if beyond else f"{place.removesuffix(' of the paper')}: {slug}"
        where = f"From {{doc}}`/notebooks/{job}`." if job in notebooks else ""
        shown = (
            _figure(run_outputs.picture(run_dir, name), caption, source)
            if kind == "figures"
            else f"{caption}\n\n{run_outputs.markdown_table(run_dir, name)}"
        )
        parts[place if beyond else own] += [f"### {head}", "", shown, "", where, ""]
    text = ["# Figures and tables", ""]
    for head, items in parts.items():
        text += [f"## {head}", "", *(items or ["None in this run.", ""])]
    return "\n".join(text)


def _figure(picture: Path, caption: str, source: Path) -> str:
    """A figure's Markdown; copies its picture."""
    (source / "figures").mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, source / "figures")
    alternative = re.sub(r"\s+", " ", caption) or picture.stem
    return f":::{{figure}} /figures/{picture.name}\n:alt: {alternative}\n\n{caption}\n:::"


def module_pages() -> dict[str, str]:
    """The pages of the library by name: one a module, from its docstrings, and `index`, which lists them by
    what they are about, each with the first line of its docstring."""
    names = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in LEFT_OUT)
    text = {
        name: f"# `cunet.{name}`\n\n```{{eval-rst}}\n.. automodule:: cunet.{name}\n   :members:\n```\n"
        for name in names
    }
    index, by_room = ["# The library", "One page a module."], rooms()
    further = sorted(set(names) - {name for listed in by_room.values() for name in listed})
    for room, listed in (by_room | {"Others": further}).items():
        if here := [name for name in listed if name in names]:
            table = ["| module | |", "|---|---|"]
            table += [f"| {{doc}}`{name}` | {cell(_first_line(PACKAGE / f'{name}.py'))} |" for name in here]
            tree = ["```{toctree}", ":hidden:", "", *here, "```"]
            index += [f"## {room}", "\n".join(table), "\n".join(tree)]
    return text | {"index": "\n\n".join(index) + "\n"}


def rooms() -> dict[str, list[str]]:
    """The modules of the library by what they are about, as the package's docstring lists them."""
    return {room: re.findall(r"\w+", listed) for room, listed in ROOM.findall(cunet.__doc__)}


def ecosystem_page(assets: Path) -> str:
    """The page on other libraries, where the name of a program stands in it with the program in its place.

    assets: the folder of `ecosystem.md`.
    """
    return re.sub(
        r"^snippets/\w+\.py$",
        lambda m: (assets / m[0]).read_text(encoding="utf-8").rstrip(),
        (assets / "ecosystem.md").read_text(encoding="utf-8"),
        flags=re.M,
    )


def _first_line(path: Path) -> str:
    """The first line of a module's docstring; empty if it has none."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def index_page(
    run: str, results: Mapping[str, dict], card: pd.DataFrame, notebooks: Mapping[str, Sequence[str]]
) -> str:
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
    text += ["```{toctree}", ":caption: Library", ":maxdepth: 1", "", "library/index", "ecosystem", "```", ""]
    return "\n".join(text)
