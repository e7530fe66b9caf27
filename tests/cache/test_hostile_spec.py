"""spec.json of a cache from someone else: any value in any field, with the fingerprint that fits.

A cache is opened, or refused with an error that names the file and the field; nothing hangs or
takes memory that the numbers ask for, and the other caches of the root stay usable.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layercache.cache import Cache, find_caches, open_cache
from layercache.cache.cache import load_cache
from layercache.cache.describe import describe, describe_all
from layercache.cache.find import cache_folders
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.verify import verify
from layercache.errors import CacheCorruptError, CacheError
from layercache.testing import make_cache, make_spec
from tests.cache.folders import folder_in_memory
from tests.json_edits import edited, json_paths

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 10**12, 10**15, 2**63, 10**400, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "12", "\0", "../../x", "a\nb", "\ud800", "x" * 10**5),
    *([], [[]], [1], [10**15], ["cls"], ["grid:0/0"], [None], [1, 1], list(range(10**4))),
    *({}, {"a": 1}, {"train": {}}, {"": None}, {"x": {"y": [{"z": 1}]}}),
]


@pytest.fixture(scope="module")
def cache() -> Iterator[Cache]:
    with folder_in_memory() as folder:
        yield make_cache(folder, make_spec(30), splits=("train", "test"))


def _write(cache: Cache, fields: dict[str, Any]) -> None:
    """Write spec.json with the fingerprint that these fields have, if they have one."""
    try:
        values = {k: v for k, v in fields.items() if k not in ("model", "fingerprint")}
        fields = {**fields, "fingerprint": sha256_json(values)}
    except (ValueError, UnicodeEncodeError):
        fields = {**fields, "fingerprint": cache.spec.fingerprint}
    (cache.path / "spec.json").write_text(json.dumps(fields))


def _restore(cache: Cache) -> None:
    _write(cache, cache.spec.to_json())


PATHS = list(json_paths(make_spec(30).to_json()))


@settings(max_examples=150, deadline=2000, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PATHS), value=st.sampled_from(VALUES))
def test_cache_with_any_value_in_its_spec_is_used_or_refused(
    cache: Cache, path: tuple[Any, ...], value: Any
) -> None:
    fields = edited(cache.spec.to_json(), path, value)
    _write(cache, fields)
    try:
        message = _use(cache.path)
    finally:
        _restore(cache)
    assert message is None or str(cache.path) in message
    assert len(message or "") < 2000


def _use(path: Path) -> str | None:
    """Do all that reads a cache; return the message of the error that refuses it, or None."""
    try:
        opened = load_cache(path)
        verify(opened)
        describe(opened)
        for split in opened.splits:
            opened.progress(split)
            opened.split(split).ids  # noqa: B018
            opened.split(split).labels  # noqa: B018
    except CacheError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            ("dataset", "splits", "train", "rows"),
            10**15,
            "dataset.splits.train.rows: expected less",
        ),
        (("dataset", "splits", "train", "rows"), 7.0, "train.rows: expected a valid integer, got"),
        (("dataset", "splits", "train", "rows"), "7", "train.rows: expected a valid integer, got"),
        (("dataset", "splits", "train", "rows"), True, "train.rows: expected a valid integer, got"),
        (("dataset", "splits"), [], "dataset.splits: expected "),
        (("layers",), "abc", "layers: expected a valid array, got 'abc'"),
        (("dataset", "name"), 3, "dataset.name: expected a valid string, got 3"),
        (("dataset",), None, "dataset: expected "),
        (("depth",), 10**12, "depth: expected less than or equal to 10000, got 1000000000000"),
        (("width",), -1, "width: expected greater than or equal to 1, got -1"),
        (("width",), 2**20, "width: expected less than"),
        (("layers",), [12, 6], "layers: expected ascending numbers from 1 to 12, got [12, 6]"),
        (("layers",), [6, 13], "layers: expected ascending numbers from 1 to 12, got [6, 13]"),
        (("layers",), [], "layers: expected "),
        (("tokens",), ["cls", "register"], "tokens: expected names of tokens, got 'register'"),
        (("tokens",), ["cls", "cls"], "tokens: expected distinct names"),
        (("tap",), "norm3", "tap: expected 'norm2', 'block', 'block-norm', 'norm1', 'attn', "),
        (("storage_dtype",), "float64", "storage_dtype: expected 'float16' or 'float32'"),
        (("projected",), "yes", "projected: expected a valid boolean, got 'yes'"),
        (("preprocessing", "mean"), float("nan"), "expected finite numbers, got NaN"),
        (("surplus",), 1, "surplus: expected no such field"),
    ],
)
def test_load_cache_names_the_file_and_the_field(
    cache: Cache, path: tuple[str, ...], value: Any, text: str
) -> None:
    fields = edited(cache.spec.to_json(), path, value)
    _write(cache, fields)
    if path == ("width",) and value > 0:
        fields["layers"] = list(range(1, 13))
        fields["tokens"] = [f"patch/{i}" for i in range(100)]
        _write(cache, fields)
        text = "width: expected at most 2147483648 bytes of tokens for an image"
    try:
        with pytest.raises(CacheCorruptError, match=rf"spec\.json: .*{re.escape(text)}"):
            load_cache(cache.path)
    finally:
        _restore(cache)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"schema": 3, "fingerprint": ['])
def test_load_cache_of_deeply_nested_json_refuses_it(cache: Cache, opening: str) -> None:
    try:
        for depth in (150, 500, 900, 100_000):
            (cache.path / "spec.json").write_text(opening * depth)
            with pytest.raises(CacheCorruptError, match=r"spec\.json: not the spec of a cache"):
                load_cache(cache.path)
        nested = "[" * 900 + "]" * 900
        fields = {**cache.spec.to_json(), "preprocessing": "NESTED", "fingerprint": "0" * 64}
        (cache.path / "spec.json").write_text(json.dumps(fields).replace('"NESTED"', nested))
        with pytest.raises(CacheCorruptError, match=r"spec\.json: "):
            load_cache(cache.path)
    finally:
        _restore(cache)


def test_root_with_a_damaged_cache_keeps_the_others_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_cache(tmp_path, make_spec(30))
    other = make_cache(tmp_path, make_spec(30, weights="cd" * 32))
    _write(other, {**other.spec.to_json(), "depth": 10**12})
    with caplog.at_level(logging.WARNING):
        assert [c.path for c in find_caches(tmp_path)] == [whole.path]
        assert open_cache(root=tmp_path, model="vit_tiny").path == whole.path
    assert re.search(rf"skipped {other.path}/spec\.json: .*depth: expected less than", caplog.text)
    kinds = [type(d) for d in describe_all(cache_folders(tmp_path))]
    assert sorted(kinds, key=str) == sorted([dict, CacheCorruptError], key=str)
    with pytest.raises(CacheCorruptError, match="depth"):
        open_cache(root=tmp_path, fingerprint=other.spec.fingerprint)
