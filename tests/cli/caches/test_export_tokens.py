from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache_cli.main import main


def test_export_tokens_writes_the_format_of_the_ending(
    planted: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = planted()
    for name in ("tokens.parquet", "tokens.h5", "tokens"):
        out = tmp_path / name
        with pytest.raises(SystemExit) as end:
            main(["export-tokens", str(cache.path), "--out", str(out), "--layers", "last"])
        assert end.value.code == 0
        assert out.exists()
        assert "train 240 samples, test 120 samples, 2 tokens of 8" in capsys.readouterr().out
    assert np.load(tmp_path / "tokens" / "train.npy").shape == (240, 2, 8)
