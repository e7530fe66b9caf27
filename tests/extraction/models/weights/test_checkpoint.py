"""Reading and loading of checkpoints, their error messages, and the digest of weights."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.backbone import Backbone
from layercache.extraction.models.loading import load_encoder
from layercache.extraction.models.weights.checkpoint import (
    SkipInit,
    digest_weights,
    load_weights,
    read_checkpoint,
)
from tests.extraction.models.families import FAMILIES, IMAGES, SMALL, random_state


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("tiny_vit")


def load(state: Any, path: Path, name: str = "tiny_vit", **options: Any) -> Backbone:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return load_encoder(name, weights=path, **options)


def test_digest_weights_equals_a_digest_by_hand() -> None:
    state = {"b": torch.tensor([1.5, 2.0]), "a": torch.tensor([[7]])}
    parts = [
        hashlib.sha256((7).to_bytes(8, "little")).hexdigest(),
        hashlib.sha256(bytes.fromhex("0000c03f00000040")).hexdigest(),
    ]
    text = f"a\nint64\n(1, 1)\n{parts[0]}\nb\nfloat32\n(2,)\n{parts[1]}\n"
    assert digest_weights(state) == hashlib.sha256(text.encode()).hexdigest()


def test_digest_weights_depends_on_names_shapes_dtypes_and_every_bit() -> None:
    base = torch.arange(6, dtype=torch.float32)
    bumped = base.clone()
    bumped[3] = torch.nextafter(bumped[3], torch.tensor(9.0))
    states = [
        {"a": base},
        {"b": base},
        {"a": base.reshape(2, 3)},
        {"a": base.reshape(3, 2)},
        {"a": base.double()},
        {"a": bumped},
        {"a": base, "b": base},
    ]
    assert len({digest_weights(s) for s in states}) == len(states)
    assert digest_weights({"a": torch.stack([base, base], 1)[:, 0]}) == digest_weights(
        {"a": base}
    )  # memory layout does not count
    assert digest_weights({"s": torch.tensor(1.0), "e": torch.empty(0, 3)})


def test_weights_digest_of_another_file_format_is_equal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    half = {k: v.half() for k, v in state.items()}
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in reversed(half.items())}}
    plain = load(half, tmp_path / "a.safetensors")
    other = load(wrapped, tmp_path / "b.pth")
    upcast = load({k: v.float() for k, v in half.items()}, tmp_path / "c.pt")
    assert plain.weights_digest == other.weights_digest == upcast.weights_digest
    assert torch.equal(plain(IMAGES), other(IMAGES))
    assert (
        load(state, tmp_path / "d.pt").weights_digest != plain.weights_digest
    )  # before it was rounded


def test_weights_digest_with_another_head_is_equal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    other = dict(state) | {"head.weight": torch.zeros(3, 24), "head.bias": torch.zeros(3)}
    without = {k: v for k, v in state.items() if not k.startswith("head.")}
    assert (
        len(
            {
                load(s, tmp_path / f"{i}.pt").weights_digest
                for i, s in enumerate((state, other, without))
            }
        )
        == 1
    )


def test_weights_digest_with_one_changed_number_differs(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    before = load(state, tmp_path / "a.pt").weights_digest
    state["blocks.3.mlp.fc2.bias"][0] += 1e-6
    assert load(state, tmp_path / "b.pt").weights_digest != before


def test_load_backbone_of_a_file_that_declares_another_architecture_has_a_note(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    for declared, notes in (
        ("tiny_vit", ()),
        ("tiny_clip", (f"{tmp_path}/a.safetensors declares tiny_clip, loaded as tiny_vit",)),
    ):
        save_file(state, tmp_path / "a.safetensors", metadata={"arch": declared})
        assert load_encoder("tiny_vit", weights=tmp_path / "a.safetensors").notes == notes


def test_load_backbone_with_mismatched_keys_lists_them(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    state["blocks.9.odd"] = torch.zeros(1)
    del state["blocks.2.norm2.weight"]
    state["norm.bias"] = torch.zeros(7)
    text = (
        r"for tiny_vit does not fit: 1 missing: blocks.2.norm2.weight; 1 unexpected: blocks.9.odd; "
        r"1 of another shape: norm.bias \(expected \(24,\), got \(7,\)\); nearest match: 53 of 54 "
        r"names; the file's top-level keys: blocks, cls_token, head, norm, patch_embed, pos_embed: "
        r"is it the checkpoint of another model\?"
    )
    with pytest.raises(BackboneError, match=text):
        load(state, tmp_path / "a.safetensors")


def test_load_backbone_with_weights_of_another_model_raises_a_short_error(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"\d+ missing: .* and \d+ more; \d+ unexpected: .* and \d+ more"
    ) as caught:
        load(random_state("tiny_eva02"), tmp_path / "a.pt")
    assert len(str(caught.value)) < 1200


def test_load_backbone_with_another_patch_size_raises(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError,
        match=r"patch_embed.proj.weight \(expected \(24, 3, 8, 8\), got \(24, 3, 16, 16\)\)",
    ):
        load(VisionTransformer(**(SMALL | {"patch_size": 16})).state_dict(), tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_dinov2_reg4"])
def test_load_backbone_with_another_grid_resamples_positions_as_timm_does(
    name: str, tmp_path: Path
) -> None:
    state, prefix = random_state(name), 0 if name == "tiny_dinov2_reg4" else 1
    large = state | {
        "pos_embed": torch.randn(1, prefix + 36, 24, generator=torch.Generator().manual_seed(3))
    }
    backbone = load(large, tmp_path / "large.pt", name)
    assert backbone.notes == (
        "input 32 x 32 instead of the checkpoint's 48 x 48: positions resampled",
    )
    small = large | {
        "pos_embed": resample_abs_pos_embed(
            large["pos_embed"], [4, 4], [6, 6], num_prefix_tokens=prefix
        )
    }
    resampled = load(small, tmp_path / "small.pt", name)
    assert torch.equal(backbone(IMAGES), resampled(IMAGES))
    assert not torch.equal(backbone(IMAGES), load(state, tmp_path / "state.pt", name)(IMAGES))
    # The digest covers the checkpoint's own numbers: resampling may round differently elsewhere.
    assert backbone.weights_digest == digest_weights(
        {k: v for k, v in large.items() if not k.startswith("head.")}
    )


@pytest.mark.parametrize("name", list(FAMILIES))
def test_load_backbone_of_every_family_is_strict_and_has_its_own_digest(
    name: str, tmp_path: Path
) -> None:
    state = random_state(name)
    first = next(k for k in state if "norm1.weight" in k)
    whole = load(state, tmp_path / "a.pt", name, tokens="ap").weights_digest
    state[first] += 1
    assert load(state, tmp_path / "b.pt", name, tokens="ap").weights_digest != whole
    del state[first]
    with pytest.raises(BackboneError, match=f"1 missing: {first}"):
        load(state, tmp_path / "c.pt", name, tokens="ap")


@pytest.mark.parametrize("grid", [4, 6])
def test_load_weights_with_original_names_converts_them(grid: int) -> None:
    """DINOv2 with registers as published: mask token, other names, position of the class token."""
    state = random_state("tiny_dinov2_reg4") | {"pos_embed": torch.randn(1, grid * grid, 24)}
    original = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()} | {
        "mask_token": torch.zeros(1, 24)
    }
    row = torch.ones(1, 1, 24)
    original |= {
        "cls_token": state["cls_token"] - row,
        "pos_embed": torch.cat([row, state["pos_embed"]], 1),
    }
    module: Any = FAMILIES["tiny_dinov2_reg4"].build()
    load_weights(module, original, source="it", timm_module="timm.models.vision_transformer")
    assert module.patch_embed.grid_size == (grid, grid)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key])
    with pytest.raises(
        BackboneError,
        match=r"it does not fit: 1 missing: reg_token; 1 unexpected: register_tokens; .*nearest",
    ):
        load_weights(FAMILIES["tiny_dinov2_reg4"].build(), original, source="it")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "backbone.",
        "encoder.",
        "model.",
        "base_encoder.",
        "state_dict.module.encoder.",
        "model.module._orig_mod.backbone.",
        "net.",
        "model_state_dict.",
        "student.backbone.",
        "model_ema.",
    ],
)
def test_load_weights_under_a_wrapper_or_prefix_finds_the_model(
    prefix: str, suffix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    *wrappers, module = prefix[:-1].split(".")
    checkpoint: Any = {f"{module}.{k}": v for k, v in state.items()}
    checkpoint |= {"linear_probe.weight": torch.zeros(2), "n_averaged": torch.tensor(3)}
    if suffix == ".safetensors":
        checkpoint = {".".join([*wrappers, k]): v for k, v in checkpoint.items()}
    for wrapper in reversed(wrappers if suffix == ".pt" else ()):
        checkpoint = {wrapper: checkpoint, "epoch": 3}
    plain = load(state, tmp_path / "plain.pt")
    backbone = load(checkpoint, tmp_path / f"a{suffix}")
    assert backbone.weights_digest == plain.weights_digest
    outer = "".join(f"{wrapper}." for wrapper in wrappers)
    names = [f"{outer}linear_probe (1)", f"{outer}n_averaged (1)"]
    (note,) = backbone.notes
    assert note.startswith(f"weights {tmp_path}/a{suffix} for tiny_vit: tensors that are not")
    assert all(name in note for name in names)


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("ema", "student"),
        ("teacher", "student"),
        ("target_encoder", "encoder"),
        ("base_encoder", "momentum_encoder"),
        ("encoder_q", "encoder_k"),
        ("model", "student"),
    ],
)
def test_load_weights_of_a_model_held_twice_takes_the_average_or_teacher_and_says_so(
    taken: str, other: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    second = {k: v + 1 for k, v in state.items()}
    plain = load(state, tmp_path / "plain.pt")
    backbone = load({other: second, taken: state}, tmp_path / "a.pt")
    assert backbone.weights_digest == plain.weights_digest
    assert f"took the model under '{taken}.'; it is also under '{other}.'" in backbone.notes[0]


def test_load_weights_of_a_model_held_twice_in_equal_places_raises_unless_they_are_equal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        BackboneError,
        match=r"holds the model under 'a\.' and, with other weights, under 'b\.': save the state",
    ):
        load({"a": state, "b": {k: v + 1 for k, v in state.items()}}, tmp_path / "a.pt")
    assert load({"a": state, "b": dict(state)}, tmp_path / "b.pt").weights_digest


def test_load_weights_with_a_missing_tensor_names_the_nearest_prefix(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    del state["norm.bias"]
    checkpoint = {"epoch": 1, "net": {f"encoder.{k}": v for k, v in state.items()}}
    checkpoint["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(2)}}}
    with pytest.raises(
        BackboneError,
        match=r"1 missing: norm.bias; nearest match: 53 of 54 names under 'net.encoder.'; "
        r"the file's top-level keys: net, optimizer: is it",
    ):
        load(checkpoint, tmp_path / "a.pt")


def test_load_weights_with_parts_that_change_tokens_raises(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A deeper model, or one with registers, holds all tensors of a smaller one."""
    for key in ("blocks.4.norm1.weight", "blocks.0.ls1.gamma", "reg_token", "norm_pre.weight"):
        with pytest.raises(BackboneError, match=f"does not fit: 1 unexpected: {key}: is it"):
            load(state | {key: torch.zeros(24)}, tmp_path / "a.pt")


