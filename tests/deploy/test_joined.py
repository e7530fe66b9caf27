"""Heads that join several encoders, each with a preprocessing, a tap and a width of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import layercache
from layercache.cache.find import open_cache
from layercache.deploy import Classifier, export_onnx, export_torch, load_classifier, predict_probe
from layercache.deploy.backbones import load_backbones
from layercache.deploy.card import write_card
from layercache.errors import HeadMismatchError, OptionError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.probing.results.head_checkpoint import load_head
from layercache.probing.results.probe_store import Probe
from tests.deploy.trained import TRAIN_CONFIG, draw_images, save_random

MODELS = ("tiny_vit", "tiny_eva")
OPTIONS = {
    "tiny_vit": {"tap": "norm2"},
    "tiny_eva": {
        "tap": "fc1",
        "preprocessing": PreprocessingOptions(input_size=(24, 40), mean=(0, 0.5, 1)),
        "background": "white",
    },
}


@dataclass(frozen=True)
class Joined:
    images: list[Path]
    weights: Mapping[str, str | Path]
    root: Path
    probes: Mapping[str, Probe]
    """By head; "pad" has zeros in place of maps."""


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    folder = tmp_path_factory.mktemp("joined")
    images = draw_images(folder / "waves")
    weights = {model: save_random(model, folder / f"{model}.pt") for model in MODELS}
    root = folder / "caches"
    caches = {}
    for model in MODELS:
        (extraction,) = layercache.extract(
            models=model,
            dataset=f"folder:{images}",
            weights={model: weights[model]},
            cache=root,
            device="cpu",
            workers=0,
            progress=False,
            **OPTIONS[model],  # type: ignore[arg-type]
        )
        caches[model] = extraction.path
    probes = {}
    for name, head, width in (
        ("ridge", "ridge", None),
        ("attentive", "attentive", None),
        ("pad", "attentive", "pad"),
    ):
        grid = {} if head == "ridge" else {"lr": [1e-2], "weight_decay": 1e-4, "dropout": 0.0}
        (probes[name],) = layercache.probe(
            caches["tiny_vit"],
            join="tiny_eva",
            join_width=width,
            head=head,
            layers="mid-last",
            train_config=TRAIN_CONFIG,
            device="cpu",
            **grid,  # type: ignore[arg-type]
        ).probes
    files = [images / i for i in open_cache(caches["tiny_vit"]).split("test").ids]
    return Joined(files, weights, root, probes)


@pytest.mark.parametrize("name", ["ridge", "attentive", "pad"])
def test_joined_head_predicts_images_as_the_caches(name: str, joined: Joined) -> None:
    probe = joined.probes[name]
    cached = probe.predictions().logits
    classifier = load_classifier(probe.path, weights=joined.weights, device="cpu")
    _, result = predict_probe(probe.path, joined.images, weights=joined.weights, device="cpu")
    opened = [Image.open(file).convert("RGB") for file in joined.images]
    tolerance = 0.003 * np.abs(cached).max()
    for logits in (result.outputs, *map(classifier.logits, (joined.images, opened))):
        assert np.abs(logits - cached).max() < tolerance
    # negative control: the images of one encoder belong to other samples
    first, second = classifier.preprocess(opened)
    with torch.inference_mode():
        other = classifier((first, second.flip(0))).numpy()
    assert np.abs(other - cached).max() > 4 * tolerance


def test_joined_head_on_the_backbones_of_others_is_refused(joined: Joined) -> None:
    head = load_head(joined.probes["ridge"].path)
    (backbones,) = load_backbones([head], weights=joined.weights)
    with pytest.raises(HeadMismatchError, match=r"backbones of tiny_vit and tiny_eva, .* got 1"):
        Classifier(head, backbones[0])
    with pytest.raises(HeadMismatchError, match=r"trained on tiny_vit with weights"):
        Classifier(head, *backbones[::-1])


def test_one_file_for_several_models_is_refused(joined: Joined) -> None:
    probe, file = joined.probes["ridge"], joined.weights["tiny_vit"]
    with pytest.raises(OptionError, match=r"with 2 models, expected MODEL=FILE, e\.g\. tiny_vit="):
        load_classifier(probe.path, weights=file)
    with pytest.raises(OptionError, match="model is one backbone, and the tokens are of tiny_vit "):
        load_classifier(probe.path, model="tiny_vit")
    words = [f"{model}={file}" for model, file in joined.weights.items()]
    _, result = predict_probe(probe.path, joined.images[:1], weights=words, device="cpu")
    assert len(result.images) == 1


@pytest.mark.slow
def test_joined_head_is_exported_with_an_input_for_each_encoder(
    joined: Joined, tmp_path: Path
) -> None:
    classifier = load_classifier(
        joined.probes["attentive"].path, weights=joined.weights, device="cpu"
    )
    inputs = classifier.preprocess([Image.open(file).convert("RGB") for file in joined.images])
    with torch.inference_mode():
        expected = classifier(inputs)
    exported = export_torch(classifier, tmp_path / "joined.pt2")
    assert exported.max_difference < 1e-3
    got = torch.export.load(exported.path).module()(inputs)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.slow
def test_joined_head_as_onnx_has_named_inputs(joined: Joined, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    classifier = load_classifier(joined.probes["pad"].path, weights=joined.weights, device="cpu")
    inputs = classifier.preprocess([Image.open(file).convert("RGB") for file in joined.images])
    exported = export_onnx(classifier, tmp_path / "joined.onnx")
    session = onnxruntime.InferenceSession(str(exported.path))
    names = [i.name for i in session.get_inputs()]
    assert names == ["images_0", "images_1"]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    (got,) = session.run(None, feed)
    with torch.inference_mode():
        assert np.allclose(got, classifier(inputs).numpy(), atol=1e-4)


def test_card_of_a_joined_head_describes_every_backbone(joined: Joined) -> None:
    path = joined.probes["attentive"].path
    card = write_card(load_head(path), path)
    assert "# attentive head on tiny_vit and tiny_eva for waves" in card
    for model in MODELS:
        assert f"## Backbone {model}" in card.replace("\\", "")
        assert f"--weights {model}={joined.weights[model]}" in card
    assert "| tokens read at | fc1 |" in card
