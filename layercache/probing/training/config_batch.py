"""G configurations of one head that train together: shared batches, everything else their own.

Shapes: B rows of a batch, S tokens, D width, C classes, G configurations, H attention heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads import HeadSpec, build
from layercache.probing.training.batched_adamw import AdamW
from layercache.probing.training.config import HParams, TrainConfig, cosine

TILE_BYTES = {"cpu": 48 * 2**20, "cuda": 2 * 2**30}
"""Activations of the configurations that are evaluated at once: on a CPU about what its caches hold, on a GPU enough to keep it busy."""


class ConfigBatch:
    """The state of G configurations. Configurations meet in no operation, so a NaN in one stays there."""

    def __init__(
        self,
        spec: HeadSpec,
        settings: Sequence[HParams],
        *,
        seed: int,
        protocol: TrainConfig,
        steps: int,
        weights: Tensor | None,
        device: torch.device,
        precision: str,
    ) -> None:
        self.head, self.spec, self.protocol, self.steps, self.device = (
            build(spec),
            spec,
            protocol,
            steps,
            device,
        )
        self.low = torch.bfloat16 if precision == "bf16" else None
        self.class_weights = weights
        self.settings = list(settings)
        self.members = torch.tensor(
            sorted(range(len(settings)), key=lambda i: settings[i].dropout), dtype=torch.int64
        )
        """Which of the settings the rows of the parameters belong to, by rising dropout; shrinks as configurations end."""
        self.diverged_at: list[int | None] = [None] * len(settings)
        initial = self.head.init_parameters(torch.Generator().manual_seed(_stream(seed, 0)))
        self.parameters = {
            name: value.to(device).expand(len(settings), *value.shape).clone()
            for name, value in initial.items()
        }
        self.trained = [name for name in initial if name not in self.head.buffers]
        self.optimiser = AdamW(
            {name: self.parameters[name] for name in self.trained},
            betas=protocol.betas,
            eps=protocol.eps,
            clip=protocol.clip,
        )
        self.draws = (
            torch.Generator(device).manual_seed(_stream(seed, 1))
            if any(s.dropout for s in settings)
            else None
        )
        self._set_rows()

    def _set_rows(self) -> None:
        active = [self.settings[i] for i in self.members.tolist()]
        self.weight_decay = torch.tensor([s.weight_decay for s in active], device=self.device)
        self.dropouts = [s.dropout for s in active]
        self.rates = torch.tensor(self.dropouts, device=self.device)
        self.faulty = torch.full((len(active),), -1, device=self.device)
        """First step of this epoch whose loss or gradient was not finite, -1 for none; read once an epoch, for reading waits for a GPU."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these configurations only (positions along G)."""
        self.members = self.members[rows]
        rows = rows.to(self.device)
        for name in self.parameters:
            self.parameters[name] = self.parameters[name][rows]
        self.optimiser.keep(rows)
        self._set_rows()

    def step(self, x_bsd: Tensor, y: Tensor, *, step: int) -> Tensor:
        """One optimiser step of every configuration on one batch; `step` counts from 0. Returns the losses (G,)."""
        prepared = self._prepare(x_bsd)
        draw = None
        if self.draws is not None:
            draw = torch.rand(
                (*x_bsd.shape[:2], self.spec.num_heads), generator=self.draws, device=self.device
            )
        rates = [
            cosine(self.settings[i].lr, end=self.protocol.lr_end, step=step, steps=self.steps)
            for i in self.members.tolist()
        ]
        lr = torch.tensor(rates, device=self.device)
        losses = torch.empty(len(self.members), device=self.device)
        for at in self._tiles(len(x_bsd)):
            alike = self.dropouts[at.start] == self.dropouts[at.stop - 1]
            leaves = {name: self.parameters[name][at].requires_grad_() for name in self.trained}
            buffers = {name: self.parameters[name][at] for name in self.head.buffers}
            dropped = draw if self.dropouts[at.stop - 1] > 0 else None
            logits = self.head.logits(
                leaves | buffers,
                prepared,
                train=True,
                dropout=self.rates[at][:1] if alike else self.rates[at],
                uniform_bsh=dropped,
            )
            loss = self.loss(logits, y)
            found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
            # a parameter that the head knows to have no gradient still decays
            gradients = {
                name: torch.zeros_like(leaf) if value is None else value
                for (name, leaf), value in zip(leaves.items(), found, strict=True)
            }
            norms = self.optimiser.step(
                self.parameters,
                gradients,
                at=at,
                count=step + 1,
                lr=lr[at],
                weight_decay=self.weight_decay[at],
            )
            losses[at] = loss.detach()
            fault = ~(torch.isfinite(losses[at]) & torch.isfinite(norms)) & (self.faulty[at] < 0)
            self.faulty[at] = torch.where(fault, step, self.faulty[at])
        return losses

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Losses (G,): weighted cross-entropy sum w l / sum w, as torch's; or the plain mean of the binary cross-entropy over rows and classes."""
        if self.spec.multi_label:
            return F.binary_cross_entropy_with_logits(
                logits, y.to(logits.dtype).expand_as(logits), reduction="none"
            ).mean((1, 2))
        losses = (
            F.cross_entropy(
                logits.flatten(0, 1),
                y.repeat(len(logits)),
                weight=self.class_weights,
                reduction="none",
            )
            .view(len(logits), -1)
            .sum(1)
        )
        return losses / (self.class_weights[y].sum() if self.class_weights is not None else len(y))

    @torch.inference_mode()
    def logits(self, x_bsd: Tensor) -> Tensor:
        """Logits (G, B, C) in evaluation."""
        prepared = self._prepare(x_bsd)
        tiles = [
            self.head.logits({k: v[at] for k, v in self.parameters.items()}, prepared, train=False)
            for at in self._tiles(len(x_bsd))
        ]
        return torch.cat(tiles)

    def drop_diverged(self) -> None:
        """Take the configurations out whose loss, gradient or parameters were not finite since the last call."""
        faulty = self.faulty.tolist()
        for row, step in enumerate(faulty):
            if step >= 0:
                self.diverged_at[int(self.members[row])] = step
        if any(step >= 0 for step in faulty):
            self.keep(
                torch.tensor(
                    [row for row, step in enumerate(faulty) if step < 0], dtype=torch.int64
                )
            )

    def mark_if_not_finite(self, *, step: int) -> None:
        """Note configurations with a parameter or running statistic that is not finite (the last step leaves no later loss to show it)."""
        finite = torch.stack(
            [torch.isfinite(value).flatten(1).all(1) for value in self.parameters.values()]
        ).all(0)
        self.faulty = torch.where(~finite & (self.faulty < 0), step, self.faulty)

    def state(self, row: int, *, steps: int) -> dict[str, Tensor]:
        """A copy of one configuration's state dict, as the textbook module's, on the CPU."""
        state = {name: value[row].to("cpu", copy=True) for name, value in self.parameters.items()}
        if "batch_norm.running_mean" in state:
            state["batch_norm.num_batches_tracked"] = torch.tensor(steps)
        return state

    def _prepare(self, x_bsd: Tensor) -> Tensor:
        prepared = self.head.preprocess(x_bsd)
        return prepared if self.low is None else prepared.to(self.low)

    def _tiles(self, rows: int) -> Iterator[slice]:
        """Ranges along G whose activations stay below TILE_BYTES.

        On a CPU each has one rate of dropout: one mask then serves all its configurations, which else is the size of their attention weights. On a
        GPU fewer and larger operations are worth more than that.
        """
        most = max(1, TILE_BYTES[self.device.type] // (rows * row_bytes(self.spec)))
        start = 0
        for _, alike in itertools.groupby(
            self.dropouts if self.device.type == "cpu" else [0.0] * len(self.members)
        ):
            total = len(list(alike))
            count = -(-total // most)
            yield from (
                slice(start + total * i // count, start + total * (i + 1) // count)
                for i in range(count)
            )
            start += total


def row_bytes(spec: HeadSpec) -> int:
    """Bytes of the largest activations of one configuration per row of a batch: logits, attention weights and mixed tokens."""
    return 4 * max(spec.classes, spec.num_heads * max(spec.width, spec.tokens))


def configuration_bytes(spec: HeadSpec) -> int:
    """Bytes of one configuration: its parameters, their two moments and their gradient."""
    return 16 * sum(value.numel() for value in build(spec).init_parameters(torch.Generator()).values())


def _stream(seed: int, stream: int) -> int:
    """A generator seed for one purpose (0 initial parameters, 1 attention dropout), apart from those of order and noise."""
    return int(
        np.random.SeedSequence([seed, 2**32 + stream]).generate_state(1, np.uint64)[0] & (2**63 - 1)
    )
