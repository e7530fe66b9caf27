from __future__ import annotations

import os

import pytest

from layercache.extraction import decode_tuning
from layercache.extraction.pipeline.decoder import ThreadDecoder
from layercache.extraction.pipeline.process_decoder import ProcessDecoder
from tests.extraction.fakes import SIDE, SMALL, Pictures

SHAPES = [(3, SIDE, SIDE)]


@pytest.mark.parametrize(
    ("seconds", "device", "cores", "expected"),
    [
        (0.0001, "cpu", 8, 0),
        (0.008, "cpu", 8, 8),
        (0.008, "cuda", 16, 15),
        (0.008, "cuda", 1, 1),
        (0.0002, "cuda", 16, 2),
        (0.00001, "cuda", 16, 0),
    ],
)
def test_the_number_follows_from_the_time_of_an_image(
    monkeypatch: pytest.MonkeyPatch, seconds: float, device: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(decode_tuning, "measure", lambda *_, **__: seconds)
    monkeypatch.setattr(decode_tuning, "usable_cores", lambda: cores)
    chosen = decode_tuning.choose(Pictures(4), [SMALL], shapes=SHAPES, device=device, asked=None)
    assert chosen.workers == expected
    assert f"an image takes {1000 * seconds:.2g} ms" in chosen.why
    assert chosen.nice == (decode_tuning.POLITE if device == "cpu" else 0)
    assert (
        decode_tuning.choose(Pictures(4), [SMALL], shapes=SHAPES, device=device, asked=3).workers
        == 3
    )


def test_measuring_takes_a_real_time_and_survives_broken_images() -> None:
    assert (
        1e-6 < decode_tuning.measure(Pictures(1, broken=frozenset({0})), [SMALL], shapes=SHAPES) < 1
    )
    assert 1 <= decode_tuning.usable_cores() <= (os.cpu_count() or 1)


def test_the_choice_opens_its_decoder() -> None:
    for choice, kind in (
        (decode_tuning.DecodePlan(0, "", 0), ThreadDecoder),
        (decode_tuning.DecodePlan(1, "", 0), ProcessDecoder),
    ):
        decoder = choice.open(shapes=SHAPES, rows=4)
        decoder.close()
        assert isinstance(decoder, kind)
