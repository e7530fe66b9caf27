"""Pooling compared with float64 loops over patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layercache.errors import BackboneError, OptionError, UnknownNameError
from layercache.extraction.models.pooling import (
    TokenPooling,
    average_patch,
    class_token,
    grid_patches,
    parse_kinds,
    patch_std,
)


def hidden(prefix: int, h: int, w: int, d: int = 5, b: int = 2) -> torch.Tensor:
    return torch.randn(b, prefix + h * w, d, generator=torch.Generator().manual_seed(h * 100 + w))


def cells(x: torch.Tensor, prefix: int, h: int, w: int, k: int) -> np.ndarray:
    """Return the mean of each cell's patches, one by one, (B, K*K, D).

    A cell covers floor(i h / K) to ceil((i + 1) h / K).
    """
    maps = x.double().numpy()[:, prefix:].reshape(x.shape[0], h, w, -1)
    out = []
    for i in range(k):
        for j in range(k):
            rows = range(i * h // k, math.ceil((i + 1) * h / k))
            columns = range(j * w // k, math.ceil((j + 1) * w / k))
            out.append(np.mean([maps[:, r, c] for r in rows for c in columns], axis=0))
    return np.stack(out, 1)


def pooling(
    kinds: str,
    *,
    class_token: bool = True,
    prefix: int = 1,
    grid: tuple[int, int] = (4, 4),
    registers: int = 0,
) -> TokenPooling:
    return TokenPooling(
        kinds=parse_kinds(kinds),
        class_token=0 if class_token else None,
        num_prefix_tokens=prefix,
        grid_size=grid,
        num_registers=registers,
    )


@given(prefix=st.integers(0, 5), h=st.integers(1, 9), w=st.integers(1, 9), data=st.data())
def test_grid_patches_are_means_of_their_patches(
    prefix: int, h: int, w: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(h, w)))
    x = hidden(prefix, h, w)
    np.testing.assert_allclose(
        grid_patches(x, prefix, grid_size=(h, w), k=k), cells(x, prefix, h, w, k), atol=1e-6
    )


def test_grid_patches_with_k_1_or_full_equal_ap_or_every_patch() -> None:
    x = hidden(2, 4, 4)
    torch.testing.assert_close(grid_patches(x, 2, grid_size=(4, 4), k=1)[:, 0], average_patch(x, 2))
    assert torch.equal(grid_patches(x, 2, grid_size=(4, 4), k=4), x[:, 2:])


def test_grid_patches_of_a_transposed_grid_differ() -> None:
    """Negative control: the loop on the transposed grid is another result."""
    x = hidden(1, 4, 6)
    assert not np.allclose(
        grid_patches(x, 1, grid_size=(4, 6), k=2), cells(x, 1, 6, 4, 2), atol=1e-3
    )


def test_pooling_of_bfloat16_is_in_float32() -> None:
    """A mean in bfloat16 would be off by percents; the bound is float32's rounding."""
    x = (hidden(1, 16, 16) + 3).bfloat16()
    exact = x.double()[:, 1:].mean(1)
    assert average_patch(x, 1).dtype == class_token(x).dtype == torch.float32
    assert (average_patch(x, 1) - exact).abs().max() < 1e-6
    assert (x[:, 1:].mean(1).double() - exact).abs().max() > 1e-3


def test_token_pooling_names_follow_the_kinds() -> None:
    assert pooling("ap,cls").names == ("ap", "cls")
    assert pooling("cls+grid:2").names == ("cls", "grid:2/0", "grid:2/1", "grid:2/2", "grid:2/3")
    assert pooling("all", grid=(1, 3)).names == ("cls", "patch/0", "patch/1", "patch/2")
    assert pooling("all", class_token=False, prefix=2, grid=(1, 2)).names == ("patch/0", "patch/1")


