"""Progress bars on stderr, shown only if it is a terminal."""

from __future__ import annotations

from typing import Any

from layercache._printable import escape_control


def progress_bar(*, show: bool = True, **options: Any) -> Any:
    """Return a tqdm bar; a context manager.

    Args:
        show: False never shows it, True shows it if stderr is a terminal.
        **options: Options of `tqdm.tqdm`, such as total, desc and unit.
    """
    from tqdm import tqdm

    if "desc" in options:
        options["desc"] = escape_control(options["desc"])
    return tqdm(disable=None if show else True, dynamic_ncols=True, **options)
