"""The forward on a device: pixels in, tokens out; on a GPU both copies overlap the arithmetic.

Shapes: L layers, T token kinds, b images of a batch, D width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""uint8 (b, 3, H, W) on the device -> the tokens (L, T, b, D) of one or more caches as they are
stored, on the device; a `JointForward`."""


class Tokens(Protocol):
    """The tokens of one batch, perhaps still being computed."""

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (L, T, b, D) in host memory, valid until `release`; waits for the device.

        Called by the writing thread.
        """
        ...

    def release(self) -> float:
        """Give the memory back, after `fetch`; return the seconds of the forward on the device."""
        ...


class Device(Protocol):
    """Runs batches in order."""

    def stage(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        """Move pixels uint8 (b, 3, H, W) to the device.

        The array may be overwritten once every forward of the returned tensor has been called.
        """
        ...

    def forward(self, backbone: Forward, images: Tensor) -> Sequence[Tokens]:
        """Run or start the forward of staged images."""
        ...


class HostTokens:
    """Tokens in host memory."""

    def __init__(self, tokens: Tensor, seconds: float) -> None:
        self._tokens, self._seconds = tokens, seconds

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (L, T, b, D)."""
        return self._tokens.numpy()

    def release(self) -> float:
        """Return the seconds of the forward."""
        return self._seconds


class SynchronousDevice:
    """A device whose forward has ended when `forward` returns: the CPU, or an Apple GPU.

    On the CPU the forward reads the decoder's memory. To mps pixels are copied, and its tokens
    back, which waits for its work; neither streams nor pinned memory are used.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stage(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor on the device; on the CPU it is on the same memory."""
        return torch.from_numpy(pixels).to(self._device)

    def forward(self, backbone: Forward, images: Tensor) -> list[HostTokens]:
        """Run the forward; its time counts for the first of the caches."""
        began = time.perf_counter()
        with torch.inference_mode():
            outputs = [tokens.cpu() for tokens in backbone(images)]
        seconds = time.perf_counter() - began
        return [HostTokens(x, seconds if i == 0 else 0.0) for i, x in enumerate(outputs)]


class CudaTokens:
    """Tokens on their way into pinned memory."""

    def __init__(
        self,
        host: Tensor,
        began: torch.cuda.Event | None,
        ended: torch.cuda.Event,
        copied: torch.cuda.Event,
        pool: SimpleQueue[Tensor],
    ) -> None:
        self._host = host
        self._began = began
        self._ended = ended
        self._copied = copied
        self._pool = pool

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (L, T, b, D); waits for the copy."""
        self._copied.synchronize()
        return self._host.numpy()

    def release(self) -> float:
        """Return the seconds of the forward, between two events of its stream."""
        self._pool.put(self._host)
        if self._began is None:
            return 0.0
        return float(self._began.elapsed_time(self._ended)) / 1000


class CudaDevice:
    """A GPU with three streams: copies in, forward, copies out.

    `stage` and `forward` return at once, so that the host runs ahead of the device by as many
    batches as there are pinned buffers; only events synchronise.
    """

    PREFETCH = 3
    """Batches of pixels in pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._in = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._out = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = device
        self._staging: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._pools: dict[tuple[Any, ...], SimpleQueue[Tensor]] = {}

    def stage(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        """Copy pixels to pinned memory now, and to the device when the copy stream gets to it."""
        pinned = self._pinned(pixels.nbytes)[: pixels.size].view(pixels.shape)
        pinned.numpy()[...] = pixels
        with torch.cuda.stream(self._in):
            images = pinned.to(self._device, non_blocking=True)
        copied = self._staging[-1][1]
        copied.record(self._in)
        compute = torch.cuda.current_stream(self._device)
        compute.wait_event(copied)
        images.record_stream(compute)
        return images

    def forward(self, backbone: Forward, images: Tensor) -> list[CudaTokens]:
        """Start the forward, and after it the copies of its tokens."""
        compute = torch.cuda.current_stream(self._device)
        began, ended = _event(timing=True), _event(timing=True)
        began.record(compute)
        with torch.inference_mode():
            outputs = backbone(images)
            ended.record(compute)
            # the time of the forward counts for the first of the caches
            return [
                self._copy_out(tokens, began if i == 0 else None, ended)
                for i, tokens in enumerate(outputs)
            ]

    def _copy_out(
        self, tokens: Tensor, began: torch.cuda.Event | None, ended: torch.cuda.Event
    ) -> CudaTokens:
        """Start the copy of tokens to pinned memory."""
        pool = self._pools.setdefault((*tokens.shape, tokens.dtype), SimpleQueue())
        host = (
            torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            if pool.empty()
            else pool.get()
        )
        copied = _event()
        with torch.cuda.stream(self._out):
            self._out.wait_event(ended)
            host.copy_(tokens, non_blocking=True)
            copied.record(self._out)
        tokens.record_stream(self._out)
        return CudaTokens(host, began, ended, copied, pool)

    def _pinned(self, size: int) -> Tensor:
        """Return a flat pinned buffer that no copy reads any more; it is the last of the queue."""
        if len(self._staging) < self.PREFETCH or self._staging[0][0].numel() < size:
            if len(self._staging) >= self.PREFETCH:
                self._staging.popleft()[1].synchronize()
            self._staging.append((torch.empty(size, dtype=torch.uint8, pin_memory=True), _event()))
        else:
            buffer, copied = self._staging.popleft()
            copied.synchronize()
            self._staging.append((buffer, copied))
        return self._staging[-1][0]


def _event(*, timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]


class FixedBatch:
    """A backbone that always gets `rows` images, for a graph that is compiled for one shape."""

    def __init__(self, backbone: Forward, *, rows: int) -> None:
        self._backbone, self._rows = backbone, rows

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the tokens of the given images alone."""
        missing = self._rows - len(images)
        if not missing:
            return self._backbone(images)
        black = images.new_zeros((missing, *images.shape[1:]))
        outputs = self._backbone(torch.cat([images, black]))
        return tuple(tokens[:, :, : len(images)].contiguous() for tokens in outputs)


def open_device(name: str) -> Device:
    """Return the device of a name: "cpu", "cuda" or "mps"."""
    device = torch.device(name)
    return CudaDevice(device) if device.type == "cuda" else SynchronousDevice(device)
