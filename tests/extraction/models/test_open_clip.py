"""Visual towers of OpenCLIP against OpenCLIP itself: tokens, sizes, preprocessing, projection."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from layercache.cache.format.cache_spec import Tap
from layercache.errors import BackboneError, MissingExtraError, UnknownNameError
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.sources import describe_model
from tests.extraction.models.open_clip_models import (
    DEPTH,
    IMAGES,
    KINDS,
    OUT,
    build,
    class_attention,
    config,
    folder,
    hidden_states,
    normalized,
    transform,
)
from tests.extraction.models.transformers_models import picture

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
SQUARE = [kind for kind in KINDS if kind != "wide"]
TOKENS = ("cls", "attn", "ap", "std", "max")


def load(kind: str, **options: Any) -> Backbone:
    name = f"open_clip:local-dir:{folder(kind)}"
    return load_encoder(name, **{"storage_dtype": "float32", **options})


def pooled(kind: str, token: str, tap: str) -> list[np.ndarray]:
    """Return every layer's token of a kind, (B, D) in float64."""
    maps = hidden_states(kind)[tap]
    patches = [x[:, 1:] for x in maps]
    if token == "attn":
        blocks = class_attention(kind)
        # norm2 of layer l is in block l + 1; the final norm follows the last block
        blocks = [*blocks[1:], blocks[-1]] if tap == "norm2" else blocks
        weights = [block[:, 1:, None] for block in blocks]
        return [(w * x).sum(1) / w.sum(1) for w, x in zip(weights, patches, strict=True)]
    return {
        "cls": lambda: [x[:, 0] for x in maps],
        "ap": lambda: [x.mean(1) for x in patches],
        "std": lambda: [x.std(1) for x in patches],
        "max": lambda: [x.max(1) for x in patches],
    }[token]()


@pytest.mark.parametrize("kind", SQUARE)
def test_tokens_equal_open_clips_intermediates_and_hooks_at_every_tap(kind: str) -> None:
    for tap in get_args(Tap):
        if kind == "coca" and tap in ("norm2", "block-norm"):
            with pytest.raises(BackboneError, match=r"needs a final norm .* use tap 'block'"):
                load(kind, tap=tap)
            continue
        backbone = load(kind, tap=tap, tokens=TOKENS)
        expected = np.stack([pooled(kind, token, tap) for token in TOKENS], 1)
        np.testing.assert_allclose(backbone(IMAGES), expected, **TOLERANCE, err_msg=f"{kind} {tap}")


def test_projected_class_token_equals_image_features() -> None:
    for kind in ("plain", "quickgelu", "layer_scale"):
        with torch.no_grad():
            expected = build(kind).encode_image(normalized())
        backbone = load(kind, layers="last", tokens="cls", projected=True)
        got = backbone(IMAGES)[0, 0]
        np.testing.assert_allclose(got[:, :OUT], expected, **TOLERANCE)
        assert not got[:, OUT:].any()
        assert backbone.weights_digest != load(kind).weights_digest


def test_projected_average_patch_of_clipa_is_the_mean_of_projected_patches() -> None:
    """OpenCLIP's own image features of CLIPA are averaged before the final norm instead."""
    with torch.no_grad():
        visual = build("clipa").visual
        hidden = torch.from_numpy(hidden_states("clipa")["block"][-1]).float()
        expected = visual.ln_post(hidden)[:, 1:].mean(1) @ visual.proj
    got = load("clipa", layers="last", tokens="ap", projected=True)(IMAGES)[0, 0]
    np.testing.assert_allclose(got[:, :OUT], expected, **TOLERANCE)


def test_projected_of_an_attention_pooling_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"attention pooling .* leave projected out"):
        load("coca", tap="block", projected=True)


@pytest.mark.parametrize("kind", ["plain", "layer_scale", "clipa", "custom", "wide"])
def test_pixels_equal_open_clips_transform(kind: str) -> None:
    preprocessing = load(kind).preprocessing
    for shape in [(50, 71), (37, 32), (64, 41), (33, 90), (20, 20)]:
        image = picture(*shape)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        got = preprocessing.normalize(pixels)[0]
        np.testing.assert_array_equal(got, transform(kind)(image))


def test_another_input_size_equals_open_clip_at_that_size() -> None:
    size = (40, 48)
    images = torch.randint(
        0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    values = config("plain")
    values["vision_cfg"]["image_size"] = size
    model = CLIP(**values).eval()
    state = build("plain").state_dict()
    open_clip.model.resize_pos_embed(state, model)
    model.load_state_dict(state)
    with torch.no_grad():
        expected = model.visual.forward_intermediates(normalized(images), output_fmt="NLC")
    resized = PreprocessingOptions(input_size=size)
    backbone = load("plain", tap="block", tokens="ap", preprocessing=resized)
    np.testing.assert_allclose(
        backbone(images)[:, 0],
        torch.stack([x.mean(1) for x in expected["image_intermediates"]]),
        **TOLERANCE,
    )
    assert "input 40 x 48 instead of the checkpoint's 32 x 32" in backbone.notes[-1]
    assert backbone.weights_digest == load("plain").weights_digest


def test_a_padding_preprocessing_is_refused_unless_the_crop_is_given(tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder("plain"), tmp_path / "longest"))
    values = json.loads((path / "open_clip_config.json").read_text())
    values["preprocess_cfg"]["resize_mode"] = "longest"
    (path / "open_clip_config.json").write_text(json.dumps(values))
    name = f"open_clip:local-dir:{path}"
    with pytest.raises(BackboneError, match=r"resize_mode 'longest'.*crop_mode 'border'"):
        load_encoder(name)
    border = PreprocessingOptions(crop_mode="border")
    assert load_encoder(name, preprocessing=border).preprocessing.crop_mode == "border"


