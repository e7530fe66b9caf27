"""Cached tokens as batches: resident on the device, or (stream.py) read again every epoch; both behind `epoch`.

Shapes: N samples, S tokens of a sample (the pairs of layer and token name), D width, B batch.
On disk and in memory tokens are (S, N, D) in the cache's dtype; a batch is (B, S, D) float32, L2-normalised on its last axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from layercache.cache.reading.split import Split
from layercache.cache.storage.threads import in_threads
from layercache.errors import HeadMismatchError, NonFiniteError
from layercache.probing.data.collate import add_noise, gather, room
from layercache.probing.training.config import Noise

Pair = tuple[int, str]
Batch = tuple[torch.Tensor, torch.Tensor]
Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
AT_ONCE = 64 * 2**20
"""Bytes of row blocks that are worth being asked for at the same time over a network."""


@dataclass(frozen=True, eq=False)
class Source:
    """One selection of tokens of one cached split."""

    split: Split
    """The rows."""
    pairs: tuple[Pair, ...]
    """(layer, token name), in the order in which the head sees them."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What a probe reads of a split: the tokens of one or more sources side by side, for some of the rows."""

    sources: tuple[Source, ...]
    """Caches of the same images in the same order by the same weights."""
    keep: np.ndarray[Any, np.dtype[np.int64]]
    """(N,) ascending row numbers of the split; sample i of the features is row keep[i]."""

    def __post_init__(self) -> None:
        first = self.sources[0].split
        for other in (source.split for source in self.sources[1:]):
            if (
                other.spec.width != first.spec.width
                or other.spec.storage_dtype != first.spec.storage_dtype
            ):
                raise HeadMismatchError(
                    f"two caches to be read side by side must agree in width and dtype: {first.spec.width} {first.spec.storage_dtype}, "
                    f"but {other.spec.width} {other.spec.storage_dtype}: extract the second one with the first one's --store-dtype"
                )
            if other.ids != first.ids:
                raise HeadMismatchError(
                    f"two caches to be read side by side must hold the same samples in {first.name}: {first.rows} and {other.rows} rows, "
                    "whose ids differ: extract both with the same data set, --limit and --on-error"
                )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The S tokens of a sample."""
        return tuple(pair for source in self.sources for pair in source.pairs)

    @property
    def width(self) -> int:
        """D."""
        return self.sources[0].split.spec.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.sources[0].split.spec.storage_dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of (S, N, D)."""
        return len(self.pairs) * len(self.keep) * self.width * self.dtype.itemsize

    @property
    def whole(self) -> bool:
        """Every row of the split is kept."""
        return len(self.keep) == self.sources[0].split.rows

    @cached_property
    def labels(self) -> np.ndarray[Any, Any]:
        """(N,) int64 or (N, C) uint8, of the kept rows."""
        kept: np.ndarray[Any, Any] = self.sources[0].split.labels[self.keep]
        return kept

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of rows of the split that one file holds (in the first source) and of which some row is kept."""
        bounds = self.sources[0].split.blocks
        return [
            (a, b)
            for a, b in bounds
            if np.searchsorted(self.keep, b) > np.searchsorted(self.keep, a)
        ]

    @cached_property
    def _finite(self) -> set[tuple[int, int]]:
        """Ranges that were read and found finite."""
        return set()

    def read(
        self, rows: tuple[int, int], out_snd: np.ndarray[Any, Any], *, threads: int | None = None
    ) -> None:
        """Rows `rows` of the split, kept or not, straight into `out_snd`. Raises NonFiniteError where a token is not finite.

        What was found finite is not looked through again: that its bytes are still the same is for the cache to check.
        """
        start = 0
        for source in self.sources:
            stop = start + len(source.pairs)
            source.split.read(source.pairs, rows=rows, out=out_snd[start:stop], threads=threads)
            start = stop
        if rows not in self._finite:
            self._check_finite(rows, out_snd)
            self._finite.add(rows)

    @property
    def remote(self) -> bool:
        """Some of it comes over a network."""
        return any(source.split.remote for source in self.sources)

    def read_blocks(self, places: Sequence[tuple[tuple[int, int], np.ndarray[Any, Any]]]) -> None:
        """`read` for each (rows of a block, where to put them), several at a time.

        Each with one thread; over a network, where few blocks would leave it idle, with as many requests as a block is worth.
        """
        readers = min(source.split.readers for source in self.sources)
        threads = None if readers == 1 or (self.remote and len(places) < readers) else 1
        in_threads(lambda place: self.read(*place, threads=threads), places, threads=readers)

    def _check_finite(self, rows: tuple[int, int], x_snd: np.ndarray[Any, Any]) -> None:
        # Read as integers, numbers that are not finite are those from the bits of infinity on, within either sign: two maxima find them
        # at the speed of memory and without a temporary array.
        bits = 8 * x_snd.itemsize
        infinity = int(np.array(np.inf, x_snd.dtype).view(f"u{x_snd.itemsize}"))
        if not x_snd.size or (
            x_snd.view(f"i{x_snd.itemsize}").max() < infinity
            and x_snd.view(f"u{x_snd.itemsize}").max() < infinity + 2 ** (bits - 1)
        ):
            return
        s, n, _ = (int(i) for i in np.argwhere(~np.isfinite(x_snd))[0])
        layer, token = self.pairs[s]
        split = self.sources[0].split
        raise NonFiniteError(
            f"layer {layer}, token {token!r} of sample {split.ids[rows[0] + n]!r} ({split.name}) is not finite in the cache of "
            f"{split.spec.model} on {split.spec.dataset.name}: extract it again with --refresh --store-dtype float32"
        )


class TokenDataset:
    """What resident and streamed features share: the selection, labels on the device, and how a batch is made of stored tokens."""

    mode = ""

    def __init__(self, selection: Selection, *, device: torch.device) -> None:
        self.selection = selection
        self.device = device
        self.pairs = selection.pairs
        self.rows = len(selection.keep)
        """N, the samples that may be asked for."""
        self.tokens = len(self.pairs)
        """S."""
        self.width = selection.width
        """D."""
        self.labels = torch.from_numpy(np.ascontiguousarray(selection.labels)).to(device)
        """(N,) int64 or (N, C) uint8."""

    def epoch(
        self,
        rows: torch.Tensor | np.ndarray[Any, Any] | Sequence[int],
        *,
        batch: int,
        seed: int = 0,
        epoch: int = 0,
        noise: Noise | None = None,
        train: bool,
    ) -> Iterator[Batch]:
        """Yields (x, y) for the samples `rows`: x (b, S, D) float32, each token L2-normalised; y int64 (b,) or uint8 (b, C); the last may be shorter.

        The next batch overwrites x: pages are mapped once an epoch, which on a CPU costs more than the arithmetic on them.

        With `train`, samples come shuffled, and those that `noise` picks with a normal draw added to every element of their normalised
        tokens; order and noise are functions of (seed, epoch) alone. Without, they come as they are in the order given,
        which must ascend where they are streamed.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        draw = _generator(self.device, seed, epoch, 1)
        size, left, at = min(batch, len(chosen)), len(chosen), 0
        held = room((size, self.tokens, self.width), np.dtype(np.float32), device=self.device)
        found: list[torch.Tensor] = []
        for x_snd, places, samples in self._parts(
            chosen, order=_generator(torch.device("cpu"), seed, epoch, 0) if train else None
        ):
            done = 0
            while done < len(places):
                n = min(size - at, len(places) - done)
                self._put(x_snd, places[done : done + n], out=held[at : at + n])
                found.append(samples[done : done + n])
                done, at, left = done + n, at + n, left - n
                if at == size or not left:
                    x = held[:at]
                    if train and noise is not None:
                        add_noise(x, noise, draw)
                    yield x, self.labels.index_select(0, torch.cat(found).to(self.device))
                    found, at = [], 0

    def _parts(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[Part]:
        """All of `rows` in parts, shuffled by `order` if it is given: tokens as stored (S, ., D), places in them (b,), their sample numbers (b,).

        The tokens of a part are there until the next part is asked for.
        """
        raise NotImplementedError

    def _put(self, x_snd: torch.Tensor, places: torch.Tensor, *, out: torch.Tensor) -> None:
        """The tokens at `places`, normalised, into `out` (b, S, D) on the device."""
        gather(x_snd, places, out=out)


class ResidentTokens(TokenDataset):
    """All tokens in the device's memory, one copy, in the cache's dtype. Holds `Selection.nbytes`."""

    mode = "resident"

    def __init__(self, selection: Selection, *, device: torch.device) -> None:
        super().__init__(selection, device=device)
        self._x_snd = room((self.tokens, self.rows, self.width), selection.dtype, device=device)
        if device.type == "cpu" and selection.whole:
            self._load_in_place()
        else:
            self._load_by_blocks()

    def _load_in_place(self) -> None:
        x = self._x_snd.numpy()
        places = [((a, b), x[:, a:b]) for a, b in self.selection.blocks]
        if self.selection.remote:
            self.selection.read_blocks(places)
            return
        for rows, target in places:
            self.selection.read(rows, target)

    def _load_by_blocks(self) -> None:
        """Through the memory of one block (pinned where it goes to a GPU), or of those read at a time, of which the kept rows are copied."""
        keep, blocks = self.selection.keep, self.selection.blocks
        if not blocks:
            return
        most = max(b - a for a, b in blocks)
        n = (
            min(
                len(blocks),
                -(-AT_ONCE // (self.tokens * most * self.width * self.selection.dtype.itemsize)),
            )
            if self.selection.remote
            else 1
        )
        scratch = torch.empty(
            (n, self.tokens, most, self.width),
            dtype=self._x_snd.dtype,
            pin_memory=self.device.type == "cuda",
        )
        for first in range(0, len(blocks), n):
            together = list(zip(blocks[first : first + n], scratch, strict=False))
            if n > 1:
                self.selection.read_blocks(
                    [((a, b), memory.numpy()[:, : b - a]) for (a, b), memory in together]
                )
            else:
                self.selection.read(
                    blocks[first], scratch.numpy()[0, :, : blocks[first][1] - blocks[first][0]]
                )
            for (a, b), memory in together:
                i, j = np.searchsorted(keep, (a, b))
                part = (
                    memory[:, : b - a]
                    if j - i == b - a
                    else memory.index_select(1, torch.from_numpy(keep[i:j] - a))
                )
                self._x_snd[:, i:j].copy_(part)

    def _parts(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[Part]:
        index = torch.from_numpy(rows)
        if order is not None:
            index = index[torch.randperm(len(index), generator=order)]
        index = index.to(self.device)
        yield self._x_snd, index, index


def _generator(device: torch.device, seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator for one purpose of one epoch, independent of all others."""
    state = int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state & (2**63 - 1))
