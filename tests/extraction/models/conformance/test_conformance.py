"""What every source of models must fulfil, whichever library it is from."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import layercache
from layercache.deploy import export_onnx, export_torch
from layercache.errors import BackboneError
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.encoder import Encoder
from layercache.extraction.models.loading import load_encoder
from tests.deploy.trained import draw_images
from tests.extraction.models.conformance.sources import SOURCES, Source
from tests.extraction.models.transformers_models import picture

ROOT = Path(__file__).parents[4]
TOLERANCE = {"rtol": 1e-4, "atol": 3e-5}


@dataclass(frozen=True)
class Saved:
    """A source's model as a user has it."""

    source: Source
    model: str | Encoder
    options: dict[str, Any]

    def load(self, **options: Any) -> Backbone:
        return load_encoder(self.model, **({"storage_dtype": "float32"} | self.options | options))

    @property
    def kinds(self) -> tuple[str, ...]:
        return (
            *(("cls",) if self.source.class_token else ()),
            "ap",
            *(("reg",) if self.source.registers else ()),
        )


@pytest.fixture(scope="module", params=list(SOURCES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    source = SOURCES[request.param]()
    model, options = source.save(source.build(), tmp_path_factory.mktemp(request.param))
    return Saved(source, model, options)


@pytest.fixture(scope="module")
def images(saved: Saved) -> Tensor:
    shape = (3, 3, saved.source.size, saved.source.size)
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(scope="module")
def states(saved: Saved, images: Tensor) -> dict[str, list[np.ndarray[Any, Any]]]:
    preprocessing = saved.load(tap="block", tokens="ap").preprocessing
    return dict(saved.source.hidden_states(preprocessing.normalize(images)))


def pooled(source: Source, kind: str, hidden: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    prefix = source.prefix
    if kind == "cls":
        return hidden[:, 0]
    return (
        hidden[:, prefix:].mean(1)
        if kind == "ap"
        else hidden[:, prefix - source.registers : prefix].mean(1)
    )


def test_tokens_equal_plain_hooks_at_every_layer_and_tap(
    saved: Saved, images: Tensor, states: dict[str, list[np.ndarray[Any, Any]]]
) -> None:
    assert {"block", "block-norm", "norm2", "norm1", "attn", "act", "mlp"} <= states.keys()
    for tap, layers in states.items():
        backbone = saved.load(tap=tap, tokens=saved.kinds)
        expected = np.array(
            [[pooled(saved.source, kind, hidden) for kind in saved.kinds] for hidden in layers]
        )
        np.testing.assert_allclose(backbone(images), expected, **TOLERANCE, err_msg=tap)


def test_taps_that_the_hooks_do_not_find_are_refused(
    saved: Saved, states: dict[str, list[np.ndarray[Any, Any]]]
) -> None:
    for tap in {"fc1", "act", "mlp", "norm1", "attn", "norm2"} - states.keys():
        with pytest.raises(BackboneError, match=f"tap {tap} .*: use tap '(block|act)'"):
            saved.load(tap=tap, tokens="ap")


def test_tokens_of_another_layer_tap_or_prefix_exceed_the_tolerance(
    saved: Saved, states: dict[str, list[np.ndarray[Any, Any]]]
) -> None:
    """Negative control."""
    source = saved.source
    means = {tap: np.array([pooled(source, "ap", x) for x in x_ln]) for tap, x_ln in states.items()}
    for tap, layers in means.items():
        assert not np.allclose(layers[1:], layers[:-1], **TOLERANCE), tap
        for other in means.keys() - {tap}:
            if means[other].shape == layers.shape:
                assert not np.allclose(means[other], layers, **TOLERANCE), (tap, other)
    for wrong in {source.prefix + 1, max(source.prefix - 1, 0)} - {source.prefix}:
        shifted = np.array([x[:, wrong:].mean(1) for x in states["block"]])
        assert not np.allclose(shifted, means["block"], **TOLERANCE)


@pytest.mark.parametrize("which", ["prefix", "patch"])
def test_prefix_tokens_are_never_in_the_average_patch(
    saved: Saved, images: Tensor, which: str
) -> None:
    source = saved.source
    if which == "prefix" and not source.prefix:
        pytest.skip("no prefix tokens")
    backbone = saved.load(tap="block", tokens="ap", layers="last")
    expected = backbone(images)
    first = slice(0, source.prefix) if which == "prefix" else slice(source.prefix, None)

    def change(module: nn.Module, args: Any, output: Any) -> None:
        for hidden in output if isinstance(output, tuple) else (output,):
            if isinstance(hidden, Tensor):
                (hidden if source.batch_first else hidden.transpose(0, 1))[:, first] += 1000

    blocks = list(find_blocks(backbone.module, source.blocks).children())
    blocks[-1].register_forward_hook(change, prepend=True)
    assert torch.equal(backbone(images), expected) == (which == "prefix")


def find_blocks(module: nn.Module, path: str) -> nn.Module:
    """Return the list of blocks, also where the backbone keeps only a part of the saved module."""
    named = dict(module.named_modules())
    return next(named[name] for name in named if name == path or name.endswith(f".{path}"))


@pytest.mark.parametrize("tensors", [6, pytest.param(None, marks=pytest.mark.slow)])
def test_digest_changes_with_any_single_weight(
    saved: Saved, tmp_path: Path, tensors: int | None
) -> None:
    """And not with those of a head or text tower, which no token depends on."""
    source = saved.source
    digests = {"": saved.load(tap="block", tokens="ap").weights_digest}
    state = source.build().state_dict()
    names = [key for key, value in state.items() if value.is_floating_point()]
    if tensors is not None:
        names = [names[i] for i in np.linspace(0, len(names) - 1, tensors).astype(int)]
    for number, key in enumerate(names):
        module = source.build()
        module.state_dict()[key].view(-1)[-1] += 1e-3
        (tmp_path / str(number)).mkdir()
        model, options = source.save(module, tmp_path / str(number))
        digest = load_encoder(model, tap="block", tokens="ap", **options).weights_digest
        if key.startswith(source.unused):
            assert digest == digests[""], key
        else:
            digests[key] = digest
    assert len(set(digests.values())) == len(digests) > 1


def test_digest_and_tokens_repeat(saved: Saved, images: Tensor) -> None:
    one, other = (saved.load(tap="block", tokens="ap") for _ in range(2))
    assert one.weights_digest == other.weights_digest
    assert one.architecture == other.architecture
    assert torch.equal(one(images), other(images))


def test_layers_alone_equal_all_layers(saved: Saved, images: Tensor) -> None:
    for tap in ("norm2", "block-norm", "act"):
        everything = saved.load(tap=tap, tokens="ap")(images)
        assert torch.equal(saved.load(tap=tap, tokens="ap", layers=(1,))(images), everything[:1])


def test_preprocessing_equals_the_sources_own(saved: Saved) -> None:
    preprocessing = saved.load(tap="block", tokens="ap").preprocessing
    for shape in [(50, 71), (37, 32), (64, 41), (20, 20)]:
        image = picture(*shape)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        expected = saved.source.transform(image)
        torch.testing.assert_close(
            preprocessing.normalize(pixels)[0], expected, rtol=0, atol=0, msg=f"{shape}"
        )


@pytest.fixture(scope="module")
def probe(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe on a cache of the source, extracted from files."""
    folder = tmp_path_factory.mktemp("probe")
    pictures = draw_images(folder / "waves", per_class=8)
    weights = saved.options.get("weights")
    name = saved.model if isinstance(saved.model, str) else saved.model.name
    (done,) = layercache.extract(
        models=[saved.model],
        weights={} if weights is None else {name: weights},
        dataset=f"folder:{pictures}",
        tokens="ap",
        storage_dtype="float32",
        cache=folder / "caches",
        workers=0,
        device="cpu",
        progress=False,
    )
    layercache.probe(done.path, head="ridge", layers="last", tokens="ap", device="cpu")
    (found,) = (done.path / "probes").glob("[0-9a-f]*")
    return found


def classifier_of(saved: Saved, probe: Path) -> Any:
    model = saved.model if saved.source.needs_model else None
    return layercache.load_classifier(
        probe, model=model, weights=saved.options.get("weights"), device="cpu"
    )


def test_predict_finds_the_model_again_or_says_why_not(saved: Saved, probe: Path) -> None:
    if saved.source.needs_model:
        with pytest.raises(BackboneError, match=r"load_classifier\(head, model=encoder\)"):
            layercache.load_classifier(probe, device="cpu")
    classifier = classifier_of(saved, probe)
    cache = layercache.open_cache(probe.parent.parent)
    files = sorted((probe.parents[4].parent / "waves").glob("*/*.png"))[:3]
    with torch.inference_mode():
        logits = classifier(classifier.preprocess([Image.open(file) for file in files]))
        stored = cache.split("train").read(classifier.checkpoint.pairs, rows=(0, 3))
        from_cache = classifier.head(torch.from_numpy(stored).transpose(0, 1))
    torch.testing.assert_close(logits, from_cache, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("export", [export_onnx, export_torch])
def test_export_writes_a_checked_file(
    saved: Saved, probe: Path, tmp_path: Path, export: Any
) -> None:
    assert export(classifier_of(saved, probe), tmp_path / "model").max_difference < 1e-3


QUICK = ("timm_folder", "encoder_file", "transformers_clip", "open_clip")
"""Sources whose killed extraction is in the quick tests, one of each library."""


@functools.cache
def killed(names: tuple[str, ...]) -> dict[str, Any]:
    """Return what became of an extraction of each source that was killed and continued."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.extraction.models.conformance.killing", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "names"),
    [(name, QUICK) for name in QUICK]
    + [
        pytest.param(name, tuple(SOURCES), marks=pytest.mark.slow)
        for name in SOURCES
        if name not in QUICK
    ],
)
def test_extract_that_was_killed_continues_to_the_same_bytes(
    name: str, names: tuple[str, ...]
) -> None:
    result = killed(names)[name]
    assert (result["killed"], result["continued"]) == (9, 0)
    assert 0 < result["images"] < result["whole"]
    assert result["differ"] == []
