"""Modules and files of the project that prose names: they exist, also after a rename."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [p for folder in ("layercache", "cli", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
PROSE = [*CODE, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FILES = [
    path.relative_to(ROOT).parts
    for folder in ("layercache", "cli", "benchmarks", "tests", "docs")
    for path in (ROOT / folder).rglob("*.py")
]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "layercache").rglob("*.py")
}
ROOMS = {module.split(".")[1] for module in MODULES if "." in module}
PACKAGES = {module.split(".")[-2] for module in MODULES if module.count(".") > 1}

DOTTED = re.compile(r"\blayercache(?:\.(?!json\b)[A-Za-z_]\w*)+")
SHORT = re.compile(r"`([a-z_]+\.(?!py`)[a-z_]\w*(?:\.\w+)*)`")
"""A path from a room on, or from a folder deeper down: `training.autosave.Autosave`."""
FILE = re.compile(r"(?<![\w./-])[a-z_][a-z_0-9/]*\.py\b(?!:)")
OF_OTHERS = {"clip/clip.py", "dinov2/data/transforms.py", "main_linprobe.py"}
"""Files in the repositories of models."""


def read_prose(path: Path) -> str:
    """The text of a page; of a source file its docstrings and comments."""
    source = path.read_text()
    if path.suffix != ".py":
        return source
    strings = [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join([*strings, *comments])


def exists(dotted: str) -> bool:
    """Whether a dotted path leads to a module, or to a name in one."""
    parts = dotted.split(".")
    n = next(n for n in range(len(parts), 0, -1) if n == 1 or ".".join(parts[:n]) in MODULES)
    found = import_module(".".join(parts[:n]))
    for name in parts[n:]:
        annotated = name in getattr(found, "__annotations__", {})
        if not annotated and not hasattr(found, name):
            return False
        found = getattr(found, name, None)
    return True


def find_short(name: str) -> list[str]:
    """The full paths that a path from a room or folder on may stand for; [] if it is none."""
    first, second, *rest = name.split(".")
    deeper = [m for m in MODULES if m.endswith(f".{first}.{second}")] if rest else []
    if deeper:
        return [".".join([module, *rest]) for module in deeper]
    return [f"layercache.{name}"] if first in ROOMS or (rest and first in PACKAGES) else []


def stale(text: str) -> Iterator[str]:
    """Names of modules and files in a text that do not exist."""
    yield from sorted(name for name in set(DOTTED.findall(text)) if not exists(name))
    for name in sorted(set(SHORT.findall(text))):
        full = find_short(name)
        if full and not any(map(exists, full)):
            yield name
    for name in sorted(set(FILE.findall(text)) - OF_OTHERS):
        parts = tuple(name.split("/"))
        if not any(file[-len(parts) :] == parts for file in FILES):
            yield name


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_files_that_prose_names_exist(path: Path) -> None:
    assert list(stale(read_prose(path))) == []


def test_stale_names_are_found() -> None:
    text = (
        "`layercache.probe`, `reporting.analysis.gains`, `data.collate.add_noise`, "
        "layercache.cache.format.layout.SplitLayout, heads/linear.py and its twin; "
        "`layercache.probing.nothing.f`, `reporting.statistics.f`, `layercache.heads.NoHead`, "
        "`search.stages.SEARCHES`, format/attached.py"
    )
    assert list(stale(text)) == [
        "layercache.heads.NoHead",
        "layercache.probing.nothing.f",
        "reporting.statistics.f",
        "search.stages.SEARCHES",
        "format/attached.py",
    ]
