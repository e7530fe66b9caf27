"""Import arrows of the architecture: who may import whom, read from the sources.

Imports inside functions count; those for type checkers alone do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHARED = {
    "errors",
    "_units",
    "_devices",
    "_progress",
    "_log_level",
    "_interruption",
    "_version",
    "_offline",
    "_printable",
}
"""Modules that every room may import."""
ROOMS = {
    "errors": set(),
    "_units": set(),
    "_devices": set(),
    "_progress": set(),
    "_log_level": set(),
    "_interruption": set(),
    "_version": set(),
    "_offline": set(),
    "_printable": set(),
    "cache": set(),
    "engine": set(),
    "extraction": {"cache", "engine"},
    "probing": {"cache", "engine"},
    "reporting": {"probing", "cache"},
    "heads": {"probing"},
    "importing": {"cache"},
    "estimators": {"probing", "heads"},
    "deploy": {"probing", "extraction", "heads"},
    "study": {"extraction", "probing", "reporting", "cache", "engine"},
    "testing": {"cache", "probing"},
    "demo": {"extraction", "probing", "reporting", "cache"},
    "doctor": {"extraction", "probing", "cache"},
    "__init__": {
        "extraction",
        "probing",
        "reporting",
        "cache",
        "deploy",
        "study",
        "heads",
        "estimators",
        "importing",
    },
}
"""Room -> rooms that its files may import."""
FLOORS = {
    "cache": (
        {
            "annotate",
            "upgrade",
            "cache",
            "arrays",
            "export_tokens",
            "import_tokens",
            "find",
            "verify",
            "describe",
            "remove",
            "copy",
            "copy_stages",
            "hub",
            "origin_records",
            "__init__",
        },
        {"annotations", "reading", "writing"},
        {"format", "storage"},
    ),
    "extraction": (
        {"api"},
        {"runner"},
        {"worker", "plan", "partition", "decode_tuning", "options", "result"},
        {"compression"},
        {"pipeline"},
        {"models", "datasets"},
    ),
    "probing": (
        {"api", "scan", "ensemble"},
        {"runner", "plan"},
        {"worker"},
        {"search", "refit", "head_evaluation", "baselines"},
        {"training", "data", "splits", "targets", "spec", "token_selection", "cli_options", "join"},
        {"heads", "results", "metrics", "closed_form"},
    ),
    "reporting": (
        {"api", "__init__"},
        {"sections"},
        {"page", "plotting"},
        {"data"},
        {"analysis"},
    ),
}
"""Room -> its floors from the top: a file imports from its own floor and those below it."""
FORBIDDEN = {
    "cache": {"torch", "timm", "torchvision", "PIL"},
    "probing": {"timm", "torchvision", "PIL"},
    "reporting": {"timm", "torchvision"},
}
"""Room -> packages that it never imports."""
RETURNS_TENSORS = {"layercache/cache/arrays.py": {"torch"}}
"""Files that import such a package in a function that returns its objects."""


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "cli":
        parts[0] = "layercache_cli"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted((ROOT / "layercache").rglob("*.py"))
COMMANDS = sorted((ROOT / "cli").rglob("*.py"))
MODULES = {module_name(path): path for path in (*SOURCES, *COMMANDS)}


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run, without the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from nodes(child)


def imports(source: str, path: Path) -> set[str]:
    """Absolute names that a file imports: of modules, and of what is taken from them."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [start, node.module or ""]))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(path: Path) -> set[str]:
    """Modules of the project that a file imports."""
    names = imports(path.read_text(), path)
    deepest = {name for name in names if name in MODULES}
    parents = {name.rpartition(".")[0] for name in deepest if name in names}
    taken = {
        parent
        for parent in deepest & parents
        if all(name in MODULES for name in names if name.rpartition(".")[0] == parent)
    }
    return deepest - taken - {module_name(path)}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "layercache").parts[0].removesuffix(".py")


def floor(module: str) -> int | None:
    """Number of a module's floor in its room, 0 at the top; None where the room has none."""
    parts = module.split(".")
    floors = FLOORS.get(parts[1]) if len(parts) > 1 else None
    if floors is None:
        return None
    place = parts[2] if len(parts) > 2 else "__init__"
    return next((number for number, names in enumerate(floors) if place in names), None)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other in a circle."""
    reach = {module: set(targets) for module, targets in graph.items()}
    for through in graph:
        for targets in reach.values():
            if through in targets:
                targets |= reach[through]
    groups = {
        frozenset(other for other in reach[module] if module in reach.get(other, ()))
        for module in graph
        if module in reach[module]
    }
    return [set(group) for group in groups]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_of_a_file_follow_the_arrows_between_rooms(path: Path) -> None:
    here = room(path)
    assert here in ROOMS, f"{here} is in no room of the architecture"
    names = imports(path.read_text(), path)
    rooms = {
        parts[1]
        for name in names
        if (parts := name.split("."))[0] == "layercache" and len(parts) > 1 and parts[1] in ROOMS
    }
    assert rooms <= ROOMS[here] | SHARED | {here}
    forbidden = FORBIDDEN.get(here, set()) - RETURNS_TENSORS.get(str(path.relative_to(ROOT)), set())
    assert not {name.split(".")[0] for name in names} & forbidden
    assert not any(name.startswith(("layercache_cli", "cli")) for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_of_a_file_lead_down_the_floors_of_its_room(path: Path) -> None:
    here = floor(module_name(path))
    if here is None:
        return
    below = {
        name: floor(name)
        for name in imported_modules(path)
        if name.startswith(f"layercache.{room(path)}")
    }
    upwards = {name for name, number in below.items() if number is not None and number < here}
    assert not upwards


def test_files_import_each_other_in_no_circle() -> None:
    graph = {name: imported_modules(path) for name, path in MODULES.items()}
    assert circles(graph) == []


def test_circles_are_found_through_several_modules() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == [{"a", "b", "c"}]


def test_imports_in_all_forms_are_read() -> None:
    source = (
        "import timm.layers\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from ..extraction import api\n    from layercache.deploy import predict\n"
    )
    names = imports(source, ROOT / "layercache" / "probing" / "imaginary.py")
    assert {"timm.layers", "layercache.extraction.api", "layercache.deploy.predict"} <= names
    assert "torch" not in names


HEAVY = {"torch", "timm", "torchvision", "zarr", "pandas", "matplotlib", "sklearn", "layercache"}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.name)
def test_command_imports_nothing_heavy_at_the_top_of_its_file(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    top = ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not {name.split(".")[0] for name in imports(ast.unparse(top), path)} & HEAVY
