"""The encoder of docs/models.md: its file and its commands, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from layercache_cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def block(language: str, first_line: str) -> str:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return next(text for text in blocks if text.startswith(first_line))


def test_the_encoder_of_the_page_goes_through_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path / "caches"))
    Path("encoders.py").write_text(block("python", "# encoders.py"))
    for line in block("bash", "layercache models encoders.py").splitlines():
        _, *words = shlex.split(line)
        options = ["--workers", "0"] if words[0] == "extract" else []
        with pytest.raises(SystemExit) as stop:
            main([*words, *options])
        assert not stop.value.code
    out = capsys.readouterr().out
    assert "Encoder:VisionTransformer(blocks='encoder.layers'" in out
    assert f"{tmp_path}/encoders.py:my_vit on digits: 100 images" in out
    assert "highest test balanced accuracy" in out
