"""Models by their address: folders in the layout of public ones, small and with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

import layercache
from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.sources import describe_model
from layercache.extraction.models.weights.checkpoint import digest_weights
from layercache.extraction.options import ExtractOptions

IMAGES = torch.randint(
    0, 256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
MEAN, STD = (0.7, 0.57, 0.7), (0.21, 0.25, 0.21)
SMALL = {"img_size": 28, "patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
# architecture, model_args of config.json, number of prefix tokens
STYLES: dict[str, tuple[str, dict[str, Any], int]] = {
    "uni": ("vit_large_patch16_224", {"init_values": 1.0, "dynamic_img_size": True}, 1),
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **SWIGLU,
        },
        9,
    ),
    "virchow2": (
        "vit_huge_patch14_224",
        {
            "init_values": 1e-5,
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
            **SWIGLU,
        },
        5,
    ),
    "h-optimus": (
        "vit_giant_patch14_reg4_dinov2",
        {"init_values": 1e-5, "global_pool": "", "dynamic_img_size": False},
        5,
    ),
    "prov-gigapath": ("vit_giant_patch14_dinov2", {"global_pool": "token"}, 1),
}


def build(style: str) -> nn.Module:
    """Return the model as timm builds it from classes, with weights far from their initial ones."""
    architecture, args, _ = STYLES[style]
    classes = {"mlp_layer": SwiGLUPacked} if "mlp_layer" in args else {}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module: Any = timm.create_model(architecture, num_classes=0, **{**SMALL, **args, **classes})
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return module.eval()  # type: ignore[no-any-return]


def config(style: str, **changes: Any) -> dict[str, Any]:
    architecture, args, _ = STYLES[style]
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": 24,
        "model_args": {**SMALL, "num_classes": 0, **args, **changes},
        "pretrained_cfg": {
            "tag": style,
            "input_size": [3, 28, 28],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": MEAN,
            "std": STD,
            "num_classes": 0,
        },
    }


def save(folder: Path, style: str, state: dict[str, Tensor] | None = None, **changes: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(style, **changes)))
    save_file(build(style).state_dict() if state is None else state, folder / "model.safetensors")
    return f"local-dir:{folder}"


@pytest.mark.parametrize("style", list(STYLES))
def test_load_backbone_of_a_folder_equals_timms_own_model(style: str, tmp_path: Path) -> None:
    module: Any = build(style)
    backbone = load_encoder(save(tmp_path / style, style), layers="last", storage_dtype="float32")
    x = (IMAGES.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    with torch.no_grad():
        hidden = module.forward_features(x)
    prefix = STYLES[style][2]
    assert hidden.shape[1] == prefix + 4
    expected = torch.stack([hidden[:, 0], hidden[:, prefix:].mean(1)])
    torch.testing.assert_close(backbone(IMAGES)[0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(backbone(IMAGES)[0, 1], hidden[:, prefix + 1 :].mean(1), atol=1e-3)
    assert backbone.weights_digest == digest_weights(module.state_dict())
    assert backbone.preprocessing.mean == MEAN
    assert backbone.architecture.startswith(f"{STYLES[style][0]}(")
    info = describe_model(f"local-dir:{tmp_path / style}")
    assert (info.depth, info.width, info.input_size, info.patch_size) == (2, 24, 28, 14)
    assert info.architecture == backbone.architecture


def test_load_backbone_of_a_folder_with_another_activation_is_another_architecture(
    tmp_path: Path,
) -> None:
    """The activation is in no tensor, so that the digests of the weights are equal."""
    silu = load_encoder(save(tmp_path / "a", "uni2-h"))
    gelu = load_encoder(save(tmp_path / "b", "uni2-h", act_layer="gelu"))
    assert silu.weights_digest == gelu.weights_digest
    assert silu.architecture == gelu.architecture.replace("'gelu'", "'silu'") != gelu.architecture
    assert not torch.equal(silu(IMAGES), gelu(IMAGES))


def test_load_backbone_of_a_folder_is_strict(tmp_path: Path) -> None:
    """timm itself leaves a missing tensor at random where the number of classes differs."""
    state = build("uni").state_dict()
    del state["blocks.1.ls1.gamma"]
    with pytest.raises(
        BackboneError, match=r"model.safetensors for local-dir.*1 missing: blocks\."
    ):
        load_encoder(save(tmp_path, "uni", state))


def test_load_backbone_of_a_folder_without_an_argument_of_its_makers_raises(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"of another shape: blocks.0.mlp.fc2.weight"):
        load_encoder(save(tmp_path, "virchow2", mlp_layer="Mlp"))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "teacher.pth"])
def test_load_backbone_of_a_folder_with_a_torch_file_finds_it(file: str, tmp_path: Path) -> None:
    name = save(tmp_path, "uni")
    expected = load_encoder(name).weights_digest
    (tmp_path / "model.safetensors").unlink()
    torch.save({"state_dict": build("uni").state_dict()}, tmp_path / file)
    assert load_encoder(name).weights_digest == expected


def test_load_backbone_of_a_folder_takes_other_weights(tmp_path: Path) -> None:
    name = save(tmp_path / "a", "uni")
    state = {key: value + 1 for key, value in build("uni").state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    backbone = load_encoder(name, weights=tmp_path / "other.safetensors")
    assert backbone.weights_digest == digest_weights(state)


def test_load_backbone_of_incomplete_folders_raises(tmp_path: Path) -> None:
    name = save(tmp_path, "uni")
    (tmp_path / "model.safetensors").rename(tmp_path / "a.pth")
    (tmp_path / "b.pth").touch()
    with pytest.raises(
        BackboneError, match=r"expected one checkpoint, got a.pth, b.pth: name it mod"
    ):
        load_encoder(name)
    for file in ("a.pth", "b.pth"):
        (tmp_path / file).unlink()
    with pytest.raises(
        BackboneError, match=r"there is no checkpoint in .*: expected model.safeten"
    ):
        load_encoder(name)
    for text, problem in (
        ("{", "is no config.json of timm"),
        ("[]", "is no config.json of timm"),
        (
            '{"model_type": "vit"}',
            "expected 'architecture' in .*, got model_type: it is a model of transformers, use hf:",
        ),
        ('{"name": "vit"}', "expected 'architecture' in .*, got name: is it a model of timm"),
        ('{"architecture": "vit_new"}', "timm cannot build vit_new .*Unknown model"),
        ('{"architecture": "resnet18"}', "expected a ViT, got timm's ResNet"),
        (json.dumps(config("uni", mlp_ration=4)), "timm cannot build .*mlp_ration"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BackboneError, match=problem):
            describe_model(name)
    (tmp_path / "config.json").write_text(json.dumps(config("uni", mlp_layer="SwiGLUPackd")))
    with pytest.raises(UnknownNameError, match="did you mean SwiGLUPacked"):
        describe_model(name)
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        BackboneError, match=r"there is no .*config.json: expected a folder in timm's"
    ):
        describe_model(name)
    with pytest.raises(BackboneError, match="/nowhere: no such folder"):
        describe_model("local-dir:/nowhere")
    with pytest.raises(BackboneError, match="expected hf-hub:ORG/NAME or local-dir:PATH"):
        describe_model("local-dir:")


def test_load_backbone_of_a_relative_folder_has_its_absolute_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save(tmp_path / "uni", "uni")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("local-dir:./uni").name == describe_model("local-dir:uni").name == name
    options = ExtractOptions(
        models=["local-dir:uni"], dataset="digits", weights={"local-dir:uni": "a.pt"}
    )
    assert list(options.models) == list(options.weights) == [name]


@pytest.mark.slow
def test_extract_of_a_relative_folder_is_found_again_by_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "models" / "uni", "uni")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "caches"))
    layercache.extract(
        models="local-dir:models/uni", dataset="digits", limit=20, workers=0, progress=False
    )
    cache = layercache.open_cache(model="local-dir:./models/uni", dataset="digits")
    assert cache.spec.model == f"local-dir:{tmp_path}/models/uni"
    assert cache.path.parent.parent == tmp_path / "caches" / "digits"
    layercache.probe(cache, head="ridge", layers="last")
    monkeypatch.chdir("/")
    (probe,) = (cache.path / "probes").glob("[0-9a-f]*")
    classifier = layercache.load_classifier(probe)
    assert classifier.backbone.name == cache.spec.model


def cache_repository(hub: Path, repository: str, style: str, **changes: Any) -> None:
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    save(folder / "snapshots" / ("0" * 40), style, **changes)


def test_load_backbone_of_a_cached_repository_needs_no_network(hub: Path) -> None:
    cache_repository(hub, "lab/uni", "uni")
    for name in ("hf-hub:lab/uni", "hf_hub:lab/uni", "hf-hub:lab/uni@" + "0" * 40):
        backbone = load_encoder(name, offline=True)
        assert backbone.weights_digest == digest_weights(build("uni").state_dict())
        assert backbone.name == name.replace("_", "-")
    assert describe_model("hf-hub:lab/uni", offline=True).note == "those of hf-hub:lab/uni"


def test_load_backbone_of_a_known_repository_adds_what_its_page_passes(hub: Path) -> None:
    """Virchow2's config.json cannot name the classes of its MLP and activation."""
    cache_repository(hub, "paige-ai/Virchow2", "virchow2", mlp_layer=None, act_layer=None)
    backbone = load_encoder("hf-hub:paige-ai/Virchow2", offline=True, storage_dtype="float32")
    assert isinstance(backbone.module.blocks[0].mlp.act, nn.SiLU)
    assert type(backbone.module.blocks[0].mlp).__name__ == "GluMlp"


