"""The import arrows of the architecture: who may import whom inside the project. Read from the sources, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYWHERE = {"errors", "_units", "_devices", "_progress", "_options"}
ARROWS = {
    "errors": set(),
    "_units": set(),
    "_options": set(),
    "_devices": set(),
    "_progress": set(),
    "cache": set(),
    "extraction": {"cache", "engine"},
    "probing": {"cache", "engine"},
    "reporting": {"probing", "cache"},
    "deploy": {"probing", "extraction"},
    "engine": set(),
    "study": {"extraction", "probing", "reporting", "cache", "engine"},
    "testing": {"cache", "probing"},
    "demo": {"extraction", "probing", "reporting", "cache"},
    "__init__": {"extraction", "probing", "reporting", "cache", "deploy", "study"},
}
FORBIDDEN = {
    "cache": {"torch", "timm", "torchvision", "PIL"},
    "probing": {"timm", "torchvision", "PIL"},
    "reporting": {"timm", "torchvision"},
}


def imports(source: str, path: Path) -> set[str]:
    """Absolute names of the modules that the source of a file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [start, node.module or ""]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "layercache").parts[0].removesuffix(".py")


def targets(names: set[str]) -> set[str]:
    """Rooms of layercache among imported names."""
    known = set(ARROWS)
    return {
        parts[1]
        for name in names
        if (parts := name.split("."))[0] == "layercache" and len(parts) > 1 and parts[1] in known
    }


SOURCES = sorted((ROOT / "layercache").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_along_the_arrows_only(path: Path) -> None:
    here = room(path)
    assert here in ARROWS, f"{here} is in no room of the architecture"
    allowed = ARROWS[here] | EVERYWHERE | {here}
    names = imports(path.read_text(), path)
    assert targets(names) <= allowed
    assert not {name.split(".")[0] for name in names} & FORBIDDEN.get(here, set())
    assert not any(name.startswith("layercache_cli") or name == "cli" for name in names)


def test_the_reader_of_imports_sees_all_forms() -> None:
    source = "import timm.layers\ndef f():\n    from ..extraction import run\n    from layercache.deploy import predict\n"
    found = imports(source, ROOT / "layercache" / "probing" / "imaginary.py")
    assert targets(found) == {"extraction", "deploy"}
    assert "timm.layers" in found


HEAVY = {"torch", "timm", "torchvision", "zarr", "pandas", "matplotlib", "sklearn", "layercache"}


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_a_command_imports_nothing_heavy_before_it_runs(path: Path) -> None:
    top = ast.Module(
        [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ],
        [],
    )
    assert not {name.split(".")[0] for name in imports(ast.unparse(top), path)} & HEAVY
