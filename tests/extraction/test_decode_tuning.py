from __future__ import annotations

import os

import pytest

from layercache._devices import available_cores
from layercache.extraction import decode_tuning
from layercache.extraction.decode_tuning import (
    WORKER_NICE,
    DecodePlan,
    plan_decoding,
    seconds_per_image,
)
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
def test_plan_decoding_chooses_workers_from_the_seconds_per_image(
    monkeypatch: pytest.MonkeyPatch, seconds: float, device: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(decode_tuning, "seconds_per_image", lambda *_, **__: seconds)
    options = {"shapes": SHAPES, "device": device, "cores": cores}
    plan = plan_decoding(Pictures(4), [SMALL], **options)
    assert plan.workers == expected
    assert f"an image takes {1000 * seconds:.2g} ms" in plan.reason
    assert plan.niceness == (WORKER_NICE if device == "cpu" else 0)
    assert plan_decoding(Pictures(4), [SMALL], workers=3, **options).workers == 3


def test_seconds_per_image_with_a_broken_image_is_a_time() -> None:
    broken = Pictures(1, broken=frozenset({0}))
    assert 1e-6 < seconds_per_image(broken, [SMALL], shapes=SHAPES) < 1


def test_available_cores_is_between_one_and_the_cores_of_the_machine() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("workers", "kind"), [(0, ThreadDecoder), (1, ProcessDecoder)])
def test_decode_plan_opens_its_decoder(workers: int, kind: type) -> None:
    decoder = DecodePlan(workers, "", 0).open_decoder(shapes=SHAPES, rows=4)
    decoder.close()
    assert isinstance(decoder, kind)
