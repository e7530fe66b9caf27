"""The fusion head: attention over every layer's CLS and AP, and over spatial tokens, and a gate.

One branch is the attentive head over the pooled tokens of the layers (ALF), the other one is over
spatial tokens (AAT). Each has a loss of its own, and hyperparameters of its own if others are best
for it (`search.best_config.best_pair`), so each trains as it would alone; the output is a mean of
their logits,

    logits = (1 - g) logits_layers + g logits_spatial,    g = sigmoid(logit(a) + delta)

where the share a in {0, 1/4, 1/2, 3/4, 1} is chosen on validation samples after the training, for
each configuration, and not learned: on training samples the branch that overfits more would win. It
has the lowest loss of those that score no less than the better branch; at 0 and 1 the head is one
branch exactly (fusion_branch.py), and the final fit trains no other.
delta is 0 ("scalar" gate), or learned at a = 1/2 with a loss of its own that passes no gradient to
the branches: one number for each class ("class"), or w . [f_layers, f_spatial] + b of each image
("sample"), with f the normalized features before the classifiers.

Shapes: G configurations, B rows of a batch, P pooled and Q spatial tokens, S = P + Q, D width, C
classes; R shares of a.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from layercache.probing.heads.fusion_branch import BatchedFusionBranch
from layercache.probing.heads.outer_product import OuterProducts
from layercache.probing.heads.spec import LAYERS, SPATIAL, HeadSpec

SHARE = "spatial_share"
"""Name of the buffer with a, (G, 1)."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Values of a that are compared on validation samples."""
FUSION_VERSION = 4
"""Version of how fusion heads are trained and their share is chosen, part of the specification of
fusion probes. 2: `training.validation_metrics.best_share` chooses, no longer the highest score
alone. 3: each branch gets the noise and dropout that it would get alone. 4: each branch has the
hyperparameters with which it scores best alone."""
GATE_WEIGHT, GATE_BIAS = "gate.weight", "gate.bias"


class _Branches(NamedTuple):
    """Features (G, B, D) before the classifier, and logits (G, B, C), of each branch."""

    features: tuple[Tensor, Tensor]
    logits: tuple[Tensor, Tensor]


