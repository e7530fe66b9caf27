"""The options of `probe` that determine which probes it trains, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.probing.join import JoinedCaches
from layercache.probing.splits.validation_choice import AUTO
from layercache.probing.training.config import HParams, TrainConfig

Words = str | Sequence[str]
Layers = str | int | Sequence[str | int | Sequence[int]]
Numbers = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """Probes to train; the options as in `probe`, with its defaults."""

    head: Words = "attentive"
    layers: Layers | None = None
    tokens: Words | None = None
    spatial: str | None = None
    spatial_layers: str = "last"
    spatial_cache: Cache | str | CachePath | None = None
    embedding: bool = False
    position_embedding: bool = False
    gate: str = "scalar"
    join: JoinedCaches = ()
    join_width: int | str | None = None
    num_heads: int | None = None
    configs: Sequence[HParams] | None = None
    lr: Numbers | None = None
    weight_decay: Numbers | None = None
    dropout: Numbers | None = None
    seeds: int | Sequence[int] = 1
    shots: int | Sequence[int] | None = None
    train_fraction: Numbers | None = None
    epochs: int | None = None
    train_config: TrainConfig | None = None
    precision: str = "fp32"
    test_split: Words = "test"
    test_cache: Cache | str | CachePath | Sequence[Cache | str | CachePath] = ()
    val_split: str | None = AUTO
    folds: int | None = None
    repeats: int = 1
    group: str | None = None
    fold_column: str | None = None
    refit: str = "train"
    paper_compat: bool = False
    target: Words | None = None
    task: str | None = None
    select: str | None = None
    search: str = "full"

    @property
    def config(self) -> TrainConfig:
        """Training configuration with the requested epochs."""
        config = self.train_config or TrainConfig()
        return config if self.epochs is None else replace(config, epochs=self.epochs)

    @property
    def seed_list(self) -> Sequence[int]:
        """Seeds one by one."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds
