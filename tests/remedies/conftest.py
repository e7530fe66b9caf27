from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.remedies.case import EXTRACT, KNN, LINEAR, must_run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one cache and two probes."""
    root = tmp_path_factory.mktemp("remedies") / "home"
    must_run(f"{EXTRACT} --cache {root}")
    must_run(f"{KNN} --cache {root}")
    must_run(f"{LINEAR} --cache {root}")
    return root


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command, with the root `home`."""
    shutil.copytree(prepared, tmp_path / "home")
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (28, 28)).save("image.png")
    return tmp_path