def test_load_weights_of_an_mae_file_with_options_leaves_out_the_decoder(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    decoder = {"mask_token": torch.zeros(1), "decoder_blocks.0.norm1.weight": torch.zeros(2)}
    checkpoint = {"model": state | decoder, "args": argparse.Namespace(lr=0.1), "epoch": 800}
    backbone = load(checkpoint, tmp_path / "mae.pth")
    assert backbone.weights_digest == load(state, tmp_path / "plain.pt").weights_digest
    assert backbone.notes[0].endswith("left out: model.mask_token (1), model.decoder_blocks (1)")


def test_load_weights_of_a_dino_file_with_original_names_takes_the_teacher() -> None:
    state = random_state("tiny_dinov2_reg4") | {"pos_embed": torch.randn(1, 16, 24)}
    zero = torch.zeros(1, 1, 24)
    original = {k.replace("reg_token", "register_tokens"): v for k, v in state.items()} | {
        "mask_token": torch.zeros(1, 24),
        "pos_embed": torch.cat([zero, state["pos_embed"]], 1),
    }
    tensors = {f"student.backbone.{k}": v + 1 for k, v in original.items()}
    tensors |= {f"teacher.backbone.{k}": v for k, v in original.items()}
    tensors |= {"teacher.dino_head.mlp.0.weight": torch.zeros(2)}
    module: Any = FAMILIES["tiny_dinov2_reg4"].build()
    _, notes = load_weights(
        module, tensors, source="it", timm_module="timm.models.vision_transformer"
    )
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key])
    assert notes[0].startswith("it: took the model under 'teacher.backbone.'")
    assert "teacher.dino_head (1)" in notes[1]


