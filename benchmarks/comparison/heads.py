"""The heads that methods.py compares, what is searched for each, and the file of results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layercache import HParams
from layercache.probing.training.config import grid

CONFIGS: dict[str, tuple[HParams, ...]] = {
    "linear": grid(lr=(1e-1, 1e-2, 1e-3), weight_decay=(1e-2,)),
    "attention": grid(lr=(1e-2, 1e-3), weight_decay=(1e-2,), dropout=(0.1,)),
}
"""Everything that is searched, chosen before the first run."""


@dataclass(frozen=True)
class Method:
    """A head on a selection of tokens."""

    title: str
    options: Mapping[str, Any]
    """Options of `layercache.probe`, or the members of `layercache.ensemble`."""
    configs: str = "attention"
    """Key of CONFIGS."""


BRANCHES = ("alf", "aat")
LAYER_TOKENS = {"layers": "all", "tokens": "cls+ap"}
PATCHES = {"layers": "last", "tokens": "all"}
METHODS = {
    "cls": Method(
        "last CLS, linear", {"head": "linear", "layers": "last", "tokens": "cls"}, "linear"
    ),
    "scalar": Method("scalar mix of all layers", {"head": "scalar-mix", **LAYER_TOKENS}, "linear"),
    "alf": Method("ALF: attentive, CLS+AP of all layers", {"head": "attentive", **LAYER_TOKENS}),
    "aat": Method("AAT: attentive, patches of the last", {"head": "attentive-tokens", **PATCHES}),
    "efficient": Method("efficient, CLS+AP of all layers", {"head": "efficient", **LAYER_TOKENS}),
    "efficient-patches": Method("efficient, patches of the last", {"head": "efficient", **PATCHES}),
    "hybrid": Method("hybrid: ALF and patches in one", {"head": "hybrid", "spatial": "patch"}),
    "fusion": Method("fusion: ALF and AAT, gated", {"head": "fusion", "spatial": "all"}),
    "fusion-patches": Method(
        "fusion of ALF and patches without CLS", {"head": "fusion", "spatial": "patch"}
    ),
    "ensemble": Method("ensemble of ALF and AAT, fitted", {"members": BRANCHES}),
    "patches": Method(
        "AAT without CLS",
        {"head": "attentive", "layers": "last", "tokens": "patch", "num_heads": 8},
    ),
}
"""Name -> method. NAME@STORE, as in fusion@int8, has its patches in a compressed cache."""
BEST, POOL = "better of both", "pool of both"


@dataclass
class Cell:
    """One method on one task with one seed."""

    val: float
    """Balanced accuracy in validation of the selected configuration."""
    test: float
    """Balanced accuracy on the test split."""
    n_params: int
    seconds: float | None
    """Processor time; None if the run was stopped within the probe."""
    probe: str
    """Folder of the probe."""


@dataclass
class Results:
    """What FOLDER/MODEL.json holds."""

    path: Path
    setup: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    """"TASK/METHOD/SEED" -> result."""
    running: str = ""
    """The cell whose probe is being trained; if it is set at the start, the run was stopped."""

    def load(self) -> None:
        """Read the file, if there is one."""
        if self.path.exists():
            data = json.loads(self.path.read_text())
            self.setup, self.running = data["setup"], data["running"]
            self.cells = {key: Cell(**cell) for key, cell in data["cells"].items()}

    def save(self) -> None:
        """Write the file, by way of a temporary one."""
        data = {
            "setup": self.setup,
            "running": self.running,
            "cells": {key: vars(cell) for key, cell in self.cells.items()},
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data, indent=1))
        os.replace(temporary, self.path)


def base_of(name: str) -> str:
    """Return the key of METHODS of a method, without its compression."""
    return name.partition("@")[0]


def title_of(name: str) -> str:
    """Return a method's title, with its compression."""
    base, _, store = name.partition("@")
    title = METHODS[base].title if base in METHODS else name
    return f"{title}, patches as {store}" if store else title
