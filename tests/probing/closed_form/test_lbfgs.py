"""Batched L-BFGS against SciPy's, and what happens to a problem that rounding stops."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from layercache.probing.closed_form.lbfgs import MAX_HALVINGS, MEMORY, minimize


def test_each_problem_ends_at_the_minimum_that_scipy_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    curvatures = torch.rand(3, 6, generator=generator, dtype=torch.float64) + 0.2
    centers = torch.randn(3, 6, generator=generator, dtype=torch.float64)

    def objective(problems: Tensor, variables: Tensor) -> tuple[Tensor, Tensor]:
        distance = curvatures[problems] * (variables - centers[problems])
        values = torch.log(torch.cosh(distance)).sum(1)
        return values, curvatures[problems] * torch.tanh(distance)

    solution, converged = minimize(
        objective,
        torch.zeros(3, 6, dtype=torch.float64),
        tolerance=torch.full((3, 6), 1e-7, dtype=torch.float64),
        max_iterations=200,
    )
    assert converged.all()
    for q in range(3):

        def of_one(x: np.ndarray, q: int = q) -> tuple[float, np.ndarray]:
            value, gradient = objective(torch.tensor([q]), torch.from_numpy(x)[None])
            return float(value), gradient[0].numpy()

        expected = scipy_minimize(of_one, np.zeros(6), jac=True, method="L-BFGS-B", tol=1e-12).x
        np.testing.assert_allclose(solution[q], expected, atol=1e-5)


def test_a_problem_that_no_step_improves_is_given_up_and_the_others_go_on() -> None:
    calls: list[list[int]] = []

    def objective(problems: Tensor, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Of problem 0 each step raises the value by more than rounding, whatever its slope."""
        calls.append(problems.tolist())
        values = (variables - 1).square().sum(1, dtype=torch.float64)
        gradients = 2 * (variables - 1)
        walled = (problems == 0) & variables.any(1)
        return torch.where(walled, 1e3, values), gradients

    start = torch.zeros(2, 4)
    start[1] = torch.tensor([3.0, -50.0, 0.5, 700.0])
    solution, converged = minimize(
        objective, start, tolerance=torch.full((2, 4), 1e-4), max_iterations=1000
    )
    assert converged.tolist() == [False, True]
    assert torch.equal(solution[0], start[0])
    torch.testing.assert_close(solution[1], torch.ones(4), atol=1e-4, rtol=0)
    assert sum(0 in problems for problems in calls) == 1 + (MEMORY + 1) * MAX_HALVINGS