class BatchedFusionHead:
    """G fusion heads; parameters are dicts name -> (G, ...) named as in the readable module."""

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec
        self._branches = BatchedFusionBranch(spec, LAYERS), BatchedFusionBranch(spec, SPATIAL)
        self.param_groups = {
            **{branch.prefix: branch.branch for branch in self._branches},
            "gate.": LAYERS,
        }
        """Beginning of names -> branch whose learning rate and weight decay a group of parameters
        has. The gradient of each group is clipped on its own, as in training of one branch alone.
        """
        self.buffers: tuple[str, ...] = (
            *(name for branch in self._branches for name in branch.buffers),
            SHARE,
        )

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one configuration: of both branches, and a gate of 1/2.

        Both branches start from the same state of the generator, as each would alone.
        """
        start = generator.get_state()
        parameters: dict[str, Tensor] = {}
        for branch in self._branches:
            generator.set_state(start)
            parameters |= branch.init_parameters(generator)
        if self.spec.gate == "class":
            parameters[GATE_BIAS] = torch.zeros(self.spec.classes)
        elif self.spec.gate == "sample":
            parameters[GATE_WEIGHT] = torch.zeros(1, 2 * self.spec.width)
            parameters[GATE_BIAS] = torch.zeros(1)
        parameters[SHARE] = torch.tensor([0.5])
        return parameters

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the preprocessed tokens of both branches one after the other, (B*S, D)."""
        return torch.cat([branch.preprocess(x_bsd).flatten(0, 1) for branch in self._branches])

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        train: bool,
        dropout: Tensor | None = None,
        uniform_bsh: Tensor | None = None,
        outer: OuterProducts | None = None,
    ) -> Tensor:
        """Return the logits that the gate mixes, (G, B, C).

        Args:
            parameters: See `init_parameters`, each with a leading G.
            preprocessed: (B*S, D), see `preprocess`.
            train: See `BatchedAttentiveHead.logits`.
            dropout: Rates of each branch and configuration, (2, G), or (2, 1) if all have the same.
            uniform_bsh: Uniform draws of both branches, (B, P*H + Q*8).
            outer: Receives the gradients that are outer products.
        """
        branches = self._run(
            parameters, preprocessed, train=train, dropout=dropout, uniform=uniform_bsh, outer=outer
        )
        return self._mix(parameters, branches, parameters[SHARE][:, 0])

    def training_logits(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        dropout: Tensor | None = None,
        uniform_bsh: Tensor | None = None,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the logits (G, B, C) that each have a loss of their own: branches, learned gate.

        The loss of the gate passes no gradient to the branches. The branch over layers attends to
        the tokens in `kept_bs`, bool (B, S), the spatial one to all of its tokens.
        """
        branches = self._run(
            parameters,
            preprocessed,
            train=True,
            dropout=dropout,
            uniform=uniform_bsh,
            outer=outer,
            kept_bs=kept_bs,
        )
        if self.spec.gate == "scalar":
            return branches.logits
        features, logits = branches
        fixed = _Branches(
            (features[0].detach(), features[1].detach()), (logits[0].detach(), logits[1].detach())
        )
        return (*logits, self._mix(parameters, fixed, parameters[SHARE][:, 0]))

    def logits_by_share(
        self, parameters: Mapping[str, Tensor], preprocessed: Tensor, shares: Tensor
    ) -> Tensor:
        """Return the logits in evaluation mode for several shares, (R, G, B, C).

        Args:
            parameters: See `init_parameters`, each with a leading G.
            preprocessed: (B*S, D), see `preprocess`.
            shares: Values of a, (R,).
        """
        branches = self._run(parameters, preprocessed, train=False)
        return torch.stack(
            [self._mix(parameters, branches, share.expand(len(branches[1][0]))) for share in shares]
        )

    def attention(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the attention of both branches, (B, S, G, H + 8): 0 on tokens of the other one.

        The weights of each attention head sum to 1 over S. `training_logits` explains `kept_bs`.
        """
        pairs = zip(self._branches, self._split(preprocessed), strict=True)
        weights = [branch.attention(parameters, x, kept_bs=kept_bs) for branch, x in pairs]
        return torch.cat(weights, 3)

    def gate(self, parameters: Mapping[str, Tensor], preprocessed: Tensor) -> Tensor:
        """Return g, the share of the spatial branch in the logits of each row, (G, B, C)."""
        branches = self._run(parameters, preprocessed, train=False)
        return self._gate(parameters, branches, parameters[SHARE][:, 0]).expand_as(
            branches.logits[0]
        )

    def _run(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        train: bool,
        dropout: Tensor | None = None,
        uniform: Tensor | None = None,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> _Branches:
        features, logits = [], []
        inputs = zip(
            self._branches,
            self._split(preprocessed),
            (None, None) if dropout is None else dropout,
            self._split_draws(uniform),
            strict=True,
        )
        for branch, x_btd, rates, draws_bth in inputs:
            features.append(
                branch.features(
                    parameters,
                    x_btd,
                    train=train,
                    dropout=rates,
                    uniform_bsh=draws_bth,
                    outer=outer,
                    kept_bs=kept_bs,
                )
            )
            logits.append(branch.classify(parameters, features[-1]))
        return _Branches((features[0], features[1]), (logits[0], logits[1]))

    def _split(self, preprocessed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of each branch, (B, P, D) and (B, Q, D)."""
        n_rows = len(preprocessed) // self.spec.tokens
        n_pooled = self.spec.tokens - self.spec.spatial_tokens
        layers, spatial = preprocessed[: n_rows * n_pooled], preprocessed[n_rows * n_pooled :]
        return layers.view(n_rows, n_pooled, -1), spatial.view(n_rows, self.spec.spatial_tokens, -1)

    def _split_draws(self, uniform: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the uniform draws of each branch, (B, P, H) and (B, Q, 8)."""
        shapes = self.spec.dropout_shapes
        if uniform is None:
            return (None,) * len(shapes)
        parts = torch.split(uniform, [tokens * heads for tokens, heads in shapes], 1)
        return tuple(part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True))

    def _gate(self, p: Mapping[str, Tensor], branches: _Branches, share_g: Tensor) -> Tensor:
        """Return g, broadcastable to (G, B, C)."""
        logit = share_g.logit()[:, None, None]
        if self.spec.gate == "class":
            logit = logit + p[GATE_BIAS][:, None]
        elif self.spec.gate == "sample":
            joined_gbf = torch.cat(branches.features, 2)
            delta_gb1 = joined_gbf @ p[GATE_WEIGHT].transpose(1, 2) + p[GATE_BIAS][:, None]
            logit = logit + delta_gb1
        return logit.sigmoid()

    def _mix(self, p: Mapping[str, Tensor], branches: _Branches, share_g: Tensor) -> Tensor:
        layers, spatial = branches.logits
        return layers.lerp(spatial, self._gate(p, branches, share_g).expand_as(layers))
