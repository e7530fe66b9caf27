"""What an editor and a type checker know of the public API."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import layercache

USER_FILE = Path(__file__).parent / "typed_user.py"
FUNCTIONS = [name for name in layercache.__all__ if inspect.isroutine(getattr(layercache, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_of_a_public_function_names_every_option(name: str) -> None:
    for parameter in inspect.signature(getattr(layercache, name)).parameters.values():
        assert parameter.kind != parameter.VAR_KEYWORD, parameter
        assert parameter.annotation not in (Any, "Any", parameter.empty), parameter


def test_typed_user_file_uses_every_public_name() -> None:
    text = USER_FILE.read_text()
    assert [name for name in layercache.__all__ if f"layercache.{name}" not in text] == []


@pytest.mark.slow
def test_file_of_a_user_passes_mypy_strict(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.py"
    faulty.write_text("import layercache\n\nlayercache.extrct()\nlayercache.probe(1, sed=0)\n")
    found = [
        subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(file)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        ).stdout
        for file in (USER_FILE, faulty)
    ]
    assert "Success: no issues found" in found[0], found[0]
    assert 'no attribute "extrct"' in found[1]
    assert 'Unexpected keyword argument "sed"' in found[1]
