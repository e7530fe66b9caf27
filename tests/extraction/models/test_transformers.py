"""Models of transformers against transformers itself: tokens, input sizes, preprocessing."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer

from layercache.cache.format.cache_spec import Tap
from layercache.errors import BackboneError, MissingExtraError, OptionError
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.extraction.models.preprocessing.transform import Preprocessing
from layercache.extraction.models.sources import describe_model
from tests.extraction.models.transformers_models import (
    DEPTH,
    IMAGES,
    MODELS,
    build,
    class_attention,
    folder,
    hidden_states,
    norm_of,
    normalized,
    picture,
    processor,
    tower_of,
)

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
GATED = ("dinov2_giant", "dinov3_gated")


def load(key: str, **options: Any) -> Backbone:
    return load_encoder(f"hf:{folder(key)}", **{"storage_dtype": "float32", **options})


def kinds(key: str) -> tuple[str, ...]:
    return (
        *(("cls", "attn") if MODELS[key].class_token else ()),
        *(("reg",) if MODELS[key].registers else ()),
        *("ap", "std", "max"),
    )


def pooled(key: str, kind: str, tap: str) -> list[np.ndarray]:
    """Return every layer's token of a kind, (B, D) in float64."""
    prefix, registers = MODELS[key].prefix, MODELS[key].registers
    maps = hidden_states(key)[tap]
    patches = [x[:, prefix:] for x in maps]
    if kind == "attn":
        blocks = class_attention(key)
        # norm2 of layer l is in block l + 1; the final norm follows the last block
        blocks = [*blocks[1:], blocks[-1]] if tap == "norm2" else blocks
        weights = [block[:, prefix:, None] for block in blocks]
        return [(w * x).sum(1) / w.sum(1) for w, x in zip(weights, patches, strict=True)]
    return {
        "cls": lambda: [x[:, 0] for x in maps],
        "reg": lambda: [x[:, prefix - registers : prefix].mean(1) for x in maps],
        "ap": lambda: [x.mean(1) for x in patches],
        "std": lambda: [x.std(1) for x in patches],
        "max": lambda: [x.max(1) for x in patches],
    }[kind]()


@pytest.mark.parametrize("key", list(MODELS))
def test_tokens_equal_transformers_hidden_states_and_hooks_at_every_tap(key: str) -> None:
    for tap in get_args(Tap):
        if tap == "fc1" and key in GATED:
            with pytest.raises(BackboneError, match=r"tap fc1 expects .* use tap 'act'"):
                load(key, tap=tap, tokens=kinds(key))
            continue
        backbone = load(key, tap=tap, tokens=kinds(key))
        expected = np.stack([pooled(key, kind, tap) for kind in kinds(key)], 1)
        got = backbone(IMAGES)
        assert got.shape == (DEPTH, len(kinds(key)), len(IMAGES), backbone.width)
        np.testing.assert_allclose(got, expected, **TOLERANCE, err_msg=f"{key} {tap}")


def test_tokens_without_a_class_token_are_refused() -> None:
    with pytest.raises(BackboneError, match="'cls': this model has no class token"):
        load("siglip")