def test_load_weights_of_another_patch_size_is_not_resampled_by_timm() -> None:
    with pytest.raises(
        BackboneError, match=r"1 of another shape: patch_embed.proj.weight \(expected \(24, 3, 8, 8"
    ):
        load_weights(
            VisionTransformer(num_classes=0, **SMALL),
            VisionTransformer(num_classes=0, **(SMALL | {"patch_size": 16})).state_dict(),
            source="it",
            timm_module="timm.models.vision_transformer",
        )


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOOM"],)


def test_read_checkpoint_with_code_raises_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOM", str(tmp_path / "ran"))
    path = tmp_path / "evil.pt"
    torch.save({"w": torch.zeros(1), "x": Boom()}, path)
    with pytest.raises(
        BackboneError,
        match=r"evil.pt: not loadable as plain tensors: it also holds (posix|nt|os)\.mkdir, .*: "
        r"save the model's state_dict\(\)",
    ):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # negative control: loading it unsafely runs the code


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.safetensors", b"\x08", "a.safetensors: not a readable safetensors file"),
        ("a.pt", b"", "a.pt: not loadable as plain tensors: it was not written by torch.save"),
        ("a.pt", b"hello", "a.pt: not loadable as plain tensors: it was not written by torch.save"),
        (
            "a.pt",
            pickle.dumps([1, 2]),
            "a.pt: (not loadable as plain tensors|expected a state dict)",
        ),
        ("a.pt", None, "a.pt: no such file"),
    ],
)
def test_read_checkpoint_of_other_files_raises(
    name: str, content: bytes | None, text: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=text):
        read_checkpoint(tmp_path / name)


def test_read_checkpoint_truncated_by_100_bytes_raises(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        load(state, path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(
            BackboneError, match=r"not (a readable safetensors file|loadable as plain tensors)"
        ):
            read_checkpoint(path)


def test_read_checkpoint_of_a_bare_tensor_raises(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(
        BackboneError, match=r"a.pt: expected a state dict \(names to tensors\), got Tensor"
    ):
        read_checkpoint(tmp_path / "a.pt")


def test_read_checkpoint_of_half_a_file_or_a_folder_raises(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        BackboneError,
        match=r"a.pt: not loadable as plain tensors: it is truncated or damaged: download it "
        r"again$",
    ):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(BackboneError, match=r"a folder, not a file$"):
        read_checkpoint(tmp_path)


def test_skip_init_ends_where_values_are_drawn_until_they_fit() -> None:
    with SkipInit():
        weights = torch.full((1000,), 1e9)  # as undefined memory may be
        torch.nn.init.trunc_normal_(weights, std=0.02)
    assert weights.abs().max() <= 2  # torch 2.9 draws once and cuts off at 2
