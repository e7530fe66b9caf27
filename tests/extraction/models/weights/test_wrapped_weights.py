"""Loading of weights that lie under a wrapper or prefix, or twice, or with other tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.weights.checkpoint import load_weights
from tests.extraction.models.families import FAMILIES, load_saved, random_state


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
    plain = load_saved(state, tmp_path / "plain.pt")
    backbone = load_saved(checkpoint, tmp_path / f"a{suffix}")
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
    plain = load_saved(state, tmp_path / "plain.pt")
    backbone = load_saved({other: second, taken: state}, tmp_path / "a.pt")
    assert backbone.weights_digest == plain.weights_digest
    assert f"took the model under '{taken}.'; it is also under '{other}.'" in backbone.notes[0]


def test_load_weights_of_a_model_held_twice_in_equal_places_raises_unless_they_are_equal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        BackboneError,
        match=r"holds the model under 'a\.' and, with other weights, under 'b\.': save the state",
    ):
        load_saved({"a": state, "b": {k: v + 1 for k, v in state.items()}}, tmp_path / "a.pt")
    assert load_saved({"a": state, "b": dict(state)}, tmp_path / "b.pt").weights_digest


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
        load_saved(checkpoint, tmp_path / "a.pt")


def test_load_weights_of_an_mae_file_with_options_leaves_out_the_decoder(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    decoder = {"mask_token": torch.zeros(1), "decoder_blocks.0.norm1.weight": torch.zeros(2)}
    checkpoint = {"model": state | decoder, "args": argparse.Namespace(lr=0.1), "epoch": 800}
    backbone = load_saved(checkpoint, tmp_path / "mae.pth")
    assert backbone.weights_digest == load_saved(state, tmp_path / "plain.pt").weights_digest
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
