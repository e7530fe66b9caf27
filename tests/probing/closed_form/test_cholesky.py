from __future__ import annotations

import math

import pytest
import torch

from layercache.probing.closed_form import cholesky
from layercache.probing.closed_form.cholesky import lda_coefficients, ridge_coefficients
from layercache.probing.closed_form.lda import lda_of_moments
from layercache.probing.closed_form.moments import Moments
from layercache.probing.closed_form.ridge import ridge_of_moments
from layercache.probing.closed_form.targets import balanced_weights, one_hot
from tests.probing.closed_form.made import separable


def moments() -> Moments:
    x, y = separable(60, 7, 3)
    found = Moments(7, 4)
    found.add(x + 1, one_hot(y, 4), balanced_weights(y, 4))
    return found


@pytest.mark.parametrize("penalty", [1e-6, 1.0, 1e4])
def test_ridge_equals_the_eigendecomposition(penalty: float) -> None:
    expected = ridge_of_moments(moments(), dtype=torch.float64).coefficients(penalty)
    torch.testing.assert_close(ridge_coefficients(moments(), penalty), expected)


@pytest.mark.parametrize("shrinkage", [1e-3, 0.5, 1.0])
def test_lda_equals_the_eigendecomposition(shrinkage: float) -> None:
    expected = lda_of_moments(moments()).coefficients(shrinkage)
    torch.testing.assert_close(lda_coefficients(moments(), shrinkage), expected)
    assert torch.isneginf(expected[1][3])


@pytest.mark.parametrize(("condition", "refined"), [(1e4, True), (1e13, False)])
def test_single_precision_is_corrected_or_given_up(condition: float, refined: bool) -> None:
    basis = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(condition), 20, dtype=torch.float64)
    matrix, solution = basis @ torch.diag(values) @ basis.t(), torch.ones(20, 2).double()
    found = cholesky._solve_refined(matrix, matrix @ solution)
    assert (found is not None) is refined
    if refined:
        torch.testing.assert_close(found, solution, rtol=1e-5, atol=1e-5)
    residual = matrix @ cholesky._solve(matrix, matrix @ solution) - matrix @ solution
    assert residual.norm() < 1e-9


def test_matrix_that_is_not_positive_definite_has_no_coefficients() -> None:
    assert ridge_coefficients(moments(), -1e6) is None
