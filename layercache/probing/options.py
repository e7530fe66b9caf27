"""Options of `probe` that say how probes are trained, not which."""

from __future__ import annotations

from dataclasses import dataclass

from layercache.cache.storage.paths import CachePath
from layercache.engine import check_engine

MEMORY_FRACTION = 0.5
"""Fraction of the free memory, or disk space, for tokens if no budget is given."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of training."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "fp32"
    """Arithmetic of the products over tokens: fp32 or bf16."""
    features: str = "auto"
    """auto, resident or stream: whether tokens are kept on the device or read again every epoch."""
    memory_budget: int | str | None = None
    """Memory for tokens (8GB, 500MiB or bytes); None: half of the free memory."""
    disk_cache: int | str | None = None
    """Disk space for tokens that are streamed from object storage (20GB; 0: none).

    Later epochs then do not read them over the network again. None: half of the free space in the
    folder for temporary files.
    """
    configs_per_pass: int | None = None
    """Largest number of configurations trained together.

    None: as many as fit into half of the free memory; on a CPU at most 512 MiB of them, because
    larger groups are slower. The size does not change which configuration is selected.
    """
    probes_root: str | CachePath | None = None
    """Folder to keep probes in, for a cache that is not writable; None: $LAYERCACHE_PROBES, else
    the folder of the cache."""
    refresh: bool = False
    """Train probes again that already exist."""
    progress: bool = False
    """Show a progress bar."""
    engine: str = "local"
    """Where probes are trained: "local", or "ray" for a Ray cluster; the results are the same."""
    ray_address: str | None = None
    """Address of a running Ray cluster ("auto", "HOST:PORT"); None starts one on this machine."""

    def __post_init__(self) -> None:
        check_engine(self.engine, self.ray_address)
