from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from layercache.probing.results.training_checkpoints import (
    FOLDER,
    TrainingCheckpoint,
    TrainingCheckpoints,
)
from tests.logs import logged

CONFIGS = ({"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.01, "weight_decay": 1.0})
SAVED = TrainingCheckpoint(
    probe="0123456789ab",
    fold=0,
    configs=CONFIGS,
    device="cpu",
    step=7,
    steps=100,
    seconds=12.5,
)
STATE = {"step": 7, "parameters": {"weight": torch.arange(6.0).view(2, 3)}, "losses": [[0.5], []]}


def load(passes: TrainingCheckpoints, saved: TrainingCheckpoint = SAVED) -> Any:
    return passes.load(saved.probe, fold=saved.fold, configs=saved.configs, device=saved.device)


@pytest.fixture
def passes(tmp_path: Path) -> TrainingCheckpoints:
    return TrainingCheckpoints(tmp_path)


def test_training_checkpoints_return_what_was_saved_last(
    passes: TrainingCheckpoints, tmp_path: Path
) -> None:
    assert load(passes) is None
    passes.save(SAVED, {"step": 1})
    passes.save(SAVED, STATE)
    saved, state = load(passes)
    assert (saved.step, saved.seconds, state["losses"]) == (7, 12.5, [[0.5], []])
    assert torch.equal(state["parameters"]["weight"], STATE["parameters"]["weight"])  # type: ignore[index]
    assert [found.key for found in passes.all()] == [SAVED.key]
    other = dataclasses.replace(SAVED, fold=None, configs=CONFIGS[:1])
    passes.save(other, STATE)
    assert {found.fold for found in passes.all()} == {0, None}
    passes.delete(SAVED)
    assert [found.key for found in passes.all()] == [other.key]
    (tmp_path / "head.safetensors").touch()
    passes.clear()
    assert [file.name for file in tmp_path.iterdir()] == ["head.safetensors"]
    passes.clear()


def test_training_checkpoint_with_a_flipped_bit_is_never_used_and_is_named(
    passes: TrainingCheckpoints, tmp_path: Path
) -> None:
    passes.save(SAVED, STATE)
    file = tmp_path / FOLDER / SAVED.key
    whole = file.read_bytes()
    for position in (*range(0, 400, 7), *range(400, len(whole), 101), len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        with logged() as lines:
            assert load(passes) is None, position
        assert len(lines) == 1
        assert lines[0].startswith(f"{file}: this state of unfinished training is not used")
        passes.all()


@pytest.mark.parametrize("size", [0, 10, 71, 72, 100, 1000])
def test_training_checkpoint_that_is_cut_is_never_used(
    passes: TrainingCheckpoints, tmp_path: Path, size: int
) -> None:
    passes.save(SAVED, STATE)
    file = tmp_path / FOLDER / SAVED.key
    file.write_bytes(file.read_bytes()[:size])
    with logged() as lines:
        assert load(passes) is None
        if size < 300:
            assert passes.all() == []
    assert all("is not used, and training starts again" in line for line in lines)
    assert lines


def test_training_checkpoint_of_another_probe_fold_or_grid_is_never_used(
    passes: TrainingCheckpoints, tmp_path: Path
) -> None:
    for foreign in (
        dataclasses.replace(SAVED, probe="ba9876543210"),
        dataclasses.replace(SAVED, fold=1),
        dataclasses.replace(SAVED, configs=CONFIGS[::-1]),
    ):
        passes.save(foreign, STATE)
        (tmp_path / FOLDER / foreign.key).rename(tmp_path / FOLDER / SAVED.key)
        with logged() as lines:
            assert load(passes) is None
            assert passes.all() == []
        assert all("belongs to other configurations or another probe" in line for line in lines)
        assert len(lines) == 2


def test_training_checkpoint_of_another_device_is_not_loaded(passes: TrainingCheckpoints) -> None:
    passes.save(dataclasses.replace(SAVED, device="cuda"), STATE)
    with logged() as lines:
        assert load(passes) is None
    assert "it was saved on cuda, this is cpu" in lines[0]
