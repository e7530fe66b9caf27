"""The engine end to end, with a backbone whose tokens are known; real models are in test_run_real.py."""

from __future__ import annotations

import shutil
from collections import Counter, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layercache.cache.find import open_cache
from layercache.cache.format import layout
from layercache.cache.verify import verify
from layercache.cache.writing.split_writer import SplitWriter
from layercache.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheIncompleteError,
    DataError,
    NonFiniteError,
    OptionError,
    StorageError,
    UnknownNameError,
)
from layercache.extraction import plan as planning
from layercache.extraction.api import extract
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.interruption import Interrupted
from layercache.extraction.pipeline import stream
from layercache.extraction.result import Extraction
from tests.extraction.fakes import LARGE, FakeBackbone, Pictures, dataset, expected, image, tree

Run = Callable[..., list[Extraction]]
MODELS = {
    "fake": FakeBackbone(),
    "other": FakeBackbone(name="other", weights_digest="e" * 64),
    "large": FakeBackbone(name="large", weights_digest="f" * 64, preprocessing=LARGE, layers=(2,)),
    "infinite": FakeBackbone(
        name="infinite",
        poison=float("inf"),
        poison_at=int(Pictures(53).load(31).getpixel((0, 0))[0]),
    ),
}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Run:
    """extract(), on the fakes, with row blocks of 8 rows (16 where there is one layer)."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 512)
    monkeypatch.setattr(planning, "load_backbone", lambda name, **_: MODELS[name])
    for model in MODELS.values():
        model.seen.clear()

    def run(**options: Any) -> list[Extraction]:
        given = {
            "models": ["fake"],
            "dataset": dataset(),
            "cache": tmp_path,
            "batch_size": 5,
            "workers": 0,
        }
        return extract(say=said.append, progress=False, **(given | options))

    return run


def check(extraction: Extraction, model: FakeBackbone, splits: dict[str, Pictures]) -> None:
    cache = open_cache(extraction.path)
    assert not verify(cache)
    for name, samples in splits.items():
        split = cache.split(name)
        assert split.ids == samples.ids
        assert np.array_equal(split.labels, samples.labels)
        pairs = [(layer, token) for layer in model.layers for token in model.tokens]
        right = expected(samples, model.preprocessing, model.layers)
        assert np.array_equal(split.read(pairs), right.reshape(len(pairs), samples.rows, 4))
        assert not np.array_equal(
            split.read(pairs), right[:, ::-1].reshape(len(pairs), samples.rows, 4)
        ), "token kinds do differ"


SPLITS = {"train": Pictures(53), "test": Pictures(20, first=1000)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 8, 19, 500])
def test_row_i_holds_the_tokens_of_sample_i(run: Run, workers: int, batch_size: int) -> None:
    (done,) = run(workers=workers, batch_size=batch_size)
    check(done, MODELS["fake"], SPLITS)
    assert (done.rows, done.images, done.skipped, done.did_nothing) == (73, 73, 0, False)
    assert max(MODELS["fake"].seen) <= batch_size
    assert done.bytes == sum(
        f.stat().st_size for f in done.path.rglob("*.zarr/**/*") if f.is_file()
    )


def test_the_same_command_again_does_nothing_and_says_so(
    run: Run, tmp_path: Path, said: list[str]
) -> None:
    (first,) = run()
    before = tree(tmp_path)
    forwards = len(MODELS["fake"].seen)
    said.clear()
    (second,) = run()
    assert second.did_nothing
    assert "complete already, nothing to do" in second.summary()
    assert said == []
    assert (second.path, second.bytes, second.rows) == (first.path, first.bytes, first.rows)
    assert tree(tmp_path) == before
    assert len(MODELS["fake"].seen) == forwards


def test_what_is_said_before_the_start_names_size_place_device_and_decoding(
    run: Run, said: list[str], tmp_path: Path
) -> None:
    (done,) = run(workers=None)
    text = "\n".join(said)
    assert "pictures: train 53, test 20 images" in text
    assert "fake: 2 layers x 2 tokens x 4 (norm2, float16), " in text
    assert str(done.path) in text
    assert (
        "forward on cpu (no GPU found), fp32, batches of 5; decoding in a thread (an image takes "
        in text
    )


def test_splits_are_extracted_as_asked_and_added_later(run: Run) -> None:
    (done,) = run(splits=["test"])
    assert open_cache(done.path).splits == ("test",)
    (done,) = run()
    assert done.images == 53
    check(done, MODELS["fake"], SPLITS)


def test_models_share_every_load_and_get_what_they_get_alone(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    splits = {"train": Pictures(53, log=str(log))}
    together = run(
        models=["fake", "large", "other"],
        dataset=dataset(splits),
        cache=tmp_path / "together",
        batch_size=6,
    )
    assert Counter(log.read_text().split()) == Counter(str(i) for i in range(53)), (
        "one load per image"
    )
    for model in ("fake", "large", "other"):
        run(
            models=[model],
            dataset=dataset({"train": Pictures(53)}),
            cache=tmp_path / "alone",
            batch_size=6,
        )
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    assert [e.model for e in together] == ["fake", "large", "other"]
    check(together[1], MODELS["large"], {"train": Pictures(53)})


def test_models_at_different_points_of_a_split_are_completed_together(
    run: Run, tmp_path: Path
) -> None:
    run(models=["fake", "large"])
    whole = tree(tmp_path)
    for done, block in ((run(models=["fake"])[0], 2), (run(models=["large"])[0], 1)):
        for lost in (f"commits/train/{block:08d}.json", f"train.zarr/tokens/c.0.0.{block}.0"):
            (done.path / lost).unlink()
    done = run(models=["fake", "large"])
    assert [e.images for e in done] == [8, 16]
    assert tree(tmp_path) == whole


def test_a_lost_or_cut_file_of_a_complete_split_is_made_again(run: Run, tmp_path: Path) -> None:
    (done,) = run()
    whole = tree(tmp_path)
    (done.path / "train.zarr/tokens/c.0.0.1.0").unlink()
    shard = done.path / "test.zarr/tokens/c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    (done,) = run()
    assert done.images == 16
    assert tree(tmp_path) == whole


@pytest.mark.parametrize(
    "key",
    [
        "train.zarr/label/c/0",
        "train.zarr/tokens/zarr.json",
        "train.zarr/id/c/0",
        "commits/train/00000001.json",
    ],
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_lost_or_cut_small_file_of_a_complete_split_is_made_again(
    run: Run, key: str, cut: bool
) -> None:
    (done,) = run()
    whole = tree(done.path)
    data = (done.path / key).read_bytes()
    (done.path / key).unlink()
    if cut:
        (done.path / key).write_bytes(data[:-1])
    if cut and key.endswith(
        "zarr.json"
    ):  # another codec may have been asked for, which only this file tells
        with pytest.raises(
            CacheCorruptError, match=r"zarr\.json: .*delete it and run the same extraction again"
        ):
            run()
        (done.path / key).unlink()
    run()
    assert tree(done.path) == whole
    assert not verify(open_cache(done.path))


def test_a_sample_that_cannot_be_decoded_stops_the_run_by_its_id(run: Run, tmp_path: Path) -> None:
    bad = dataset({"train": Pictures(53, broken=frozenset({44, 30}))})
    with pytest.raises(
        DataError,
        match=r"sample 'pic/0030' cannot be decoded: .*--on-error skip leaves such images out",
    ):
        run(dataset=bad)
    cache = open_cache(next(tmp_path.rglob("spec.json")).parent)
    assert cache.progress("train") == (3, 7)
    with pytest.raises(CacheIncompleteError):
        cache.split("train")


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_such_samples_out_and_lists_them(run: Run, workers: int) -> None:
    samples = Pictures(53, broken=frozenset({0, 31, 52}))
    (done,) = run(dataset=dataset({"train": samples}), on_error="skip", workers=workers)
    split = open_cache(done.path).split("train")
    kept = [row for row in range(53) if row not in samples.broken]
    assert set(split.skipped) == {"pic/0000", "pic/0031", "pic/0052"}
    assert all("cannot be decoded" in why for why in split.skipped.values())
    assert np.array_equal(split.read([(2, "ap")])[0], expected(samples)[1, 1][kept])
    assert done.skipped == 3
    assert "3 skipped because they could not be decoded" in done.summary()


@pytest.mark.parametrize("rows", [20, 300])
def test_skip_is_no_way_to_cache_nothing(run: Run, rows: int) -> None:
    lost = dataset({"train": Pictures(rows, broken=frozenset(range(rows)))})
    with pytest.raises(
        DataError,
        match=r"none of the first \d+ images can be decoded, which is no case for skipping; one of them: sample .pic",
    ):
        run(dataset=lost, on_error="skip")


def test_a_token_that_is_not_finite_is_named(run: Run) -> None:
    with pytest.raises(
        NonFiniteError,
        match=r"model infinite, layer 2, token 'ap', sample 'pic/0031' of split 'train'",
    ):
        run(models=["infinite"])


def test_another_process_on_a_split_is_an_error_unless_waiting(run: Run, tmp_path: Path) -> None:
    (done,) = run()
    spec = open_cache(done.path).spec
    shutil.rmtree(done.path)
    with (
        SplitWriter(tmp_path, spec, "test", ids=SPLITS["test"].ids, labels=SPLITS["test"].labels),
        pytest.raises(CacheBusyError, match="is writing this split"),
    ):
        run()
    check(run(wait=True)[0], MODELS["fake"], SPLITS)


def test_a_disk_that_is_too_small_is_refused_before_the_start(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9_000, 1000))
    with pytest.raises(
        StorageError,
        match=r"the cache needs .* kB more and the disk has 1 kB free: make room, choose another disk with --cache",
    ):
        run()
    assert tree(tmp_path) == {}


def test_a_large_cache_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layercache.extraction.api.ASK_ABOVE", 1000)
    with pytest.raises(OptionError, match=r"this writes .* kB, more than 1 kB: say yes with --yes"):
        run()
    asked: list[str] = []
    monkeypatch.setattr("layercache.extraction.plan.ASK_ABOVE", 1000)
    with pytest.raises(OptionError, match="nothing was written"):
        extract(
            say=asked.append,
            progress=False,
            models=["fake"],
            dataset=dataset(),
            cache=tmp_path,
            confirm=lambda text: bool(asked.append(text)),
        )
    assert "Go on?" in asked[-1]
    assert tree(tmp_path) == {}
    assert run(yes=True)[0].images == 73
    assert run()[0].did_nothing, "nothing left to ask about"


def test_ctrl_c_keeps_what_is_committed_and_says_how_to_continue(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cache=tmp_path / "whole")
    take = stream._Gather.take

    def interrupted(self: Any, got: Any) -> Any:
        if got.piece.start >= 26:
            raise KeyboardInterrupt
        return take(self, got)

    monkeypatch.setattr(stream._Gather, "take", interrupted)
    with pytest.raises(
        Interrupted,
        match=r"^[0-3] of 10 row blocks are committed and kept; the same command continues there$",
    ):
        run(cache=tmp_path / "cut")
    monkeypatch.setattr(stream._Gather, "take", take)
    run(cache=tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"models": []}, OptionError, "models: expected a list of at least one model"),
        ({"models": "vit_nano"}, OptionError, "models: expected a list"),
        ({"models": ["fake", "fake"]}, OptionError, "models: each once"),
        ({"limit": 0}, OptionError, "limit: expected at least 1, got 0"),
        ({"batch_size": 0}, OptionError, "batch_size: expected at least 1"),
        ({"workers": -1}, OptionError, "workers: expected at least 0"),
        (
            {"precision": "int8"},
            OptionError,
            "precision: expected fp32 or bf16 or fp16, got 'int8'",
        ),
        ({"on_error": "ignore"}, OptionError, "on_error: expected stop or skip"),
        ({"device": "tpu"}, OptionError, "device: expected auto or cpu or cuda"),
        (
            {"splits": ["trian"]},
            UnknownNameError,
            "unknown split of data set pictures 'trian': did you mean train",
        ),
        (
            {"weights": {"fakee": "x"}},
            UnknownNameError,
            "unknown model of weights 'fakee': did you mean fake",
        ),
        (
            {"batchsize": 3},
            UnknownNameError,
            "unknown option of extract 'batchsize': did you mean batch_size",
        ),
        ({"dataset": "digts"}, UnknownNameError, "unknown dataset 'digts': did you mean digits"),
        ({"codec": "zip"}, OptionError, "compressor 'zip': expected zstd"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    run: Run, tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(**options)
    assert MODELS["fake"].seen == []
    assert not list(tmp_path.rglob("tokens/c.*"))


def test_a_dataset_changed_in_anything_is_another_cache(run: Run) -> None:
    paths = [run()[0].path]
    for changed in (
        dataset({"train": Pictures(53), "test": Pictures(20, first=1001)}),
        InMemoryDataset(name="pictures", classes=("a", "b", "d"), samples=SPLITS),
    ):
        paths.append(run(dataset=changed)[0].path)
    assert len(set(paths)) == 3


def test_a_missing_file_is_refused_before_any_work_or_skipped_and_listed(
    run: Run, tmp_path: Path
) -> None:
    for n in range(4):
        Image.fromarray(image(n)).save(tmp_path / f"{n}.png")
    lines = ["path,label,split", *(f"{n}.png,{n % 2},train" for n in (0, 1, 7, 2, 3))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(
        DataError,
        match=r"^sample '7\.png' cannot be read: No such file or directory: .*7\.png\. --on-error skip leaves",
    ):
        run(dataset=f"csv:{tmp_path}/t.csv", splits=["train"])
    assert MODELS["fake"].seen == []
    (done,) = run(dataset=f"csv:{tmp_path}/t.csv", splits=["train"], on_error="skip")
    split = open_cache(done.path).split("train")
    assert done.skipped == 1
    assert list(split.skipped) == ["7.png"]
    assert "No such file" in split.skipped["7.png"]
    assert split.ids == ["0.png", "1.png", "2.png", "3.png"]
