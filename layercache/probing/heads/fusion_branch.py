"""One branch of the fusion head, which the head consists of at a share of 0 or 1 (fusion.py).

Shapes: G configurations, B rows of a batch, P pooled and Q spatial tokens, S = P + Q, T those of
the branch, H its attention heads, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from layercache.probing.heads.attention_ops import FeatureHead
from layercache.probing.heads.attentive import BatchedAttentiveHead
from layercache.probing.heads.hybrid import BatchedHybridHead
from layercache.probing.heads.outer_product import OuterProduct, OuterProducts
from layercache.probing.heads.spec import LAYERS, SPATIAL, HeadSpec


class BatchedFusionBranch(FeatureHead):
    """G copies of one branch; parameters are named as in the whole head, "layers.query".

    It takes the tokens of both branches and uses its own. It trains to the same bits in the whole
    head, in a head of this branch, and as the attentive or hybrid head that it is.
    """

    def __init__(self, spec: HeadSpec, branch: str) -> None:
        """Keep the part of one branch.

        Args:
            spec: The fusion head.
            branch: LAYERS or SPATIAL.
        """
        self.spec, self.branch = spec, branch
        layers, spatial = spec.branches
        self.tokens = spec.branch_tokens(branch)
        self.shape = layers if branch == LAYERS else spatial
        self._head: BatchedAttentiveHead = (
            BatchedAttentiveHead(self.shape)
            if self.shape.embedding_ids is None
            else BatchedHybridHead(self.shape)
        )
        self.prefix = f"{branch}."
        """Beginning of the names of its parameters."""
        self.param_groups = {self.prefix: branch}
        self.buffers: tuple[str, ...] = tuple(f"{self.prefix}{n}" for n in self._head.buffers)

    def init_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one configuration, as the branch would have alone."""
        initial = self._head.init_parameters(generator)
        return {f"{self.prefix}{name}": value for name, value in initial.items()}

    def preprocess(self, x_bsd: Tensor) -> Tensor:
        """Return the preprocessed tokens of the branch, (B, T, D)."""
        return self._head.preprocess(x_bsd[:, self.tokens])

    def features(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        *,
        train: bool,
        dropout: Tensor | None = None,
        uniform_bsh: Tensor | None = None,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized features that the classifier maps, (G, B, D).

        Args:
            parameters: See `init_parameters`, each with a leading G; others are not used.
            preprocessed: (B, T, D), see `preprocess`.
            train: See `BatchedAttentiveHead.features`.
            dropout: Rate of each configuration, (G,), or (1,) if all have the same.
            uniform_bsh: Uniform draws of the branch, (B, T, H).
            outer: Receives the gradients that are outer products.
            kept_bs: Tokens to attend to, bool (B, S); a spatial branch attends to all of its own.
        """
        return self._head.features(
            self._own(parameters),
            preprocessed,
            train=train,
            dropout=dropout,
            uniform_bsh=uniform_bsh,
            outer=None if outer is None else _PrefixedProducts(outer, self.prefix),
            kept_bs=self._kept(kept_bs),
        )

    def classify(self, parameters: Mapping[str, Tensor], features_gbd: Tensor) -> Tensor:
        """Return the logits (G, B, C) of features."""
        return self._head.classify(self._own(parameters), features_gbd)

    def attention(
        self,
        parameters: Mapping[str, Tensor],
        preprocessed: Tensor,
        outer: OuterProducts | None = None,
        kept_bs: Tensor | None = None,
    ) -> Tensor:
        """Return the attention of the branch, (B, S, G, H): 0 on tokens of the other one.

        The weights sum to 1 over S. `features` explains `kept_bs`.
        """
        weights_btgh = self._head.attention(
            self._own(parameters), preprocessed, kept_bs=self._kept(kept_bs)
        )
        padding = (self.tokens.start, self.spec.tokens - self.tokens.stop)
        return F.pad(weights_btgh, (0, 0, 0, 0, *padding))

    def gate(self, parameters: Mapping[str, Tensor], preprocessed: Tensor) -> Tensor:
        """Return the share of the spatial branch in the logits, 0 or 1, (G, B, C)."""
        n_configs = len(parameters[f"{self.prefix}query"])
        size = (n_configs, len(preprocessed), self.spec.classes)
        return preprocessed.new_full(size, float(self.branch == SPATIAL))

    def _own(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of the branch by the names that they have in its head."""
        return {
            name.removeprefix(self.prefix): value
            for name, value in parameters.items()
            if name.startswith(self.prefix)
        }

    def _kept(self, kept_bs: Tensor | None) -> Tensor | None:
        return None if kept_bs is None or self.branch == SPATIAL else kept_bs[:, self.tokens]


class _PrefixedProducts(dict[str, OuterProduct]):
    """Passes the gradients of one branch to the caller, by their names in the whole head."""

    def __init__(self, outer: OuterProducts, prefix: str) -> None:
        super().__init__()
        self._outer, self._prefix = outer, prefix

    def __setitem__(self, name: str, gradient: OuterProduct) -> None:
        self._outer[f"{self._prefix}{name}"] = gradient
