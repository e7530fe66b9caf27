"""The packages of pyproject.toml are those of the tree."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_packages_list_holds_every_package_of_the_tree() -> None:
    tree = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "layercache").rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == tree | {"layercache_cli"}
    assert SETUPTOOLS["package-dir"]["layercache_cli"] == "cli"
