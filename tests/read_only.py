"""A folder that this process cannot write to, also when the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the permission to write below a folder, which others must be able to reach."""
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    modes = {path: path.stat().st_mode for path in folders}
    user = os.geteuid()
    for path in folders:
        path.chmod(0o555)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)