def test_digest_is_of_the_towers_tensors_whatever_the_file(tmp_path: Path) -> None:
    digest = load("plain").weights_digest
    path = Path(shutil.copytree(folder("plain"), tmp_path / "torch"))
    file = path / "open_clip_model.safetensors"
    state = load_file(file)
    torch.save({"state_dict": state}, path / "open_clip_pytorch_model.bin")
    file.unlink()
    assert load_encoder(f"open_clip:local-dir:{path}").weights_digest == digest
    for key, changes in [
        ("visual.transformer.resblocks.1.attn.in_proj_weight", True),
        ("visual.positional_embedding", True),
        ("visual.ln_post.bias", True),
        ("visual.proj", False),
        ("token_embedding.weight", False),
    ]:
        save_file({**state, key: state[key] + 0.5}, file)
        got = load_encoder(f"open_clip:local-dir:{path}").weights_digest
        assert (got != digest) == changes, key


@pytest.fixture
def tiny_name(tmp_path: Path) -> str:
    """Name of a tiny architecture that OpenCLIP knows."""
    (tmp_path / "tiny-test.json").write_text(json.dumps(config("plain")))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    return "open_clip:tiny-test"


@pytest.mark.parametrize("prefix", ["", "visual.", "module.visual."])
def test_a_name_of_open_clip_takes_a_local_checkpoint(
    tiny_name: str, tmp_path: Path, prefix: str
) -> None:
    state = build("plain").visual.state_dict()
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"{prefix}{key}": value for key, value in state.items()}}, file)
    backbone = load_encoder(tiny_name, weights=file)
    assert backbone.weights_digest == load("plain").weights_digest
    assert backbone.architecture == load("plain").architecture
    with pytest.raises(BackboneError, match=r"no weights are named.*give a local checkpoint"):
        load_encoder(tiny_name)


def test_a_pretrained_tag_brings_its_activation_and_preprocessing() -> None:
    info = describe_model("open_clip:ViT-B-32/openai")
    assert "quick_gelu=True" in info.architecture
    assert "QuickGELU, with which 'openai' was trained" in info.note
    assert "quick_gelu=False" in describe_model("open_clip:ViT-B-32/laion2b_s34b_b79k").architecture
    assert "quick_gelu=True" in describe_model("open_clip:ViT-B-32-quickgelu/openai").architecture
    clipa = describe_model("open_clip:ViT-L-14-CLIPA/datacomp1b").transform
    assert clipa is not None
    assert (clipa.interpolation, clipa.crop_mode) == ("bilinear", "squash")
    assert (info.width, info.depth, info.input_size, info.patch_size) == (768, 12, 224, 32)


def test_every_own_vit_of_open_clip_can_be_described() -> None:
    described = 0
    for name in open_clip.list_models():
        vision = open_clip.get_model_config(name)["vision_cfg"]
        if "timm_model_name" in vision or not isinstance(vision["layers"], int):
            continue
        info = describe_model(f"open_clip:{name}")
        assert (info.width, info.depth) == (vision["width"], vision["layers"])
        assert info.class_attention
        described += 1
    assert described > 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RN50/openai", "expected a ViT, its visual tower is a ResNet"),
        ("ViT-B-16-SigLIP/webli", r"timm's vit_base_patch16_siglip_224: use timm's name, .*webli"),
        ("ViT-B-32/no_tag", "unknown pretrained tag of open_clip:ViT-B-32 'no_tag'"),
        ("ViT-B-33/openai", "unknown model 'open_clip:ViT-B-33/openai': did you mean"),
        ("local-dir:", "expected open_clip:hf-hub:ORG/NAME or open_clip:local-dir:PATH"),
        ("local-dir:/nowhere", r"there is no open_clip_config\.json in /nowhere"),
    ],
)
def test_names_that_cannot_be_used_say_what_to_use(name: str, message: str) -> None:
    with pytest.raises((BackboneError, UnknownNameError), match=message):
        load_encoder(f"open_clip:{name}", offline=True)


def test_weights_that_are_not_cached_are_refused_offline_with_a_remedy() -> None:
    with pytest.raises(BackboneError, match=r"downloads are forbidden .* checkpoint as weights"):
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k", offline=True)
    with pytest.raises(BackboneError, match=r"downloads are forbidden .* open_clip:local-dir:PATH"):
        load_encoder("open_clip:hf-hub:nobody/nothing", offline=True)


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"open_clip_torch, which is not .*\[open-clip\]"):
        load_encoder("open_clip:ViT-B-32/openai")


def test_layers_of_a_folder_are_found_under_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder("plain"), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    backbone = load_encoder("open_clip:local-dir:model")
    assert backbone.name == f"open_clip:local-dir:{tmp_path.resolve()}/model"
    assert backbone(IMAGES).shape[0] == DEPTH


def test_a_repository_is_downloaded_once(server: Path) -> None:
    for file in folder("plain").iterdir():
        shutil.copy(file, server)
    digest = load_encoder("open_clip:hf-hub:lab/clip").weights_digest
    assert digest == load("plain").weights_digest
    for file in server.iterdir():
        file.unlink()
    assert load_encoder("open_clip:hf-hub:lab/clip", offline=True).weights_digest == digest
