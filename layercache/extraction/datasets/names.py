"""Lines of text files that list names."""

from __future__ import annotations


def read_lines(text: str) -> list[str]:
    """Return the lines of a text, ended by LF or CR LF, without trailing blank ones.

    `str.splitlines` would also divide a name at U+2028, a form feed and the like.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
