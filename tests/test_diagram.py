"""How often stages are evaluated, in words: by resolution, where that differs."""

import pytest

from cunet import diagram, models


def stages(*pairs):
    return [diagram.Stage("", "ODEBlock", side, (1,), 0, evaluations=n) for side, n in pairs]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(32, 1), (16, 1)], ""),
        ([(32, 4), (16, 4)], ", 4 evaluations"),
        (
            [(32, 1), (16, 1), (8, 2), (4, 2), (8, 2), (32, 1)],
            ", 1 evaluation at sides 32 and 16, 2 at 8 and 4",
        ),
        ([(32, 2), (16, 1)], ", 2 evaluations at side 32, 1 at 16"),
        ([(32, 1), (32, 3)], ", 1 or 3 evaluations"),
    ],
)
def test_evaluations_are_said_by_resolution_where_they_differ(pairs, words):
    assert diagram.evaluations_of(stages(*pairs)) == words


def test_of_the_network_as_described_they_are_those_of_its_blocks():
    found = diagram.trace(models.build("cunet", "smoke", 1), 16, 1)
    words = diagram.evaluations_of([stage for stage in found.stages if stage.kind == "ODEBlock"])
    assert words == ", 1 evaluation at sides 16 and 8, 2 at 4 and 2"
