"""`extract` end to end, with a backbone whose tokens are known (real: test_real_models.py)."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layercache._interruption import Interrupted
from layercache.cache.annotate import annotate, drop_annotations
from layercache.cache.find import open_cache
from layercache.cache.writing.split_writer import SplitWriter
from layercache.errors import (
    CacheBusyError,
    CacheIncompleteError,
    DataError,
    NonFiniteError,
    OptionError,
)
from layercache.extraction.datasets.in_memory import InMemoryDataset
from tests.extraction.fakes import FakeBackbone, Pictures, dataset, expected, tree
from tests.extraction.runs import MODELS, SPLITS, Run, check


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 8, 19, 500])
def test_extract_puts_the_tokens_of_sample_i_in_row_i(
    run: Run, workers: int, batch_size: int
) -> None:
    (done,) = run(workers=workers, batch_size=batch_size)
    check(done, MODELS["fake"], SPLITS)
    assert (done.rows, done.images, done.skipped, done.was_complete) == (73, 73, 0, False)
    assert max(MODELS["fake"].seen) <= batch_size
    assert done.bytes == sum(
        f.stat().st_size for f in done.path.rglob("*.zarr/**/*") if f.is_file()
    )


def test_extract_of_a_complete_cache_does_nothing(
    run: Run, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    (first,) = run()
    before = tree(tmp_path)
    forwards = len(MODELS["fake"].seen)
    logged.clear()
    (second,) = run()
    assert second.was_complete
    assert "already complete, nothing to do" in second.summary()
    assert logged.messages == []
    assert (second.path, second.bytes, second.rows) == (first.path, first.bytes, first.rows)
    assert tree(tmp_path) == before
    assert len(MODELS["fake"].seen) == forwards


def test_extract_logs_size_path_device_and_decoding_before_the_start(
    run: Run, logged: pytest.LogCaptureFixture
) -> None:
    (done,) = run(workers=None)
    text = "\n".join(logged.messages)
    assert "pictures: train 53, test 20 images" in text
    assert "3 classes: a, b, c" in text
    assert "fake: 2 layers x 2 tokens x 4 (norm2, float16), " in text
    assert str(done.path) in text
    assert (
        "forward on cpu (no GPU found), fp32, batches of 5; decoding in a thread (an image takes "
        in text
    )


def test_extract_with_splits_extracts_these_and_adds_others_later(run: Run) -> None:
    (done,) = run(splits=["test"])
    assert open_cache(done.path).splits == ("test",)
    (done,) = run()
    assert done.images == 53
    check(done, MODELS["fake"], SPLITS)


def test_extract_with_several_models_loads_every_image_once_and_gives_the_same_bytes(
    run: Run, tmp_path: Path
) -> None:
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


def test_extract_with_a_broken_sample_raises_with_its_id_and_keeps_what_is_committed(
    run: Run, tmp_path: Path
) -> None:
    bad = dataset({"train": Pictures(53, broken=frozenset({44, 30}))})
    with pytest.raises(
        DataError,
        match=r"sample 'pic/0030' cannot be decoded: .*on_error='skip' leaves such images out",
    ):
        run(dataset=bad)
    cache = open_cache(next(tmp_path.rglob("spec.json")).parent)
    assert cache.progress("train") == (3, 7)
    with pytest.raises(CacheIncompleteError):
        cache.split("train")


@pytest.mark.parametrize("workers", [0, 2])
def test_extract_with_on_error_skip_leaves_broken_samples_out_and_lists_them(
    run: Run, workers: int
) -> None:
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
def test_extract_with_on_error_skip_and_only_broken_samples_raises(run: Run, rows: int) -> None:
    lost = dataset({"train": Pictures(rows, broken=frozenset(range(rows)))})
    with pytest.raises(
        DataError,
        match=r"none of the first \d+ images can be decoded, so none is skipped; one of them:",
    ):
        run(dataset=lost, on_error="skip")


def test_extract_with_an_infinite_token_names_model_layer_token_and_sample(run: Run) -> None:
    with pytest.raises(
        NonFiniteError,
        match=r"model infinite, layer 2, token 'ap', sample 'pic/0031' of split 'train'",
    ):
        run(models=["infinite"])


def test_extract_of_a_locked_split_raises_unless_it_waits(run: Run, tmp_path: Path) -> None:
    (done,) = run()
    spec = open_cache(done.path).spec
    shutil.rmtree(done.path)
    with (
        SplitWriter(tmp_path, spec, "test", ids=SPLITS["test"].ids),
        pytest.raises(CacheBusyError, match="is writing this split"),
    ):
        run()
    check(run(wait_for_lock=True)[0], MODELS["fake"], SPLITS)


def test_extract_of_a_large_cache_asks_for_confirmation(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"this writes .* kB, more than 1 kB: allow it with confirm=False"
    ):
        run(confirm_above=1000)
    questions: list[str] = []
    with pytest.raises(OptionError, match="nothing was written"):
        run(confirm_above=1000, confirm=lambda text: bool(questions.append(text)))
    assert "Continue?" in questions[-1]
    assert tree(tmp_path) == {}
    assert run(confirm_above=1000, confirm=False)[0].images == 73
    assert run(confirm_above=1000)[0].was_complete, "nothing left to ask about"


def test_extract_with_ctrl_c_keeps_what_is_committed_and_continues(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cache=tmp_path / "whole")
    forward = FakeBackbone.__call__

    def interrupted(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
        if len(self.seen) == batches + 6:
            raise KeyboardInterrupt
        return forward(self, images)

    batches = len(MODELS["fake"].seen)
    monkeypatch.setattr(FakeBackbone, "__call__", interrupted)
    with pytest.raises(
        Interrupted,
        match=r"^[0-3] of 10 row blocks are committed and kept; the same command continues from",
    ):
        run(cache=tmp_path / "cut")
    monkeypatch.setattr(FakeBackbone, "__call__", forward)
    run(cache=tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@dataclass(frozen=True)
class Unlabelled(Pictures):
    """Pictures of which the second has no label."""

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return np.where(np.arange(self.rows) == 1, -1, np.arange(self.rows) % 3).astype(np.int64)


@dataclass(frozen=True)
class Blank(Pictures):
    """Pictures without labels."""

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return np.full(self.rows, -1, np.int64)


def test_extract_with_an_unlabelled_sample_extracts_it_like_any_other(run: Run) -> None:
    pair = dataset({"train": Pictures(20), "test": Unlabelled(20)})
    (done,) = run(dataset=pair)
    split = open_cache(done.path).split("test")
    assert split.skipped == {}
    assert split.labels.tolist() == [0, -1, *(row % 3 for row in range(2, 20))]
    frame = open_cache(done.path).annotations
    assert frame["label"].isna().sum() == 1
    assert "-1" not in frame["label"].cat.categories


def test_extract_of_corrected_labels_updates_them_without_a_forward(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (done,) = run()
    before = tree(done.path / "train.zarr")
    renamed = InMemoryDataset(name="pictures", classes=("a", "b", "d"), samples=SPLITS)
    (again,) = run(dataset=renamed)
    assert (again.path, again.images) == (done.path, 0)
    assert tree(done.path / "train.zarr") == before
    assert open_cache(done.path).classes == ("a", "b", "d")
    (text,) = [r.message for r in caplog.records if "labels updated" in r.message]
    assert "updated without an extraction: label: 3 classes, 73 values; version" in text
    assert "(23 values changed, version" in text


def test_extract_keeps_a_label_of_a_table(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    (done,) = run()
    cache = open_cache(done.path)
    own = cache.annotations["label"].astype(str)
    annotate(cache, cache.annotations.assign(label="x")[["split", "label"]])
    run()
    assert set(open_cache(done.path).annotations["label"]) == {"x"}
    renamed = InMemoryDataset(name="pictures", classes=("a", "b", "d"), samples=SPLITS)
    run(dataset=renamed)
    assert "the label of a table stays" in caplog.text
    assert set(open_cache(done.path).annotations["label"]) == {"x"}
    drop_annotations(done.path, ["label"])
    returned = open_cache(done.path).annotations["label"].astype(str)
    assert returned.tolist() == own.replace("c", "d").tolist()


def test_extract_of_a_dataset_without_labels_has_none(run: Run) -> None:
    samples = {"train": Blank(12), "test": Blank(4)}
    (done,) = run(dataset=InMemoryDataset(name="flat", classes=(), samples=samples))
    cache = open_cache(done.path)
    assert list(cache.annotations.columns) == ["split"]
    with pytest.raises(OptionError, match="its dataset has no labels: add them from a table"):
        cache.split("train").labels  # noqa: B018
    annotate(cache, cache.annotations.assign(label=["a", "b"] * 8))
    assert cache.split("train").labels.tolist() == [0, 1] * 6
