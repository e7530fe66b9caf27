from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_book_builds_without_warnings_and_asks_no_other_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.name: page.read_text() for page in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "cli.html", "api.html"} <= set(pages)
    assert "layercache cache verify" in pages["cli.html"]
    assert "layercache.extract" in pages["api.html"]
    for page in pages.values():
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page)
