"""CLS and AP of every family at every tap, compared with hooks on plain timm modules in float64."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from layercache.cache.format.spec import Tap
from layercache.errors import BackboneError
from layercache.extraction.models.backbone import load_backbone
from tests.extraction.models.families import FAMILIES, IMAGES, checkpoint, hidden_states

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def kinds(name: str) -> tuple[str, ...]:
    return ("cls", "ap") if FAMILIES[name].class_token else ("ap",)


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        (name, tap)
        for name in FAMILIES
        for tap in get_args(Tap)
        if (name, tap) != ("tiny_eva02", "fc1")
    ],
)
def test_backbone_cls_and_ap_equal_hooks_on_timm_at_every_layer(name: str, tap: Tap) -> None:
    family = FAMILIES[name]
    backbone = load_backbone(
        name, weights=checkpoint(name), tap=tap, tokens=kinds(name), storage_dtype="float32"
    )
    maps = hidden_states(name)[tap]
    expected = [[x[:, 0]] * family.class_token + [x[:, family.prefix :].mean(1)] for x in maps]
    got = backbone(IMAGES)
    assert got.shape == (4, len(kinds(name)), 3, backbone.width)
    assert (backbone.width != 24) == (tap in ("fc1", "act"))
    np.testing.assert_allclose(got, expected, **TOLERANCE)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_ap_with_a_wrong_prefix_exceeds_the_tolerance(name: str) -> None:
    """Negative control: one prefix token more or less in the mean exceeds the tolerance."""
    prefix = FAMILIES[name].prefix
    for tap, maps in hidden_states(name).items():
        right = np.array([x[:, prefix:].mean(1) for x in maps])
        for other in {prefix + 1, max(prefix - 1, 0)} - {prefix}:
            wrong = np.array([x[:, other:].mean(1) for x in maps])
            assert not np.allclose(right, wrong, **TOLERANCE), (tap, other)


def test_load_backbone_fc1_of_a_swiglu_with_two_first_layers_raises() -> None:
    with pytest.raises(
        BackboneError,
        match="tiny_eva02: tap fc1 expects blocks whose MLP has one first linear layer, got "
        "EvaBlock with SwiGLU: use tap 'act'",
    ):
        load_backbone("tiny_eva02", weights=checkpoint("tiny_eva02"), tap="fc1")


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_uni2"])
def test_hidden_states_of_another_tap_or_layer_exceed_the_tolerance(name: str) -> None:
    """Negative control: tokens of another tap or of the next layer exceed the tolerance."""
    maps = hidden_states(name)
    for one, other in combinations(maps, 2):
        if maps[one][0].shape == maps[other][0].shape:
            assert not np.allclose(maps[one], maps[other], **TOLERANCE), (one, other)
    for layers in maps.values():
        assert not np.allclose(layers[1:], layers[:-1], **TOLERANCE)


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not family.class_token]
)
def test_load_backbone_cls_of_a_model_without_class_token_raises(name: str) -> None:
    prefix = FAMILIES[name].prefix
    with pytest.raises(
        BackboneError,
        match=rf"tokens 'cls': this model has no class token \({prefix} prefix tokens and 4 x 4 "
        r"patches\): use tokens 'ap'",
    ):
        load_backbone(name, weights=checkpoint(name))
