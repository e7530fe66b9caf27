"""AdamW (arXiv 1711.05101) over G configurations, each with its own hyperparameters.

Shapes: every parameter, gradient and moment is (G, ...); a step updates g of the G configurations.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

FUSED_MIN_ELEMENTS = 2**15
"""On a CPU, parameters of at least this many elements per configuration are updated by torch's
fused kernel, one configuration at a time: it passes over the memory once, the formula ten times.
Shorter ones stay in the cache, where starting all threads for the kernel costs more than it saves.
"""
CLIP_EPS = 1e-6
"""Added to the norm in gradient clipping, as in torch.nn.utils.clip_grad_norm_."""


class AdamW:
    """The moments of G configurations, and the step that updates their parameters in place.

    Like torch.optim.AdamW with its defaults, it decays every parameter, also biases and norms (as
    the authors' code does).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
        clip: float | None,
        fused_min_elements: int = FUSED_MIN_ELEMENTS,
    ) -> None:
        """Start with moments of zero.

        Args:
            parameters: Parameters to train, (G, ...).
            betas: Decay rates of the first and second moment.
            eps: AdamW's epsilon.
            clip: Maximum norm of one configuration's gradient, or None.
            fused_min_elements: See FUSED_MIN_ELEMENTS.
        """
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.betas, self.eps, self.clip = betas, eps, clip
        self.fused_min_elements = fused_min_elements

    def retain(self, rows: Tensor) -> None:
        """Continue with some configurations only.

        Args:
            rows: int64 positions along G.
        """
        for moments in (self.first, self.second):
            for name in moments:
                moments[name] = moments[name][rows]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the moments, not copied."""
        return {"first": self.first, "second": self.second}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with the moments of `state_dict`, which must be on the parameters' device."""
        self.first, self.second = dict(state["first"]), dict(state["second"])

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
        """Update some configurations; return the norms (g,) of their gradients before clipping.

        Args:
            parameters: All parameters, (G, ...); those without a gradient are not changed.
            gradients: Gradients of the configurations to update, (g, ...).
            at: Their positions along G.
            count: Number of the step, from 1.
            lr: Learning rates, (g,).
            weight_decay: Weight decays, (g,).
        """
        parameter_norms = [
            torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients.values()
        ]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(parameter_norms), dim=0)
        scale = torch.ones_like(norms)
        if self.clip is not None:
            scale = (self.clip / (norms + CLIP_EPS)).clamp(max=1.0)
        on_cpu = norms.device.type == "cpu"
        fused = [
            name
            for name, gradient in gradients.items()
            if on_cpu and gradient[0].numel() >= self.fused_min_elements
        ]
        for name, gradient in gradients.items():
            if name not in fused:
                self._update(
                    parameters[name][at],
                    gradient,
                    (self.first[name][at], self.second[name][at]),
                    count=count,
                    lr=lr,
                    weight_decay=weight_decay,
                    scale=scale,
                )
        for i in range(len(norms) if fused else 0):
            adamw(
                [parameters[name][at][i] for name in fused],
                [gradients[name][i] for name in fused],
                [self.first[name][at][i] for name in fused],
                [self.second[name][at][i] for name in fused],
                [],
                [torch.tensor(count - 1.0) for _ in fused],
                fused=True,
                grad_scale=1 / scale[i],  # the kernel divides by it
                amsgrad=False,
                maximize=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=lr[i].item(),
                weight_decay=weight_decay[i].item(),
                eps=self.eps,
            )
        return norms

    def _update(
        self,
        value: Tensor,
        gradient: Tensor,
        moments: tuple[Tensor, Tensor],
        *,
        count: int,
        lr: Tensor,
        weight_decay: Tensor,
        scale: Tensor,
    ) -> None:
        """Update one parameter of all configurations by elementwise operations."""
        beta1, beta2 = self.betas
        column = (-1,) + (1,) * (value.dim() - 1)
        rate, decay = lr.view(column), weight_decay.view(column)
        gradient = gradient * scale.view(column)
        first, second = moments
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        value.mul_(1 - rate * decay)
        denominator = second.sqrt().div_((1 - beta2**count) ** 0.5).add_(self.eps)
        value.sub_(first.div(denominator).mul_(rate / (1 - beta1**count)))
