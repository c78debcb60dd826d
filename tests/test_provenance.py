"""Which code made a number: the lists of modules hold every one that decides it."""

from pathlib import Path

import pytest
from conftest import ROOT

from cunet import dependencies, provenance


def imported(module: str) -> set[str]:
    """The modules of the library that one of them imports, anywhere in it, by their own names."""
    names = dependencies.imported(ROOT / "cunet" / f"{module}.py")
    parts = {name.split(".")[1] for name in names if name.count(".")}
    return {name for name in parts if any((ROOT / "cunet" / f).exists() for f in (name, f"{name}.py"))}


@pytest.mark.parametrize(
    "modules, roots",
    [
        (
            provenance.TRAINING,
            {"training", "precision"},
        ),  # what `checkpoints` reads, which is neutral without
        (provenance.SAMPLING, {"shards", "models", "precision"}),
        (provenance.DENOISING, {"denoising", "models", "precision"}),
        (provenance.DENOISERS, {"denoiser_training", "models"}),
    ],
    ids=["training", "sampling", "denoising", "denoisers"],
)
def test_the_lists_are_what_the_code_imports_but_for_what_decides_nothing(modules, roots):
    """From the roots on, each import is in the list, or in `NEUTRAL` with its reason; no entry is idle."""
    assert not set(modules) & set(provenance.NEUTRAL)
    reached, left = set(), set(roots)
    while left:
        reached |= left
        left = set().union(*map(imported, left)) - reached - set(provenance.NEUTRAL)
    assert reached == set(modules)


def test_every_reason_is_about_a_module_that_is_imported():
    lists = (*provenance.TRAINING, *provenance.SAMPLING, *provenance.DENOISERS)
    assert set(provenance.NEUTRAL) <= set().union(*map(imported, lists))


@pytest.mark.parametrize("name", ["sampling_code", "denoising_code"])
def test_what_alexnet_looks_at_is_made_by_other_code_with_other_weights(name, monkeypatch):
    code = getattr(provenance, name).__wrapped__
    before = code()
    assert before == code()
    assert (Path(provenance.__file__).parent / "assets" / provenance.WEIGHTS).is_file()
    monkeypatch.setattr(provenance, "WEIGHTS", "mnist/SHA256SUMS")
    assert code() != before
