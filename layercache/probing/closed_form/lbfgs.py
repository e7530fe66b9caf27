"""L-BFGS for many smooth convex problems at once, each with its own steps.

Shapes: Q problems, V variables of a problem, K remembered steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(numbers of some problems (Q,), variables (Q, V)) to (values float64 (Q,), gradients (Q, V))."""

MEMORY = 10
"""Steps that the curvature is estimated from, as in SciPy."""
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 30


class _History:
    """Last steps and changes of the gradient of each problem, as rings of length MEMORY."""

    def __init__(self, like: Tensor) -> None:
        self._steps = like.new_zeros((MEMORY, *like.shape))
        self._changes = like.new_zeros((MEMORY, *like.shape))
        self._curvatures = like.new_zeros((MEMORY, len(like)), dtype=torch.float64)
        self._next = 0

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step; a problem whose step shows no curvature skips it."""
        curvature = _dot(step, change)
        noise = 1e-10 * _dot(change, change)
        usable = curvature > noise
        self._steps[self._next] = step * usable[:, None]
        self._changes[self._next] = change * usable[:, None]
        self._curvatures[self._next] = curvature.where(usable, 0.0)
        self._next = (self._next + 1) % MEMORY

    def keep(self, problems: Tensor) -> None:
        """Forget all problems but these."""
        self._steps, self._changes = self._steps[:, problems], self._changes[:, problems]
        self._curvatures = self._curvatures[:, problems]

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the quasi-Newton direction of descent, by the two-loop recursion."""
        newest_first = [(self._next - 1 - i) % MEMORY for i in range(MEMORY)]
        inverse = torch.where(self._curvatures > 0, 1 / self._curvatures, 0.0)
        direction = -gradient
        factors = {}
        for i in newest_first:
            factors[i] = inverse[i] * _dot(self._steps[i], direction)
            direction = direction - factors[i].to(direction.dtype)[:, None] * self._changes[i]
        direction = direction * self._scale(newest_first).to(direction.dtype)[:, None]
        for i in reversed(newest_first):
            factor = factors[i] - inverse[i] * _dot(self._changes[i], direction)
            direction = direction + factor.to(direction.dtype)[:, None] * self._steps[i]
        return direction

    def _scale(self, newest_first: list[int]) -> Tensor:
        """Return the inverse curvature along the newest usable step of each problem, else 1."""
        scale = torch.ones_like(self._curvatures[0])
        for i in reversed(newest_first):
            used = self._curvatures[i] > 0
            norm = _dot(self._changes[i], self._changes[i]).where(used, 1.0)
            scale = (self._curvatures[i] / norm).where(used, scale)
        return scale


def minimize(
    objective: Objective, start: Tensor, *, tolerance: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Minimize Q convex problems.

    Args:
        objective: Values and gradients of some of the problems.
        start: Initial variables (Q, V), scaled so that curvatures are about 1.
        tolerance: Size of each component of the gradient at which a problem has converged, (Q, V).
        max_iterations: Steps after which a problem is given up. One that cannot take a step along
            its gradient either is given up at once: rounding hides any decrease.

    Returns:
        The variables (Q, V), and whether each problem converged (Q,).
    """
    solution = start.clone()
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    active = torch.arange(len(start), device=start.device)
    points = _Points(start, *objective(active, start))
    history = _History(start)
    zero_steps = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    for _ in range(max_iterations):
        done = (points.gradients.abs() <= tolerance[active]).all(1)
        converged[active[done]] = True
        # after MEMORY zero steps nothing is remembered, and the last one was along the gradient
        ended = done | (zero_steps > MEMORY)
        if ended.any():
            left = torch.nonzero(~ended).flatten()
            active, points, zero_steps = active[left], points.at(left), zero_steps[left]
            history.keep(left)
        if not len(active):
            break
        following = _search(objective, active, points, history.direction(points.gradients))
        step = following.variables - points.variables
        history.add(step, following.gradients - points.gradients)
        zero_steps = torch.where(step.any(1), 0, zero_steps + 1)
        points = following
        solution[active] = points.variables
    return solution, converged


@dataclass(frozen=True)
class _Points:
    """Variables of some problems with their values and gradients."""

    variables: Tensor
    values: Tensor
    gradients: Tensor

    def at(self, problems: Tensor) -> _Points:
        return _Points(self.variables[problems], self.values[problems], self.gradients[problems])


def _search(objective: Objective, active: Tensor, start: _Points, direction: Tensor) -> _Points:
    """Halve each problem's step until it is accepted; a step that never is stays zero.

    A step is accepted when it decreases the value sufficiently, or when the value has not risen by
    more than rounding and the slope has not become steeper upwards than it was downwards (Hager and
    Zhang's approximate Wolfe condition, SIAM J. Optim. 16, 2005): near the solution the decrease
    drowns in rounding long before the gradient does.
    """
    slopes = _dot(direction, start.gradients)
    rounding = torch.finfo(direction.dtype).eps * start.values.abs()
    end = _Points(start.variables.clone(), start.values.clone(), start.gradients.clone())
    pending = torch.arange(len(active), device=active.device)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        variables = start.variables[pending] + length * direction[pending]
        tried = _Points(variables, *objective(active[pending], variables))
        slope, value = slopes[pending], start.values[pending]
        decreases = tried.values <= value + SUFFICIENT_DECREASE * length * slope
        flattens = _dot(direction[pending], tried.gradients) <= -slope
        accepted = decreases | (flattens & (tried.values <= value + rounding[pending]))
        taken = pending[accepted]
        end.variables[taken] = tried.variables[accepted]
        end.values[taken] = tried.values[accepted]
        end.gradients[taken] = tried.gradients[accepted]
        pending = pending[~accepted]
        if not len(pending):
            break
        length /= 2
    return end


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the products (Q,), float64, of two arrays (Q, V)."""
    return (a * b).sum(1, dtype=torch.float64)
