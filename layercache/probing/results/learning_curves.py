"""Learning curves of a probe: training loss and validation scores by epoch, and their file.

Shapes: G configurations of the grid, E epochs, R epochs that were evaluated.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.probing.results.config_score import (
    ConfigKey,
    ConfigScore,
    config_key,
    training_key,
)
from layercache.probing.results.predictions import read_npz

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, np.dtype[Any]]
Configs = Sequence[Mapping[str, float]]

SEARCH, FINAL = "search", "final"
"""Fits of a table: that of a configuration in the search, and the final one of the selected."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LearningCurves:
    """Curves of the configurations of a search, means over its folds, and of the final fit."""

    train_loss: Array
    """Mean training loss of each epoch, float32 (G, E); NaN after the end of a training."""
    val_epochs: Array
    """Epochs, from 1, after which configurations were evaluated, int32 (R,), ascending."""
    val_score: Array
    """Metric that selects, on the validation samples, float32 (G, R); NaN where not evaluated."""
    final_loss: Array
    """Mean training loss of each epoch of the final fit, float32 (E',); of a fusion head of one
    branch that of this branch, while the search has the sum over both."""

    @classmethod
    def of(
        cls, configs: Configs, scores: Sequence[ConfigScore], *, final_loss: Sequence[float]
    ) -> LearningCurves:
        """Return the curves of a search.

        Args:
            configs: Configurations of the grid.
            scores: Scores of configurations on folds; of several on one fold the longest counts.
                One stands for all configurations of the same training.
            final_loss: Mean training loss of each epoch of the final fit.
        """
        longest: dict[tuple[ConfigKey, int | None], ConfigScore] = {}
        for score in scores:
            known = longest.get((score.training, score.fold))
            if known is None or len(score.losses) >= len(known.losses):
                longest[score.training, score.fold] = score
        by_config: dict[ConfigKey, list[ConfigScore]] = {}
        for score in longest.values():
            by_config.setdefault(score.training, []).append(score)
        val_epochs = sorted({epoch for s in longest.values() for epoch, _ in s.val_curve})
        column = {epoch: i for i, epoch in enumerate(val_epochs)}
        n_epochs = max((len(s.losses) for s in longest.values()), default=0)
        train_loss = np.full((len(configs), n_epochs), np.nan, np.float32)
        val_score = np.full((len(configs), len(val_epochs)), np.nan, np.float32)
        for i, hparams in enumerate(configs):
            folds = by_config.get(training_key(hparams), [])
            losses = np.full((len(folds), n_epochs), np.nan)
            values = np.full((len(folds), len(val_epochs)), np.nan)
            for fold, score in enumerate(folds):
                losses[fold, : len(score.losses)] = _floats(score.losses)
                for epoch, value in score.val_curve:
                    values[fold, column[epoch]] = np.nan if value is None else value
            train_loss[i], val_score[i] = _mean(losses), _mean(values)
        return cls(
            train_loss=train_loss,
            val_epochs=np.array(val_epochs, np.int32),
            val_score=val_score,
            final_loss=np.array(_floats(final_loss), np.float32),
        )

    def scores(self, configs: Configs) -> list[ConfigScore]:
        """Return scores that have these curves and nothing else, for `of`."""
        return [
            ConfigScore(
                hparams=hparams,
                fold=None,
                val_metrics=None,
                losses=tuple(losses[: _length(losses)]),
                val_curve=tuple(
                    (epoch, value)
                    for epoch, value in zip(self.val_epochs.tolist(), values, strict=True)
                    if value == value
                ),
            )
            for hparams, losses, values in zip(
                configs, self.train_loss.tolist(), self.val_score.tolist(), strict=True
            )
        ]

    def to_frame(self, configs: Configs, *, selected: Mapping[str, float]) -> pd.DataFrame:
        """Return a row per fit and epoch: config, hyperparameters, fit, epoch, losses, scores.

        Args:
            configs: Configurations of the grid.
            selected: The selected one, of which the final fit is.
        """
        import pandas as pd

        parts = []
        number = [config_key(hparams) for hparams in configs].index(config_key(selected))
        fits = [(i, SEARCH, losses) for i, losses in enumerate(self.train_loss)]
        for i, fit, losses in [*fits, (number, FINAL, self.final_loss)]:
            ended = _length(losses)
            scores = np.full(ended, np.nan, np.float32)
            if fit == SEARCH:
                seen = self.val_epochs <= ended
                scores[self.val_epochs[seen] - 1] = self.val_score[i, seen]
            part = pd.DataFrame({"epoch": np.arange(1, ended + 1), "train_loss": losses[:ended]})
            part["val_score"] = scores
            parts.append(part.assign(config=i, fit=fit, **configs[i]))
        table = pd.concat(parts, ignore_index=True)
        names = list(configs[0])
        return table[["config", *names, "fit", "epoch", "train_loss", "val_score"]]

    def to_bytes(self) -> bytes:
        """Return the content of the file, an uncompressed npz."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **vars(self))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, *, configs: int) -> LearningCurves:
        """Return the curves that `to_bytes` wrote.

        Args:
            data: Content of the file.
            configs: G.

        Raises:
            ValueError: It is another file, or dtypes, shapes or values are not those of curves.
        """
        arrays, names = read_npz(data), [field.name for field in fields(cls)]
        if sorted(arrays) != sorted(names):
            raise ValueError(f"expected {', '.join(names)}, got {', '.join(sorted(arrays))}")
        n_epochs = arrays["train_loss"].shape[-1] if arrays["train_loss"].ndim else 0
        n_evaluated = len(arrays["val_epochs"]) if arrays["val_epochs"].ndim else 0
        n_final = len(arrays["final_loss"]) if arrays["final_loss"].ndim else 0
        expected = {
            "train_loss": ("float32", (configs, n_epochs)),
            "val_epochs": ("int32", (n_evaluated,)),
            "val_score": ("float32", (configs, n_evaluated)),
            "final_loss": ("float32", (n_final,)),
        }
        for name, (dtype, shape) in expected.items():
            array = arrays[name]
            if (array.dtype, array.shape) != (np.dtype(dtype), shape):
                raise ValueError(
                    f"{name}: expected {dtype} {shape}, got {array.dtype} {array.shape}"
                )
        epochs = arrays["val_epochs"]
        if len(epochs) and (epochs[0] < 1 or (np.diff(epochs) <= 0).any()):
            raise ValueError("val_epochs: expected ascending numbers from 1, got others")
        return cls(**arrays)


def _floats(values: Sequence[float | None]) -> list[float]:
    """Return numbers; None, which JSON has for NaN, as NaN."""
    return [np.nan if value is None else value for value in values]


def _length(losses: Sequence[float] | Array) -> int:
    """Return the number of epochs up to the last one with a loss."""
    return int(np.flatnonzero(~np.isnan(losses)).max(initial=-1)) + 1


def _mean(values: Array) -> Array:
    """Return the mean of the rows where they are defined, NaN where none is."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    mean: Array = np.where(defined, values, 0).sum(0) / np.maximum(count, 1)
    mean[count == 0] = np.nan
    return mean
