from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from layercache.testing import make_cache, make_spec, make_tokens, write_cache


def test_testing_is_imported_without_pytest_and_torch() -> None:
    code = "import sys, layercache.testing; print({'pytest', 'torch'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "set()"


def test_make_cache_holds_the_tokens_of_its_spec(tmp_path: Path) -> None:
    spec = make_spec(20)
    cache = make_cache(tmp_path, spec)
    stored = cache.split("train").read([(6, "cls"), (12, "ap")])
    expected = make_tokens(spec)
    np.testing.assert_array_equal(stored, np.stack([expected[0, 0], expected[1, 1]]))


def test_write_cache_holds_the_given_tokens_and_labels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, 10, 4)).astype(np.float32)
    y = np.arange(10) % 3
    split = write_cache({"train": x}, {"train": y}, root=tmp_path).split("train")
    np.testing.assert_array_equal(split.read([(2, "ap")])[0], x[1, 1])
    np.testing.assert_array_equal(split.labels, y)
