"""The wheel and the sdist, as a user gets them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "layercache", "cli")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the wheel and the sdist, which are built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("distributions")
    archive = folder / "sources.tar"
    with tarfile.open(archive, "w") as tar:
        for name in SOURCES:
            tar.add(ROOT / name, arcname=name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "sources", filter="data")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), "."],
        cwd=folder / "sources",
        check=True,
        capture_output=True,
    )
    return folder / "dist"


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_templates_and_the_weights(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "layercache").rglob("*.py")}
    commands = ROOT / "cli"
    modules |= {f"layercache_cli/{p.relative_to(commands)}" for p in commands.rglob("*.py")}
    assert modules <= names
    assert {"layercache/py.typed", "layercache/reporting/templates/page.html"} <= names
    assert "layercache/extraction/models/vit_nano.safetensors" in names
    assert not {name for name in names if name.startswith(("cli/", "tests/"))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installed_distribution_runs_the_demo(
    kind: str, distributions: Path, tmp_path: Path
) -> None:
    (distribution,) = distributions.glob(kind)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(tmp_path / "site"), str(distribution)], check=True)
    program = (
        "import layercache; print(layercache.__file__); "
        "from layercache_cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "demo", "--out", "out"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "site"),
            "LAYERCACHE_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert (tmp_path / "out" / "attention.png").exists()
