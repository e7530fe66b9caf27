"""Base class of the classifier and the regressor.

Shapes: N samples, T tokens of a sample, D width of a token, H attention heads, C outputs.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from layercache import heads
from layercache._devices import float64_device, resolve_device
from layercache.errors import HeadMismatchError, OptionError, UnknownNameError
from layercache.estimators.search import GridSearch
from layercache.probing.data.arrays import ArrayTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.plan import make_grid
from layercache.probing.search.strategy_choice import choose_search
from layercache.probing.training.config import TrainConfig

Array = np.ndarray[Any, Any]
Numbers = float | Sequence[float]

HEADS = ("linear", "scalar-mix", "attentive", "attentive-tokens", "efficient", "fusion")
PREDICT_BATCH = 2048
"""Samples that are predicted at a time."""
DTYPES = [np.float32, np.float16]
"""Dtypes of tokens that are not converted; others become the first."""


class ProbeEstimator(BaseEstimator):  # type: ignore[misc]
    """Validates arrays of tokens, trains the grid, and computes outputs."""

    head_: FittedHead
    """The trained head."""
    n_features_in_: int
    """T * D."""
    n_tokens_: int
    """T."""
    cv_results_: dict[str, Any]
    """Configurations and their validation scores, with the keys of GridSearchCV."""
    best_index_: int
    """Index of the selected configuration in `cv_results_`."""
    best_params_: dict[str, float]
    """The selected configuration: lr, weight_decay, dropout."""
    best_score_: float
    """Its validation score."""

    def __init__(
        self,
        *,
        head: str = "attentive",
        n_tokens: int | None = None,
        num_heads: int | None = None,
        spatial_tokens: int | None = None,
        gate: str = "scalar",
        lr: Numbers | None = None,
        weight_decay: Numbers | None = None,
        dropout: Numbers | None = None,
        search: str = "full",
        epochs: int | None = None,
        train_config: TrainConfig | None = None,
        select: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        configs_per_pass: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.head = head
        self.n_tokens = n_tokens
        self.num_heads = num_heads
        self.spatial_tokens = spatial_tokens
        self.gate = gate
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.search = search
        self.epochs = epochs
        self.train_config = train_config
        self.select = select
        self.device = device
        self.precision = precision
        self.configs_per_pass = configs_per_pass
        self.random_state = random_state
        self.n_jobs = n_jobs

    def attention(self, X: Any) -> Array:
        """Return the attention weights of samples, float32 (N, H, T), summing to 1 over T.

        Args:
            X: Tokens, as for `fit`.

        Raises:
            ProbeError: The head has no attention.
        """
        dataset = self._dataset(X)
        with _threads(self.n_jobs):
            return np.concatenate(
                [self.head_.attention(x).cpu().numpy() for x in _batches(dataset)]
            )

    def to_module(self) -> heads.AnyHead:
        """Return the trained head as a torch module in evaluation mode, float32 on the CPU."""
        check_is_fitted(self)
        return heads.load(self.head_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _validate(self, X: Any, y: Any) -> tuple[Array, Array]:
        """Return tokens (N, T, D) and targets, and store the shape of the tokens."""
        n_tokens = self._count_tokens(X)
        x_nf, y = validate_data(
            self,
            _flatten(X),
            y,
            dtype=DTYPES,
            order="C",
            multi_output=True,
            y_numeric=False,
            ensure_min_samples=2,
        )
        if x_nf.shape[1] % n_tokens:
            raise OptionError(
                f"n_tokens: {x_nf.shape[1]} features are not {n_tokens} tokens of the same width"
            )
        self.n_tokens_ = n_tokens
        return self._split_tokens(x_nf), y

    def _count_tokens(self, X: Any) -> int:
        if getattr(X, "ndim", 2) != 3:
            n_tokens = 1 if self.n_tokens is None else self.n_tokens
            if n_tokens < 1:
                raise OptionError(f"n_tokens: expected at least 1 or None, got {n_tokens}")
            return n_tokens
        if self.n_tokens not in (None, X.shape[1]):
            raise OptionError(
                f"n_tokens is {self.n_tokens}, but X has the shape {tuple(X.shape)}, "
                f"{X.shape[1]} tokens: leave n_tokens out"
            )
        return int(X.shape[1])

    def _split_tokens(self, x_nf: Array) -> Array:
        return x_nf.reshape(len(x_nf), self.n_tokens_, -1)

    def _validate_weights(self, sample_weight: Any, x_ntd: Array) -> Array | None:
        """Return weights of the samples, float64 (N,), or None for equal ones."""
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(
            sample_weight, x_ntd.reshape(len(x_ntd), -1), dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():
            raise OptionError("sample_weight: expected a weight above 0, got none")
        return weights

    def _search(
        self,
        x_ntd: Array,
        targets: Array,
        *,
        outputs: int,
        multi_label: bool = False,
        regression: bool = False,
        class_weights: bool = False,
        sample_weight: Array | None = None,
    ) -> None:
        """Train the grid and store the result; samples of weight 0 are left out."""
        if sample_weight is not None and not sample_weight.all():
            kept = sample_weight > 0
            x_ntd, targets, sample_weight = x_ntd[kept], targets[kept], sample_weight[kept]
        if self.head not in HEADS:
            raise UnknownNameError("head", self.head, HEADS)
        config = self.train_config or TrainConfig()
        config = replace(config, class_weights=class_weights)
        if self.epochs is not None:
            config = replace(config, epochs=self.epochs)
        device, _ = resolve_device(self.device)
        if regression:
            device = float64_device(device)
        grid = make_grid(
            self.head,
            configs=None,
            lr=self.lr,
            weight_decay=self.weight_decay,
            dropout=self.dropout,
        )
        search = GridSearch(
            search=choose_search(self.search, head=self.head, grid=grid, epochs=True),
            head_spec=HeadSpec(
                kind=self.head,
                tokens=x_ntd.shape[1],
                width=x_ntd.shape[2],
                classes=outputs,
                num_heads=self.num_heads or 0,
                **self._fusion_options(x_ntd.shape[1]),
                multi_label=multi_label,
                regression=regression,
            ),
            grid=grid,
            train_config=config,
            seed=_seed(self.random_state),
            device=device,
            precision=self.precision,
            configs_per_pass=self.configs_per_pass,
            select=self.select,
        )
        with _threads(self.n_jobs):
            outcome = search.run(x_ntd, targets, sample_weight=sample_weight)
        self.head_ = outcome.head
        self.cv_results_ = outcome.cv_results()
        self.best_index_ = outcome.best
        self.best_params_ = dict(outcome.hparams[outcome.best])
        self.best_score_ = float(outcome.scores[outcome.best])

    def _fusion_options(self, n_tokens: int) -> dict[str, Any]:
        """Return the options of `HeadSpec` that only the fusion head has."""
        if self.head != "fusion":
            if self.spatial_tokens is not None or self.gate != "scalar":
                raise OptionError(
                    f"spatial_tokens and gate belong to the fusion head, got head {self.head!r}: "
                    "leave them out, or set head='fusion'"
                )
            return {}
        if self.spatial_tokens is None or not 1 <= self.spatial_tokens < n_tokens:
            raise OptionError(
                "spatial_tokens: the fusion head needs the number of spatial tokens, which are the "
                f"last ones: expected 1 to {n_tokens - 1} of {n_tokens} tokens, got "
                f"{self.spatial_tokens}"
            )
        return {"spatial_tokens": self.spatial_tokens, "gate": self.gate}

    def _outputs(self, X: Any) -> Array:
        """Return the outputs of the head, float32 (N, C)."""
        dataset = self._dataset(X)
        with _threads(self.n_jobs):
            return np.concatenate([self.head_.predict(x).cpu().numpy() for x in _batches(dataset)])

    def _dataset(self, X: Any) -> ArrayTokens:
        check_is_fitted(self)
        if getattr(X, "ndim", 2) == 3 and X.shape[1] != self.n_tokens_:
            raise HeadMismatchError(
                f"expected tokens (samples, {self.n_tokens_}, width), got {tuple(X.shape)}"
            )
        x_nf = validate_data(self, _flatten(X), dtype=DTYPES, order="C", reset=False)
        device, _ = resolve_device(self.device)
        return ArrayTokens(self._split_tokens(x_nf), np.zeros(len(x_nf), np.int64), device=device)


def _flatten(X: Any) -> Any:
    """Return (N, T, D) as (N, T * D), and anything else as it is."""
    return X.reshape(len(X), -1) if getattr(X, "ndim", 2) == 3 else X


def _batches(dataset: ArrayTokens) -> Iterator[torch.Tensor]:
    for x, _ in dataset.iter_batches(
        np.arange(dataset.rows), batch_size=PREDICT_BATCH, train=False
    ):
        yield x


def _seed(random_state: Any) -> int:
    """Return an int as it is, so that it means the seed of `layercache.probe`; else draw one."""
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def _threads(n_jobs: int | None) -> Iterator[None]:
    """Compute with this number of threads of torch; None leaves it as it is."""
    if n_jobs is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(effective_n_jobs(n_jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)