def test_load_backbone_of_an_uncached_repository_offline_raises(hub: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"lab/uni are not in .*hub, and downloads are forbidden .*local-dir:"
    ):
        load_encoder("hf-hub:lab/uni", offline=True)


def test_load_backbone_of_a_repository_downloads_it_once(
    server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layercache")
    save(server, "uni")
    (server / "model.safetensors").unlink()
    torch.save(build("uni").state_dict(), server / "pytorch_model.bin")
    digest = load_encoder("hf-hub:lab/uni").weights_digest
    assert digest == digest_weights(build("uni").state_dict())
    (message,) = [r.message for r in caplog.records if "downloading" in r.message]
    assert message.startswith("hf-hub:lab/uni: downloading the weights (")
    (server / "config.json").unlink()
    assert load_encoder("hf-hub:lab/uni", offline=True).weights_digest == digest


def test_load_backbone_of_a_gated_or_private_repository_says_how_to_log_in(server: Path) -> None:
    with pytest.raises(
        BackboneError,
        match=r"/gated/uni is gated: accept its conditions on that page, then log in with "
        r"`hf auth login`, or set \$HF_TOKEN\): name the folder of a downloaded copy",
    ):
        load_encoder("hf-hub:gated/uni")
    with pytest.raises(BackboneError, match=r"there is no .*/private/uni, or it is private: check"):
        load_encoder("hf-hub:private/uni")
    with pytest.raises(BackboneError, match=r"lab/none has no config.json: expected a repository"):
        load_encoder("hf-hub:lab/none")
    with pytest.raises(BackboneError, match=r"files of a/b/c could not be downloaded"):
        load_encoder("hf-hub:a/b/c")
