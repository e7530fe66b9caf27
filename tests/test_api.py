"""What a user imports: every name is there, and importing the package costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
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


def test_lists_of_models_and_datasets_become_tables() -> None:
    models = pd.DataFrame(layercache.list_models()).set_index("name")
    assert models.loc["clip_b16", "depth"] == 12
    datasets = pd.DataFrame(layercache.list_datasets()).set_index("name")
    digits = layercache.open_dataset("digits")
    assert datasets.loc["digits", "num_train"] == len(digits.split("train").labels)


def test_extraction_opens_its_cache_and_results_become_a_table(tmp_path: Path) -> None:
    (extraction,) = layercache.extract(
        models="vit_nano",
        dataset="digits",
        limit=60,
        layers=12,
        cache=tmp_path,
        device="cpu",
        workers=0,
        progress=False,
    )
    cache = extraction.open()
    assert cache.path == extraction.path
    results = layercache.probe(cache, head="lda", layers="last", device="cpu")
    assert results.to_dataframe().equals(results.table)


def test_the_library_prints_nothing() -> None:
    sources = Path(layercache.__file__).parent.rglob("*.py")
    calls = [
        f"{file.name}:{node.lineno}"
        for file in sources
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert calls == []
