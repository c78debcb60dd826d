"""Profiles: what they may say, and what is said about what they may not."""

import pytest
from conftest import ROOT

from cunet import parameters, profiles
from cunet.errors import InputError


@pytest.fixture
def profile(repository):
    """Write papermill_runs/profiles/mine.yaml and load it."""

    def load(text: str, *settings: str):
        (profiles.folder() / "mine.yaml").write_text(text, encoding="utf-8")
        return profiles.load("mine", list(settings))

    return load


BASE = "notebooks: {01_first: {count: 2}}\n"


def test_a_profile_is_named_after_its_file_and_has_defaults(profile):
    loaded = profile(BASE)
    assert (loaded.name, loaded.size, loaded.checkpoints, loaded.seeds) == ("mine", "laptop", "released", [0])
    assert loaded.notebooks == {"01_first": {"count": 2}}


@pytest.mark.parametrize(
    "text, message",
    [
        (BASE + "sise: paper", "unknown line 'sise' \\(did you mean 'size'\\?\\)"),
        (BASE + "checkpoints: trained", "checkpoints is 'trained': Input should be 'released' or 'train'"),
        (BASE + "seeds: [1, 1]", "holds something twice"),
        (BASE + "seeds: [-1]", "0 or more"),
        (BASE + "seeds: ['1']", "seeds.0 is '1'"),
        (BASE + "datasets: [../x]", "'../x' is not a name"),
        (BASE + "models: []", "models is \\[\\]"),
        (BASE + "jobs: 0", "jobs is 0"),
        (BASE + "gpus: -1", "gpus is -1"),
        (BASE + "jobs: two", "jobs is 'two'"),
        (BASE + "name: 3", "name is 3"),
        ("size: laptop", "notebooks is"),
        ("notebooks: {}", "at least one line"),
        ("notebooks: [01_first]", "at least one line"),
        ("notebooks: {first: {}}", "'first' is not the name of a notebook"),
        ("notebooks: {../01_first: {}}", "not the name of a notebook"),
        ("notebooks: {01_first: {run_dir: /tmp}}", "01_first.run_dir is set by the chain"),
        ("notebooks: {01_first: 3}", "01_first"),
        ("- a", "needs lines such as"),
        ("a: [", "not valid YAML"),
        ("", "needs lines such as"),
        (BASE + BASE, "'notebooks' is there twice"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_line(profile, text, message):
    with pytest.raises(InputError, match=message):
        profile(text)


def test_an_unknown_profile_is_refused_with_the_nearest(repository):
    with pytest.raises(InputError, match=r"no profile 'tinny' \(did you mean 'tiny'\?\)"):
        profiles.load("tinny")
    with pytest.raises(InputError, match="no profile '../tiny'"):
        profiles.load("../tiny")


def test_a_profile_can_be_a_file_anywhere(repository, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(BASE + "size: smoke")
    assert profiles.load(str(path)).size == "smoke"


@pytest.mark.parametrize("name", ["reference", "paper"])
def test_a_profile_of_many_samples_has_no_fewer_resamples_than_a_notebook_by_itself(name):
    fewer = {}
    for stem, given in profiles.load(name).notebooks.items():
        own = parameters.declaration(ROOT / "notebooks" / f"{stem}.py")
        fewer |= {key: n for key, n in given.items() if key.endswith("resamples") and n < own[key]}
    assert not fewer


def test_settings_go_over_lines_and_over_a_notebooks_parameters(profile):
    loaded = profile(
        BASE, "checkpoints=train", "seeds=[0, 1]", "01_first.count=5", "notebooks.01_first.rate=1e-4"
    )
    assert loaded.checkpoints == "train" and loaded.seeds == [0, 1]
    assert loaded.notebooks == {"01_first": {"count": 5, "rate": 1e-4}}


@pytest.mark.parametrize(
    "setting, message",
    [
        ("checkpoint=train", "did you mean 'checkpoints'"),
        ("seeds=0", "seeds is 0"),
        ("02_second.n=1", "no notebook '02_second'"),
        ("01_frist.n=1", "did you mean '01_first'"),
        ("seeds", "not of the form key=value"),
        ("seeds=[", "not valid YAML"),
        ("01_first.job=x", "set by the chain"),
        ("01_first.models=[1]", r"01_first.models is \[1\]; it needs names"),
        ("01_first.models=[[1]]", r"01_first.models is \[\[1\]\]; it needs names"),
        ("01_first.datasets=[{a: 1}]", "01_first.datasets is .*; it needs names"),
        ("01_first.seeds=[[1]]", r"01_first.seeds is \[\[1\]\]; it needs numbers"),
        ("01_first.seeds=[x]", "01_first.seeds is .*; it needs numbers"),
    ],
)
def test_wrong_settings_are_refused(profile, setting, message):
    with pytest.raises(InputError, match=message):
        profile(BASE, setting)


def test_dump_and_load_give_the_same_profile(profile, tmp_path):
    loaded = profile(BASE + "description: with ü\nseeds: [3]\n")
    path = tmp_path / "copy.yaml"
    path.write_text(profiles.dump(loaded), encoding="utf-8")
    assert profiles.load(str(path)) == loaded


@pytest.mark.parametrize("name", ["laptop", "reference", "paper"])
def test_rounds_of_a_timing_are_enough_for_the_intervals_that_are_given(name):
    """A median is outside of n values by a chance of 2^(1 - n), so that 5 give no interval of 95 %."""
    rounds = {
        path.stem: parameters.declaration(path).get("timing_rounds")
        for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")
    }
    given = profiles.load(name).notebooks
    rounds = {stem: given.get(stem, {}).get("timing_rounds", own) for stem, own in rounds.items() if own}
    assert rounds and all(2 ** (1 - n) < 0.05 for n in rounds.values()), rounds
