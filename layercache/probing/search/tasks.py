"""Tasks of a search, which the runner gives to its workers, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.training_checkpoints import TrainingCheckpoint
from layercache.probing.splits.train_subset import TrainSubset


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchTask:
    """Score some configurations of a probe on one fold; its result is a SearchResult."""

    probe: int
    """Number of the probe among those of the run."""
    subset: TrainSubset
    """Training samples and folds of the probe."""
    fold: int
    """Number of the fold."""
    configs: Sequence[Mapping[str, float]]
    """Configurations to score."""
    saved: TrainingCheckpoint | None = None
    """The pass of an earlier run that it continues; its configurations train together."""
    stop_epoch: int | None = None
    """Epoch, from 1, after which the configurations are scored; None: the last."""

    def __str__(self) -> str:
        return f"{len(self.configs)} configurations of probe {self.probe + 1}"


@dataclass(frozen=True, kw_only=True, eq=False)
class RefitTask:
    """Select by the scores, train on all samples, test and write the probe.

    Its result is the checksum of the probe's record.
    """

    probe: int
    """Number of the probe among those of the run."""
    subset: TrainSubset
    """Training samples and folds of the probe."""
    scores: Sequence[ConfigScore]
    """Scores of all configurations on all folds."""
    search_seconds: float
    """Duration of the search."""

    def __str__(self) -> str:
        return f"the final fit of probe {self.probe + 1}"


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """Scores of a SearchTask: the new ones as a message, all of them as its result."""

    scores: Sequence[ConfigScore]
    """One per configuration."""
    seconds: float
    """Seconds since the task began."""
