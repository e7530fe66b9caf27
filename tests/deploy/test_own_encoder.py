"""Heads on an encoder of the user's own: found again from a file, to be given as an object."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import layercache
from layercache.deploy.card import write_card
from layercache.errors import BackboneError, HeadMismatchError
from layercache.probing.results.head_checkpoint import load_head
from tests.extraction.models.own_modules import plain, randomize

FILE = "from tests.extraction.models.own_modules import plain\n\ndef mine():\n    return plain()\n"


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Probes of one encoder: given as an object, as a file's function, next to a named model."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "encoders.py").write_text(FILE)
    file = f"{folder}/encoders.py:mine"
    options = {"dataset": "digits", "limit": 20, "workers": 0, "progress": False}
    done = layercache.extract(models=[plain(), "vit_nano"], cache=str(folder / "a"), **options)
    assert [extraction.model for extraction in done] == ["mine", "vit_nano"]
    layercache.extract(models=file, cache=str(folder / "b"), **options)
    found = {}
    for name, root, model in (("object", "a", "mine"), ("file", "b", file)):
        cache = layercache.open_cache(model=model, dataset="digits", root=folder / root)
        layercache.probe(cache, head="ridge", layers="last")
        (found[name],) = (cache.path / "probes").glob("[0-9a-f]*")
    assert found["object"].parent.parent.name == found["file"].parent.parent.name  # fingerprints
    return found


def test_load_classifier_of_an_encoder_object_says_how_to_pass_it(probes: dict[str, Path]) -> None:
    with pytest.raises(
        BackboneError,
        match=r"mine: the tokens are those of an Encoder object .* load_classifier\(head, "
        r"model=encoder\), or the FILE.py:FUNCTION",
    ):
        layercache.load_classifier(probes["object"])
    card = write_card(load_head(probes["object"]), probes["object"])
    assert "--model FILE.py:FUNCTION IMAGE" in card
    assert "licence of the weights | not known" in card


def test_load_classifier_of_an_encoder_equals_that_of_its_file(probes: dict[str, Path]) -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    given = layercache.load_classifier(probes["object"], model=plain())
    found = layercache.load_classifier(probes["file"])
    assert torch.equal(given(given.preprocess(images)), found(found.preprocess(images)))
    assert "--model" not in write_card(load_head(probes["file"]), probes["file"])


def test_load_classifier_with_another_encoder_is_refused(probes: dict[str, Path]) -> None:
    other = plain()
    randomize(other.module, seed=8)
    with pytest.raises(HeadMismatchError, match="this head was trained on mine with weights"):
        layercache.load_classifier(probes["object"], model=other)
