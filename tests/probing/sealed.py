"""Probe records as somebody would forge them: edited, with a checksum that matches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layercache.cache.format.result_folders import seal


def edit_sealed(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the values of a record or state, and its checksum with them."""
    values = json.loads(file.read_text())
    del values["sha256"]
    edit(values)
    file.write_bytes(seal(values))
