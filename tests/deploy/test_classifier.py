"""A head on its backbone: the logits of the cache, from pixels; and no other backbone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import Classifier, load_head
from layercache.deploy.classifier import backbone_of, token_kinds
from layercache.errors import DataError, HeadMismatchError, OptionError
from tests.deploy.trained import Trained, change_one_weight, train

FLOAT16 = 2.0**-11
"""Relative error of rounding to float16."""


def held_out(trained: Trained) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO((trained.images / i).read_bytes()))
        for i in open_cache(trained.cache).split("test").ids
    ]


def largest_gap(classifier: Classifier, trained: Trained, head: str) -> float:
    """Between the logits from pixels and those that the probe got from the cache, as a share of the largest logit."""
    kept = trained.probes[head].predictions().logits
    with torch.inference_mode():
        mine = classifier(classifier.preprocess(held_out(trained))).numpy()
    assert mine.shape == kept.shape == (6, 2)
    return float(np.abs(mine - kept).max() / np.abs(kept).max())


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_logits_are_those_of_the_cache_within_its_rounding(head: str, trained: Trained) -> None:
    classifier = load_head(trained.probes[head].path).with_backbone(
        weights=trained.weights, device="cpu"
    )
    assert largest_gap(classifier, trained, head) < 4 * FLOAT16
    # negative control: of each layer another token (another order would not do: attention does not see it)
    classifier.chosen = (classifier.chosen // 6) * 6 + 5
    assert largest_gap(classifier, trained, head) > 40 * FLOAT16


def test_every_patch_token_and_a_distillation_token(tmp_path: Path) -> None:
    made = train(tmp_path, model="tiny_deit_distilled", tokens="all", heads=["attentive-tokens"])
    head = load_head(made.probes["attentive-tokens"].path / "head.safetensors")
    assert (
        largest_gap(
            head.with_backbone(weights=made.weights, device="cpu"), made, "attentive-tokens"
        )
        < 4 * FLOAT16
    )


def test_one_changed_weight_is_refused(trained: Trained, tmp_path: Path) -> None:
    head = load_head(trained.probes["linear"].path)
    other = change_one_weight(trained.weights, tmp_path / "changed.pt")
    with pytest.raises(HeadMismatchError) as refusal:
        head.with_backbone(weights=other, device="cpu")
    own, given = head.origin.weights[:12], backbone_of(head, weights=other).digest[:12]
    assert own != given
    assert (
        f"trained on tiny_vit with weights {own}…, this tiny_vit has {given}…: give the checkpoint it was trained on"
        in str(refusal.value)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("tap", "block"), ("projected", True), ("preprocessing", {"input_size": [32, 32]})],
)
def test_another_way_of_reading_the_backbone_is_refused(
    field: str, value: object, trained: Trained
) -> None:
    head = load_head(trained.probes["linear"].path)
    backbone = backbone_of(head, weights=trained.weights)
    Classifier(head, backbone)
    other = replace(head, origin=replace(head.origin, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(HeadMismatchError, match=f"trained with {field}"):
        Classifier(other, backbone)


def test_tokens_that_the_backbone_was_loaded_without_are_refused(trained: Trained) -> None:
    head = load_head(trained.probes["linear"].path)
    with pytest.raises(HeadMismatchError, match="loaded without: 3:cls"):
        Classifier(
            replace(head, origin=replace(head.origin, pairs=((3, "cls"), *head.pairs[1:]))),
            backbone_of(head, weights=trained.weights),
        )


def test_preprocess_takes_pil_images_of_any_mode_and_uint8_batches(trained: Trained) -> None:
    classifier = load_head(trained.probes["linear"].path).with_backbone(
        weights=trained.weights, device="cpu"
    )
    image = held_out(trained)[0]
    one = classifier.preprocess(image)
    assert one.shape == (1, 3, 32, 32)
    assert torch.equal(one, classifier.preprocess([image.convert("RGBA")]))
    assert torch.equal(one, classifier.preprocess(classifier.pixels(image)[None]))
    assert torch.allclose(one * 0.25 + 0.5, classifier.pixels(image)[None] / 255, atol=1e-6)
    with pytest.raises(
        OptionError, match=r"expected PIL images or uint8 \(B, 3, 32, 32\), got torch.float32"
    ):
        classifier.preprocess(one)
    with pytest.raises(DataError, match="no fixed white"):
        classifier.preprocess(Image.new("F", (40, 40)))


def test_probabilities_of_one_class_and_of_several(trained: Trained) -> None:
    head = load_head(trained.probes["linear"].path)
    logits = torch.tensor([[1.0, 3.0]])
    single = Classifier(head, backbone_of(head, weights=trained.weights))
    assert torch.allclose(single.probabilities(logits), torch.tensor([[0.1192, 0.8808]]), atol=1e-4)
    several = Classifier(
        replace(head, spec=replace(head.spec, multi_label=True)),
        backbone_of(head, weights=trained.weights),
    )
    assert torch.allclose(
        several.probabilities(logits), torch.tensor([[0.7311, 0.9526]]), atol=1e-4
    )


def test_the_module_is_frozen_and_moves_as_one(trained: Trained) -> None:
    classifier = load_head(trained.probes["attentive"].path).with_backbone(
        weights=trained.weights, device="cpu"
    )
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    names = dict(classifier.named_parameters())
    assert "fusion.weight" in names
    assert "vit.blocks.0.attn.qkv.weight" in names
    moved = classifier.to("meta")
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    assert moved.chosen.device.type == "meta"


def test_kinds_to_load_for_stored_names() -> None:
    assert token_kinds(["cls", "ap", "cls"]) == ("cls", "ap")
    assert token_kinds(["grid:2/0", "grid:2/3", "ap"]) == ("grid:2", "ap")
    assert token_kinds(["cls", "patch/0", "patch/9"]) == ("all",)
