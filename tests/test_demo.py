"""The embedded default, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercache import demo as room
from layercache.demo import PROBES, demo
from layercache.errors import MissingExtraError


@pytest.mark.slow
def test_the_demo_ends_with_three_probes_a_gain_and_a_picture(tmp_path: Path) -> None:
    said: list[str] = []
    done = demo(out=tmp_path / "out", cache=tmp_path / "cache", say=said.append, progress=False)
    table = done.results.table
    assert [tuple(row) for row in table[["head", "layers", "tokens"]].to_numpy()] == list(PROBES)
    assert table["test_balanced_accuracy"].min() > 0.85  # ten classes: chance is 0.1
    assert done.gain == pytest.approx(
        100 * (table["test_balanced_accuracy"][2] - table["test_balanced_accuracy"][0])
    )
    assert done.gain > 0
    assert done.picture.read_bytes().startswith(b"\x89PNG")
    again: list[str] = []
    assert (
        demo(out=tmp_path / "out", cache=tmp_path / "cache", say=again.append, progress=False).gain
        == done.gain
    )
    assert "nothing to do" in again[0]


def test_without_matplotlib_it_says_what_to_install_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr(
        room, "extract", lambda **_: pytest.fail("extracted before it was sure of the picture")
    )
    with pytest.raises(MissingExtraError, match=r"layercache\[report\]"):
        demo(out=tmp_path, cache=tmp_path, say=print)
