from __future__ import annotations

import pytest

from layercache.probing.scan.linear import climb


@pytest.mark.parametrize("start", [0, 2, 5])
def test_climb_finds_the_maximum_from_any_start(start: int) -> None:
    scores = [0.1, 0.2, 0.5, 0.9, 0.9, 0.4]
    assert climb(scores.__getitem__, size=6, start=start) == (4, 0.9)


def test_climb_tries_each_position_once_and_avoids_those_without_a_score() -> None:
    tried: list[int] = []

    def score(position: int) -> float:
        tried.append(position)
        return [float("nan"), float("nan"), 0.5, 0.4][position]

    assert climb(score, size=4, start=1) == (2, 0.5)
    assert sorted(tried) == [0, 1, 2, 3]
