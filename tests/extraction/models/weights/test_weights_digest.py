"""The digest of weights: what changes it, and what does not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from layercache.extraction.models.weights.checkpoint import digest_weights
from tests.extraction.models.families import IMAGES, load_saved


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
    plain = load_saved(half, tmp_path / "a.safetensors")
    other = load_saved(wrapped, tmp_path / "b.pth")
    upcast = load_saved({k: v.float() for k, v in half.items()}, tmp_path / "c.pt")
    assert plain.weights_digest == other.weights_digest == upcast.weights_digest
    assert torch.equal(plain(IMAGES), other(IMAGES))
    assert (
        load_saved(state, tmp_path / "d.pt").weights_digest != plain.weights_digest
    )  # before it was rounded


def test_weights_digest_with_another_head_is_equal(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    other = dict(state) | {"head.weight": torch.zeros(3, 24), "head.bias": torch.zeros(3)}
    without = {k: v for k, v in state.items() if not k.startswith("head.")}
    assert (
        len(
            {
                load_saved(s, tmp_path / f"{i}.pt").weights_digest
                for i, s in enumerate((state, other, without))
            }
        )
        == 1
    )


def test_weights_digest_with_one_changed_number_differs(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    before = load_saved(state, tmp_path / "a.pt").weights_digest
    state["blocks.3.mlp.fc2.bias"][0] += 1e-6
    assert load_saved(state, tmp_path / "b.pt").weights_digest != before
