"""Options of `probe` that determine how probes are trained, not which."""

from __future__ import annotations

from dataclasses import dataclass

from layercache.cache.storage.paths import CachePath
from layercache.engine import check_engine

MEMORY_FRACTION = 0.5
"""Fraction of the free memory, or disk space, for tokens if no budget is given."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of training, as in `probe`."""

    device: str = "auto"
    precision: str = "fp32"
    features: str = "auto"
    memory_budget: int | str | None = None
    disk_cache: int | str | None = None
    configs_per_pass: int | None = None
    probes_root: str | CachePath | None = None
    refresh: bool = False
    progress: bool = False
    engine: str = "local"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        check_engine(self.engine, self.ray_address)
