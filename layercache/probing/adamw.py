"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) over G configurations, each with its own learning rate, weight decay and gradient clip.

Shapes: every parameter, gradient and moment is (G, ...).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw as fused_adamw


class AdamW:
    """The moments of a group, and the step that moves its parameters in place.

    As torch.optim.AdamW with its defaults, which decays every parameter, biases and norms too (as the authors' code does).
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, betas: tuple[float, float], eps: float, clip: float | None) -> None:
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.betas, self.eps, self.clip = betas, eps, clip

    def keep(self, rows: Tensor) -> None:
        """Go on with these configurations only (int64 positions along G)."""
        for moments in (self.first, self.second):
            for name in moments:
                moments[name] = moments[name][rows]

    @torch.no_grad()
    def step(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, at: slice, count: int, lr: Tensor, weight_decay: Tensor
    ) -> Tensor:
        """Step number `count` (from 1) of the configurations `at`; returns the norms (g,) of their gradients before clipping.

        `gradients`, `lr` and `weight_decay` are of those configurations alone, `parameters` of all. A parameter without a gradient is left alone.
        """
        norms: Tensor = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(value.flatten(1), dim=1) for value in gradients.values()]), dim=0
        )
        shrink = torch.ones_like(norms) if self.clip is None else (self.clip / (norms + 1e-6)).clamp(max=1.0)
        advance = self._advance_fused if norms.device.type == "cpu" else self._advance
        advance({name: parameters[name][at] for name in gradients}, gradients, at=at, count=count, lr=lr, weight_decay=weight_decay, shrink=shrink)
        return norms

    def _advance_fused(
        self, p: Mapping[str, Tensor], g: Mapping[str, Tensor], *, at: slice, count: int, lr: Tensor, weight_decay: Tensor, shrink: Tensor
    ) -> None:
        """On the CPU: torch's fused kernel, one configuration at a time. It passes over the memory once where the formula below passes ten times."""
        for i, (rate, decay, divisor) in enumerate(zip(lr.tolist(), weight_decay.tolist(), 1 / shrink, strict=True)):
            fused_adamw(
                [value[i] for value in p.values()],
                [value[i] for value in g.values()],
                [self.first[name][at][i] for name in p],
                [self.second[name][at][i] for name in p],
                [],
                [torch.tensor(count - 1.0) for _ in p],
                fused=True,
                grad_scale=divisor,
                amsgrad=False,
                maximize=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=rate,
                weight_decay=decay,
                eps=self.eps,
            )

    def _advance(
        self, p: Mapping[str, Tensor], g: Mapping[str, Tensor], *, at: slice, count: int, lr: Tensor, weight_decay: Tensor, shrink: Tensor
    ) -> None:
        """Elsewhere: the formula over all configurations, a handful of kernels per parameter."""
        beta1, beta2 = self.betas
        for name, value in p.items():
            column = (-1,) + (1,) * (value.dim() - 1)
            rate, gradient = lr.view(column), g[name] * shrink.view(column)
            first, second = self.first[name][at], self.second[name][at]
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            value.mul_(1 - rate * weight_decay.view(column))
            denominator = second.sqrt().div_((1 - beta2**count) ** 0.5).add_(self.eps)
            value.sub_(first.div(denominator).mul_(rate / (1 - beta1**count)))
