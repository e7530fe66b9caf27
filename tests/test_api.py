"""What a user imports: every name is there, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import layercache


@pytest.mark.parametrize("name", layercache.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(layercache, name).__doc__
    assert name in dir(layercache)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "timm", "numpy", "pandas", "zarr", "sklearn", "pydantic"}
    code = f"import sys, layercache; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'layercache' has no attribute 'prob'"):
        _ = layercache.prob


def test_from_cache_to_head_by_public_names_alone(planted: Callable[..., Any]) -> None:
    cache = layercache.open_cache(planted().path)
    protocol = layercache.TrainConfig(epochs=5, min_steps=0)
    results = layercache.probe(
        cache,
        head="attentive",
        configs=[layercache.HParams(lr=0.01, weight_decay=1e-4)],
        train_config=protocol,
        device="cpu",
    )
    assert isinstance(results, layercache.Results)
    head = layercache.load_head(results.table["path"][0])
    x = cache.split("test").read(head.pairs).transpose(1, 0, 2)
    assert head.predict(x).shape == (120, 3)
    assert [p.id for p in layercache.read_results(cache)] == [p.id for p in results]
    with pytest.raises(layercache.errors.LayercacheError):
        layercache.load_head(cache.path)
