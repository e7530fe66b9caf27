from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.probing.data.collate import add_noise
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.training.config import Noise
from tests.probing.data.reading import CPU, expected, read_all, select


def test_normalize_of_a_zero_token_is_zero(memory_split: Callable[..., Any]) -> None:
    split = memory_split()
    split.x[0, 0, 7] = 0
    x, _ = read_all(ResidentTokens(select(split), device=CPU), [7])
    assert (x[0, 0] == 0).all()


def test_add_noise_changes_half_of_the_training_rows_by_its_deviation(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split(rows=2000, width=32)
    split.labels = np.arange(2000)
    dataset = ResidentTokens(select(split), device=CPU)
    x, y = read_all(dataset, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4)
    added = x - expected(split, y.tolist())
    noisy = added.abs().amax(dim=(1, 2)) > 1e-4
    assert 0.45 < noisy.float().mean() < 0.55
    assert abs(float(added[noisy].std()) - 0.05) < 0.001
    assert abs(float(added[noisy].mean())) < 0.001
    again, _ = read_all(dataset, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4)
    assert torch.equal(x, again)
    other, _ = read_all(
        dataset, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4, epoch=1
    )
    assert not torch.equal(x, other)
    clean, _ = read_all(dataset, np.arange(2000), noise=Noise(std=0.05), train=False)
    torch.testing.assert_close(clean, expected(split, range(2000)))


def test_each_group_of_tokens_gets_the_noise_of_a_dataset_of_its_own(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split(rows=200, width=32)
    pairs = ((1, "cls"), (2, "ap"), (3, "cls"), (3, "ap"), (2, "cls"))
    options = {"noise": Noise(std=0.05), "train": True, "seed": 4, "batch_size": 64}

    def read(pairs: Any, **more: Any) -> torch.Tensor:
        return read_all(
            ResidentTokens(select(split, pairs=pairs), device=CPU),
            np.arange(200),
            **options,
            **more,
        )[0]

    grouped = read(pairs, token_groups=(2, 3))
    assert torch.equal(grouped[:, :2], read(pairs[:2]))
    assert torch.equal(grouped[:, 2:], read(pairs[2:]))
    assert not torch.equal(grouped, read(pairs))
    assert torch.equal(read(pairs, token_groups=(5,)), read(pairs))


def test_add_noise_does_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noised = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        noised.append(torch.zeros(100, 2, 8))
        add_noise(noised[-1], Noise(), torch.Generator().manual_seed(5), chunk_elements=3 * 2 * 8)
    assert torch.equal(*noised)
    drawn = noised[0][noised[0].abs().amax((1, 2)) > 0]
    assert len(drawn.unique(dim=0)) == len(drawn) > 30, "every sample has draws of its own"
