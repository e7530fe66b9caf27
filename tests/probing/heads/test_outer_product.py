from __future__ import annotations

import pytest
import torch

from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.outer_product import OuterProduct, matvec, vecmat

G, K, ROWS, COLUMNS = 2, 3, 4, 5


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("blocks", [1, K])
def test_matvec_and_vecmat_equal_einsum_with_all_gradients(blocks: int) -> None:
    weight, right, left = (
        draw(G, blocks, ROWS, COLUMNS),
        draw(G, blocks, COLUMNS),
        draw(G, blocks, ROWS),
    )
    for actual, expected, vector in (
        (matvec(weight, right), torch.einsum("gkij,gkj->gki", weight, right), right),
        (vecmat(left, weight), torch.einsum("gkij,gki->gkj", weight, left), left),
    ):
        torch.testing.assert_close(actual, expected)
        cotangent = torch.randn_like(expected)
        gradients = (
            torch.autograd.grad((out * cotangent).sum(), (weight, vector))
            for out in (actual, expected)
        )
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("max_elements", [1, 5, 15, 20, 40, 10**6])
@pytest.mark.parametrize("blocks", [1, K])
def test_parts_of_any_size_and_the_norm_are_those_of_the_matrix(
    blocks: int, max_elements: int
) -> None:
    product = OuterProduct(torch.randn(G, blocks, ROWS), torch.randn(G, blocks, COLUMNS))
    dense = product.dense()
    for g in range(G):
        parts = list(product.iter_parts(g, max_elements=max_elements))
        assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(
            range(blocks * ROWS)
        )
        torch.testing.assert_close(torch.cat([part for _, part in parts]), dense[g])
        assert all(part.numel() <= max(max_elements, COLUMNS) for _, part in parts)
    torch.testing.assert_close(product.norms(), dense.flatten(1).norm(dim=1))


def test_outer_products_of_the_attentive_head_are_the_gradients_of_autograd() -> None:
    head = build(HeadSpec(kind="attentive", tokens=3, width=6, classes=2))
    initial = head.init_parameters(torch.Generator().manual_seed(0))
    p = {name: value[None].repeat(2, *[1] * value.dim()) for name, value in initial.items()}
    for name in set(p) - set(head.buffers):
        p[name].requires_grad_()
    x = head.preprocess(torch.randn(4, 3, 6))
    outer: dict[str, OuterProduct] = {}

    head.logits(p, x, train=True).square().sum().backward()
    expected = {name: p[name].grad for name in ("to_query.weight", "to_key.weight")}
    for value in p.values():
        value.grad = None
    head.logits(p, x, train=True, outer=outer).square().sum().backward()

    assert set(outer) == set(expected)
    for name, gradient in expected.items():
        assert p[name].grad is None
        torch.testing.assert_close(outer[name].dense(), gradient)
