from __future__ import annotations

import pytest
import torch

from layercache.probing.heads.mixing import mix_and_map


@pytest.mark.parametrize("chunk_bytes", [1, 700, 10**9])
def test_mix_and_map_with_any_chunk_size_equals_einsum(chunk_bytes: int) -> None:
    weights, x, maps = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((7, 3, 4), (7, 3, 5), (4, 2, 5))
    )
    weights.requires_grad_()
    maps.requires_grad_()
    cotangent = torch.randn(4, 7, 2, dtype=torch.float64)
    actual = mix_and_map(weights, x, maps, chunk_bytes=chunk_bytes)
    expected = torch.einsum("bsk,bsd,ked->kbe", weights, x, maps)
    torch.testing.assert_close(actual, expected)
    gradients = (
        torch.autograd.grad((out * cotangent).sum(), (weights, maps)) for out in (actual, expected)
    )
    torch.testing.assert_close(*gradients)
