"""What runs on an Apple GPU, as far as a machine without one can tell."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from layercache.cache.format.cache_spec import Tap
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.pipeline.forward import SynchronousDevice, open_device
from tests.extraction.models.conformance.sources import SOURCES
from tests.extraction.models.families import FAMILIES, IMAGES, checkpoint
from tests.no_float64 import NoFloat64


@pytest.mark.parametrize(("precision", "taps"), [("fp32", get_args(Tap)), ("fp16", ("norm2",))])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_forward_and_pooling_have_no_float64(name: str, precision: Any, taps: Any) -> None:
    kinds = ("ap", "std", "max", "grid:3", *(("cls", "attn") if FAMILIES[name].class_token else ()))
    for tap in taps:
        if (name, tap) == ("tiny_eva02", "fc1"):
            continue
        backbone = load_encoder(
            name, weights=checkpoint(name), tap=tap, tokens=kinds, precision=precision
        )
        with NoFloat64():
            backbone(IMAGES)


@pytest.mark.parametrize("name", [name for name in SOURCES if "timm" not in name])
def test_forward_of_every_source_has_no_float64(name: str, tmp_path: Any) -> None:
    source = SOURCES[name]()
    model, options = source.save(source.build(), tmp_path)
    backbone = load_encoder(model, tap="block", tokens="ap", **options)
    images = torch.zeros((2, 3, source.size, source.size), dtype=torch.uint8)
    with NoFloat64():
        backbone(images)


def test_no_float64_notices_it() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="float64, which an Apple GPU does not have"):
        torch.ones(2).double()


def test_open_device_of_mps_uses_neither_streams_nor_pinned_memory() -> None:
    assert isinstance(open_device("mps"), SynchronousDevice)


def test_synchronous_device_returns_the_tokens_in_host_memory() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    device = SynchronousDevice(torch.device("cpu"))
    images = device.stage(pixels)
    (tokens,) = device.forward(lambda x: (x.float()[None],), images)
    assert np.shares_memory(images.numpy(), pixels)
    np.testing.assert_array_equal(tokens.fetch(), pixels[None])
    assert tokens.release() >= 0
