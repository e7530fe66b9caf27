from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from layercache.errors import HeadMismatchError, ProbeError, ProbeNotFoundError, ProbeSchemaError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.results.head_checkpoint import Checkpoint, Provenance, load_head

ORIGIN = Provenance(
    model="m", architecture="a", weights="ab" * 32, depth=4, tap="norm2", projected=False,
    preprocessing={"mean": [0.5]}, dataset="d",
    classes=("x", "y", "z"), pairs=((1, "cls"), (4, "ap")), fingerprints=("f" * 64,),
)  # fmt: skip


def made(kind: str, **spec: Any) -> Checkpoint:
    shape = HeadSpec(kind=kind, tokens=2, width=8, classes=3, **spec)
    parameters = build(shape).init_parameters(torch.Generator().manual_seed(0))
    return Checkpoint(
        name=kind, spec=shape, state_dict=parameters, provenance=ORIGIN, hparams={"lr": 0.1}, seed=3
    )


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("linear", {}),
        ("scalar-mix", {"mix_ids": (0, 1)}),
        ("attentive", {}),
        ("efficient", {"num_heads": 4}),
        ("fusion", {"spatial_tokens": 1, "gate": "sample", "embedding_ids": (0,)}),
        ("hybrid", {"embedding_ids": (0, 1), "num_heads": 4}),
    ],
)
def test_load_head_returns_what_was_stored(tmp_path: Path, kind: str, spec: dict[str, Any]) -> None:
    head = made(kind, **spec)
    (tmp_path / "head.safetensors").write_bytes(head.to_bytes())
    for path in (tmp_path, tmp_path / "head.safetensors", str(tmp_path)):
        back = load_head(path)
        assert (back.spec, back.provenance, back.hparams, back.seed, back.name) == (
            head.spec,
            head.provenance,
            head.hparams,
            head.seed,
            head.name,
        )
        assert set(back.state_dict) == set(head.state_dict)
        assert all(torch.equal(back.state_dict[name], p) for name, p in head.state_dict.items())
    x = np.random.default_rng(0).normal(size=(5, 2, 8)).astype(np.float32)
    assert torch.equal(back.predict(x), head.predict(x))


def test_predict_of_a_linear_head_normalizes_and_maps_tokens() -> None:
    head = made("linear")
    x = np.random.default_rng(0).normal(size=(5, 2, 8))
    flat = (x / np.linalg.norm(x, axis=2, keepdims=True)).reshape(5, 16)
    wanted = (
        flat @ head.state_dict["classifier.weight"].double().numpy().T
        + head.state_dict["classifier.bias"].double().numpy()
    )
    np.testing.assert_allclose(head.predict(x), wanted, atol=1e-5)
    np.testing.assert_allclose(head.predict(x * 7), wanted, atol=1e-5)


def test_attention_sums_to_one_over_the_tokens() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2, 8))
    weights = made("attentive", num_heads=4).attention(x)
    assert weights.shape == (5, 4, 2)
    torch.testing.assert_close(weights.sum(2), torch.ones(5, 4))
    with pytest.raises(ProbeError, match="a linear head has no attention"):
        made("linear").attention(x)


def test_predict_on_other_tokens_names_the_expected_ones() -> None:
    with pytest.raises(
        HeadMismatchError,
        match=r"expects tokens \(images, 2, 8\), 1:cls, 4:ap of m, got \(5, 3, 8\)",
    ):
        made("linear").predict(np.zeros((5, 3, 8)))


def test_load_head_of_other_files_raises(tmp_path: Path) -> None:
    with pytest.raises(
        ProbeNotFoundError, match=r"expected a trained head here.*layercache results"
    ):
        load_head(tmp_path)
    file = tmp_path / "head.safetensors"
    file.write_bytes(b"nonsense")
    with pytest.raises(HeadMismatchError, match="is not a safetensors file"):
        load_head(file)
    save_file({"a": torch.zeros(1)}, str(file))
    with pytest.raises(HeadMismatchError, match="not a head saved by layercache"):
        load_head(file)


def test_load_head_of_schema_1_names_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"a": torch.zeros(1)}, str(file), metadata={"layercache": '{"schema": 1}'})
    with pytest.raises(
        ProbeSchemaError,
        match=r"expected a head of schema 3, got schema 1.*`layercache probe` again",
    ):
        load_head(file)


def edited(head: Checkpoint, **changes: Any) -> bytes:
    """The file of a head with other tensors, or without them (None), and a matching checksum."""
    tensors = {name: p for name, p in {**head.state_dict, **changes}.items() if p is not None}
    return replace(head, state_dict=tensors).to_bytes()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"classifier.weight": torch.zeros(2, 16)},
            r"expected tensor 'classifier.weight' to be F32 \[3, 16\], got F32 \[2, 16\]",
        ),
        (
            {"classifier.bias": torch.zeros(3, dtype=torch.float16)},
            r"expected tensor 'classifier.bias' to be F32 \[3\], got F16 \[3\]",
        ),
        ({"classifier.bias": None}, "tensor 'classifier.bias' is missing"),
        ({"other": torch.zeros(3)}, "tensor 'other' is not one of the head's"),
        ({"classifier.bias": torch.tensor([0, float("nan"), 0])}, "expected finite weights"),
        ({"classifier.bias": torch.tensor([0, float("inf"), 0])}, "expected finite weights"),
    ],
)
def test_load_head_with_other_tensors_names_them(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "head.safetensors"
    file.write_bytes(edited(made("linear"), **changes))
    with pytest.raises(HeadMismatchError, match=f"{problem}.*: run the same"):
        load_head(file)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"classes": ("x", "y")}, "expected 3 classes, got 2"),
        ({"pairs": ((1, "cls"),)}, "expected 2 tokens, got 1"),
    ],
)
def test_load_head_whose_provenance_does_not_fit_says_so(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "head.safetensors"
    head = made("linear")
    file.write_bytes(replace(head, provenance=replace(ORIGIN, **changes)).to_bytes())
    with pytest.raises(HeadMismatchError, match=problem):
        load_head(file)


def test_load_head_that_claims_more_than_its_file_takes_no_memory_for_it(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    data = made("linear").to_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for classes in (10**9, 10**30, -3, "3", None, [3]):
        metadata = json.loads(header["__metadata__"]["layercache"])
        metadata["spec"]["classes"] = classes
        forged = {
            **header,
            "__metadata__": {"layercache": json.dumps(metadata)},
            "classifier.weight": {**header["classifier.weight"], "shape": [classes, 16]},
        }
        text = json.dumps(forged).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        with pytest.raises(HeadMismatchError):
            load_head(file)
    for claim in (2**63, len(data), 0):
        file.write_bytes(struct.pack("<Q", claim) + data[8:])
        with pytest.raises(HeadMismatchError, match="is not a safetensors file"):
            load_head(file)


def test_load_head_with_any_flipped_byte_raises(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    data = made("linear").to_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            head = load_head(file)
        except (HeadMismatchError, ProbeSchemaError):
            continue
        assert head.provenance == ORIGIN, place
        assert head.to_bytes() == data, place  # white space, or the padding of the header
