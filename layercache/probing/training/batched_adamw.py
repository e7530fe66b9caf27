"""AdamW (arXiv 1711.05101) over G configurations, each with its own hyperparameters.

Shapes: every parameter, gradient and moment is (G, ...); a step updates g of the G configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from layercache.probing.heads.outer_product import OuterProduct

FUSED_MIN_ELEMENTS = 2**15
"""On a CPU, parameters of at least this many elements per configuration are updated by torch's
fused kernel, one configuration at a time: it passes over the memory once, the formula ten times.
Shorter ones stay in the cache, where starting all threads for the kernel costs more than it saves.
"""
PART_ELEMENTS = 2**18
"""Elements of an outer product that are formed at a time, 1 MiB, which stay in the cache of a core.
"""
CLIP_EPS = 1e-6
"""Added to the norm in gradient clipping, as in torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True)
class _StepSettings:
    """Settings of a step, apart from the gradients; tensors are (g,)."""

    count: int
    """Number of the step, from 1."""
    lr: Tensor
    weight_decay: Tensor
    scale: Tensor
    """Factors of the gradients, from clipping."""


def _total_norms(gradients: Iterable[Tensor | OuterProduct]) -> Tensor:
    """Return the norms over several parameters, (g,)."""
    norms = [
        gradient.norms()
        if isinstance(gradient, OuterProduct)
        else torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        for gradient in gradients
    ]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return total


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
        param_groups: Sequence[str] = ("",),
        fused_min_elements: int = FUSED_MIN_ELEMENTS,
    ) -> None:
        """Start with moments of zero.

        Args:
            parameters: Parameters to train, (G, ...).
            betas: Decay rates of the first and second moment.
            eps: AdamW's epsilon.
            clip: Maximum norm of one configuration's gradient, or None.
            param_groups: Beginnings of names; each group has learning rates and weight decays of
                its own, and its gradient is clipped on its own.
            fused_min_elements: See FUSED_MIN_ELEMENTS.
        """
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.betas, self.eps, self.clip = betas, eps, clip
        self.param_groups = tuple(param_groups)
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
        gradients: Mapping[str, Tensor | OuterProduct],
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
            lr: Learning rates of each of the `param_groups`, (K, g).
            weight_decay: Weight decays, (K, g).
        """
        group_norms = []
        for k, group in enumerate(self.param_groups):
            of_group = {n: g for n, g in gradients.items() if n.startswith(group)}
            if not of_group:
                continue
            norms = _total_norms(of_group.values())
            group_norms.append(norms)
            scale = torch.ones_like(norms)
            if self.clip is not None:
                scale = (self.clip / (norms + CLIP_EPS)).clamp(max=1.0)
            settings = _StepSettings(
                count=count, lr=lr[k], weight_decay=weight_decay[k], scale=scale
            )
            on_cpu = norms.device.type == "cpu"
            for name, gradient in of_group.items():
                value, moments = parameters[name][at], (self.first[name][at], self.second[name][at])
                is_large = on_cpu and value[0].numel() >= self.fused_min_elements
                update = self._update_by_kernel if is_large else self._update
                update(value, gradient, moments, settings)
        return group_norms[0] if len(group_norms) == 1 else torch.stack(group_norms).norm(dim=0)

    def _update_by_kernel(
        self,
        value: Tensor,
        gradient: Tensor | OuterProduct,
        moments: tuple[Tensor, Tensor],
        settings: _StepSettings,
    ) -> None:
        """Update one large parameter of all configurations by torch's fused kernel."""
        for i in range(len(value)):
            if isinstance(gradient, OuterProduct):
                parts = gradient.iter_parts(i, max_elements=PART_ELEMENTS)
            else:
                parts = iter([(slice(None), gradient[i])])
            for rows, part in parts:
                adamw(
                    [value[i, rows]],
                    [part],
                    [moments[0][i, rows]],
                    [moments[1][i, rows]],
                    [],
                    [torch.tensor(settings.count - 1.0)],
                    fused=True,
                    grad_scale=1 / settings.scale[i],  # the kernel divides by it
                    amsgrad=False,
                    maximize=False,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    lr=settings.lr[i].item(),
                    weight_decay=settings.weight_decay[i].item(),
                    eps=self.eps,
                )

    def _update(
        self,
        value: Tensor,
        gradient: Tensor | OuterProduct,
        moments: tuple[Tensor, Tensor],
        settings: _StepSettings,
    ) -> None:
        """Update one parameter of all configurations by elementwise operations."""
        if isinstance(gradient, OuterProduct):
            gradient = gradient.dense()
        beta1, beta2 = self.betas
        column = (-1,) + (1,) * (value.dim() - 1)
        rate, decay = settings.lr.view(column), settings.weight_decay.view(column)
        gradient = gradient * settings.scale.view(column)
        first, second = moments
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        value.mul_(1 - rate * decay)
        denominator = second.sqrt().div_((1 - beta2**settings.count) ** 0.5).add_(self.eps)
        value.sub_(first.div(denominator).mul_(rate / (1 - beta1**settings.count)))
