"""Tokens of a cache as arrays, tensors and tables.

Shapes: N samples of a split, T selected tokens of a sample, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.cache.format.cache_spec import CacheSpec
from layercache.cache.format.layers_and_tokens import select_pairs
from layercache.cache.reading.split import Split

if TYPE_CHECKING:
    import pandas as pd
    import torch

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]
Pairs = tuple[tuple[int, str], ...]
Layers = str | int | Sequence[int] | None
Tokens = str | Sequence[str] | None
MIN_NORM = 1e-12
"""Smallest norm that a token is divided by."""


class TokenArrays:
    """Conversion of a cache's tokens to the types of other libraries; a base class of `Cache`.

    `layers` is a word (last, mid-last, quarter, all), a number or numbers; `tokens` is kinds such
    as "cls+ap", or a list of names. The default is everything that is stored. Tokens are in the
    order of `pairs`, layer by layer.
    """

    spec: CacheSpec
    if TYPE_CHECKING:  # what a Cache has

        def split(self, name: str) -> Split:
            """Open a complete split."""

        def complete(self, split: str) -> bool:
            """Return whether a split is complete."""

        @property
        def splits(self) -> tuple[str, ...]:
            """Splits whose extraction has begun."""

        @property
        def annotations(self) -> pd.DataFrame:
            """Annotations of all complete splits."""

    def pairs(self, *, layers: Layers = None, tokens: Tokens = None) -> Pairs:
        """Return (layer, token name) of each selected token, in the order of the arrays.

        Raises:
            OptionError: A layer is not stored.
            UnknownNameError: A token is not stored.
        """
        if layers is None:
            layers = self.spec.layers
        elif isinstance(layers, int):
            layers = (layers,)
        if tokens is None:
            tokens = self.spec.tokens
        return select_pairs(
            self.spec,
            layers=layers if isinstance(layers, str) else tuple(layers),
            tokens=tokens if isinstance(tokens, str) else tuple(tokens),
        )

    def to_numpy(
        self, split: str = "train", *, layers: Layers = None, tokens: Tokens = None
    ) -> Array:
        """Return tokens as stored, (N, T, D) float16 or float32, C-contiguous.

        The samples are those of `split(...).ids`, in that order.

        Args:
            split: Name of the split.
            layers: Layers to return.
            tokens: Token kinds to return.
        """
        source = self.split(split)
        pairs = self.pairs(layers=layers, tokens=tokens)
        x_ntd = np.empty((source.rows, len(pairs), self.spec.width), self.spec.storage_dtype)
        for start, stop in source.blocks:
            # by blocks, so that no second array of all tokens is needed
            x_ntd[start:stop] = source.read(pairs, rows=(start, stop)).transpose(1, 0, 2)
        return x_ntd

    def to_matrix(
        self,
        split: str = "train",
        *,
        layers: Layers = "last",
        tokens: Tokens = None,
        normalize: bool = True,
    ) -> Array:
        """Return float32 (N, T * D), C-contiguous, as an index of FAISS or scikit-learn takes it.

        Args:
            split: Name of the split.
            layers: Layers to return; by default the last.
            tokens: Token kinds to return.
            normalize: L2-normalize each token, so that the inner product of two rows is the sum of
                their tokens' cosine similarities.
        """
        x_ntd = self.to_numpy(split, layers=layers, tokens=tokens).astype(np.float32)
        if normalize:
            x_ntd /= np.linalg.norm(x_ntd, axis=-1, keepdims=True).clip(MIN_NORM)
        return x_ntd.reshape(len(x_ntd), -1)

    def to_dataframe(
        self,
        splits: str | Sequence[str] | None = None,
        *,
        layers: Layers = None,
        tokens: Tokens = None,
    ) -> pd.DataFrame:
        """Return annotations and tokens as a table.

        It has the rows and columns of `annotations`, and a column for each token, such as
        "12:cls", whose cells are arrays (D,): `np.stack(frame["12:cls"])` is a matrix (N, D).

        Args:
            splits: Names of the splits; by default all that are complete.
            layers: Layers to return.
            tokens: Token kinds to return.
        """
        import pandas as pd

        names = [splits] if isinstance(splits, str) else splits
        if names is None:
            names = [name for name in self.splits if self.complete(name)]
        pairs = self.pairs(layers=layers, tokens=tokens)
        arrays = [self.to_numpy(name, layers=layers, tokens=tokens) for name in names]
        annotations = self.annotations
        frame = pd.concat([annotations[annotations["split"] == name] for name in names])
        columns = {
            f"{layer}:{token}": pd.Series(
                [row for x_ntd in arrays for row in x_ntd[:, t]], index=frame.index, dtype=object
            )
            for t, (layer, token) in enumerate(pairs)
        }
        return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)

    def to_torch(
        self,
        split: str = "train",
        *,
        layers: Layers = None,
        tokens: Tokens = None,
        device: str | torch.device = "cpu",
    ) -> torch.Tensor:
        """Return tokens as stored, as a tensor (N, T, D) on a device.

        Args:
            split: Name of the split.
            layers: Layers to return.
            tokens: Token kinds to return.
            device: Device of the tensor.
        """
        import torch

        x_ntd = self.to_numpy(split, layers=layers, tokens=tokens)
        return torch.from_numpy(x_ntd).to(device)

    def to_torch_dataset(
        self,
        split: str = "train",
        *,
        layers: Layers = None,
        tokens: Tokens = None,
        device: str | torch.device = "cpu",
    ) -> torch.utils.data.TensorDataset:
        """Return a map-style dataset of (tokens (T, D), label), for a `DataLoader`.

        Samples without a label are left out and counted in the log.

        Args:
            split: Name of the split.
            layers: Layers to return.
            tokens: Token kinds to return.
            device: Device of its tensors.

        Raises:
            OptionError: The cache has no labels.
        """
        import torch

        labels = self.split(split).labels
        x_ntd = self.to_torch(split, layers=layers, tokens=tokens)
        labelled = labels != -1 if labels.ndim == 1 else np.ones(len(labels), bool)
        if not labelled.all():
            logger.info(
                "%d of %d samples of split %s have no label and are left out",
                (~labelled).sum(),
                len(labels),
                split,
            )
            x_ntd = x_ntd[torch.from_numpy(labelled)]
        return torch.utils.data.TensorDataset(
            x_ntd.to(device), torch.from_numpy(labels[labelled]).to(device)
        )
