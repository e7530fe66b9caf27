from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import CacheCorruptError, ProbeSchemaError
from layercache.probing.api import probe
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import read_probe
from layercache.probing.results.reading import read_results
from tests.probing.quick import ONE_CONFIG
from tests.probing.sealed import edit_sealed


def set_schema(folder: Path, schema: int) -> None:
    record = folder / "probe.json"
    values = {**json.loads(record.read_text()), "schema": schema}
    del values["sha256"]  # which no record had before schema 3
    record.write_text(json.dumps(values))


def test_read_probe_of_a_damaged_record_names_the_file(planted: Callable[..., Any]) -> None:
    (trained,) = probe(planted(), head="knn", device="cpu")
    record = trained.path / "probe.json"
    record.write_text(record.read_text()[:100])
    with pytest.raises(
        CacheCorruptError,
        match=r"probe.json: is not a record of a probe .*: remove .* and run the same",
    ):
        read_probe(trained.path)
    (trained.path / "predictions.npz").write_bytes(b"PK nonsense")
    with pytest.raises(
        CacheCorruptError, match=r"predictions.npz: has 11 bytes, expected .*: remove .* and run"
    ):
        trained.predictions()


def test_read_probe_of_schema_1_names_a_remedy_that_works(planted: Callable[..., Any]) -> None:
    cache = planted()
    (trained,) = probe(cache, head="knn", device="cpu")
    set_schema(trained.path, 1)
    with pytest.raises(
        ProbeSchemaError,
        match=r"probe.json: expected schema 3, got schema 1, .* run the same `layercache probe`",
    ):
        read_probe(trained.path)
    (again,) = probe(cache, head="knn", device="cpu")
    assert again.path == trained.path
    assert read_probe(again.path) is not None


def test_probe_of_a_newer_schema_is_not_trained_again(planted: Callable[..., Any]) -> None:
    cache = planted()
    (trained,) = probe(cache, head="knn", device="cpu")
    edit_sealed(trained.path / "probe.json", lambda values: values.update(schema=4))
    with pytest.raises(
        ProbeSchemaError, match=r"expected schema 3, got schema 4, .*: upgrade layercache"
    ):
        probe(cache, head="knn", device="cpu")


def test_probe_with_a_damaged_record_is_trained_again_with_a_warning(
    planted: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache = planted()
    (trained,) = probe(cache, head="knn", device="cpu")
    record = trained.path / "probe.json"
    record.write_text(record.read_text().replace("knn", "kmn"))
    with caplog.at_level(logging.WARNING, logger="layercache"):
        (again,) = probe(cache, head="knn", device="cpu")
    (warning,) = caplog.messages
    assert "trained again, as its record is damaged" in warning
    assert {**again.row, "train_seconds": 0} == {**trained.row, "train_seconds": 0}


def test_results_leave_out_probes_of_schema_1_and_name_them(
    planted: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache = planted()
    knn, logreg = probe(cache, head=["knn", "logreg"], device="cpu")
    set_schema(knn.path, 1)
    with caplog.at_level(logging.WARNING, logger="layercache"):
        assert [found.id for found in read_results(cache)] == [logreg.id]
    (warning,) = caplog.messages
    assert "1 of 2 probes left out" in warning
    assert knn.id in warning
    assert "run the same `layercache probe` again" in warning


def test_search_scores_come_back_unless_of_another_schema(tmp_path: Path) -> None:
    folder = ProbeFolder(tmp_path / "probe")
    assert folder.load_search() == ([], 0.0)
    scores = [ConfigScore(hparams={"lr": 0.1}, fold=0, val_metrics={"a": 0.5}, epochs=3)]
    folder.save_search(scores, seconds=2.5)
    assert folder.load_search() == (scores, 2.5)
    file = tmp_path / "probe" / "search.json"
    assert folder.load_search(replaces="ab" * 32) == ([], 0.0)
    values = {**json.loads(file.read_text()), "schema": 2}
    del values["sha256"]
    file.write_text(json.dumps(values))
    assert folder.load_search() == ([], 0.0)


def test_probe_record_is_plain_json_and_written_last(
    planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from layercache.cache.storage.local import LocalStore

    order: list[str] = []
    put = LocalStore.put
    monkeypatch.setattr(
        LocalStore, "put", lambda self, key, parts: order.append(key) or put(self, key, parts)
    )
    (found,) = probe(planted(), head="linear", **ONE_CONFIG)
    assert order[-1] == "probe.json"
    record = json.loads(
        (found.path / "probe.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert record["row"]["probe"] == found.path.name
    assert len(record["configs"]) == 1
