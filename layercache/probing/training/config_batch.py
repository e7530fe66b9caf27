"""G configurations of one head that train together on the same batches.

Shapes: N samples, B rows of a batch, S tokens, D width, C classes, G configurations, H attention
heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads import AttendingHead, HeadSpec, build
from layercache.probing.heads.fusion import SHARES, BatchedFusionHead
from layercache.probing.heads.outer_product import OuterProduct
from layercache.probing.heads.spec import LAYERS, SPATIAL
from layercache.probing.targets.standardize import Standardization
from layercache.probing.training.batched_adamw import AdamW
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.configs_per_pass import activation_row_bytes
from layercache.probing.training.dropout import AttentionDropout, TokenDropout, drop_tokens
from layercache.probing.training.schedule import cosine_lr

TILE_BYTES = {"cpu": 48 * 2**20, "cuda": 2 * 2**30, "mps": 2**29}
"""Size of the activations of the configurations that are evaluated at once, by device type: about
the size of a CPU's caches; enough to keep a GPU busy."""
INIT_STREAM, DROPOUT_STREAM = 2**32, 2**32 + 1
"""Streams of randomness of a seed, apart from those of order and noise (`data.dataset`)."""


class ConfigBatch:
    """The state of G configurations.

    No operation mixes configurations, so a NaN in one does not reach the others.
    """

    def __init__(
        self,
        spec: HeadSpec,
        configs: Sequence[HParams],
        *,
        seed: int,
        train_config: TrainConfig,
        steps: int,
        class_weights: Tensor | None,
        device: torch.device,
        precision: str,
        standardization: Standardization | None = None,
    ) -> None:
        """Draw the initial parameters, which all configurations share.

        Args:
            spec: Head to train.
            configs: Hyperparameters of each configuration.
            seed: Seed of initial parameters and dropout.
            train_config: Optimizer and loss.
            steps: Number of steps of the learning rate's schedule.
            class_weights: Weights of the cross-entropy, (C,), or None.
            device: Device to train on.
            precision: Arithmetic of the products over tokens, fp32 or bf16.
            standardization: Mean and scale of the targets of a regression.
        """
        self.spec, self.head = spec, build(spec)
        self.train_config, self.steps, self.device = train_config, steps, device
        self.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.class_weights, self.standardization = class_weights, standardization
        self.configs = list(configs)
        self._branches = (LAYERS, SPATIAL) if len(spec.dropout_shapes) == 2 else (spec.branch,)
        by_dropout = sorted(range(len(configs)), key=lambda i: self._dropouts(configs[i]))
        self.active = torch.tensor(by_dropout, dtype=torch.int64)
        """Index into `configs` of each row of the parameters, by ascending dropout, (G,); those
        that have ended are removed."""
        self.diverged_at: list[int | None] = [None] * len(configs)
        """First step of each configuration whose loss or gradient was not finite."""
        generator = torch.Generator().manual_seed(_derive_seed(seed, INIT_STREAM))
        initial = self.head.init_parameters(generator)
        self.parameters = {
            name: value.to(device).expand(len(configs), *value.shape).clone()
            for name, value in initial.items()
        }
        self.trainable = [name for name in initial if name not in self.head.buffers]
        self._param_groups: Mapping[str, str] = getattr(self.head, "param_groups", {"": ""})
        """Beginning of the names of a group of parameters -> branch whose settings it has."""
        self.optimizer = AdamW(
            {name: self.parameters[name] for name in self.trainable},
            betas=train_config.betas,
            eps=train_config.eps,
            clip=train_config.clip,
            param_groups=tuple(self._param_groups),
        )
        self._attention_dropout = None
        if any(any(self._dropouts(config)) for config in configs):
            dropout_seed = _derive_seed(seed, DROPOUT_STREAM)
            self._attention_dropout = AttentionDropout(spec, seed=dropout_seed, device=device)
        self._token_dropout = TokenDropout(
            spec,
            layer_rate=train_config.layer_dropout,
            kind_rate=train_config.kind_dropout,
            seed=seed,
        )
        self._update_active()

    def _update_active(self) -> None:
        active = [self.configs[i] for i in self.active.tolist()]
        self._group_hparams = [
            [config.of_branch(branch) for config in active]
            for branch in self._param_groups.values()
        ]
        """Hyperparameters of each group of parameters and configuration, (K, G)."""
        self.weight_decay = torch.tensor(
            [[hparams.weight_decay for hparams in group] for group in self._group_hparams],
            device=self.device,
        )
        self.dropouts = [self._dropouts(c) for c in active]
        self.dropout_rates = torch.tensor(self.dropouts, device=self.device).view(
            len(active), len(self._branches)
        )
        self.faulty = torch.full((len(active),), -1, device=self.device)
        """First step of this epoch whose loss or gradient was not finite, or -1, (G,); read once an
        epoch, because reading waits for a GPU."""

    def _dropouts(self, config: HParams) -> tuple[float, ...]:
        """Return the rate of attention dropout of each branch; a head without branches has one."""
        return tuple(config.of_branch(branch).dropout for branch in self._branches)

    def retain(self, rows: Tensor) -> None:
        """Continue with some configurations only.

        Args:
            rows: int64 positions along G.
        """
        self.active = self.active[rows]
        rows = rows.to(self.device)
        for name in self.parameters:
            self.parameters[name] = self.parameters[name][rows]
        self.optimizer.retain(rows)
        self._update_active()

    def step(
        self, x_bsd: Tensor, y: Tensor, *, step: int, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Take one optimizer step of every configuration on one batch; return the losses (G,).

        Args:
            x_bsd: Normalized tokens.
            y: Labels, int64 (B,) or 0/1 (B, C), or float64 targets (B, C).
            step: Number of the step, from 0.
            sample_weight: Weights of the samples in the loss, float32 (B,), or None.
        """
        kept_bs = self._token_dropout.draw(len(x_bsd), step=step)
        if kept_bs is not None:
            kept_bs = kept_bs.to(self.device)
            if not self.spec.has_dropout:
                x_bsd = drop_tokens(x_bsd, kept_bs)
        preprocessed = self._preprocess(x_bsd)
        penalty = self.train_config.last_layer_penalty
        has_penalty = penalty > 0 and self.spec.branch != SPATIAL  # it is for the layers
        uniform_bsh = None
        if self._attention_dropout is not None:
            uniform_bsh = self._attention_dropout.draw(len(x_bsd))
        lr_end = self.train_config.lr_end
        learning_rates = [
            [cosine_lr(h.lr, end=lr_end, step=step, steps=self.steps) for h in group]
            for group in self._group_hparams
        ]
        lr = torch.tensor(learning_rates, device=self.device)
        losses = torch.empty(len(self.active), device=self.device)
        for at in self._tiles(len(x_bsd)):
            rates = self.dropout_rates[at].T
            if len(set(self.dropouts[at])) == 1:
                rates = rates[:, :1]
            leaves = {name: self.parameters[name][at].requires_grad_() for name in self.trainable}
            buffers = {name: self.parameters[name][at] for name in self.head.buffers}
            outer: dict[str, OuterProduct] = {}
            options = {"kept_bs": kept_bs} if self.spec.has_dropout else {}
            parts = self._training_logits(
                leaves | buffers,
                preprocessed,
                dropout=rates if len(rates) == 2 else rates[0],
                uniform_bsh=uniform_bsh if any(map(any, self.dropouts[at])) else None,
                # a GPU is faster with a few large operations than with an outer product in parts;
                # with a penalty, the weights have another gradient that is added to it
                outer=outer if self.device.type == "cpu" and not penalty else None,
                **options,
            )
            loss = torch.stack([self.loss(part, y, sample_weight) for part in parts]).sum(0)
            if has_penalty:
                below = self._attention_below_last(leaves | buffers, preprocessed, kept_bs)
                loss = loss + penalty * below
            gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
            # a parameter whose gradient is always zero still decays
            gradient_by_name: dict[str, Tensor | OuterProduct] = {
                name: torch.zeros_like(leaf) if gradient is None else gradient
                for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
                if name not in outer
            }
            gradient_by_name |= outer
            norms = self.optimizer.step(
                self.parameters,
                gradient_by_name,
                at=at,
                count=step + 1,
                lr=lr[:, at],
                weight_decay=self.weight_decay[:, at],
            )
            losses[at] = loss.detach()
            fault = ~(torch.isfinite(losses[at]) & torch.isfinite(norms)) & (self.faulty[at] < 0)
            self.faulty[at] = torch.where(fault, step, self.faulty[at])
        return losses

    def loss(self, logits: Tensor, y: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the losses (G,).

        They are the weighted cross-entropy sum w l / sum w, as torch computes it, the mean binary
        cross-entropy over rows and classes, or the mean squared error of standardized targets over
        rows and columns.

        Args:
            logits: (G, B, C).
            y: Labels, int64 (B,) or 0/1 (B, C), or float64 targets (B, C).
            sample_weight: float32 (B,); the mean over rows is weighted, sum s l / sum s, with class
                weights sum s w l / sum s w.
        """
        if self.standardization is not None:
            errors = (logits - self.standardization.apply(y)).square()
            return _mean_over_rows(errors, sample_weight)
        if self.spec.multi_label:
            losses = F.binary_cross_entropy_with_logits(
                logits, y.to(logits.dtype).expand_as(logits), reduction="none"
            )
            return _mean_over_rows(losses, sample_weight)
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            y.repeat(len(logits)),
            weight=self.class_weights,
            reduction="none",
        )
        losses = losses.view(len(logits), -1)
        if sample_weight is not None:
            weights = sample_weight
            if self.class_weights is not None:
                weights = weights * self.class_weights[y]
            return (losses * sample_weight).sum(1) / weights.sum()
        sums = losses.sum(1)
        return sums / (self.class_weights[y].sum() if self.class_weights is not None else len(y))

    @torch.inference_mode()
    def logits(self, x_bsd: Tensor) -> Tensor:
        """Return logits (G, B, C) in evaluation mode; for regression, of standardized targets.

        Args:
            x_bsd: Normalized tokens.
        """
        preprocessed = self._preprocess(x_bsd)
        tiles = [
            self.head.logits(
                {name: value[at] for name, value in self.parameters.items()},
                preprocessed,
                train=False,
            )
            for at in self._tiles(len(x_bsd))
        ]
        return torch.cat(tiles)

    def logits_by_share(self, x_bsd: Tensor) -> Tensor:
        """Return the logits of a fusion head for each of SHARES, (G, R, B, C), in evaluation mode.

        Args:
            x_bsd: Normalized tokens.
        """
        assert isinstance(self.head, BatchedFusionHead)
        preprocessed, shares = self._preprocess(x_bsd), torch.tensor(SHARES, device=self.device)
        with torch.inference_mode():
            tiles = [
                self.head.logits_by_share(
                    {name: value[at] for name, value in self.parameters.items()},
                    preprocessed,
                    shares,
                )
                for at in self._tiles(len(x_bsd))
            ]
        return torch.cat(tiles, 1).transpose(0, 1)

    def _training_logits(
        self, parameters: Mapping[str, Tensor], preprocessed: Tensor, **options: Any
    ) -> tuple[Tensor, ...]:
        """Return logits (G, B, C), or several of them that each have a loss of their own."""
        if isinstance(self.head, BatchedFusionHead):
            return self.head.training_logits(parameters, preprocessed, **options)
        return (self.head.logits(parameters, preprocessed, train=True, **options),)

    def _attention_below_last(
        self, parameters: Mapping[str, Tensor], preprocessed: Tensor, kept_bs: Tensor | None
    ) -> Tensor:
        """Return the mean attention to tokens below the last layer, (G,).

        The mean is over images and attention heads; of a fusion head over those of the layers.
        """
        head = cast(AttendingHead, self.head)
        weights_bsgh = head.attention(parameters, preprocessed, kept_bs=kept_bs)
        if self.spec.kind == "fusion":
            weights_bsgh = weights_bsgh[..., : self.spec.num_heads]
        ids = torch.tensor(self.spec.layer_ids, device=self.device)
        is_below = ids < ids[: self.spec.tokens - self.spec.spatial_tokens].max()
        return weights_bsgh[:, is_below].sum(1).mean((0, 2))

    def drop_diverged(self) -> None:
        """Remove configurations whose loss, gradient or parameters were not finite this epoch."""
        first_faults = self.faulty.tolist()
        if all(step < 0 for step in first_faults):
            return
        for row, step in enumerate(first_faults):
            if step >= 0:
                self.diverged_at[int(self.active[row])] = step
        rows = [row for row, step in enumerate(first_faults) if step < 0]
        self.retain(torch.tensor(rows, dtype=torch.int64))

    def check_finite(self, *, step: int) -> None:
        """Mark configurations with a parameter or running statistic that is not finite.

        Needed after the last step, because no later loss would be NaN.

        Args:
            step: Number of the last step, from 0.
        """
        finite = torch.stack(
            [torch.isfinite(value).flatten(1).all(1) for value in self.parameters.values()]
        ).all(0)
        self.faulty = torch.where(~finite & (self.faulty < 0), step, self.faulty)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on; the tensors are not copied."""
        draws = self._attention_dropout
        return {
            "parameters": self.parameters,
            "optimizer": self.optimizer.state_dict(),
            "active": self.active,
            "faulty": self.faulty,
            "diverged_at": self.diverged_at,
            "dropout_rng": None if draws is None else draws.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same configurations, with tensors on any device."""
        moved = {
            name: {key: value.to(self.device) for key, value in values.items()}
            for name, values in {"parameters": state["parameters"], **state["optimizer"]}.items()
        }
        self.parameters = moved.pop("parameters")
        self.optimizer.load_state_dict(moved)
        self.active, self.diverged_at = state["active"], list(state["diverged_at"])
        self._update_active()
        self.faulty = state["faulty"].to(self.device)
        if self._attention_dropout is not None:
            self._attention_dropout.set_state(state["dropout_rng"])

    def head_state_dict(self, row: int, *, steps: int) -> dict[str, Tensor]:
        """Return the state dict of one configuration's module, copied to the CPU.

        A head for regression predicts in the unit of its targets.

        Args:
            row: Position along G.
            steps: Number of steps taken, for BatchNorm's counter.
        """
        state = {name: value[row].to("cpu", copy=True) for name, value in self.parameters.items()}
        for name in [name for name in state if name.endswith("running_mean")]:
            counter = name.replace("running_mean", "num_batches_tracked")
            state[counter] = torch.tensor(steps)
        return state if self.standardization is None else self.standardization.fold_in(state)

    def _preprocess(self, x_bsd: Tensor) -> Tensor:
        return self.head.preprocess(x_bsd).to(self.compute_dtype)

    def _tiles(self, n_rows: int) -> Iterator[slice]:
        """Yield ranges along G whose activations stay below TILE_BYTES.

        On a CPU a tile has one dropout rate: its configurations share one mask, which would
        otherwise have the size of their attention weights. On a GPU fewer and larger operations
        are faster.
        """
        tile_bytes = TILE_BYTES[self.device.type]
        max_configs = max(1, tile_bytes // (n_rows * activation_row_bytes(self.spec)))
        on_cpu = self.device.type == "cpu"
        start = 0
        for _, same_rate in itertools.groupby(self.dropouts if on_cpu else [()] * len(self.active)):
            n_configs = len(list(same_rate))
            n_tiles = -(-n_configs // max_configs)
            for i in range(n_tiles):
                yield slice(
                    start + n_configs * i // n_tiles, start + n_configs * (i + 1) // n_tiles
                )
            start += n_configs


def _mean_over_rows(losses_gbc: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the mean over columns and the weighted mean over rows, (G,)."""
    if sample_weight is None:
        return losses_gbc.mean((1, 2))
    return losses_gbc.mean(2) @ (sample_weight / sample_weight.sum())


def _derive_seed(seed: int, stream: int) -> int:
    """Return the seed of a generator for one purpose."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return int(state & (2**63 - 1))