@pytest.mark.parametrize("key", list(MODELS))
def test_another_input_size_equals_transformers_at_that_size(key: str) -> None:
    size = (40, 48)
    images = torch.randint(
        0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    tower = tower_of(key, build(key))
    options: dict[str, Any] = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        options["interpolate_pos_encoding"] = True
    if key == "mae":
        tower.config.mask_ratio = 0.0
        options["noise"] = torch.arange(30.0).expand(2, -1)
    with torch.no_grad():
        states = tower(normalized(images), **options).hidden_states[1:]
    expected = torch.stack([state[:, MODELS[key].prefix :].mean(1) for state in states])
    resized = PreprocessingOptions(input_size=size)
    backbone = load(key, tap="block", tokens="ap", preprocessing=resized)
    np.testing.assert_allclose(backbone(images)[:, 0], expected, **TOLERANCE)
    assert "input 40 x 48 instead of the checkpoint's 32 x 32" in backbone.notes[-1]
    assert backbone.weights_digest == load(key, tokens="ap").weights_digest


def test_input_size_that_patches_do_not_divide_is_refused_with_the_nearest() -> None:
    options = PreprocessingOptions(input_size=36)
    with pytest.raises(OptionError, match=r"patches of 8 x 8, .* choose 32 x 32 or 40 x 40"):
        load("vit", preprocessing=options)


def test_mae_is_not_masked_and_repeats() -> None:
    backbone = load("mae", tokens="all")
    assert torch.equal(backbone(IMAGES), backbone(IMAGES))
    assert len(backbone.tokens) == 1 + 16


def test_clip_equals_timms_port_with_the_same_weights() -> None:
    state = build("clip").vision_model.state_dict()
    timm_state = {
        "cls_token": state["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"],
    }
    norms = {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}
    for i in range(DEPTH):
        old, new = f"encoder.layers.{i}", f"blocks.{i}"
        norms |= {f"{new}.norm{n}": f"{old}.layer_norm{n}" for n in (1, 2)}
        norms |= {f"{new}.mlp.fc{n}": f"{old}.mlp.fc{n}" for n in (1, 2)}
        norms[f"{new}.attn.proj"] = f"{old}.self_attn.out_proj"
        for kind in ("weight", "bias"):
            qkv = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            timm_state[f"{new}.attn.qkv.{kind}"] = torch.cat(qkv)
    for kind in ("weight", "bias"):
        timm_state |= {f"{new}.{kind}": state[f"{old}.{kind}"] for new, old in norms.items()}
    module = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=DEPTH,
        num_heads=2,
        mlp_ratio=40 / 24,
        num_classes=0,
        pre_norm=True,
        act_layer=QuickGELU,
        norm_layer=torch.nn.LayerNorm,
    ).eval()
    module.load_state_dict({k: v for k, v in timm_state.items() if k != "patch_embed.proj.bias"})
    with torch.no_grad():
        expected = module.forward_features(normalized())
    got = load("clip", layers="last", tokens="all")(IMAGES)[0].transpose(0, 1)
    np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_clip_projected_equals_image_embeddings() -> None:
    for key in ("clip", "clip_vision"):
        model = build(key)
        with torch.no_grad():
            expected = (
                model.get_image_features(normalized())
                if key == "clip"
                else model(normalized()).image_embeds
            )
        expected = getattr(expected, "pooler_output", expected)
        backbone = load(key, layers="last", tokens="cls", projected=True)
        got = backbone(IMAGES)[0, 0]
        np.testing.assert_allclose(got[:, :16], expected, **TOLERANCE)
        assert not got[:, 16:].any()
        assert backbone.weights_digest != load(key).weights_digest


def test_projected_without_a_projection_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"projected needs a CLIP model .* leave it out"):
        load("vit", projected=True)


@pytest.mark.parametrize("key", ["vit", "deit", "dinov2", "dinov3", "clip", "siglip", "beit"])
def test_pixels_equal_the_image_processor(key: str) -> None:
    preprocessing = load(key, tokens="ap").preprocessing
    for shape in [(50, 71), (37, 32), (64, 41), (33, 90), (20, 20)]:
        image = picture(*shape)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        got = preprocessing.normalize(pixels).numpy()
        expected = processor(key)(image, return_tensors="np")["pixel_values"]
        if key == "dinov3":  # its only processor rounds nothing after the resize
            assert np.abs(got - expected).max() < 1 / 255 / min(preprocessing.std)
        else:
            np.testing.assert_array_equal(got, expected)


