from __future__ import annotations

import pytest
import torch

from layercache.probing.closed_form import blocked_cholesky
from layercache.probing.closed_form.blocked_cholesky import decompose, solve_decomposed

BLOCK = 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_cholesky, "BLOCK", BLOCK)


def positive_definite(size: int) -> torch.Tensor:
    x = torch.randn(2 * size, size, generator=torch.Generator().manual_seed(0)).double()
    return x.t() @ x


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factor_and_solution_equal_those_of_torch(size: int, dtype: torch.dtype) -> None:
    matrix = positive_definite(size).to(dtype)
    right = torch.randn(size, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    unread = matrix.tril() + torch.full_like(matrix, torch.nan).triu(1)
    factor = decompose(unread)
    assert factor is not None
    torch.testing.assert_close(factor.tril(), torch.linalg.cholesky(matrix))
    expected = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(solve_decomposed(right, factor), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("row", [0, BLOCK, 3 * BLOCK + 4])
def test_matrix_that_is_not_positive_definite_in_any_block_has_no_factor(row: int) -> None:
    matrix = positive_definite(3 * BLOCK + 5)
    matrix[row, row] = -1.0
    assert decompose(matrix) is None
