"""What an extraction says when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """One model's cache of a data set, complete, and what making it took in this run."""

    model: str
    dataset: str
    path: Path
    """The cache's folder: `layercache.open_cache(path)`."""
    splits: tuple[str, ...]
    """The splits that were asked for."""
    rows: int
    """Samples in these splits, skipped ones included."""
    skipped: int
    """Of them left out, because they could not be decoded."""
    bytes: int
    """Size of these splits on disk."""
    images: int = 0
    """Images that went through the backbone in this run; fewer than `rows` where it continued an earlier one."""
    seconds: float = 0.0
    """Wall time from the first decode to the last commit."""
    decode: float = 0.0
    """Seconds that decoding was busy: of the thread, or the mean of the workers; shared by all models of the run."""
    forward: float = 0.0
    """Seconds of this model's forwards, on the device."""
    write: float = 0.0
    """Seconds of this model's checksums, writes and syncs, behind the forward."""
    starved: float = 0.0
    """Seconds in which the forward waited for images."""
    blocked: float = 0.0
    """Seconds in which the forward waited for the disk, the last commit included."""

    @property
    def images_per_s(self) -> float:
        """Images over wall time; 0 if nothing was done."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def did_nothing(self) -> bool:
        """The cache was complete already."""
        return not self.images
