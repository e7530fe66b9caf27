"""Cholesky decomposition in blocks of columns.

`torch.linalg.cholesky` copies the triangle of a large matrix down its columns, which takes about as
long as LAPACK's decomposition. Here LAPACK decomposes the blocks on the diagonal alone. In the rows
from a block on, let A2 and L2 be the columns of the block in A = L L', and L1 those to its left.
With (2) for the rows of the block alone, L2 is

    L2(2) L2(2)' = A2(2) - L1(2) L1(2)'    by a decomposition, and below it
    L2 = (A2 - L1 L1(2)') L2(2)'^-1        by a triangular solution.

Shapes: P features, M targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 192
"""Columns of a block. 128 and 256 are slower: LAPACK needs more time for 128 rows than for 192."""


def decompose(matrix: Tensor) -> Tensor | None:
    """Overwrite the lower triangle of a symmetric matrix (P, P) with its Cholesky factor.

    What is above the diagonal is not read, and is not part of the factor.

    Returns:
        The matrix that holds the factor, or None if it is not positive definite.
    """
    failures = []
    for start in range(0, len(matrix), BLOCK):
        end = start + BLOCK
        columns, left = matrix[start:, start:end], matrix[start:, :start]
        columns.addmm_(left, left[:BLOCK].t(), alpha=-1)
        factor, failed = torch.linalg.cholesky_ex(columns[:BLOCK])
        failures.append(failed)
        columns[:BLOCK] = factor
        # from the left on the transpose, which is faster than from the right
        below = torch.linalg.solve_triangular(factor, columns[BLOCK:].t(), upper=False)
        columns[BLOCK:] = below.t()
    return None if bool(torch.stack(failures).any()) else matrix


def solve_decomposed(right: Tensor, factor: Tensor) -> Tensor:
    """Return the solution (P, M) of L L' x = b.

    Args:
        right: b (P, M).
        factor: L of `decompose` (P, P).
    """
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.t(), half, upper=True)
    return solution
