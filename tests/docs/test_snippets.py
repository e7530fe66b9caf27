"""Python snippets of the documentation, each page from top to bottom in one namespace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layercache import TrainConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("heads.md",)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a hundredth of the default number of steps."""
    defaults = TrainConfig.__init__.__kwdefaults__
    monkeypatch.setattr(TrainConfig.__init__, "__kwdefaults__", {**defaults, "min_steps": 10})


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_of_a_page_run(
    page: str, planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert snippets
    namespace: dict[str, Any] = {"cache": planted()}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), namespace)
