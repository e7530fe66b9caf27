"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) over G configurations, each with its own learning rate, weight decay and gradient clip.

Shapes: every parameter, gradient and moment is (G, ...).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

FUSED_ELEMENTS = 2**15
"""On a CPU, parameters from this length on go through torch's fused kernel, one configuration at a time: it passes over the memory once, where the
formula passes ten times. Shorter ones stay in the cache, and there the kernel's start of all threads costs more than it saves."""


class AdamW:
    """The moments of a group, and the step that moves its parameters in place.

    As torch.optim.AdamW with its defaults, which decays every parameter, biases and norms too (as the authors' code does).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
        clip: float | None,
    ) -> None:
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
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        *,
        at: slice,
        count: int,
        lr: Tensor,
        weight_decay: Tensor,
    ) -> Tensor:
        """Step number `count` (from 1) of the configurations `at`; returns the norms (g,) of their gradients before clipping.

        `gradients`, `lr` and `weight_decay` are of those configurations alone, `parameters` of all. A parameter without a gradient is left alone.
        """
        squares = [
            torch.linalg.vector_norm(value.flatten(1), dim=1) for value in gradients.values()
        ]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(squares), dim=0)
        shrink = (
            torch.ones_like(norms)
            if self.clip is None
            else (self.clip / (norms + 1e-6)).clamp(max=1.0)
        )
        cpu = norms.device.type == "cpu"
        large = [
            name for name, value in gradients.items() if cpu and value[0].numel() >= FUSED_ELEMENTS
        ]
        for name, gradient in gradients.items():
            if name not in large:
                moments = self.first[name][at], self.second[name][at]
                self._by_formula(
                    parameters[name][at],
                    gradient,
                    moments,
                    count=count,
                    lr=lr,
                    weight_decay=weight_decay,
                    shrink=shrink,
                )
        for i in range(len(norms) if large else 0):
            adamw(
                [parameters[name][at][i] for name in large],
                [gradients[name][i] for name in large],
                [self.first[name][at][i] for name in large],
                [self.second[name][at][i] for name in large],
                [],
                [torch.tensor(count - 1.0) for _ in large],
                fused=True,
                grad_scale=1 / shrink[i],  # the kernel divides by it
                amsgrad=False,
                maximize=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=lr[i].item(),
                weight_decay=weight_decay[i].item(),
                eps=self.eps,
            )
        return norms

    def _by_formula(
        self,
        value: Tensor,
        gradient: Tensor,
        moments: tuple[Tensor, Tensor],
        *,
        count: int,
        lr: Tensor,
        weight_decay: Tensor,
        shrink: Tensor,
    ) -> None:
        """One parameter of all configurations at once, by a dozen elementwise operations."""
        beta1, beta2 = self.betas
        column = (-1,) + (1,) * (value.dim() - 1)
        rate, decay, gradient = (
            lr.view(column),
            weight_decay.view(column),
            gradient * shrink.view(column),
        )
        first, second = moments
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        value.mul_(1 - rate * decay)
        denominator = second.sqrt().div_((1 - beta2**count) ** 0.5).add_(self.eps)
        value.sub_(first.div(denominator).mul_(rate / (1 - beta1**count)))
