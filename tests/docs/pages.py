"""The README and the pages of the book, cut into fenced blocks."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
"""Path by name, as in "docs/heads.md"."""

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# ([\w-]+\.(?:py|toml))$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Number of the line with the opening fence."""
    language: str
    """`console`, `python`, `toml` or `text`; "" if the fence names none."""
    text: str

    @property
    def file_name(self) -> str | None:
        """Name of the file that the block shows, if its first line is a comment with one."""
        match = _FILE_NAME.match(self.text.split("\n", 1)[0])
        return match[1] if match else None

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, in one line each, without prompt and comment."""
        if self.language != "console":
            return []
        lines = self.text.replace("\\\n", " ").split("\n")
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [" ".join(re.split(r"\s+# ", line)[0].split()) for line in typed]


def read_blocks(name: str) -> list[Block]:
    """Return the blocks of a page, in order.

    Args:
        name: One of PAGES.
    """
    text = PAGES[name].read_text()
    return [
        Block(
            page=name,
            line=text.count("\n", 0, match.start()) + 1,
            language=match[2],
            text=textwrap.dedent(match[3]),
        )
        for match in _FENCE.finditer(text)
    ]
