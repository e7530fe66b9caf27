"""`layercache cache ls | info | verify | rm`, as a user types them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercache.cache import Cache, find_caches
from layercache.cache.format import layout
from layercache.cache.format.layout import SplitLayout
from layercache.probing.api import probe
from layercache.testing import (
    make_cache,
    make_spec,
    make_tokens,
    make_writer,
    write_pending,
    write_planted_cache,
)
from layercache_cli.main import main
from tests.cache.folders import PROBE, folder_in_memory, make_schema_1_cache, write_probe


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 1024)
    with folder_in_memory() as folder:
        monkeypatch.setenv("LAYERCACHE_HOME", str(folder))
        yield folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(("cache", *words))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def make_two(root: Path) -> tuple[Cache, Cache]:
    """A complete cache with a skipped sample, and one that was stopped after 2 of 4 blocks."""
    whole = make_cache(root, make_spec(30), splits=("train", "test"), skipped={9: "truncated"})
    spec = make_spec(30, tap="block", model="other")
    with make_writer(root, spec) as writer:
        write_pending(writer, make_tokens(spec), stop_after=2)
    return whole, next(c for c in find_caches(root) if c.spec.model == "other")


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def test_ls_prints_a_row_per_cache(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, begun = make_two(root)
    code, out, err = run(capsys, "ls")
    assert (code, err) == (0, "")
    head, *lines, total = out.splitlines()
    assert head.split() == [
        "dataset",
        "model",
        "fingerprint",
        "stored",
        "splits",
        "size",
        "probes",
        "source",
    ]
    assert lines[0].startswith(
        f"shapes   other     {begun.spec.fingerprint[:12]}  2 layers x cls+ap x 8 float16, tap "
        "block, fp32"
    )
    assert "train incomplete, 2 of 4 blocks" in lines[0]
    assert whole.spec.fingerprint[:12] in lines[1]
    assert "train 30 (1 skipped), test 7" in lines[1]
    assert total.startswith(f"2 below {root}, ")


def test_ls_of_one_model_with_json_prints_its_description(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = make_two(root)
    code, out, _ = run(capsys, "ls", "--model", "vit_tiny", "--json")
    (found,) = json.loads(out)
    assert code == 0
    assert found["fingerprint"] == whole.spec.fingerprint
    assert found["splits"]["train"]["skipped"] == {"bilder/é9.png": "truncated"}


def test_ls_without_caches_or_with_a_damaged_one_says_so(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "ls") == (
        0,
        f"no cache below {root}; make one with: layercache extract --model vit_nano --dataset "
        "digits\n",
        "",
    )
    whole, begun = make_two(root)
    (begun.path / "spec.json").write_text("{")
    code, out, err = run(capsys, "ls")
    assert code == 1
    assert whole.spec.fingerprint[:12] in out
    assert f"error: {begun.path}/spec.json: not the spec of a cache" in err


def test_info_prints_spec_splits_and_skipped_samples(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = make_two(root)
    code, out, _ = run(capsys, "info", str(whole.path))
    assert code == 0
    for text in (
        str(whole.path),
        whole.spec.fingerprint,
        whole.spec.weights,
        "shapes, 3 classes",
        "interpolation bicubic",
        "6, 12",
    ):
        assert text in out
    assert "30 images (1 skipped)" in out
    assert out.endswith("skipped in train: bilder/é9.png: truncated\n")
    assert "limited" not in out
    code, out, _ = run(capsys, "info", "--model", "other")
    assert "incomplete, 2 of 4 blocks" in out
    code, _, err = run(capsys, "info")
    assert code == 1
    assert err.startswith(
        f"error: 2 caches below {root} match any model and dataset; choose one by its fing"
    )


def test_info_of_a_limited_cache_prints_limit_and_seed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(30, projected=True)
    spec = replace(spec, dataset=replace(spec.dataset, limit=30, limit_seed=3))
    make_cache(root, spec, skipped={9: "sample 'bilder/é9.png' cannot be decoded: truncated"})
    _, out, _ = run(capsys, "info")
    assert "shapes, 3 classes, limited to 30 per split, sampled with seed 3\n" in out
    assert "fp32, projected\n" in out
    assert "skipped in train: bilder/é9.png: cannot be decoded: truncated\n" in out


def test_verify_of_a_whole_cache_prints_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = make_two(root)
    code, out, err = run(capsys, "verify", "--model", "vit_tiny")
    assert (code, err) == (0, "")
    assert out.startswith(
        f"{whole.path}: every byte is as it was written (train 30 (1 skipped), test 7; "
    )


@pytest.mark.parametrize("damage", ["flipped", "missing", "spec"])
def test_verify_of_a_damaged_cache_prints_the_file_and_exits_1(
    root: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    whole, _ = make_two(root)
    file = whole.path / (
        "spec.json" if damage == "spec" else SplitLayout(whole.spec, "train").shard(2)
    )
    if damage == "missing":
        file.unlink()
    else:
        flip(file, 40)
    code, out, err = run(capsys, "verify", str(whole.path))
    assert code == 1
    assert out.startswith(f"{file}: ")
    assert out.count(str(file)) == 1
    delete = "" if damage == "missing" else "delete the files named above and "
    assert (
        err == f"1 of 1 caches has faults: {delete}run the same extraction again, which makes only "
        "what is missing\n"
    )


def test_verify_all_prints_every_cache(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, begun = make_two(root)
    code, out, err = run(capsys, "verify", "--all")
    assert code == 1
    assert f"{whole.path}: every byte is as it was written" in out
    assert (
        f"{begun.path}/commits/train/complete.json: incomplete: 2 of 4 row blocks; continue with: "
        "layercache extract --model other" in out
    )
    assert (
        err == "1 of 2 caches has faults: run the same extraction again, which makes only what is "
        "missing\n"
    )


def test_rm_asks_before_it_deletes(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, begun = make_two(root)
    (whole.path / "probes" / "abc").mkdir(parents=True)
    asked: list[str] = []

    def answer(text: str, abort: bool) -> bool:
        import typer

        asked.append(text)
        raise typer.Abort

    monkeypatch.setattr("typer.confirm", answer)
    code, _, _ = run(capsys, "rm", "--model", "vit_tiny")
    assert code == 1
    assert asked[0].startswith(f"Delete {whole.path} (")
    assert asked[0].endswith(", with 1 probe)?")
    assert whole.path.exists()
    code, out, _ = run(capsys, "rm", "--model", "vit_tiny", "--yes")
    assert code == 0
    assert out.startswith(f"deleted {whole.path} (")
    assert [c.path for c in find_caches(root)] == [begun.path]


def test_rm_of_a_cache_that_is_being_written_exits_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = make_two(root)
    with make_writer(root, whole.spec):
        code, _, err = run(capsys, "rm", str(whole.path), "--yes")
    assert code == 1
    assert "is writing this split" in err
    assert whole.path.exists()


def test_ls_and_verify_all_skip_a_cache_of_schema_1_and_say_so(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_cache(root, make_spec(30), splits=("train", "test"))
    outdated = make_schema_1_cache(root, make_spec(30, tap="block"))
    skipped = f"skipped: {outdated}: expected a cache of schema 3, got schema 1: extract it again"
    code, out, err = run(capsys, "ls")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(skipped)
    assert whole.spec.fingerprint[:12] in out
    code, out, err = run(capsys, "verify", "--all")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(skipped)
    assert f"{whole.path}: every byte is as it was written" in out
    code, out, err = run(capsys, "verify", str(outdated))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {outdated}: expected a cache of schema 3, got schema 1")
    code, out, err = run(capsys, "info", str(outdated))
    assert (code, out) == (1, "")


def test_verify_of_a_damaged_probe_names_it_and_a_remedy_that_works(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_cache(root, make_spec(30), splits=("train", "test"))
    write_probe(whole)
    folder = Path(str(whole.path)) / PROBE
    flip(folder / "head.safetensors", 2)
    code, out, err = run(capsys, "verify", str(whole.path))
    assert code == 1
    assert out == (
        f"{folder}/head.safetensors: SHA-256 is not the one of its record: remove {folder} and "
        "run the same `layercache probe` again\n"
    )
    assert err == "1 of 1 caches has faults: follow the lines above\n"
    shutil.rmtree(folder)
    write_probe(whole)
    code, out, err = run(capsys, "verify", str(whole.path))
    assert (code, err) == (0, "")


def test_push_of_a_damaged_probe_names_it_and_exits_1(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = make_cache(root, make_spec(30), splits=("train", "test"))
    write_probe(whole)
    file = Path(str(whole.path)) / PROBE / "head.safetensors"
    flip(file, 2)
    code, out, err = run(capsys, "push", str(whole.path), "--to", str(tmp_path / "to"))
    assert code == 1
    assert err.startswith(f"not copied: {file}: differs from its record; remove {file.parent} and")
    assert "each verified where it arrived" in out
    assert find_caches(tmp_path / "to")[0].complete("train")


def test_cache_commands_see_the_probes_of_both_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_planted_cache(root=tmp_path / "lab")
    options: dict[str, Any] = {"head": "knn", "device": "cpu"}
    probe(cache, layers="last", **options)
    (mine,) = probe(cache, layers="all", probes_root=tmp_path / "mine", **options)
    where = ("--cache", str(tmp_path / "lab"), "--probes", str(tmp_path / "mine"))
    _, out, _ = run(capsys, "ls", *where, "--json")
    counts = {str(mine.path.parent): 1, str(cache.path / "probes"): 1}
    assert json.loads(out)[0]["probes"] == counts
    _, out, _ = run(capsys, "info", *where)
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("probes")]
    assert lines == [["probes", f"1 in {folder}"] for folder in counts]
    assert run(capsys, "verify", *where)[0] == 0
    flip(mine.path / "predictions.npz", 100)
    code, out, _ = run(capsys, "verify", *where)
    assert code == 1
    assert f"{mine.path}/predictions.npz: SHA-256 is not" in out
    assert run(capsys, "verify", "--cache", str(tmp_path / "lab"))[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    _, out, _ = run(capsys, "rm", *where)
    assert f"with 2 probes, 1 of them in {mine.path.parent})?" in out
    assert mine.path.exists()
    _, out, _ = run(capsys, "rm", *where, "--yes")
    assert "and 1 probe kept elsewhere" in out
    assert not mine.path.exists()
    assert not cache.path.exists()
