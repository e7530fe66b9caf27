from __future__ import annotations

from pathlib import Path

import pytest

from layercache import demo as demo_module
from layercache.demo import PROBES, demo
from layercache.errors import MissingExtraError
from tests.logs import logged


@pytest.mark.slow
def test_demo_trains_three_probes_and_draws_attention(tmp_path: Path) -> None:
    result = demo(out=tmp_path / "out", cache=tmp_path / "cache", progress=False)
    table = result.results.table
    assert [tuple(row) for row in table[["head", "layers", "tokens"]].to_numpy()] == list(PROBES)
    assert table["test_balanced_accuracy"].min() > 0.85  # ten classes: chance is 0.1
    assert result.gain == pytest.approx(
        100 * (table["test_balanced_accuracy"][2] - table["test_balanced_accuracy"][0])
    )
    assert result.gain > 0
    assert result.heatmap.read_bytes().startswith(b"\x89PNG")
    with logged() as again:
        repeated = demo(out=tmp_path / "out", cache=tmp_path / "cache", progress=False)
    assert repeated.gain == result.gain
    assert "nothing to do" in again[0]


def test_demo_without_matplotlib_names_the_extra_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr(
        demo_module, "extract", lambda **_: pytest.fail("extracted before checking for matplotlib")
    )
    with pytest.raises(MissingExtraError, match=r"layercache-vit\[report\]"):
        demo(out=tmp_path, cache=tmp_path)
