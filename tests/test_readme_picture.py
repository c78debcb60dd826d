"""The README's picture: curves as the tables have them, sheets cut out of figure 3 whole."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cunet import figures, readme_picture
from cunet.errors import InputError

SHADES = {("a", "unet"): -0.9, ("a", "cunet"): -0.3, ("b", "unet"): 0.1, ("b", "cunet"): 0.5}


def sheet_figure(datasets=("a", "b"), without=()) -> bytes:
    """A figure 3 with sheets of one grey each, saved as a run saves it; `without`: one that is not there."""
    sheet = {key: torch.full((32, 1, 32, 32), shade) for key, shade in SHADES.items()}
    rows = {
        f"data {d} (stand-in for others)": {
            f"{m}, 20 steps": sheet[d, m] for m in ("unet", "cunet") if (d, m) != without
        }
        for d in datasets
    }
    stream = io.BytesIO()
    figures.sheet_rows(rows).savefig(stream, format="png", dpi=150, bbox_inches="tight")
    return stream.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "figures" / "fig03_samples.png").write_bytes(sheet_figure())
    best = [
        dict(dataset=d, model=m, steps=20, seconds_per_sample=2.0 if m == "unet" else 1.0) for d, m in SHADES
    ]
    pd.DataFrame(best).to_csv(folder / "tables" / "tab01_synthesis.csv")
    line = [
        dict(dataset=d, model=m, seed=0, sampler="ddim", steps=n, noise=0)
        | dict(fd=100 / n, fd_low=90 / n, fd_high=120 / n, above=100 / n - 1)
        for d, m in SHADES
        for n in (20, 5)
    ]
    others = [
        line[0] | change for change in (dict(seed=1), dict(sampler="ddpm"), dict(noise=3), dict(model="x"))
    ]
    pd.DataFrame(line + others).to_csv(folder / "tables" / "ext_fd_against_steps.csv")
    return folder


def test_a_point_is_a_number_of_steps_of_the_first_training_sampler_and_noise(run):
    lines = readme_picture.curves(run)
    assert list(lines.model.unique()) == ["unet", "cunet"] and len(lines) == 8
    unet = lines[(lines.dataset == "a") & (lines.model == "unet")]
    assert unet.seconds.tolist() == pytest.approx([0.5, 2.0]) and unet.fd.tolist() == [20, 5]
    assert lines.floor.tolist() == pytest.approx([1.0] * 8)


def test_each_sheet_is_cut_out_whole_and_in_its_place(run):
    png = (run / "figures" / "fig03_samples.png").read_bytes()
    found = readme_picture.cut(png, [2, 2])
    for (row, column), shade in zip([(0, 0), (0, 1), (1, 0), (1, 1)], SHADES.values(), strict=True):
        sheet = found[row][column]
        assert sheet.shape[1] / sheet.shape[0] == pytest.approx(
            263 / 131, rel=0.02
        )  # 8 x 4 images, gaps of 1
        assert abs(np.median(sheet) - (shade + 1) * 127.5) < 2
    assert readme_picture.cut(png, [2, 1]) == []  # not the figure that was thought


def test_the_picture_holds_what_its_tables_hold_and_is_small(run):
    data = readme_picture.draw(run)
    image = Image.open(io.BytesIO(data))
    assert len(data) <= readme_picture.LIMIT and image.width > 900
    assert data == readme_picture.draw(run)  # to the byte: git sees no change where there is none
    lines = readme_picture.curves(run)
    drawn = readme_picture.figure(lines, {"a": np.zeros((50, 100, 3), np.uint8)})
    assert len(drawn.axes) == 4 and not readme_picture.figure(lines, {}).axes[0].images


def test_the_caption_names_samples_only_where_there_are_some(run, tmp_path):
    whole = readme_picture.markdown(run, "a.png")
    assert whole.startswith("![Quality against time, and samples](a.png)\n\n**Quality against time.**")
    assert whole.endswith(
        "Below, the first samples of the cU-Net as described at its best steps, none selected."
    )
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "figures" / "fig03_samples.png").write_bytes(sheet_figure(("a",)))
    assert readme_picture.markdown(bare, "a.png") == (
        f"![Quality against time](a.png)\n\n{readme_picture.QUALITY}"
    ), "a figure of other rows than the tables have"
    (bare / "figures" / "fig03_samples.png").unlink()
    assert "amples" not in readme_picture.markdown(bare, "a.png").replace("that a sample takes", "")
    for name in ("tab01_synthesis", "ext_fd_against_steps"):
        table = pd.read_csv(run / "tables" / f"{name}.csv")
        kept = table[(table.dataset == "a") | (table.model == "unet")]
        kept.to_csv(bare / "tables" / f"{name}.csv", index=False)
    (bare / "figures" / "fig03_samples.png").write_bytes(sheet_figure(without=("b", "cunet")))
    assert readme_picture.markdown(bare, "a.png").endswith("none selected: a.")


def test_the_caption_says_both_counts_where_a_point_has_fewer_images_than_table_1(run, tmp_path):
    assert " images" not in readme_picture.markdown(run, "a.png")  # these tables do not say
    shutil.copytree(run / "tables", tmp_path / "tables")
    for name, n in (("tab01_synthesis", 2048), ("ext_fd_against_steps", 384)):
        path = tmp_path / "tables" / f"{name}.csv"
        pd.read_csv(path).assign(n=n).to_csv(path)
    assert readme_picture.markdown(tmp_path, "a.png").endswith("? A point has 384 images, table 1 2,048.")
    pd.read_csv(path).assign(n=2048).to_csv(path)
    assert readme_picture.markdown(tmp_path, "a.png").endswith(readme_picture.QUALITY)


def test_a_run_without_curves_has_no_picture_and_damaged_tables_are_named(run, tmp_path):
    assert readme_picture.there(run) and not readme_picture.there(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "ext_fd_against_steps.csv").write_text("dataset,model\na,unet\n")
    with pytest.raises(InputError, match="give no curves.*notebook 07"):
        readme_picture.draw(tmp_path)
