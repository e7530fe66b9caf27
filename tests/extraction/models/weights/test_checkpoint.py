"""Reading of checkpoints, and files that are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layercache.errors import BackboneError
from layercache.extraction.models.weights.checkpoint import SkipInit, read_checkpoint
from tests.extraction.models.families import load_saved


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
        load_saved(state, path)
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
