"""probe.json from someone else: any value in any field, with the checksum and the id that fit.

The probe is shown, or left out with a warning that names the file and the field; the table of the
others is made either way.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layercache.cache import Cache
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.result_folders import RECORD, seal
from layercache.errors import CacheCorruptError, LayercacheError
from layercache.probing.api import probe
from layercache.probing.results.probe_store import read_probe
from layercache.probing.results.reading import read_results
from layercache.probing.results.record_fields import check_row, check_spec, read_configs
from layercache.testing import write_planted_cache
from tests.json_edits import edited, json_paths
from tests.probing.quick import ONE_CONFIG

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 10**12, 10**15, 2**63, 10**400, 0.5, -0.5, 1e308),
    *("", "x", "12", "\0\x1b[31m", "../../x", "=1+1\nb", "x" * 10**5),
    *([], [[]], [1], [[1, "cls"]], [[10**15, "cls"]], ["cls"], [None], {}, {"a": 1}, [{}]),
]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = write_planted_cache(root=tmp_path_factory.mktemp("caches"), rows=60, test_rows=30)
    probe(cache, head=["linear", "knn"], **{**ONE_CONFIG, "dropout": None})
    return cache


def _records(cache: Cache) -> list[dict[str, Any]]:
    folder = Path(str(cache.path)) / "probes"
    records = [json.loads(file.read_bytes()) for file in sorted(folder.glob(f"*/{RECORD}"))]
    for record in records:
        del record["sha256"]
    return records


@contextmanager
def _planted(cache: Cache, record: dict[str, Any]) -> Iterator[Path]:
    """Write a record with its checksum into the folder of its id, for the duration of a test."""
    folder = Path(str(cache.path)) / "probes" / sha256_json(record["spec"])[:12]
    before = (folder / RECORD).read_bytes() if folder.exists() else None
    folder.mkdir(exist_ok=True)
    (folder / RECORD).write_bytes(seal(record))
    try:
        yield folder
    finally:
        if before is None:
            shutil.rmtree(folder)
        else:
            (folder / RECORD).write_bytes(before)


@settings(max_examples=25, deadline=5000, suppress_health_check=list(HealthCheck))
@given(data=st.data(), value=st.sampled_from(VALUES), number=st.integers(0, 1))
def test_results_with_any_value_in_a_record_show_the_others(
    probed: Cache,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    value: Any,
    number: int,
) -> None:
    out = tmp_path_factory.getbasetemp() / "table.csv"
    records = _records(probed)
    paths = [p for p in json_paths(records[number]) if p[0] in ("spec", "row", "configs")]
    record = edited(records[number], data.draw(st.sampled_from(paths)), value)
    with _planted(probed, record) as folder:
        results = read_results(probed)
        assert len(results) in (1, 2, 3)
        assert {"linear", "knn"} & set(results.to_text(gain=True).split())
        results.export(out, over_seeds=True)
        _read(folder)


def _read(folder: Path) -> None:
    try:
        found = read_probe(folder)
        assert found is not None
        found.pairs  # noqa: B018
        found.predictions()
    except (LayercacheError, KeyError):
        pass


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("row",), [], "row."),
        (("row", "seed"), "0", "row.seed: expected an integer, got '0'"),
        (("row", "seed"), True, "row.seed: expected an integer, got True"),
        (("row", "seed"), 10**400, "row.seed: expected a number"),
        (("row", "model"), None, "row.model: expected text, got None"),
        (("row", "test_balanced_accuracy"), 1.5, "expected a number from 0 to 1, got 1.5"),
        (("row", "test_balanced_accuracy"), [0.5], "row.test_balanced_accuracy"),
        (("row", "surplus"), {"a": {}}, "row.surplus"),
        (("spec", "sources"), [], "spec.sources: "),
        (("spec", "sources", 0, "pairs", 0, 0), 10**12, "spec.sources.0.pairs.0.0: expected less"),
        (("spec", "sources", 0, "extraction", "dataset"), 1, "spec.sources.0.extraction.dataset"),
        (("spec", "head_spec", "tokens"), 10**15, "spec.head_spec.tokens: expected less"),
        (("spec", "grid"), {}, "spec.grid: "),
        (("spec", "grid", 0), {}, "spec.grid.0.lr: expected, but missing"),
        (("spec", "splits"), ["train"], "spec.splits"),
        (("spec", "train_config", "noise"), 3, "spec.train_config.noise"),
        (("configs",), {}, "configs.value: expected"),
        (("configs", 0, "surplus"), 1, "configs: expected other fields"),
        (("configs", 0, "hparams"), None, "configs.0.hparams: expected"),
    ],
)
def test_record_with_an_impossible_value_names_the_file_and_the_field(
    probed: Cache,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    path: tuple[Any, ...],
    value: Any,
    text: str,
) -> None:
    (linear,) = (r for r in _records(probed) if r["spec"]["head"] == "linear")
    record = edited(linear, path, value)
    folder = tmp_path / "any"
    folder.mkdir()
    (folder / RECORD).write_bytes(seal(record))
    message = rf"probe\.json: is not the record of a probe: .*{re.escape(text)}"
    with pytest.raises(CacheCorruptError, match=message):
        read_probe(folder)
    with _planted(probed, record) as planted, caplog.at_level(logging.WARNING):
        assert len(read_results(probed)) == (2 if path[0] == "spec" else 1)
    assert f"left out a damaged probe: {planted / RECORD}: " in caplog.text
    assert text in caplog.text


def test_records_of_trained_probes_are_possible(probed: Cache) -> None:
    assert len(read_results(probed)) == 2
    for record in _records(probed):
        check_spec(record["spec"])
        check_row(record["row"])
        assert len(read_configs(record["configs"])) == len(record["configs"])


def test_record_of_a_huge_learning_rate_is_read(probed: Cache) -> None:
    record = next(r for r in _records(probed) if r["row"]["head"] == "linear")
    check_row({**record["row"], "lr": 1e30})
    with pytest.raises(ValueError, match=r"^row\."):
        check_row({**record["row"], "lr": float("inf")})
