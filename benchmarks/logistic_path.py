"""Measure logistic regressions for all penalties together against one after another.

One after another, each penalty starts from the solution of the next stronger one. Both stop at the
same size of the gradient. Printed are the processor time, the evaluations of the loss and gradient
of one problem, and the sum of the objectives.

    OMP_NUM_THREADS=1 python benchmarks/logistic_path.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from machine import describe
from torch import Tensor

from layercache.probing.baselines.grids import INVERSE_PENALTIES
from layercache.probing.closed_form import logistic
from layercache.probing.closed_form.lbfgs import minimize
from layercache.probing.closed_form.logistic import MAX_ITERATIONS, multinomial
from layercache.probing.closed_form.targets import balanced_weights

SHAPES = ((1500, 768, 10), (288, 6144, 10), (4000, 768, 50))
"""(rows, features, classes)."""


def make_features(rows: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return unit-length features with a weak class signal, and class numbers."""
    generator = np.random.default_rng(0)
    centers = 0.3 * generator.standard_normal((classes, width))
    y = generator.integers(0, classes, rows)
    noise = generator.standard_normal((rows, width))
    x = (noise + centers[y]) * np.logspace(0, -1.5, width) + 1
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


def solve_path(self: Any, inverse_penalties: Any, *, tolerance: float) -> Any:
    """Do what `_Solver.solve` does, one penalty after another, from the one before."""
    solved, previous = [], None
    for c in inverse_penalties:
        penalty = 1 / (c * self._total)
        scale = (self._curvature + penalty).rsqrt()
        scale = torch.cat([scale, scale.new_full((1,), self._intercept_curvature**-0.5)])
        scale = scale.expand(1, self._logits, -1).to(self._z.dtype)

        def objective(
            problems: Tensor, scaled: Tensor, penalty: float = penalty, scale: Tensor = scale
        ) -> tuple[Tensor, Tensor]:
            variables = scaled.view_as(scale) * scale
            values, gradients = self._loss_and_gradient(problems, variables)
            weight = variables[:, :, :-1]
            values += penalty * weight.square().sum((1, 2), dtype=torch.float64) / 2
            gradients[:, :, :-1] += penalty * weight
            return values, (gradients * scale).flatten(1)

        start = torch.zeros_like(scale) if previous is None else previous / scale
        solution, converged = minimize(
            objective,
            start.flatten(1),
            tolerance=tolerance * scale.flatten(1),
            max_iterations=MAX_ITERATIONS,
        )
        previous = solution.view_as(scale) * scale
        weight, bias = previous[:, :, :-1].double(), previous[:, :, -1].double()
        if self._directions is not None:
            weight = weight @ self._directions
        solved.append((weight, bias - weight @ self._mean, converged))
    return tuple(torch.cat(parts) for parts in zip(*solved, strict=True))


def objectives(x: Tensor, y: Tensor, sample_weight: Tensor, found: Any) -> float:
    """Return the sum over the penalties of the objective per sample."""
    total = 0.0
    for c, weight, bias in zip(INVERSE_PENALTIES, found.weight, found.bias, strict=True):
        losses = -(x.double() @ weight.t() + bias).log_softmax(1).gather(1, y[:, None])[:, 0]
        total += float((sample_weight @ losses + weight.square().sum() / (2 * c)) / len(y))
    return total


def main() -> None:
    """Print the table."""
    print(f"{describe()}; {torch.get_num_threads()} threads\n")
    print("| rows x features, classes | way | evaluations | time (s) | sum of objectives |")
    print("|---|---|---|---|---|")
    evaluate, together = logistic._Solver._loss_and_gradient, logistic._Solver.solve
    counted = [0]

    def count(self: Any, problems: Tensor, variables: Tensor) -> Any:
        counted[0] += len(problems)
        return evaluate(self, problems, variables)

    logistic._Solver._loss_and_gradient = count  # type: ignore[method-assign]
    for shape in SHAPES:
        x, y = make_features(*shape)
        sample_weight = balanced_weights(y, shape[2])
        for name, solve in (("together", together), ("one after another", solve_path)):
            logistic._Solver.solve = solve  # type: ignore[assignment, method-assign]
            times = []
            for _ in range(3):
                counted[0], began = 0, time.process_time()
                found = multinomial(
                    x,
                    y,
                    shape[2],
                    inverse_penalties=INVERSE_PENALTIES,
                    sample_weight=sample_weight,
                )
                times.append(time.process_time() - began)
            print(
                f"| {shape[0]} x {shape[1]}, {shape[2]} | {name} | {counted[0]} | {min(times):.2f} "
                f"| {objectives(x, y, sample_weight, found):.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
