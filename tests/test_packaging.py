"""The packages of pyproject.toml are those of the tree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import layercache
from layercache._version import installed_version
from layercache.errors import MissingExtraError

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def test_packages_list_holds_every_package_of_the_tree() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ("layercache", "cli")
        for path in (ROOT / room).rglob("__init__.py")
    }
    tree = {f"layercache_{name}" if name.startswith("cli") else name for name in folders}
    assert set(SETUPTOOLS["packages"]) == tree
    assert SETUPTOOLS["package-dir"]["layercache_cli"] == "cli"


def test_no_advice_installs_the_unrelated_distribution_layercache() -> None:
    advice = re.compile(r"pip install\s+['\"]?layercache(?![-\w])")
    files = [
        *(path for room in ("layercache", "cli", "docs") for path in (ROOT / room).rglob("*.*")),
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
    ]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if path.suffix in (".py", ".md", ".sh", ".html")
        for line in path.read_text().splitlines()
        if advice.search(line) and "Do not" not in line
    ]
    assert not found


def test_missing_extra_error_names_package_and_command_for_a_checkout() -> None:
    message = str(MissingExtraError("obstore", "s3"))
    assert "this needs obstore, which is not installed" in message
    assert "pip install -e '.[s3]' in a checkout of layercache" in message


def test_every_extra_of_a_missing_extra_error_is_in_pyproject() -> None:
    calls = re.compile(r"MissingExtraError\((?:[^()]|\([^()]*\))*?\"(\w+)\"\s*\)")
    used = {
        extra
        for path in (ROOT / "layercache").rglob("*.py")
        for extra in calls.findall(path.read_text())
    }
    assert "s3" in used
    assert used <= set(PROJECT["optional-dependencies"])


def test_version_is_that_of_pyproject() -> None:
    assert layercache.__version__ in (PROJECT["version"], "from source")
    assert installed_version() == layercache.__version__


def test_the_readme_names_every_extra_for_users() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    readme = (ROOT / "README.md").read_text()
    assert {extra for extra in extras if f"| `{extra}` |" not in readme} == {"test", "dev", "docs"}
