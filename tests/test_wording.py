"""How things are written: an interval, a cell of a Markdown table, the place of a figure."""

import numpy as np
import pytest

from cunet import wording


@pytest.mark.parametrize(
    "given, text",
    [
        ((0.984, 0.907, 1.016), "0.98 [0.91, 1.02]"),
        ((np.float64(47.2), 30, 800.5, ".0f"), "47 [30, 800]"),
        ((3.4, -2.0, 12.6, "+.0f", " %"), "+3 % [-2, +13]"),
    ],
)
def test_an_interval_has_one_form_and_its_place_says_how_exact(given, text):
    assert wording.interval(*given) == text


def test_ends_of_one_number_are_that_number():
    assert wording.ends(["1"]) == "1" and wording.ends(["1", "2", "4"]) == "1 to 4"


def test_a_cell_breaks_no_table_whatever_is_in_it():
    assert wording.cell("x to |x|,\nfast") == "x to \\|x\\|, fast"
    assert wording.cell(3) == "3"


@pytest.mark.parametrize(
    "name, place",
    [
        ("fig04_x", "Figure 4 of the paper"),
        ("tab12_x", "Table 12 of the paper"),
        ("ext_x", wording.BEYOND),
    ],
)
def test_places_come_from_names(name, place):
    assert wording.paper_place(name) == place
