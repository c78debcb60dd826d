"""The report: all of a run on one page, safe whatever the run's files hold."""

import json
import re
import sys
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from latex2mathml.converter import convert
from matplotlib.figure import Figure

from cunet import pages, report, runs
from cunet.errors import InputError

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(1)>"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def check_harmless(text: str) -> Page:
    """No script, no handler, nothing fetched from anywhere."""
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
        if tag == "a":
            assert not attributes.get("href", "").lower().startswith(("javascript:", "data:"))
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    return page


def notebook(*cells) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=list(cells))


def code(source: str, *outputs) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs))


def display(**data) -> nbformat.NotebookNode:
    named = {"html": "text/html", "png": "image/png", "plain": "text/plain", "markdown": "text/markdown"}
    return nbformat.v4.new_output("display_data", data={named[key]: value for key, value in data.items()})


def words(source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


@pytest.fixture
def run(tmp_path) -> runs.Run:
    return make(tmp_path / "r", "04_networks")


def make(folder, job: str, profile="laptop", text="A line.", parameters=None) -> runs.Run:
    """A run with one job: a figure, a table, an executed notebook."""
    run = runs.Run(folder, job, profile, parameters or {"seed": 0, "job": job})
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    run.save_figure(figure, f"fig04_{job}", text)
    run.save_table(pd.DataFrame({"model": [text, "b"], "fd": [1.23456789, 2]}), f"tab01_{job}", text)
    run.save_result({"text": text})
    (folder / "executed").mkdir(exist_ok=True)
    content = notebook(words(f"# The {text}"), code(f"x = {text!r}", display(plain=text)))
    nbformat.write(content, folder / "executed" / f"{job}.ipynb")
    return run


def test_the_page_has_each_figure_and_table_and_links_to_each_notebook(run):
    make(run.run_dir, "07_synthesis", text="Other.")
    text = report.build(run.run_dir).read_text(encoding="utf-8")
    page = check_harmless(text)
    for job in ("04_networks", "07_synthesis"):
        assert ("a", {"href": f"notebooks/{job}.html"}) in page.tags and f'id="{job}"' in text
        assert (run.run_dir / "report" / "notebooks" / f"{job}.html").is_file()
    assert sum(tag == "img" for tag, _ in page.tags) == 2 and "A line." in page.text
    assert "Figure 4 of the paper" in page.text and "Table 1 of the paper" in page.text
    assert "1.235" in page.text and "1.2346" not in page.text
    assert "numbers mean nothing" not in page.text


def test_jobs_of_one_notebook_are_told_apart_in_the_contents(tmp_path):
    for job in ("05_training-mnist-unet-s0", "05_training-mnist-cunet-s0"):
        make(tmp_path / "r", job)
    page = Page(report.build(tmp_path / "r").read_text(encoding="utf-8"))
    assert "mnist-unet-s0" in page.text and "The A line.: mnist-cunet-s0" in page.text


def test_a_smoke_run_says_loudly_on_every_page_that_its_numbers_mean_nothing(tmp_path):
    make(tmp_path / "r", "04_networks", profile="smoke")
    index = report.build(tmp_path / "r")
    for path in [index, index.parent / "notebooks" / "04_networks.html"]:
        assert "Smoke run: its numbers mean nothing." in path.read_text(encoding="utf-8")


def test_the_scorecard_counts_verdicts(run):
    rows = [
        ("C01", "reproduced"),
        ("C02", "reproduced"),
        ("C02", "not reproduced"),
        ("C03", "not reproduced"),
        ("C04", "not measured in this run"),
    ]
    names = ["claim", "place", "paper", "measured", "spread", "n", "dataset", "size", "notebook"]
    card = pd.DataFrame([{"id": i, **dict.fromkeys(names, "-"), "verdict": v} for i, v in rows])
    run.save_table(card, "scorecard")
    text = report.build(run.run_dir).read_text(encoding="utf-8")
    shown = re.sub(r"\s+", " ", Page(text).text)
    assert "n = " not in shown and "(-)" not in shown  # a dash means nothing to show
    counted = ("1 reproduced", "1 partly", "1 not reproduced", "1 not measured in this run")  # claims
    assert all(text in shown for text in counted)


def test_whatever_the_files_hold_is_escaped(tmp_path):
    folder = tmp_path / "r <b>"
    run = make(folder, "04_networks", EVIL, EVIL, {"seed": EVIL, EVIL: [EVIL]})
    names = ["claim", "place", "paper", "measured", "spread", "n", "dataset", "size", "notebook", "verdict"]
    run.save_table(pd.DataFrame([{"id": EVIL, **dict.fromkeys(names, EVIL)}]), "scorecard")
    index = report.build(folder)
    page = check_harmless(index.read_text(encoding="utf-8"))
    assert page.text.count("<script>alert(1)</script>") > 10  # as text
    check_harmless((folder / "report" / "notebooks" / "04_networks.html").read_text(encoding="utf-8"))


def test_what_an_evil_notebook_holds_is_harmless():
    table = f"<table onclick=alert(1)><tr><td style='background:url(//evil)'>cell{EVIL}</td></tr></table>"
    error = nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31mred\x1b[0m " + EVIL])
    stream = nbformat.v4.new_output("stream", name="stdout", text="10%\r50%\r100%\n" + EVIL)
    content = notebook(
        words(f"# T\n{EVIL}\n\n![p](http://evil.example/p.png) [go](javascript:alert(1))"),
        words("$\\href{javascript:alert(1)}{y}$"),
        code(
            EVIL,
            error,
            stream,
            display(html=table),
            display(markdown=EVIL),
            display(png="not a picture" + EVIL),
        ),
        nbformat.v4.new_raw_cell(EVIL),
    )
    text = pages.page(content, "x", smoke=False)
    page = check_harmless(text)
    assert (
        "cell" in page.text and "red <script>" in page.text and "100%" in page.text and "50%" not in page.text
    )
    assert "damaged picture" in page.text and "\x1b" not in text


def test_pages_show_words_formulas_code_and_pictures():
    content = notebook(
        words("# The **block**\n$x_0$ and $$\\frac{dx}{ds} = v$$\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
        code(
            "import os  # a comment", display(png=PIXEL), display(html="<table><tr><td>7</td></tr></table>")
        ),
    )
    page = check_harmless(pages.page(content, "x", smoke=False))
    tags = [tag for tag, _ in page.tags]
    assert pages.title(content, "x") == "The block"
    assert tags.count("math") == 2 and "mfrac" in tags and tags.count("table") == 2 and tags.count("img") == 1
    assert ("math", "block") in [(tag, attributes.get("display")) for tag, attributes in page.tags]
    assert ("span", {"class": "c1"}) in page.tags and "# a comment" in page.text


def test_a_link_to_a_notebook_leads_to_its_page_and_is_words_where_there_is_none():
    cell = nbformat.v4.new_markdown_cell(
        "In [06](06_sampling.py) and [07](07_synthesis.ipynb), `x[0](y.py)`."
    )
    page = check_harmless(pages.page(notebook(cell), "00", False, ["06_sampling"]))
    assert [a["href"] for tag, a in page.tags if tag == "a"][1:] == ["06_sampling.html"]
    assert "In 06 and 07, x[0](y.py)." in page.text


@pytest.mark.parametrize(
    "latex, shown",
    [
        (r"\text{<script>alert(1)</script>}", "<script>alert(1)</script>"),
        (r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}", "<script>alert(1)</script>"),
        (r"\mathrm{<img src=//evil onerror=alert(1)>}", ""),
        (r"\operatorname{<iframe>}", "<iframe>"),
        (r"x<script>alert(1)</script>", ""),
        (r"\href{javascript:alert(1)}{y}", "y"),
        (r"\href{//evil}{\text{<b>}}", "<b>"),
        (r"\style{background:url(//evil)}{x}", ""),
        (r"\color{red\"onmouseover=\"alert(1)}{y}", "y"),
        (r"\unknown<script>", ""),
    ],
)
def test_a_formula_cannot_hold_a_tag_an_address_or_a_handler(latex, shown):
    for text in (f"${latex}$", f"$${latex}$$"):
        page = Page(str(pages.markdown(text)))
        assert {tag for tag, _ in page.tags} <= pages.FORMULA | {"p", "code", "div", "span"}
        names = {name for tag, attributes in page.tags if tag in pages.FORMULA for name in attributes}
        assert names <= pages.FORMULA_ATTRIBUTES and shown in page.text


@pytest.mark.parametrize("latex", [r"\epsilon_\theta", r"\alpha \le \bar x'", r"a < b \& c", r"\max_x \,|x|"])
def test_a_formula_of_symbols_shows_what_the_converter_makes_of_it(latex):
    """As a browser reads it: entities that stood in the converter's text are characters."""
    expected, found = (Page(str(text)) for text in (convert(latex), pages.markdown(f"${latex}$")))
    assert found.text.strip() == expected.text and found.tags[2:] == expected.tags  # in a span of a paragraph


def test_a_formula_that_cannot_be_converted_is_shown_as_it_was_written():
    assert "<code>" in pages._formula("\\begin{x} & < \\frac{", {})


def test_a_damaged_notebook_is_named(run):
    (run.run_dir / "executed" / "04_networks.ipynb").write_text("{")
    with pytest.raises(InputError, match="04_networks.ipynb cannot be read"):
        report.build(run.run_dir)


@pytest.mark.parametrize("lost", ["figures/fig04_04_networks.png", "tables/tab01_04_networks.csv"])
def test_a_missing_figure_or_table_is_named(run, lost):
    (run.run_dir / lost).unlink()
    with pytest.raises(InputError, match=lost.split("/")[1]):
        report.build(run.run_dir)


def test_a_result_cannot_point_outside_the_run(run):
    path = run.run_dir / "results" / "04_networks.json"
    content = json.loads(path.read_text())
    content["outputs"]["figures"] = {"../../secret": "x"}
    content["sha256"] = runs.seal(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="cannot be the name of a figure"):
        report.build(run.run_dir)


def test_a_run_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match="no results to report"):
        report.build(tmp_path)


def test_as_a_program_it_says_where_the_report_is(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(run.run_dir)])
    assert report.main() == 0 and "report/index.html" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["report", "no-such-run"])
    assert report.main() == 2 and "no results" in capsys.readouterr().err
