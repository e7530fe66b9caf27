"""Features that do not fit: read from the cache again every epoch, in shuffled windows of row blocks, one window ahead of the training.

An epoch's order: blocks shuffled, cut into windows of as many blocks as half the budget holds, samples shuffled within a window.
While the samples of one window are used, a thread reads the next, so two windows are held at any time. A batch that spans two windows carries its
first part over, so batches are as large and as many as with resident features.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from layercache.errors import OptionError
from layercache.probing.budget import SHARE, format_bytes, free_memory
from layercache.probing.features import Batch, Features, ResidentFeatures, Selection

Block = tuple[int, int]
MODES = ("auto", "resident", "stream")


class StreamedFeatures(Features):
    """Tokens read from the cache every epoch within `budget` bytes of host memory (and one batch)."""

    mode = "stream"

    def __init__(self, selection: Selection, *, device: torch.device, budget: int) -> None:
        super().__init__(selection, device=device)
        row = len(selection.pairs) * selection.width * selection.dtype.itemsize
        window = budget // 2 // row
        largest = max((b - a for a, b in selection.blocks), default=0)
        if largest > window:
            raise OptionError(
                f"--memory {format_bytes(budget)} is too small to stream {self.tokens} tokens of {self.width}: two row blocks of {largest} samples "
                f"take {format_bytes(2 * largest * row)}; give at least that"
            )
        self.window = min(window, sum(b - a for a, b in selection.blocks))
        """Samples of one of the two windows that an epoch holds."""

    def _windows(self, order: torch.Generator | None, member: np.ndarray[Any, Any]) -> list[list[Block]]:
        blocks = [(a, b) for a, b in self.selection.blocks if member[a:b].any()]
        if order is not None:
            blocks = [blocks[i] for i in torch.randperm(len(blocks), generator=order).tolist()]
        windows: list[list[Block]] = []
        room = 0
        for a, b in blocks:
            if b - a > room:
                windows.append([])
                room = self.window
            windows[-1].append((a, b))
            room -= b - a
        return windows

    def _read(self, window: list[Block], buffer: torch.Tensor) -> np.ndarray[Any, Any]:
        """Fills the buffer; returns the split's row number of each of its rows."""
        ends = np.cumsum([b - a for a, b in window]).tolist()
        self.selection.read_blocks([((a, b), buffer.numpy()[:, end - (b - a) : end]) for (a, b), end in zip(window, ends, strict=True)])
        return np.concatenate([np.arange(a, b) for a, b in window])

    def _stored(self, rows: np.ndarray[Any, Any], *, batch: int, order: torch.Generator | None) -> Iterator[Batch]:
        keep = self.selection.keep
        member = np.zeros(self.selection.sources[0].split.rows, dtype=bool)
        member[keep[rows]] = True
        if order is None and (np.diff(rows) <= 0).any():
            raise ValueError("samples are streamed in the order of the cache: rows must ascend")
        windows = self._windows(order, member)
        # taken for the epoch only, so that the training and the test split are streamed in turn within one budget
        shape, dtype = (self.tokens, self.window, self.width), torch.from_numpy(np.empty(0, self.selection.dtype)).dtype
        buffers = [torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda") for _ in range(2)]
        held = torch.empty(self.tokens * min(batch, len(rows)) * self.width, dtype=dtype, pin_memory=self.device.type == "cuda")
        filled: list[torch.Tensor] = []
        left = len(rows)
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(self._read, windows[0], buffers[0]) if windows else None
            for w in range(len(windows)):
                assert ahead is not None
                there, buffer = ahead.result(), buffers[w % 2]
                # the other buffer is free: its last samples were copied out of it before this point
                ahead = reader.submit(self._read, windows[w + 1], buffers[(w + 1) % 2]) if w + 1 < len(windows) else None
                places = torch.from_numpy(np.flatnonzero(member[there]))
                if order is not None:
                    places = places[torch.randperm(len(places), generator=order)]
                samples = torch.from_numpy(np.searchsorted(keep, there[places.numpy()]))
                while len(places):
                    size, at = min(batch, left), sum(map(len, filled))
                    n = min(size - at, len(places))
                    x = held[: self.tokens * size * self.width].view(self.tokens, size, self.width)
                    for s in range(self.tokens):
                        torch.index_select(buffer[s], 0, places[:n], out=x[s, at : at + n])
                    filled.append(samples[:n])
                    places, samples = places[n:], samples[n:]
                    if at + n == size:
                        # a copy to a GPU has ended when `to` returns, so that `held` may be filled again
                        yield x.to(self.device), torch.cat(filled).to(self.device)
                        filled, left = [], left - size


def least_budget(selection: Selection) -> int:
    """The smallest budget with which a selection can be streamed: two windows of its largest row block."""
    row = len(selection.pairs) * selection.width * selection.dtype.itemsize
    return 2 * row * max((b - a for a, b in selection.blocks), default=0)


def load(selection: Selection, *, device: torch.device, mode: str = "auto", budget: int | None = None) -> tuple[Features, str]:
    """The features of a selection, and one line that says how they are held and why.

    `mode` "auto" keeps them on the device where they fit `budget` (bytes; None: half of the device's free memory) and streams them otherwise.
    Raises OptionError for another mode, or where `budget` cannot even hold two row blocks.
    """
    if mode not in MODES:
        raise OptionError(f"--features is auto, resident or stream; came {mode!r}")
    room = budget if budget is not None else int(SHARE * free_memory(device))
    limit = "the rest of --memory" if budget is not None else f"half of what is free on {device.type}"
    need = selection.nbytes
    tokens = len(selection.pairs)
    size = f"{tokens} token{'s' * (tokens != 1)} x {len(selection.keep)} samples x {selection.width}, {format_bytes(need)}"
    if mode == "resident" or (mode == "auto" and need <= room):
        why = "as asked" if mode == "resident" else f"fits {format_bytes(room)}, {limit}"
        return ResidentFeatures(selection, device=device), f"resident on {device.type}: {size} ({why})"
    host = budget if budget is not None else int(SHARE * free_memory(torch.device("cpu")))
    streamed = StreamedFeatures(selection, device=device, budget=host)
    row = selection.nbytes // len(selection.keep)
    why = "as asked" if mode == "stream" else f"more than {format_bytes(room)}, {limit}"
    return streamed, f"streamed through two windows of {format_bytes(streamed.window * row)}: {size} ({why})"
