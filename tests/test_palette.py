"""The style of every figure: letters that are there on any system."""

import dataclasses
from pathlib import Path

import matplotlib
from matplotlib import font_manager

from cunet import palette


def test_letters_are_those_that_matplotlib_brings_whatever_fonts_the_system_has_or_lacks(monkeypatch):
    """A system without fonts, and one with the Arial that seaborn would prefer."""
    real = font_manager.findSystemFonts
    none = lambda paths=None, fontext="ttf": real(paths, fontext) if paths else []  # noqa: E731
    monkeypatch.setattr(font_manager, "findSystemFonts", none)
    own = Path(matplotlib.get_data_path()) / "fonts"
    for arial in (False, True):
        manager = font_manager.FontManager()
        if arial:
            entry = next(font for font in manager.ttflist if font.name == "STIXGeneral")
            manager.ttflist.append(dataclasses.replace(entry, fname="/fonts/Arial.ttf", name="Arial"))
        with palette.style():
            for weight in ("normal", "bold"):
                asked = font_manager.FontProperties(weight=weight)
                found = manager.findfont(asked, fallback_to_default=False, rebuild_if_missing=False)
                assert own in Path(found).parents and Path(found).name.startswith("DejaVuSans")
            assert matplotlib.rcParams["mathtext.fontset"] == "dejavusans"
