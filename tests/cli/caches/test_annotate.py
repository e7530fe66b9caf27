from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layercache.cache import Cache
from layercache.testing.caches import write_cache
from layercache_cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["annotate", *words])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    tokens = {name: np.ones((1, 1, n, 4), np.float16) for name, n in (("train", 4), ("test", 2))}
    labels = {"train": np.array([0, 1, 0, 1]), "test": np.array([0, 1])}
    return write_cache(tokens, labels, root=tmp_path, kinds=("cls",))


def test_annotate_adds_lists_writes_and_drops_columns(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, table = str(cache.path), str(tmp_path / "t.csv")
    code, out, _ = run(capsys, path, "--out", table)
    assert (code, out) == (0, f"{table}: 6 rows\n")
    frame = pd.read_csv(table).assign(age=[1.5, 2, 3, 4, 5, None])
    frame.to_csv(table, index=False)
    code, out, _ = run(capsys, path, table, "--column", "age")
    assert code == 0
    assert "age: numbers, 5 values, 1 missing; version " in out
    code, out, _ = run(capsys, path, "--list")
    lines = [line.partition(";")[0].strip() for line in out.splitlines()[1:]]
    assert lines == ["label: 2 classes, 6 values", "age: numbers, 5 values, 1 missing"]
    code, out, _ = run(capsys, path, "--drop", "age")
    assert (code, out) == (0, f"{path}: dropped age\n")


def test_annotate_all_takes_every_cache_of_a_dataset(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    cache.annotations.assign(x=range(6)).to_csv(table)
    words = ("--all", "--dataset", "made_up", "--cache", str(tmp_path))
    code, out, _ = run(capsys, str(table), *words)
    assert (code, out.count("x: integers, 6 values")) == (0, 1)
    code, _, err = run(capsys, str(table), "--all", "--model", "other", "--cache", str(tmp_path))
    assert (code, "matches: see `layercache cache ls`" in err) == (1, True)


def test_annotate_without_a_table_says_what_it_expects(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys)
    assert (code, "expected [CACHE] TABLE" in err) == (1, True)
