from __future__ import annotations

from pathlib import Path

from layercache.cache.describe import describe
from layercache.testing import make_cache, make_ids, make_spec
from tests.cache.folders import tree


def test_describe_returns_spec_splits_and_sizes(tmp_path: Path, small_blocks: int) -> None:
    cache = make_cache(tmp_path, make_spec(30), splits=("train", "test"), skipped={9: "truncated"})
    (cache.path / "probes").mkdir()
    (cache.path / "probes" / "row.json").write_text("{}")
    d = describe(cache)
    assert d["bytes"] == sum(map(len, tree(cache.path).values()))
    assert (d["model"], d["dataset"], d["classes"], d["layers"], d["tokens"]) == (
        "vit_tiny",
        "shapes",
        3,
        [6, 12],
        ["cls", "ap"],
    )
    train = {k: v for k, v in d["splits"]["train"].items() if k != "bytes"}
    skipped = {make_ids(30)[9]: "truncated"}
    assert train == {
        "rows": 30,
        "skipped": skipped,
        "compressor": None,
        "saturated": None,
        "blocks": 4,
        "blocks_done": 4,
        "complete": True,
    }
    assert d["splits"]["test"]["rows"] == 7
    assert cache.split("train").skipped == {make_ids(30)[9]: "truncated"}