def test_preprocessing_options_replace_parts_of_the_image_processor() -> None:
    own = load("dinov2").preprocessing
    options = PreprocessingOptions(mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    changed = load("dinov2", preprocessing=options).preprocessing
    assert changed.mean == (0.1, 0.2, 0.3)
    assert changed.interpolation == "bilinear"
    assert (changed.resize, changed.std) == (own.resize, own.std) == ((37, 37), own.std)
    assert Preprocessing.from_json(own.to_json()) == own


def copy_of(key: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder(key), tmp_path / key))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_resize": False}, "do_resize=False"),
        ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "do_pad=True"),
        ({"size": {"shortest_edge": 40, "longest_edge": 50}}, "'shortest_edge' alone"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "got ConvNextImageProcessor"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot read the image processor"),
    ],
)
def test_an_image_processor_that_cannot_be_reproduced_is_refused_with_a_remedy_that_works(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "preprocessor_config.json", **values)
    with pytest.raises(BackboneError, match=message) as error:
        load_encoder(f"hf:{path}")
    assert "give all of input_size, crop_pct" in str(error.value)
    options = PreprocessingOptions(
        input_size=32,
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    assert load_encoder(f"hf:{path}", preprocessing=options).preprocessing.resize == (32, 32)


def test_another_rescale_factor_and_no_normalization_equal_the_image_processor(
    tmp_path: Path,
) -> None:
    path = copy_of("vit", tmp_path)
    for values in (
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
    ):
        shutil.copy(folder("vit") / "preprocessor_config.json", path)
        edit(path / "preprocessor_config.json", **values)
        preprocessing = load_encoder(f"hf:{path}").preprocessing
        image = picture(40, 50)
        pixels = torch.from_numpy(preprocessing.resize_and_crop(image).copy())[None]
        own = transformers.ViTImageProcessorPil.from_pretrained(path)
        expected = own(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(preprocessing.normalize(pixels), expected, rtol=1e-5, atol=1e-5)


def test_digest_is_of_the_towers_tensors_whatever_the_file(tmp_path: Path) -> None:
    digest = load("vit").weights_digest
    sharded, torch_file = tmp_path / "sharded", tmp_path / "torch"
    build("vit").save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    processor("vit").save_pretrained(sharded)
    shutil.copytree(folder("vit"), torch_file)
    torch.save(load_file(torch_file / "model.safetensors"), torch_file / "pytorch_model.bin")
    (torch_file / "model.safetensors").unlink()
    for path in (sharded, torch_file):
        assert load_encoder(f"hf:{path}").weights_digest == digest

    path = copy_of("vit", tmp_path)
    state = load_file(path / "model.safetensors")
    for key, changes in [
        ("vit.encoder.layer.1.attention.attention.key.weight", True),
        ("vit.embeddings.position_embeddings", True),
        ("vit.layernorm.bias", True),
        ("classifier.weight", False),
    ]:
        changed = {**state, key: state[key] + 0.5}
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        assert (load_encoder(f"hf:{path}").weights_digest != digest) == changes, key


@pytest.mark.parametrize("wrapper", ["", "model.", "module."])
@pytest.mark.parametrize("names", ["checkpoint", "module"])
def test_weights_of_a_file_replace_the_folders(tmp_path: Path, wrapper: str, names: str) -> None:
    other = build("vit").vit
    with torch.no_grad():
        other.layers[1].mlp.fc1.weight += 0.1
    if names == "module":
        state = other.state_dict()
    else:
        other.save_pretrained(tmp_path / "saved")
        state = load_file(tmp_path / "saved" / "model.safetensors")
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"{wrapper}{key}": value for key, value in state.items()}}, file)
    backbone = load("vit", weights=file)
    assert backbone.weights_digest != load("vit").weights_digest
    expected = [x[:, 0] for x in hidden_states("vit")["block"]]
    got = load("vit", weights=file, tap="block")(IMAGES)[:, 0].numpy()
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    assert np.abs(got[1] - expected[1]).max() > 1e-3


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "config.json", num_hidden_layers=2)
    with pytest.raises(BackboneError, match=r"16 unexpected: .*\.2\."):
        load_encoder(f"hf:{path}")
    edit(path / "config.json", num_hidden_layers=4)
    with pytest.raises(BackboneError, match=r"16 missing: "):
        load_encoder(f"hf:{path}")
    edit(path / "config.json", num_hidden_layers=3, intermediate_size=48)
    with pytest.raises(BackboneError, match=r"of another shape: .*expected \(48, 24\), got"):
        load_encoder(f"hf:{path}")
    (path / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_encoder(f"hf:{path}")
    (path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"there is no model\.safetensors or "):
        load_encoder(f"hf:{path}")


def test_beit_without_weights_for_its_final_norm_has_the_tap_block(tmp_path: Path) -> None:
    path = copy_of("beit", tmp_path)
    state = load_file(path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "pooler" not in key}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"needs a final norm for layer 3.*use tap 'block'"):
        load_encoder(f"hf:{path}")
    assert load_encoder(f"hf:{path}", tap="block")(IMAGES).shape[0] == DEPTH


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "convnext"}, "got 'convnext': supported are beit, clip, "),
        ({"model_type": "siglip2"}, "NaFlex.*google/siglip2-base-patch16-224"),
        ({"hidden_size": "wide"}, "transformers cannot read"),
    ],
)
def test_other_architectures_are_refused_with_what_is_supported(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = copy_of("vit", tmp_path)
    edit(path / "config.json", **values)
    with pytest.raises(BackboneError, match=message):
        describe_model(f"hf:{path}")


def test_a_folder_of_timm_names_the_address_to_use(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    with pytest.raises(BackboneError, match=f"model of timm: use local-dir:{tmp_path} instead"):
        load_encoder(f"hf:{tmp_path}")


def test_timms_address_of_a_folder_of_transformers_names_the_one_to_use() -> None:
    with pytest.raises(BackboneError, match=f"model of transformers, use hf:{folder('vit')}"):
        load_encoder(f"local-dir:{folder('vit')}")


def test_addresses_without_a_model_say_what_is_expected(tmp_path: Path) -> None:
    for name, message in [
        ("hf:", "expected hf:ORG/NAME or hf:PATH"),
        (f"hf:{tmp_path}/none", "no such folder"),
        (f"hf:{tmp_path}", r"there is no config\.json in .*as save_pretrained writes it"),
    ]:
        with pytest.raises(BackboneError, match=message):
            load_encoder(name)
    with pytest.raises(BackboneError, match=r"downloads are forbidden .* hf:PATH"):
        load_encoder("hf:nobody/nothing", offline=True)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    path = copy_of("vit", tmp_path)
    (path / "evil.py").write_text("raise SystemExit('ran')\n")
    edit(path / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    edit(path / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"})
    assert load_encoder(f"hf:{path}").weights_digest == load("vit").weights_digest


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"transformers, which is not installed.*\[transf"):
        load_encoder("hf:nobody/nothing")


def test_describe_gives_the_figures_of_the_tower() -> None:
    info = describe_model(f"hf:{folder('dinov3')}")
    assert (info.width, info.depth, info.input_size, info.patch_size) == (24, DEPTH, 32, 8)
    assert info.tokens == ("cls", "ap", "reg", "std", "max", "attn", "grid:K", "all")
    assert "DINOv3ViTModel(" in info.architecture
    tower = build("vit").vit
    expected = sum(p.numel() for p in tower.parameters()) / 1e6
    assert describe_model(f"hf:{folder('vit')}").params_m == pytest.approx(expected)
    assert not describe_model(f"hf:{folder('siglip')}").class_token


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rotary_positions_keep_float32_frequencies_in_half_precision(precision: str) -> None:
    backbone = load("dinov3", tap="block", tokens="ap", precision=precision)
    assert backbone.module.rope_embeddings.inv_freq.dtype == torch.float32
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    model = build("dinov3")
    model.config._attn_implementation = "sdpa"
    half = transformers.DINOv3ViTModel.from_pretrained(folder("dinov3"), dtype=dtype).eval()
    with torch.no_grad():
        expected = half(normalized().to(dtype), output_hidden_states=True).hidden_states[1:]
    expected = torch.stack([x[:, 5:].float().mean(1) for x in expected])
    np.testing.assert_allclose(backbone(IMAGES)[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_final_norm_of_clip_is_applied_to_every_token() -> None:
    model = build("clip")
    states = hidden_states("clip")["block"][-1]
    with torch.no_grad():
        expected = norm_of("clip", model)(torch.from_numpy(states).float())
    got = load("clip", layers="last", tokens="all")(IMAGES)[0].transpose(0, 1)
    np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_a_repository_is_downloaded_once_with_all_shards(
    server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layercache")
    build("vit").save_pretrained(server, max_shard_size="20KB")
    processor("vit").save_pretrained(server)
    digest = load_encoder("hf:lab/vit").weights_digest
    assert digest == load("vit").weights_digest
    downloads = [r.message for r in caplog.records if "downloading" in r.message]
    assert all(message.startswith("hf:lab/vit: downloading the weights (") for message in downloads)
    for file in server.iterdir():
        file.unlink()
    assert load_encoder("hf:lab/vit", offline=True).weights_digest == digest


def test_gated_and_missing_repositories_say_what_to_do(server: Path) -> None:
    with pytest.raises(BackboneError, match=r"is gated: accept .*hf auth login.*copy, hf:PATH"):
        load_encoder("hf:gated/vit")
    with pytest.raises(
        BackboneError, match=r"lab/none has no config\.json: expected a model of tr"
    ):
        load_encoder("hf:lab/none")
