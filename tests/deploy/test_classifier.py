from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import Classifier, load_classifier
from layercache.deploy.backbones import load_backbones, token_kinds
from layercache.errors import DataError, HeadMismatchError, OptionError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.probing.results.head_checkpoint import load_head
from tests.deploy.trained import Trained, change_one_weight, train

FLOAT16 = 2.0**-11
"""Relative error of rounding to float16."""


def held_out(trained: Trained) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO((trained.images / i).read_bytes()))
        for i in open_cache(trained.cache).split("test").ids
    ]


def largest_gap(classifier: Classifier, trained: Trained, head: str) -> float:
    """Largest difference between logits from pixels and from the cache, over the largest logit."""
    cached = trained.probes[head].predictions().logits
    with torch.inference_mode():
        logits = classifier(classifier.preprocess(held_out(trained))).numpy()
    assert logits.shape == cached.shape == (6, 2)
    return float(np.abs(logits - cached).max() / np.abs(cached).max())


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_classifier_logits_equal_those_of_the_cache_within_rounding(
    head: str, trained: Trained
) -> None:
    classifier = load_classifier(trained.probes[head].path, weights=trained.weights, device="cpu")
    assert largest_gap(classifier, trained, head) < 4 * FLOAT16
    # negative control: another token of each layer (attention ignores the order of tokens)
    (tokens,) = classifier.encoders
    tokens.token_index = (tokens.token_index // 6) * 6 + 5
    assert largest_gap(classifier, trained, head) > 40 * FLOAT16


def test_classifier_of_all_patch_and_distillation_tokens_equals_the_cache(tmp_path: Path) -> None:
    made = train(tmp_path, model="tiny_deit_distilled", tokens="all", heads=["attentive-tokens"])
    file = made.probes["attentive-tokens"].path / "head.safetensors"
    classifier = load_classifier(file, weights=made.weights, device="cpu")
    assert largest_gap(classifier, made, "attentive-tokens") < 4 * FLOAT16


def test_classifier_preprocesses_as_recorded_with_the_head(tmp_path: Path) -> None:
    changed = PreprocessingOptions(
        input_size=(24, 40),
        crop_pct=0.8,
        crop_mode="squash",
        interpolation="bilinear",
        mean=(0, 0, 1),
    )
    made = train(tmp_path, heads=["linear"], preprocessing=changed)
    classifier = load_classifier(made.probes["linear"].path, weights=made.weights, device="cpu")
    assert classifier.preprocessing.input_size == (24, 40)
    assert classifier.preprocessing.resize == (30, 50)
    assert largest_gap(classifier, made, "linear") < 4 * FLOAT16
    # as a head that was trained when the backbone's name stood for another transform
    head = load_head(made.probes["linear"].path)
    recorded = {**head.provenance.preprocessing, "resize": [31, 51], "background": "white"}
    other = replace(head, provenance=replace(head.provenance, preprocessing=recorded))
    assert load_classifier(other, weights=made.weights).preprocessing.to_json() == recorded


def test_predict_returns_labels_and_probabilities_of_images_in_every_form(
    trained: Trained,
) -> None:
    classifier = load_classifier(
        trained.probes["linear"].path, weights=trained.weights, device="cpu"
    )
    files = [trained.images / i for i in open_cache(trained.cache).split("test").ids]
    with torch.inference_mode():
        expected = classifier(classifier.preprocess(held_out(trained)))
    labels = [classifier.classes[c] for c in expected.argmax(1)]
    assert len(set(labels)) == 2
    pixels = torch.stack([classifier.pixels(image) for image in held_out(trained)])
    for images in (files, held_out(trained), pixels, [files[0], *held_out(trained)[1:]]):
        assert classifier.predict(images, batch_size=4).tolist() == labels
        assert np.allclose(classifier.logits(images), expected.numpy(), atol=1e-5)
    assert classifier.predict(held_out(trained)[0]).tolist() == labels[:1]
    assert len(classifier.predict(trained.images)) == 28
    probabilities = classifier.predict_proba(files)
    assert np.allclose(probabilities, expected.softmax(1).numpy(), atol=1e-6)
    classifier.multi_label = True
    assert np.array_equal(classifier.predict(files), expected.sigmoid().numpy() > 0.5)
    assert classifier.predict([]).shape == (0, 2)


def test_load_classifier_computes_in_the_precision_of_the_cache(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    head = load_head(trained.probes["linear"].path)
    half = replace(head, provenance=replace(head.provenance, precision="bf16"))
    for given, precision, expected in (
        (head, None, "fp32"),
        (half, None, "bf16"),
        (half, "bf16", "bf16"),
    ):
        classifier = load_classifier(
            given, weights=trained.weights, device="cpu", precision=precision
        )
        assert classifier.backbone.precision == expected
        assert next(classifier.encoders.parameters()).dtype == classifier.backbone.compute_dtype
    assert not caplog.messages
    classifier = load_classifier(half, weights=trained.weights, device="cpu", precision="fp32")
    assert classifier.backbone.precision == "fp32"
    assert "were computed in bf16, this tiny_vit computes in fp32" in caplog.text


def test_load_classifier_with_one_changed_weight_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    head = load_head(trained.probes["linear"].path)
    other = change_one_weight(trained.weights, tmp_path / "changed.pt")
    with pytest.raises(HeadMismatchError) as refusal:
        load_classifier(head, weights=other, device="cpu")
    expected, given = (
        head.provenance.weights[:12],
        load_backbones([head], weights=other)[0][0].weights_digest[:12],
    )
    assert expected != given
    assert (
        f"trained on tiny_vit with weights {expected}…, this tiny_vit has {given}…: "
        "pass the checkpoint that it was trained on" in str(refusal.value)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("tap", "block"), ("projected", True), ("preprocessing", {"input_size": [32, 32]})],
)
def test_classifier_on_a_backbone_read_differently_is_refused(
    field: str, value: object, trained: Trained
) -> None:
    head = load_head(trained.probes["linear"].path)
    backbone = load_backbones([head], weights=trained.weights)[0][0]
    Classifier(head, backbone)
    other = replace(head, provenance=replace(head.provenance, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(HeadMismatchError, match=f"trained with {field}"):
        Classifier(other, backbone)


def test_classifier_on_a_backbone_without_its_tokens_is_refused(trained: Trained) -> None:
    head = load_head(trained.probes["linear"].path)
    with pytest.raises(HeadMismatchError, match="loaded without: 3:cls"):
        Classifier(
            replace(head, provenance=replace(head.provenance, pairs=((3, "cls"), *head.pairs[1:]))),
            load_backbones([head], weights=trained.weights)[0][0],
        )


def test_preprocess_of_pil_images_and_uint8_batches_is_the_same(trained: Trained) -> None:
    classifier = load_classifier(
        trained.probes["linear"].path, weights=trained.weights, device="cpu"
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


def test_probabilities_are_softmax_or_for_multi_label_sigmoid(trained: Trained) -> None:
    head = load_head(trained.probes["linear"].path)
    logits = torch.tensor([[1.0, 3.0]])
    single = Classifier(head, load_backbones([head], weights=trained.weights)[0][0])
    assert torch.allclose(single.probabilities(logits), torch.tensor([[0.1192, 0.8808]]), atol=1e-4)
    several = Classifier(
        replace(head, spec=replace(head.spec, multi_label=True)),
        load_backbones([head], weights=trained.weights)[0][0],
    )
    assert torch.allclose(
        several.probabilities(logits), torch.tensor([[0.7311, 0.9526]]), atol=1e-4
    )


def test_classifier_is_frozen_and_moves_to_a_device_as_one_module(trained: Trained) -> None:
    classifier = load_classifier(
        trained.probes["attentive"].path, weights=trained.weights, device="cpu"
    )
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    names = dict(classifier.named_parameters())
    assert "head.classifier.weight" in names
    assert "encoders.0.vit.blocks.0.attn.qkv.weight" in names
    moved = classifier.to("meta")
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    assert moved.encoders[0].token_index.device.type == "meta"


def test_token_kinds_of_stored_names() -> None:
    assert token_kinds(["cls", "ap", "cls"]) == ("cls", "ap")
    assert token_kinds(["grid:2/0", "grid:2/3", "ap"]) == ("grid:2", "ap")
    assert token_kinds(["cls", "patch/0", "patch/9"]) == ("all",)
