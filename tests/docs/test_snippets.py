"""Snippets of the documentation: each page from top to bottom, Python and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layercache import TrainConfig
from layercache_cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("heads.md", "arrays.md", "predict.md")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a hundredth of the default number of steps."""
    defaults = TrainConfig.__init__.__kwdefaults__
    monkeypatch.setattr(
        TrainConfig.__init__, "__kwdefaults__", {**defaults, "min_steps": 10, "epochs": 5}
    )


def run_commands(text: str) -> None:
    for line in text.splitlines():
        assert line.startswith("$ layercache "), line
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line.removeprefix("$ layercache ")))
        assert not stop.value.code, line


@pytest.mark.parametrize("page", PAGES)
def test_snippets_of_a_page_run(
    page: str, planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "home"))
    snippets = re.findall(r"```(python|console)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert snippets
    namespace: dict[str, Any] = {"cache": planted()}
    for language, snippet in snippets:
        if language == "python":
            exec(compile(snippet, page, "exec"), namespace)
        else:
            run_commands(snippet)