@pytest.mark.parametrize(("class_", "prefix"), [(True, 1), (True, 5), (False, 0), (False, 4)])
def test_token_pooling_all_leaves_registers_out(class_: bool, prefix: int) -> None:
    x = hidden(prefix, 2, 3)
    got = pooling("all", class_token=class_, prefix=prefix, grid=(2, 3)).pool(x)
    expected = [x[:, 0]] * class_ + [x[:, prefix + i] for i in range(6)]
    assert torch.equal(got, torch.stack(expected))


def test_token_pooling_pool_follows_the_names() -> None:
    x = hidden(5, 4, 4)
    got = pooling("ap+grid:2+cls", prefix=5).pool(x)
    assert torch.equal(got[0], average_patch(x, 5))
    assert torch.equal(got[1:5], grid_patches(x, 5, grid_size=(4, 4), k=2).transpose(0, 1))
    assert torch.equal(got[5], x[:, 0])


def test_token_pooling_statistics_equal_float64() -> None:
    x = hidden(5, 4, 6)
    attention = torch.rand(2, 24, generator=torch.Generator().manual_seed(1))
    attention /= attention.sum(1, keepdim=True)
    got = pooling("reg+std+max+attn", prefix=5, grid=(4, 6), registers=4).pool(x, attention)
    maps, weights = x.double().numpy(), attention.double().numpy()
    expected = [
        maps[:, 1:5].mean(1),
        maps[:, 5:].std(1),
        maps[:, 5:].max(1),
        (maps[:, 5:] * weights[..., None]).sum(1),
    ]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert not np.allclose(got[1], maps[:, 5:].std(1, ddof=1), atol=1e-3)


def test_patch_std_of_one_patch_is_zero_and_of_an_offset_exact() -> None:
    """A difference of mean squares would lose the digits that the offset takes."""
    assert torch.equal(patch_std(hidden(1, 1, 1), 1), torch.zeros(2, 5))
    x = hidden(0, 8, 8) + 4000
    np.testing.assert_allclose(patch_std(x, 0), x.double().numpy().std(1), rtol=1e-4)


def test_token_pooling_of_a_distillation_token_has_no_registers() -> None:
    with pytest.raises(
        BackboneError,
        match=r"tokens 'reg': this model has no registers \(2 prefix tokens and 4 x 4 patches\)",
    ):
        pooling("cls+reg", prefix=2)


def test_token_pooling_with_another_number_of_tokens_raises() -> None:
    with pytest.raises(
        BackboneError,
        match=r"shape \(images, 18, width\), got \(2, 17, 5\): 2 prefix tokens and 4 x 4 patches",
    ):
        pooling("ap", prefix=2).pool(hidden(1, 4, 4))


@pytest.mark.parametrize(
    ("kinds", "error", "text"),
    [
        ("cls+apx", UnknownNameError, r"unknown token kind 'apx': did you mean ap or max\?"),
        ("grid:x", UnknownNameError, r"unknown token kind 'grid:x': did you mean grid:K\?"),
        (
            "grid:5",
            OptionError,
            r"tokens 'grid:5': this model has 4 x 4 patches, so K must be 1 to 4",
        ),
        ("grid:K", UnknownNameError, r"unknown token kind 'grid:K'"),
        ("grid:0", OptionError, r"K must be 1 to 4"),
        (
            "cls+cls",
            OptionError,
            r"tokens 'cls\+cls': expected at least one kind, and each token once",
        ),
        ("cls+all", OptionError, r"'all' includes 'cls'"),
    ],
)
def test_token_pooling_with_invalid_kinds_raises(
    kinds: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        pooling(kinds)


@pytest.mark.parametrize("with_class_token", [True, False])
def test_patch_is_every_patch_token_without_the_class_token(with_class_token: bool) -> None:
    x = hidden(1, 3, 2)
    patch = pooling("patch", class_token=with_class_token, grid=(3, 2))
    assert patch.names == tuple(f"patch/{i}" for i in range(6))
    assert torch.equal(patch.pool(x), x[:, 1:].transpose(0, 1))
    assert pooling("cls+patch", grid=(3, 2)).names == pooling("all", grid=(3, 2)).names
