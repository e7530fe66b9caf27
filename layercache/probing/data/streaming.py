"""Features that do not fit: read from the cache again every epoch, in shuffled windows of row blocks, one window ahead of the training.

An epoch's order: blocks shuffled, cut into windows of as many blocks as half the budget holds, samples shuffled within a window.
While the samples of one window are used, the next is read, so two windows are held at any time. A batch that spans two windows is made of both, so
batches are as large and as many as with resident features.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from layercache._devices import free_memory
from layercache._units import format_bytes
from layercache.errors import OptionError
from layercache.probing.data.collate import gather, normalise, room
from layercache.probing.data.resident import Part, ResidentTokens, Selection, TokenDataset
from layercache.probing.options import MEMORY_FRACTION

Block = tuple[int, int]
MODES = ("auto", "resident", "stream")
LONG = 4
"""An epoch of at least so many windows has smaller ones at both ends: the first has 1 / 2^RAMP of the full size, the next twice that."""
RAMP = 3
STAGED = 2048
"""Samples that go to a GPU at a time."""


class StreamedTokens(TokenDataset):
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

    def _windows(
        self, order: torch.Generator | None, member: np.ndarray[Any, Any]
    ) -> list[list[Block]]:
        """The blocks with wanted rows, shuffled by `order`, in windows.

        Of a long epoch they grow towards the full size at the beginning and shrink at the end: nothing is used while the first is read, and nothing
        read while the last is used.
        """
        blocks = [(a, b) for a, b in self.selection.blocks if member[a:b].any()]
        if order is not None:
            blocks = [blocks[i] for i in torch.randperm(len(blocks), generator=order).tolist()]
        left, room = sum(b - a for a, b in blocks), 0
        ramp = RAMP if left >= LONG * self.window else 0
        windows: list[list[Block]] = []
        for a, b in blocks:
            if b - a > room:
                room = self.window >> max(ramp - len(windows), 0)
                if ramp:
                    room = min(room, max(left // 2, self.window >> ramp))
                windows.append([])
            windows[-1].append((a, b))
            room, left = room - (b - a), left - (b - a)
        return windows

    def _read(self, window: list[Block], buffer: torch.Tensor) -> np.ndarray[Any, Any]:
        """Fills the buffer; returns the split's row number of each of its rows."""
        x_snd, ends = buffer.numpy(), np.cumsum([b - a for a, b in window]).tolist()
        self.selection.read_blocks(
            [
                ((a, b), x_snd[:, end - (b - a) : end])
                for (a, b), end in zip(window, ends, strict=True)
            ]
        )
        return np.concatenate([np.arange(a, b) for a, b in window])

    def _parts(
        self, rows: np.ndarray[Any, Any], *, order: torch.Generator | None
    ) -> Iterator[Part]:
        keep = self.selection.keep
        member = np.zeros(self.selection.sources[0].split.rows, dtype=bool)
        member[keep[rows]] = True
        if order is None and (np.diff(rows) <= 0).any():
            raise ValueError("samples are streamed in the order of the cache: rows must ascend")
        windows = self._windows(order, member)
        # taken for the epoch only, so that the training and the test split are streamed in turn within one budget
        shape = (self.tokens, self.window, self.width)
        buffers = [
            room(shape, self.selection.dtype, device=torch.device("cpu"))
            for _ in range(min(2, len(windows)))
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(self._read, windows[0], buffers[0]) if windows else None
            for w in range(len(windows)):
                assert ahead is not None
                there, buffer = ahead.result(), buffers[w % 2]
                # the other buffer is free: its last samples were taken out of it before this part was asked for
                ahead = (
                    reader.submit(self._read, windows[w + 1], buffers[(w + 1) % 2])
                    if w + 1 < len(windows)
                    else None
                )
                places = torch.from_numpy(np.flatnonzero(member[there]))
                if order is not None:
                    places = places[torch.randperm(len(places), generator=order)]
                yield buffer, places, torch.from_numpy(np.searchsorted(keep, there[places.numpy()]))

    def _put(self, x_snd: torch.Tensor, places: torch.Tensor, *, out: torch.Tensor) -> None:
        if out.device.type == "cpu":
            gather(x_snd, places, out=out)
            return
        for part, x in zip(torch.split(places, STAGED), torch.split(out, STAGED), strict=True):
            staged = torch.empty(
                (self.tokens, len(part), self.width), dtype=x_snd.dtype, pin_memory=True
            )  # torch keeps pinned memory for the next
            # a copy to a GPU has ended when `to` returns, so that the window may be filled again
            normalise(torch.index_select(x_snd, 1, part, out=staged).to(self.device), out=x)


def least_budget(selection: Selection) -> int:
    """The smallest budget with which a selection can be streamed: two windows of its largest row block."""
    row = len(selection.pairs) * selection.width * selection.dtype.itemsize
    return 2 * row * max((b - a for a, b in selection.blocks), default=0)


def load(
    selection: Selection, *, device: torch.device, mode: str = "auto", budget: int | None = None
) -> tuple[TokenDataset, str]:
    """The features of a selection, and one line that says how they are held and why.

    `mode` "auto" keeps them on the device where they fit `budget` (bytes; None: half of the device's free memory) and streams them otherwise.
    Raises OptionError for another mode, or where `budget` cannot even hold two row blocks.
    """
    if mode not in MODES:
        raise OptionError(f"--features is auto, resident or stream; came {mode!r}")
    room = budget if budget is not None else int(MEMORY_FRACTION * free_memory(device))
    limit = (
        "the rest of --memory" if budget is not None else f"half of what is free on {device.type}"
    )
    need = selection.nbytes
    tokens = len(selection.pairs)
    size = f"{tokens} token{'s' * (tokens != 1)} x {len(selection.keep)} samples x {selection.width}, {format_bytes(need)}"
    if mode == "resident" or (mode == "auto" and need <= room):
        why = "as requested" if mode == "resident" else f"fits {format_bytes(room)}, {limit}"
        return ResidentTokens(
            selection, device=device
        ), f"resident on {device.type}: {size} ({why})"
    host = budget if budget is not None else int(MEMORY_FRACTION * free_memory(torch.device("cpu")))
    streamed = StreamedTokens(selection, device=device, budget=host)
    row = selection.nbytes // len(selection.keep)
    why = "as requested" if mode == "stream" else f"more than {format_bytes(room)}, {limit}"
    return (
        streamed,
        f"streamed through two windows of {format_bytes(streamed.window * row)}: {size} ({why})",
    )
