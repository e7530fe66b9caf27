from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import HeadMismatchError, NonFiniteError
from layercache.probing.data.collate import add_noise
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.selection import SplitSelection, TokenSource
from layercache.probing.training.config import Noise

CPU = torch.device("cpu")
PAIRS = ((1, "cls"), (3, "ap"))


def selection(*splits: Any, keep: Any = None, pairs: Any = PAIRS) -> SplitSelection:
    rows = np.arange(splits[0].rows) if keep is None else np.asarray(keep)
    return SplitSelection(tuple(TokenSource(split, pairs) for split in splits), rows)


def expected(split: Any, rows: Any, pairs: Any = PAIRS) -> torch.Tensor:
    """One sample and token after another, in float64."""
    x = np.stack(
        [
            [
                split.x[layer - 1, split.tokens.index(token), r].astype(np.float64)
                for layer, token in pairs
            ]
            for r in rows
        ]
    )
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True)).float()


def whole(features: Any, rows: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [
        (x.clone(), y)
        for x, y in features.iter_batches(rows, **{"batch_size": 32, "train": False, **options})
    ]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_batches_are_the_chosen_tokens_normalised(
    memory_split: Callable[..., Any], dtype: str
) -> None:
    split = memory_split(dtype=dtype)
    features = ResidentTokens(selection(split), device=CPU)
    x, y = whole(features, [5, 2, 99])
    torch.testing.assert_close(x, expected(split, [5, 2, 99]))
    assert y.tolist() == split.labels[[5, 2, 99]].tolist()
    assert x.dtype == torch.float32
    assert x.is_contiguous()


def test_a_zero_token_stays_zero(memory_split: Callable[..., Any]) -> None:
    split = memory_split()
    split.x[0, 0, 7] = 0
    x, _ = whole(ResidentTokens(selection(split), device=CPU), [7])
    assert (x[0, 0] == 0).all()


def test_only_the_kept_rows_are_held(memory_split: Callable[..., Any]) -> None:
    split = memory_split(rows=100, block=16)
    keep = [3, 20, 21, 97]
    features = ResidentTokens(selection(split, keep=keep), device=CPU)
    x, y = whole(features, [0, 1, 2, 3])
    torch.testing.assert_close(x, expected(split, keep))
    assert y.tolist() == split.labels[keep].tolist()
    assert split.reads == [(0, 16), (16, 32), (96, 100)], "blocks without a kept row are not read"


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split()
    split.labels = np.arange(100)
    features = ResidentTokens(selection(split), device=CPU)
    rows = torch.arange(0, 100, 2)
    orders = [
        whole(features, rows, seed=s, epoch=e, train=True)[1].tolist()
        for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == rows.tolist() for order in orders)
    assert [len(y) for _, y in features.iter_batches(rows, batch_size=32, train=True)] == [32, 18]


def test_noise_reaches_half_of_the_training_samples_with_its_deviation(
    memory_split: Callable[..., Any],
) -> None:
    split = memory_split(rows=2000, width=32)
    split.labels = np.arange(2000)
    features = ResidentTokens(selection(split), device=CPU)
    x, y = whole(features, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4)
    added = x - expected(split, y.tolist())
    noisy = added.abs().amax(dim=(1, 2)) > 1e-4
    assert 0.45 < noisy.float().mean() < 0.55
    assert abs(float(added[noisy].std()) - 0.05) < 0.001
    assert abs(float(added[noisy].mean())) < 0.001
    again, _ = whole(features, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4)
    assert torch.equal(x, again)
    other, _ = whole(features, np.arange(2000), noise=Noise(std=0.05), train=True, seed=4, epoch=1)
    assert not torch.equal(x, other)
    clean, _ = whole(features, np.arange(2000), noise=Noise(std=0.05), train=False)
    torch.testing.assert_close(clean, expected(split, range(2000)))


def test_the_draws_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.probing.data.collate.NOISE_ELEMENTS", 3 * 2 * 8)
    noised = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        noised.append(torch.zeros(100, 2, 8))
        add_noise(noised[-1], Noise(), torch.Generator().manual_seed(5))
    assert torch.equal(*noised)
    drawn = noised[0][noised[0].abs().amax((1, 2)) > 0]
    assert len(drawn.unique(dim=0)) == len(drawn) > 30, "every sample has draws of its own"


def test_two_caches_stand_side_by_side(memory_split: Callable[..., Any]) -> None:
    one, two = memory_split(), memory_split()
    two.x = two.x + 1
    both = SplitSelection((TokenSource(one, PAIRS), TokenSource(two, ((2, "ap"),))), np.arange(100))
    assert both.pairs == (*PAIRS, (2, "ap"))
    x, _ = whole(ResidentTokens(both, device=CPU), [0, 50])
    torch.testing.assert_close(
        x, torch.cat([expected(one, [0, 50]), expected(two, [0, 50], ((2, "ap"),))], dim=1)
    )


def test_two_caches_of_other_samples_or_widths_are_refused(
    memory_split: Callable[..., Any],
) -> None:
    one, two = memory_split(), memory_split()
    two.ids[3] = "another"
    with pytest.raises(
        HeadMismatchError, match="same samples in train: 100 and 100 rows, whose ids differ"
    ):
        selection(one, two)
    with pytest.raises(HeadMismatchError, match="8 float16, but 4 float16"):
        selection(one, memory_split(width=4))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_is_named(
    memory_split: Callable[..., Any], bad: float, dtype: str
) -> None:
    split = memory_split(dtype=dtype)
    split.x[0, 0, 0, :4] = (
        np.finfo(dtype).max,
        -np.finfo(dtype).max,
        -0.0,
        np.finfo(dtype).smallest_subnormal,
    )
    ResidentTokens(selection(split), device=CPU)
    split.x[2, 1, 42, 3] = bad
    with pytest.raises(
        NonFiniteError,
        match=r"layer 3, token 'ap' of sample 'sample-42' \(train\) is not finite .* --store-dtype float32",
    ):
        ResidentTokens(selection(split), device=CPU)
