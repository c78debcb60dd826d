"""The data sets by name, and what is known of each before anything is read. Needs no torch.

The paper's data sets CelebA and LSUN Church cannot ship. Where they are not there, drawn ones take their
places, and `label` calls these stand-ins wherever numbers of theirs are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cunet import drawn


@dataclass(frozen=True)
class Source:
    """A data set.

    kind: where its images come from: "vendored" with the library, "drawn" on first use (`cunet.drawn`), or
    "photographs" that the user has fetched (the function of its name in `cunet.photos`).
    channels: 1 for grey images, 3 for RGB.
    train, test: how many images there are, as published or drawn; 0 where only looking tells.
    paper_name: how the paper writes its name; empty if it does not.
    stands_for: the paper's data set whose place it takes, a name here; empty if it is none's.
    credit: whom to credit, and the licence; empty where the images come with it.
    """

    kind: Literal["vendored", "drawn", "photographs"]
    channels: int
    train: int = 0
    test: int = 0
    paper_name: str = ""
    stands_for: str = ""
    credit: str = ""


SOURCES = {
    "mnist": Source("vendored", 1, 60_000, 10_000, paper_name="MNIST",
                    credit="MNIST, Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0"),
    "avatars": Source("drawn", 3, drawn.COUNTS["train"], drawn.COUNTS["test"], stands_for="celeba"),
    "landscapes": Source("drawn", 3, drawn.COUNTS["train"], drawn.COUNTS["test"], stands_for="lsun_church"),
    "celeba": Source("photographs", 3, 162_770, 19_962, paper_name="CelebA",
                     credit="CelebA, Liu, Luo, Wang and Tang (2015), for non-commercial research"),
    "lsun_church": Source("photographs", 3, 126_227, 300, paper_name="LSUN Church",
                          credit="LSUN, Yu et al. (2015)"),
    "folder": Source("photographs", 3),
}  # fmt: skip


def place(name: str) -> str:
    """The data set of the paper whose place one takes: another's for a stand-in, else its own."""
    return SOURCES[name].stands_for if name in SOURCES and SOURCES[name].stands_for else name


def classes(name: str) -> int:
    """How many classes a data set has, as many as `cunet.datasets.class_names` names; 0 where an image has no
    single class, and for a name that is no data set's."""
    styles = drawn.RECIPES[name]["styles"] if name in drawn.RECIPES else ()
    return 10 if name == "mnist" else len(styles) if len(styles) > 1 else 0


def label(name: str) -> str:
    """A data set as pages name it, a stand-in as one; a text that is no data set's name stays as it is."""
    if name not in SOURCES:
        return name
    if stands_for := SOURCES[name].stands_for:
        return f"{name} (stand-in for {SOURCES[stands_for].paper_name})"
    return SOURCES[name].paper_name or name
