"""Every command line in the README and the book names commands and options that exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from layercache_cli.main import COMMANDS, build

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(?:console|bash|sh)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(layercache [a-z][^`]*)`")


@cache
def command(name: str) -> Any:
    return get_command(build(name, debug=False)).commands[name]  # type: ignore[attr-defined]


def command_lines(page: Path) -> list[str]:
    text = page.read_text()
    lines = [
        line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").split("\n")
    ]
    found = [line.removeprefix("$ ").partition("  #")[0] for line in lines]
    found += [" ".join(line.split()) for line in INLINE.findall(text)]
    return [line for line in found if line.startswith("layercache ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_of_a_page_exist(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line.replace("'", "")) if line.count('"') % 2 else shlex.split(line)
        words = words[1:]
        if words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, line
        parsed, rest = command(words[0]), words[1:]
        while rest and rest[0] in getattr(parsed, "commands", {}):
            parsed, rest = parsed.commands[rest[0]], rest[1:]
        options = {
            name
            for parameter in parsed.params
            for name in [*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())]
        }
        for word in rest:
            if word.startswith("-") and len(word) > 1:
                assert word.partition("=")[0] in options | {"--help", "--debug"}, line


def test_command_lines_are_found() -> None:
    assert sum(len(command_lines(page)) for page in PAGES) > 60
