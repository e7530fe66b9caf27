"""Set-up of worker processes: row blocks of 8 images, fake backbones, images that kill a worker."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.extraction.fakes import FakeBackbone, Pictures

ROOT = Path(__file__).parents[2]
HOOK = "tests.engine.remote.fakes"


def backbone(name: str, **_: Any) -> FakeBackbone:
    """A stand-in for load_encoder."""
    return FakeBackbone(name=name, weights_digest=name[0] * 64)


def fakes() -> None:
    """Set shards of 512 bytes and fake backbones; every worker process calls it when it starts."""
    from layercache.cache.format import layout
    from layercache.extraction import plan

    layout.MAX_SHARD_BYTES = 512
    plan.load_encoder = backbone  # type: ignore[assignment]


@dataclass(frozen=True)
class Slow(Pictures):
    """Every image takes a while."""

    seconds: float = 0.01

    def load(self, row: int) -> Image.Image:
        time.sleep(self.seconds)
        return super().load(row)


@dataclass(frozen=True)
class Striking(Slow):
    """Kills the process that first loads row `strikes`, or with `always` every such process."""

    strikes: int = -1
    mark: str = ""
    """A file that says that it has struck."""
    always: bool = False

    def load(self, row: int) -> Image.Image:
        if row == self.strikes and (self.always or not Path(self.mark).exists()):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(row)


@dataclass(frozen=True)
class Hidden(Pictures):
    """Files that only one process sees."""

    pid: int = 0

    def load(self, row: int) -> Image.Image:
        if os.getpid() != self.pid:
            raise FileNotFoundError(2, "No such file or directory", f"/photos/{row}.png")
        return super().load(row)
