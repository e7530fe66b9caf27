"""What an extraction says when it is done."""

from __future__ import annotations

from dataclasses import dataclass

from layercache.cache.storage.paths import CachePath


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """One model's cache of a data set, complete, and what making it took in this run."""

    model: str
    dataset: str
    path: CachePath
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
    workers: int = 1
    """Workers of the cluster; what they were busy with and waited for is the sum over them."""

    @property
    def images_per_s(self) -> float:
        """Images over wall time; 0 if nothing was done."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def did_nothing(self) -> bool:
        """The cache was complete already."""
        return not self.images

    def summary(self) -> str:
        """Two lines for the user: what it took, where it lies."""
        left_out = (
            f", {self.skipped} skipped because they could not be decoded (layercache cache info lists them)"
            if self.skipped
            else ""
        )
        where = f"  cache: {self.path} ({human(self.bytes)}; {', '.join(self.splits)}: {self.rows} images{left_out})"
        if self.did_nothing:
            return f"{self.model} on {self.dataset}: complete already, nothing to do\n{where}"
        among = f" by {self.workers} workers" if self.workers > 1 else ""
        return (
            f"{self.model} on {self.dataset}: {self.images} images in {self.seconds:.1f} s, {self.images_per_s:.4g} images/s{among}\n"
            f"  busy: decode {self.decode:.1f} s, forward {self.forward:.1f} s, write {self.write:.1f} s; "
            f"the forward waited {self.starved:.1f} s for images and {self.blocked:.1f} s for the disk\n{where}"
        )


def human(size: float) -> str:
    """Bytes as a person reads them: "8.3 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
