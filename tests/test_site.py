"""The site of a run: everything inside it, links from claim to notebook to function, nothing from outside."""

import re
import runpy
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
import torch
from conftest import ROOT
from matplotlib.figure import Figure

from cunet import checkpoints, docstrings, models, runs, scorecard, site, site_pages
from cunet.claims import CLAIMS
from cunet.errors import InputError

CODE = "from cunet import checkpoints, errors\nfrom cunet.docstrings import to_rst\nerrors.InputError"
WORDS = """\
# 04 · The networks

**Claims:** C01, with `C02` and $C03$ as they are. The exception is `cunet.errors.InputError`.

$$\\frac{dx}{ds} = v \\tag{4}$$
"""
EVIL = """\
An <img src=x onerror=alert(1)> and [a link](javascript:alert(1)).

<script>alert(1)</script>

```{raw} html
<script>alert(1)</script>
```

```{eval-rst}
.. raw:: html

   <script>alert(1)</script>
```
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of a run with one notebook, one figure, one table, a scorecard; of the library two modules."""
    folder = tmp_path_factory.mktemp("r")
    run = runs.Run(folder / "mine", "04_networks", "smoke", {"seed": 0})
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    run.save_figure(figure, "fig06_sizes", "Sizes, $n$ of them.")
    run.save_table(pd.DataFrame({"model": ["unet"], "macs": [12.5]}), "ext_macs", "What a call costs.")
    row = dict.fromkeys(("claim", "place", "paper", "spread", "n", "dataset", "size"), "-")
    row |= {"id": "C01", "measured": "11.0%", "verdict": "reproduced", "notebook": "04_networks"}
    other = row | {"measured": "99.0%", "verdict": "not reproduced"}
    run.save_table(pd.DataFrame([row, other]), "scorecard")
    run.save_result({})
    output = nbformat.v4.new_output("stream", name="stdout", text="as it was executed\n")
    evil = {"text/html": "<b>kept</b><script>alert(1)</script>", "application/javascript": "alert(1)"}
    drawn = {"image/svg+xml": "<svg onload='alert(1)'></svg>", "text/plain": "a drawing"}
    outputs = [output, *(nbformat.v4.new_output("display_data", data=data) for data in (evil, drawn))]
    cells = [nbformat.v4.new_markdown_cell(WORDS), nbformat.v4.new_code_cell(CODE, outputs=outputs)]
    cells.append(nbformat.v4.new_markdown_cell(EVIL))
    (folder / "mine" / "executed").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "mine" / "executed" / "04_networks.ipynb")
    few = folder / "cunet"  # two light modules: all of them take a minute
    few.mkdir()
    for name in ("errors", "docstrings", "checkpoints"):
        (few / f"{name}.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_pages, "PACKAGE", few)
        patch.setattr(site_pages, "LEFT_OUT", {"checkpoints"})
        return site.build(folder / "mine", folder / "site").parent


class Fetched(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        wanted = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}.get(tag)
        self.addresses += [value for name, value in attributes if name == wanted]


def test_no_page_asks_for_anything_outside(built):
    assert Fetched("<script src='https://cdn.example/x.js'>").addresses == ["https://cdn.example/x.js"]
    found = list(built.rglob("*.html"))
    assert len(found) >= 7
    for path in found:
        text = path.read_text(encoding="utf-8")
        for address in Fetched(text).addresses:
            assert not re.match(r"(https?:)?//", address), f"{path.name} fetches {address}"
            if not address.startswith("data:"):
                assert (path.parent / address.split("?")[0].split("#")[0]).exists(), f"{path.name}: {address}"
        assert not re.search(r"cdn\.|unpkg|jsdelivr|googleapis", text), path.name
    for path in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_formulas_are_set_by_a_mathjax_that_lies_in_the_site(built):
    page = (built / "notebooks" / "04_networks.html").read_text(encoding="utf-8")
    (address,) = [a for a in Fetched(page).addresses if "mathjax" in a]
    script = (built / "notebooks" / address.split("?")[0]).resolve()
    assert script.is_relative_to(built) and script.stat().st_size > 1e6
    assert "\\frac{dx}{ds} = v" in page and "\\tag{4}" in page


def test_the_notebook_is_shown_as_it_was_executed_with_links_to_claims_and_functions(built):
    page = (built / "notebooks" / "04_networks.html").read_text(encoding="utf-8")
    assert "as it was executed" in page
    assert page.count('href="../claims.html#claim-c01"') == 2  # in the words, and at the end
    assert "claim-c02" not in page and "claim-c03" not in page  # code and formulas stay
    assert 'href="../library/errors.html#cunet.errors.InputError"' in page
    assert 'href="../library/docstrings.html#cunet.docstrings.to_rst"' in page


def test_nothing_that_a_notebook_holds_runs_in_its_page(built):
    page = (built / "notebooks" / "04_networks.html").read_text(encoding="utf-8")
    assert "<b>kept</b>" in page and "a drawing" in page and "&lt;img src=x onerror" in page
    assert not re.search(r"<script>alert|<img[^>]* onerror|<svg onload|href=.javascript:", page)
    assert '"[-]": ["html", "require", "autoload"]' in page, "of MathJax, what a formula could run"


def test_a_claim_leads_to_its_notebook_and_the_functions_it_calls(built):
    text = (built / "claims.html").read_text(encoding="utf-8")
    entry = text[text.index('id="claim-c01"') : text.index('id="claim-c02"')]
    assert 'href="notebooks/04_networks.html"' in entry and "11.0%: reproduced" in entry
    assert "99.0%: not reproduced" in entry and "</strong>: partly" in entry  # all rows, and one verdict
    assert 'href="library/docstrings.html#cunet.docstrings.to_rst"' in entry
    assert all(f'id="claim-{claim.lower()}"' in text for claim in CLAIMS)
    assert "not measured in this run" in text[text.index('id="claim-c02"') :]


def test_figures_and_tables_stand_under_the_papers_numbers(built):
    text = (built / "results.html").read_text(encoding="utf-8")
    own, _, beyond = text.partition("Beyond the paper")
    assert "Figure 6: sizes" in text and "fig06_sizes.png" in text and "Sizes, " in text
    assert "12.5" in text and "What a call costs." in text
    assert text.index("fig06_sizes.png") < text.index("What a call costs.")


def test_the_page_on_other_libraries_shows_the_programs(built):
    text = (built / "ecosystem.html").read_text(encoding="utf-8")
    assert "cunet.onnx" in text and "cunet.pt2" in text and "snippets/" not in text


def test_it_can_be_searched_and_turned_dark_and_says_that_a_smoke_run_means_nothing(built):
    assert "to_rst" in (built / "searchindex.js").read_text(encoding="utf-8")
    for path in (built / "index.html", built / "claims.html", built / "notebooks" / "04_networks.html"):
        text = path.read_text(encoding="utf-8")
        assert 'class="theme-toggle' in text and 'name="q"' in text and site.SMOKE in text


def test_every_module_is_in_exactly_one_room_and_listed_there_with_what_it_is():
    listed = [name for names in site_pages.rooms().values() for name in names]
    there = {path.stem for path in (ROOT / "cunet").glob("*.py")} - site_pages.LEFT_OUT
    assert sorted(listed) == sorted(there)
    index = site_pages.module_pages()["index"]
    assert "## Others" not in index
    section = index[index.index("## Equations and solvers") : index.index("## Networks")]
    assert "| {doc}`ode` | Solving the second-order equation x'' = f(s, x, x')" in section
    assert "\nproblems\n" in section, "in the tree of pages, too"


def test_links_of_a_notebook_lead_to_pages_of_the_site_and_are_words_where_there_is_none():
    words = nbformat.v4.new_markdown_cell("# A\n\n[06](06_sampling.py), [07](07_synthesis.py), C01")
    notebook = nbformat.v4.new_notebook(cells=[words])
    site_pages.linked(notebook, "A", [], {"06_sampling"})
    assert notebook.cells[0].source.endswith("[06](06_sampling.ipynb), 07, [C01](#claim-c01)")


@pytest.mark.parametrize(
    "name, made",
    [
        ("diffusers_pipeline", lambda found: len(found["pictures"]) == 4 and found["again"].network),
        ("torch_graph", lambda found: found["answer"].shape == found["images"].shape),
        ("onnx_file", lambda found: found["images"].shape == (4, 1, 16, 16) and len(found["inputs"]) == 2),
    ],
)
def test_the_programs_on_other_libraries_run_as_they_stand(name, made, tmp_path, monkeypatch):
    """With a small network in place of the released one, which has to be there."""
    torch.manual_seed(0)
    network = models.build("cunet", "smoke", 1).eval()
    monkeypatch.setattr(
        checkpoints, "load", lambda path: (network, {"diffusion": {}}) if path.is_file() else None
    )
    monkeypatch.chdir(tmp_path)
    path = site.ASSETS / "snippets" / f"{name}.py"
    assert made(runpy.run_path(str(path)))
    assert any(tmp_path.iterdir()), "each leaves a file"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 12 and text in site_pages.ecosystem_page(site.ASSETS)


def test_a_folder_that_holds_something_else_stays(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(InputError, match="not a site"):
        site.build("papermill_runs/any", tmp_path)
    with pytest.raises(InputError, match="no results"):
        site.build(tmp_path / "empty", tmp_path / "target")
    assert (tmp_path / "letter").read_text() == "dear" and not (tmp_path / "target").exists()


def test_what_a_notebook_uses_is_found_in_its_code():
    cells = [
        "%matplotlib inline\nfrom cunet import ode, runs as r\nfrom cunet.frechet import distance\n",
        "this is no Python",
        "ode.solve(1)",
    ]
    assert site_pages.uses([*cells, "r.Run\nother.solve\node.SOLVERS"]) == [
        "cunet.frechet.distance",
        "cunet.ode.solve",
        "cunet.runs.Run",
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a*b and |x| of x_ as `c*d`", "a\\*b and \\|x\\| of x\\_ as `c*d`"),
        ("Words:\n\n    x = y", "Words:\n\n::\n\n    x = y"),
        ("Words\n    x = y", "Words\n\n::\n\n    x = y"),
        ("x, y: two of\n    them.    z: a third", "- ``x``, ``y``: two of them.\n- ``z``: a third"),
        ("Arguments:\n    a: x*y\n\nReturns:\n    b", "Arguments:\n    a: x\\*y\n\nReturns:\n    b"),
        ("```\na | b\n\nc\n```", "::\n\n    a | b\n\n    c"),
    ],
)
def test_docstrings_become_what_sphinx_reads(text, expected):
    said = "\n".join(line.rstrip() for line in docstrings.to_rst(text.splitlines())).strip()
    assert said == expected


def test_what_is_beyond_the_paper_has_a_table_of_its_own_below_the_claims():
    row = dict(id="ext_depth", claim="does depth pay", measured="1 | 2", spread="0.1")
    job = {"notebook": "11_beyond", "profile": "laptop", "claims": [row], "timings": {}}
    page = site_pages.claims_page(scorecard.scorecard([job]), {"11_beyond": []})
    assert "| does depth pay | 1 \\| 2 | 0.1 | {doc}`/notebooks/11_beyond` |" in page
    assert page.index("## C26") < page.index("## Beyond the paper")
