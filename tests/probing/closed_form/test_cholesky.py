from __future__ import annotations

import math

import pytest
import torch

from layercache.probing.closed_form.cholesky import DiscriminantSystem, RidgeSystem, ShiftedMatrix
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


def test_ridge_equals_the_eigendecomposition() -> None:
    expected, system = ridge_of_moments(moments(), dtype=torch.float64), RidgeSystem(moments())
    for penalty in (1e-6, 1.0, 1e4):
        torch.testing.assert_close(system.coefficients(penalty), expected.coefficients(penalty))


def test_lda_equals_the_eigendecomposition() -> None:
    system = DiscriminantSystem(moments())
    for shrinkage in (1e-3, 0.5, 1.0):
        expected = lda_of_moments(moments()).coefficients(shrinkage)
        torch.testing.assert_close(system.coefficients(shrinkage), expected)
        assert torch.isneginf(expected[1][3])


@pytest.mark.parametrize(("condition", "refined"), [(1e4, True), (1e13, False)])
def test_single_precision_is_corrected_or_given_up(condition: float, refined: bool) -> None:
    basis = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(condition), 20, dtype=torch.float64)
    matrix, solution = basis @ torch.diag(values) @ basis.t(), torch.ones(20, 2).double()
    system, right = ShiftedMatrix(matrix), matrix @ solution
    found = system._solve_refined(right, 0.0)
    assert (found is not None) is refined
    if refined:
        torch.testing.assert_close(found, solution, rtol=1e-5, atol=1e-5)
    solved = system.solve(right)
    assert solved is not None
    assert (matrix @ solved - right).norm() < 1e-9


@pytest.mark.parametrize("shift", [0.0, 1e-3, 10.0])
def test_solution_of_a_well_conditioned_matrix_has_the_promised_residual(shift: float) -> None:
    x = torch.randn(200, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix, right = x.t() @ x, x[:30, :4]
    solved = ShiftedMatrix(matrix).solve(right, shift=shift)
    assert solved is not None
    residual = matrix @ solved + shift * solved - right
    assert residual.norm() <= 1e-10 * right.norm()


def test_matrix_that_is_not_positive_definite_has_no_coefficients() -> None:
    assert RidgeSystem(moments()).coefficients(-1e6) is None
