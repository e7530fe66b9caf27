"""Probes of labels that were corrected since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercache.cache import Cache
from layercache.cache.annotate import annotate, drop_annotations
from layercache.errors import ProbeNotFoundError
from layercache.probing.api import probe
from layercache.probing.results.identity import data_key, experiment_key
from layercache.probing.results.reading import read_results
from layercache.probing.results.table.table import Results
from layercache.testing import write_planted_cache

KNN: dict[str, Any] = {"head": "knn", "layers": "last", "device": "cpu"}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return write_planted_cache(root=tmp_path)


def correct_a_label(cache: Cache) -> None:
    labels = cache.annotations[["split", "label"]].astype(str)
    labels.iloc[0, 1] = next(name for name in cache.classes if name != labels.iloc[0, 1])
    annotate(cache, labels)


def test_probe_records_the_version_of_the_labels(cache: Cache) -> None:
    (knn,) = probe(cache, **KNN)
    assert knn.spec["annotations"] == {"label": cache.annotation_digests["label"]}


def test_probe_of_superseded_labels_is_left_out_and_counted(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    (old,) = probe(cache, **KNN)
    correct_a_label(cache)
    with pytest.raises(ProbeNotFoundError):
        read_results(cache)
    assert "1 probe of superseded annotations left out (label " in caplog.text
    (new,) = probe(cache, **KNN)
    assert new.id != old.id
    assert [p.id for p in read_results(cache)] == [new.id]
    assert [p.id for p in read_results(cache, superseded=True)] == [old.id]


def test_probes_of_two_versions_share_no_mean_and_no_gain(cache: Cache) -> None:
    (old,) = probe(cache, **KNN)
    correct_a_label(cache)
    (new,) = probe(cache, **KNN)
    assert experiment_key(old.spec) != experiment_key(new.spec)
    assert data_key(old.spec) != data_key(new.spec)
    assert "not comparable: label of" in Results([old, new]).to_text()


def test_probe_is_current_again_when_its_labels_are(cache: Cache) -> None:
    (old,) = probe(cache, **KNN)
    correct_a_label(cache)
    drop_annotations(cache, ["label"])
    assert [p.id for p in read_results(cache)] == [old.id]
    with pytest.raises(ProbeNotFoundError, match="no probe is of superseded annotations"):
        read_results(cache, superseded=True)


def test_probe_of_a_dropped_column_says_that_it_has_to_be_added_again(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    table = cache.annotations[["split"]].assign(stage=cache.annotations["label"].astype(str))
    annotate(cache, table)
    (staged,) = probe(cache, target="stage", **KNN)
    drop_annotations(cache, ["stage"])
    with pytest.raises(ProbeNotFoundError):
        read_results(cache)
    assert "has added dropped columns again" in caplog.text
    annotate(cache, table)
    assert [p.id for p in read_results(cache)] == [staged.id]
    correct_a_label(cache)
    caplog.clear()
    probe(cache, **KNN)
    read_results(cache)
    assert "dropped" not in caplog.text
