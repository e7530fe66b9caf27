"""How probes are trained, apart from which ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layercache.engine import check_engine
from layercache.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How probes are trained, apart from which ones."""

    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "fp32"
    """Arithmetic of the products over tokens: fp32 or bf16."""
    features: str = "auto"
    """auto, resident or stream: whether the tokens are kept on the device or read again every epoch."""
    memory: int | str | None = None
    """What features may take (8GB, 500MiB or bytes); None: half of what is free."""
    disk_cache: int | str | None = None
    """Disk for features that are streamed from object storage (20GB; 0: none), so that later epochs do not read them over the network again; None:
    half of what is free in the folder for temporary files."""
    group_size: int | None = None
    """Settings trained together; None: as many as half of the free memory takes."""
    refresh: bool = False
    """Train a probe again that is already there."""
    progress: bool = False
    """Show a progress bar."""
    say: Callable[[str], None] | None = None
    """Gets one line for each thing that was chosen: device, features, group size, probes found."""
    engine: str = "local"
    """Where probes are trained: "local", or "ray" for a Ray cluster; the rows of the table are the same."""
    address: str | None = None
    """Of a running Ray cluster ("auto", "HOST:PORT"); None starts one of this machine alone."""

    def __post_init__(self) -> None:
        check_engine(self.engine, self.address)


def read_options(given: dict[str, Any]) -> Options:
    """Options from keywords. Raises OptionError for one that there is not."""
    if unknown := set(given) - set(Options.__dataclass_fields__):
        known = ", ".join(Options.__dataclass_fields__)
        raise OptionError(
            f"probe has no option {', '.join(sorted(unknown))}; besides what its signature shows there are {known}"
        )
    return Options(**given)
