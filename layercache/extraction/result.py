"""Result of an extraction."""

from __future__ import annotations

from dataclasses import dataclass

from layercache._units import format_bytes, pluralize
from layercache.cache.cache import Cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.extraction.models.preprocessing.transform import Background


@dataclass(frozen=True, kw_only=True)
class RunStats:
    """Statistics of one run for one model; all times except `seconds` are sums over workers."""

    images: int = 0
    """Images that went through the backbone; fewer than the rows of the cache where the run
    continued an earlier one."""
    seconds: float = 0.0
    """Wall time from the first decode to the last commit."""
    decode_seconds: float = 0.0
    """Time spent decoding, by the thread or as mean over the decoding processes; shared by all
    models of the run."""
    forward_seconds: float = 0.0
    """Time of this model's forwards on the device."""
    write_seconds: float = 0.0
    """Time of this model's checksums, writes and syncs, which overlap the forwards."""
    decode_wait_seconds: float = 0.0
    """Time that the forward waited for images."""
    write_wait_seconds: float = 0.0
    """Time that the forward waited for the storage, including the last commit."""
    transparent: int = 0
    """Images with transparent pixels among those that this run decoded; the same for all models of
    the run."""
    workers: int = 1
    """Number of workers of the cluster."""

    def __add__(self, other: RunStats) -> RunStats:
        """Return the sum of both; of `workers` the maximum."""
        total = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return RunStats(**total | {"workers": max(self.workers, other.workers)})


@dataclass(frozen=True, kw_only=True)
class Extraction(RunStats):
    """One model's complete cache of a dataset, and what this run did for it."""

    model: str
    dataset: str
    path: CachePath
    """Folder of the cache, for `layercache.open_cache(path)`."""
    splits: tuple[str, ...]
    """The requested splits."""
    rows: int
    """Number of samples in these splits, including skipped ones."""
    skipped: int
    """Number of samples that were left out because they cannot be decoded."""
    background: Background
    """Colour of transparent pixels."""
    bytes: int
    """Size of these splits on disk."""
    codec: str | None = None
    """Codec of the tokens, or None."""
    saturated: float = 0.0
    """Fraction of the int8 codes whose numbers lay outside the range of the sample."""

    @property
    def images_per_s(self) -> float:
        """Images per second of wall time; 0 if nothing was done."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def was_complete(self) -> bool:
        """True if the cache was complete before this run."""
        return not self.images

    def open(self) -> Cache:
        """Open the cache.

        Raises:
            CacheNotFoundError: It is no longer there.
        """
        return open_cache(self.path)

    def summary(self) -> str:
        """Return a few lines for the user: what it took, and where the cache is."""
        skipped = ""
        if self.skipped:
            skipped = (
                f", {self.skipped} skipped because they could not be decoded "
                "(layercache cache info lists them)"
            )
        location = (
            f"  cache: {self.path} ({format_bytes(self.bytes)}; {', '.join(self.splits)}: "
            f"{self.rows} images{skipped})"
        )
        name = f"{self.model} on {self.dataset}"
        if self.codec:
            name += f", stored as {self.codec}"
        if self.was_complete:
            return (
                f"{name}: already complete, nothing to do\n{self._describe_saturation()}{location}"
            )
        workers = f" by {self.workers} workers" if self.workers > 1 else ""
        return (
            f"{name}: {self.images} images in {self.seconds:.1f} s, "
            f"{self.images_per_s:.4g} images/s{workers}\n"
            f"  busy: decode {self.decode_seconds:.1f} s, forward {self.forward_seconds:.1f} s, "
            f"write {self.write_seconds:.1f} s; the forward waited "
            f"{self.decode_wait_seconds:.1f} s for images and {self.write_wait_seconds:.1f} s for "
            f"storage\n{self._describe_transparency()}{self._describe_saturation()}{location}"
        )

    def _describe_saturation(self) -> str:
        if not self.saturated:
            return ""
        return (
            f"  {self.codec}: {100 * self.saturated:.2g} % of the stored numbers lay outside the "
            "range of the sample and were clipped to it\n"
        )

    def _describe_transparency(self) -> str:
        if not self.transparent:
            return ""
        images = pluralize(self.transparent, "image")
        if self.background != "drop":
            return f"  transparent pixels of {images} became {self.background}\n"
        return (
            f"  {images} with transparent pixels: their alpha channel was dropped, so the colours "
            "it hid appear; --background white (or black) makes a cache with them on that colour\n"
        )
