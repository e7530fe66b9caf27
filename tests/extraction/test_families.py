"""CLS and AP of every family's geometry, at every tap, against hooks on plain timm modules pooled in float64 with numpy."""

from __future__ import annotations

import numpy as np
import pytest

from layercache.cache.format.spec import Tap
from layercache.errors import BackboneError
from layercache.extraction.models.backbone import load_backbone
from tests.extraction.families import FAMILIES, IMAGES, checkpoint, hidden_states

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def kinds(name: str) -> tuple[str, ...]:
    return ("cls", "ap") if FAMILIES[name].class_token else ("ap",)


@pytest.mark.parametrize("tap", ["norm2", "block", "block-norm"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_cls_and_ap_of_every_layer(name: str, tap: Tap) -> None:
    family = FAMILIES[name]
    backbone = load_backbone(
        name, weights=checkpoint(name), tap=tap, tokens=kinds(name), store_dtype="float32"
    )
    maps = hidden_states(name)[tap]
    wanted = [[x[:, 0]] * family.class_token + [x[:, family.prefix :].mean(1)] for x in maps]
    got = backbone(IMAGES)
    assert got.shape == (4, len(kinds(name)), 3, 24)
    np.testing.assert_allclose(got, wanted, **TOLERANCE)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_wrong_prefix_count_is_seen(name: str) -> None:
    """Negative control: one prefix token more or less in the mean is far outside the tolerance above."""
    prefix = FAMILIES[name].prefix
    for tap, maps in hidden_states(name).items():
        right = np.array([x[:, prefix:].mean(1) for x in maps])
        for other in {prefix + 1, max(prefix - 1, 0)} - {prefix}:
            wrong = np.array([x[:, other:].mean(1) for x in maps])
            assert not np.allclose(right, wrong, **TOLERANCE), (tap, other)


def test_the_taps_differ() -> None:
    """Negative control: a tap read at another place is seen."""
    maps = hidden_states("tiny_vit")
    assert not np.allclose(maps["norm2"], maps["block-norm"], **TOLERANCE)
    assert not np.allclose(maps["norm2"][1:], maps["norm2"][:-1], **TOLERANCE)


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not family.class_token]
)
def test_no_class_token_is_said(name: str) -> None:
    prefix = FAMILIES[name].prefix
    with pytest.raises(
        BackboneError,
        match=rf"tokens 'cls': this model has no class token \({prefix} prefix tokens and 4 x 4 patches\): pass --tokens ap",
    ):
        load_backbone(name, weights=checkpoint(name))
