from __future__ import annotations

import math

import pytest

from layercache.errors import OptionError
from layercache.probing.training.config import HParams, Noise, TrainConfig, grid, paper_grid


def test_paper_grid_is_that_of_the_paper() -> None:
    assert len(paper_grid("linear")) == 21
    assert len(paper_grid("attentive")) == 63 == len(set(paper_grid("attentive")))
    assert {s.dropout for s in paper_grid("linear")} == {0.0}
    assert paper_grid("attentive")[0] == HParams(lr=0.1, weight_decay=1e-6, dropout=0.0)
    assert {math.log10(s.weight_decay) for s in paper_grid("linear")} == set(range(-6, 1))
    assert [s.lr for s in grid(lr=[1, 2], weight_decay=[0])] == [1, 2]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: HParams(lr=0.0, weight_decay=0.0),
            "lr: expected a finite number > 0, got 0.0",
        ),
        (lambda: HParams(lr=float("nan"), weight_decay=0.0), "lr: expected"),
        (
            lambda: HParams(lr=1.0, weight_decay=-1.0),
            "weight_decay: expected a finite number >= 0, got -1.0",
        ),
        (
            lambda: HParams(lr=1.0, weight_decay=0.0, dropout=1.0),
            r"dropout: expected a number in \[0, 1\), got 1.0",
        ),
        (lambda: Noise(std=-1), "std >= 0"),
        (lambda: Noise(probability=1.5), "probability"),
        (lambda: TrainConfig(epochs=0), "epochs: expected at least 1, got 0"),
        (lambda: TrainConfig(patience=0), "patience"),
        (lambda: TrainConfig(clip=0.0), "clip"),
    ],
)
def test_invalid_options_are_refused(make: object, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make()  # type: ignore[operator]
