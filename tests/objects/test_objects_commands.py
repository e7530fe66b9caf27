"""All commands on object storage: extract, stop and continue, probe, list, predict, delete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("obstore", reason="object storage needs the extra s3: pip install -e '.[test]'")

from layercache.cache import open_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.storage.paths import as_remote
from layercache.extraction.api import extract
from layercache.extraction.compression import fit_codec, sample
from layercache.probing.api import probe
from layercache.probing.results.reading import read_results
from layercache_cli.main import main
from tests.cache.folders import tree
from tests.objects.making import delete, objects
from tests.objects.proxy import FaultyProxy
from tests.probing.quick import ONE_CONFIG

EXTRACT = (
    "extract",
    "-m",
    "vit_nano",
    "-d",
    "digits",
    "--limit",
    "60",
    "--device",
    "cpu",
    "--workers",
    "0",
)
PROBE = (
    "probe",
    "--layers",
    "last",
    "--layers",
    "all",
    "--epochs",
    "5",
    "--min-steps",
    "0",
    "--lr",
    "0.03",
    "--weight-decay",
    "1e-4",
)
QUICK = ("--dropout", "0", "--device", "cpu")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_extraction_with_a_codec_to_object_storage_has_the_bytes_of_a_folder(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SAMPLE_IMAGES", 8)
    monkeypatch.setattr(fit_codec, "KMEANS_ITERATIONS", 2)
    options: dict[str, Any] = {
        "models": "vit_nano",
        "dataset": "digits",
        "limit": 60,
        "spatial": "grid:2",
        "store": "pq:4",
        "device": "cpu",
        "workers": 0,
        "progress": False,
    }
    remote, local = (extract(cache=root, **options) for root in (s3_root, tmp_path))
    for mine, theirs in zip(remote, local, strict=True):
        assert objects(as_remote(str(mine.path))) == {
            key: data
            for key, data in tree(Path(str(theirs.path))).items()
            if not key.endswith(".lock")
        }
    assert remote[1].open().spec.codec == "pq:4"
    (fused,) = probe(
        remote[0].open(),
        head="fusion",
        spatial="grid:2",
        features="stream",
        disk_cache="1MB",
        **ONE_CONFIG,
    )
    assert fused.row["features"] == "stream"
    assert fused.row["test_balanced_accuracy"] > 0.4


@pytest.mark.slow
def test_commands_on_a_remote_cache_from_extraction_to_removal(
    s3_root: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", s3_root)
    code, out, err = run(capsys, *EXTRACT)
    assert (code, err.count("error")) == (0, 0), err
    cache = open_cache()
    assert str(cache.path).startswith(f"{s3_root}/digits/vit_nano/")
    assert f"cache: {cache.path}" in out
    code, out, _ = run(capsys, *EXTRACT)
    assert out.splitlines()[0] == "vit_nano on digits: already complete, nothing to do"
    lay = SplitLayout(cache.spec, "test")
    whole = objects(cache.path)
    for key in (lay.record(0), lay.complete):
        delete(cache.path, key)
    code, out, _ = run(capsys, *EXTRACT)
    assert code == 0
    assert objects(cache.path) == whole

    local = tmp_path / "root"
    run(capsys, *EXTRACT, "--cache", str(local))
    mine, theirs = cache.split("train"), open_cache(root=local).split("train")
    np.testing.assert_array_equal(mine.read([(12, "cls")]), theirs.read([(12, "cls")]))

    code, out, err = run(capsys, *PROBE, *QUICK)
    assert (code, err) == (0, "")
    assert "training features resident on cpu" in out
    assert f"stored in {cache.path}/probes" in out
    code, streamed, _ = run(capsys, *PROBE, *QUICK, "--features", "stream", "--refresh")
    assert "training features streamed" in streamed
    assert code == 0
    run(capsys, *PROBE, *QUICK, "--cache", str(local))
    assert [p.row["test_top1_accuracy"] for p in read_results()] == [
        p.row["test_top1_accuracy"] for p in read_results(local)
    ]
    assert len(read_results()) == 2

    code, out, _ = run(capsys, "results")
    assert code == 0
    assert all(found.id in out for found in read_results())
    probe = next(iter(read_results()))
    predicted = probe.predictions()
    assert (predicted.logits.argmax(1) == predicted.targets).mean() == probe.row[
        "test_top1_accuracy"
    ]
    assert probe.head().pairs == probe.pairs
    digit = tmp_path / "white.png"
    Image.new("L", (28, 28), 255).save(digit)
    code, out, _ = run(capsys, "predict", f"{probe.path}/", str(digit), "--device", "cpu")
    assert (code, str(digit) in out) == (0, True)
    code, _, err = run(capsys, "predict", f"{cache.path}/probes/none", str(digit))
    assert (
        code,
        err.startswith(
            f"error: {cache.path}/probes/none/head.safetensors: expected a trained head here"
        ),
    ) == (1, True)
    code, out, _ = run(capsys, "cache", "ls")
    assert "digits   vit_nano" in out
    code, out, _ = run(capsys, "cache", "info")
    assert f"path           {cache.path}" in out
    code, out, _ = run(capsys, "cache", "verify")
    assert (code, "every byte is as it was written" in out) == (0, True)
    code, out, _ = run(capsys, "report", "--out", str(tmp_path / "report"))
    assert (code, (tmp_path / "report" / "index.html").is_file()) == (0, True)
    code, out, _ = run(capsys, "cache", "rm", "--yes")
    assert (code, objects(s3_root)) == (0, {})


def test_study_on_a_remote_root_runs_and_continues(
    s3_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(
        f"""
models = ["vit_nano"]
datasets = ["digits"]
cache = "{s3_root}"
out = "{tmp_path}/report"
[grid]
lr = 0.01
weight_decay = 1e-4
dropout = 0.0
[protocol]
epochs = 2
min_steps = 0
[extract]
device = "cpu"
workers = 0
limit = 40
[probe]
device = "cpu"
[[heads]]
head = "linear"
layers = "last"
tokens = "cls"
"""
    )
    code, out, err = run(capsys, "study", str(file), "--yes")
    assert code == 0, err + out
    code, out, _ = run(capsys, "study", str(file), "--dry-run")
    assert code == 0
    assert "2 jobs, 2 complete" in out


def test_listing_of_many_remote_caches_lists_no_shards(
    faulty: FaultyProxy, s3_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.environ["AWS_ENDPOINT_URL"] == faulty.url
    run(capsys, *EXTRACT, "--limit", "20", "--cache", s3_root)
    faulty.forget()
    open_cache(root=s3_root)
    assert [request.query for request in faulty.requests if "tokens" in request.query] == []
    assert (
        len(faulty.requests) == 5
    )  # the root, the data set, the model; the spec, once to see that it is there
