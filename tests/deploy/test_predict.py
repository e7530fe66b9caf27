from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layercache.cache.find import open_cache
from layercache.deploy import Classifier, load_classifier, predict
from layercache.errors import DataError, DataNotFoundError, OptionError
from layercache.extraction.image_input import find_images
from layercache.probing.results.head_checkpoint import load_head
from tests.deploy.trained import Trained


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> Classifier:
    return load_classifier(trained.probes["attentive"].path, weights=trained.weights, device="cpu")


def test_predict_gives_the_probabilities_of_the_probe(
    classifier: Classifier, trained: Trained
) -> None:
    ids = open_cache(trained.cache).split("test").ids
    logits = trained.probes["attentive"].predictions().logits.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    result = predict(classifier, [trained.images / i for i in ids], batch_size=4)
    assert [image.image for image in result.images] == [str(trained.images / i) for i in ids]
    assert not result.skipped
    for image, p in zip(result.images, expected, strict=True):
        assert image.classes == tuple(np.array(["across", "down"])[np.argsort(-p)])
        np.testing.assert_allclose(image.probabilities, np.sort(p)[::-1], atol=2e-3)
    assert (
        len({image.classes[0] for image in result.images}) == 2
    )  # a constant prediction would fail


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_predict_composites_on_the_background_of_the_cache(
    trained: Trained, tmp_path: Path, background: str, level: int
) -> None:
    head = load_head(trained.probes["linear"].path)
    preprocessing = {**head.provenance.preprocessing, "background": background}
    provenance = replace(head.provenance, preprocessing=preprocessing)
    classifier = load_classifier(
        replace(head, provenance=provenance), weights=trained.weights, device="cpu"
    )
    rng = np.random.default_rng(0)
    colours, alpha = (rng.integers(0, 256, (40, 48, n), np.uint8) for n in (3, 1))
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "alpha.png")
    opacity = alpha / 255
    right = Image.fromarray(np.round(colours * opacity + level * (1 - opacity)).astype(np.uint8))
    right.save(tmp_path / "right.png")
    Image.fromarray(colours).save(tmp_path / "dropped.png")
    # the probability of one class: the order of an image's classes may differ
    got, expected, dropped = (
        dict(zip(image.classes, image.probabilities, strict=True))["down"]
        for image in predict(
            classifier, [tmp_path / f"{name}.png" for name in ("alpha", "right", "dropped")]
        ).images
    )
    assert abs(got - expected) < abs(got - dropped) / 8
    with Image.open(tmp_path / "alpha.png") as image:
        given = classifier.pixels(image).int()
    assert (given - classifier.pixels(right).int()).abs().max() <= 1
    with Image.open(tmp_path / "dropped.png") as image:
        without = classifier.pixels(image).int()
    assert (given - without).abs().max() > 64  # negative control


def test_predict_with_a_folder_and_top_k_lists_its_images_with_k_classes(
    classifier: Classifier, trained: Trained
) -> None:
    steps: list[int] = []
    result = predict(
        classifier,
        [trained.images / "down", trained.images / "across" / "03.png"],
        top_k=1,
        batch_size=10,
        on_progress=steps.append,
    )
    assert [Path(image.image).name for image in result.images] == [
        f"{i:02d}.png" for i in range(14)
    ] + ["03.png"]
    assert {len(image.classes) for image in result.images} == {1}
    assert steps == [10, 15]


def test_predict_of_an_unreadable_image_raises_or_skips_it(
    classifier: Classifier, trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.images / "down" / "00.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    with pytest.raises(DataError, match=r"bad\.png' cannot be decoded"):
        predict(classifier, [tmp_path])
    result = predict(classifier, [tmp_path], on_error="skip", batch_size=1)
    assert [Path(image.image).name for image in result.images] == ["good.png"]
    assert list(result.skipped) == [str(tmp_path / "bad.png")]
    assert "cannot be decoded" in result.skipped[str(tmp_path / "bad.png")]


def test_find_images_lists_files_and_folders_without_hidden_files_or_duplicates(
    tmp_path: Path,
) -> None:
    for name in ("b.png", "a/x.JPG", ".hidden/y.png", ".z.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [str(tmp_path / "a/x.JPG"), str(tmp_path / "b.png")]
    assert find_images([tmp_path / "notes.txt", tmp_path / "b.png", tmp_path]) == [
        str(tmp_path / n) for n in ("notes.txt", "b.png", "a/x.JPG")
    ]
    with pytest.raises(DataNotFoundError, match="no such file or folder"):
        find_images([tmp_path / "nowhere.png"])
    with pytest.raises(DataNotFoundError, match="no image in this folder"):
        find_images(
            [tmp_path / ".hidden" / "..", tmp_path / "empty"]
            if (tmp_path / "empty").mkdir()
            else [tmp_path / "empty"]
        )
    with pytest.raises(DataNotFoundError, match="no image given"):
        find_images([])


@pytest.mark.parametrize("options", [{"top_k": 0}, {"batch_size": 0}, {"on_error": "ignore"}])
def test_predict_with_a_bad_option_is_refused(
    options: dict[str, object], classifier: Classifier, trained: Trained
) -> None:
    with pytest.raises(OptionError, match=f"^{next(iter(options))}: expected"):
        predict(classifier, [trained.images], **options)  # type: ignore[arg-type]
