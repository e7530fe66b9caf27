from __future__ import annotations

import os
from pathlib import Path

import pytest

from layercache.cache.format.origin import (
    Origin,
    dataset_name,
    dataset_source,
    is_missing,
    model_source,
    plain_name,
)
from layercache.errors import CacheCorruptError, OptionError


def test_plain_name_replaces_other_characters() -> None:
    assert plain_name("my pets/2") == "my_pets_2"
    assert plain_name("...") == "data"
    assert plain_name("katzen-ü.v1") == "katzen-ü.v1"


def test_dataset_source_of_every_spelling_of_a_path_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "link").symlink_to("pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("pets", "./pets/", "~/pets", f"{tmp_path}/x/../pets", "link"):
        assert dataset_source(f"folder:{path}") == f"folder:{tmp_path}/pets"
        assert dataset_name(dataset_source(f"folder:{path}")) == dataset_name(f"folder:{path}")
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").symlink_to("a.csv")
    assert dataset_source("csv:link/../b.csv") == f"csv:{tmp_path}/b.csv"  # its cache is named "b"
    assert dataset_source("flowers") == "flowers"


def test_model_source_of_every_spelling_of_a_path_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("uni", "./uni/", "~/uni", f"{tmp_path}/x/../uni"):
        assert model_source(f"local-dir:{path}") == f"local-dir:{tmp_path}/uni"
    assert model_source("hf_hub:lab/uni@main") == "hf-hub:lab/uni@main"
    for name in ("clip_b16", "vit_base_patch16_224.mae", "hf-hub:lab/uni", "local-dir:"):
        assert model_source(name) == name


def test_dataset_source_of_hugging_face_sorts_options_and_drops_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        dataset_source("hf:me/two?label=coarse&config=a b") == "hf:me/two?config=a%20b&label=coarse"
    )
    for given, clean in (
        ("hf://datasets/me:password@host/two", "hf://***@host/two"),
        ("https://me:password@host/two", "https://***@host/two"),
        ("https://token@host/two", "https://***@host/two"),
        ("me/two@main", "me/two@main"),
    ):
        assert dataset_source(f"hf:{given}") == f"hf:{clean}"
    (tmp_path / "two").mkdir()
    assert dataset_source("hf:two?label=fine") == f"hf:{tmp_path}/two?label=fine"


@pytest.mark.parametrize("dataset", ["folder:", "csv:", "hf:?label=fine"])
def test_dataset_source_without_a_location_raises(dataset: str) -> None:
    with pytest.raises(OptionError, match="with a path or name after it"):
        dataset_source(dataset)


def test_is_missing_knows_paths_of_this_machine_only(tmp_path: Path) -> None:
    assert not is_missing(f"folder:{tmp_path}")
    assert not is_missing(f"hf:{tmp_path}?label=a")
    assert is_missing(f"hf:{tmp_path}/no?label=a")
    assert is_missing(f"csv:{tmp_path}/no.csv")
    assert not is_missing("hf:me/two")
    assert not is_missing("flowers")


def test_origin_read_back_is_the_one_written() -> None:
    surrogate = os.fsdecode(b"folder:/caf\xe9")
    for dataset in ("csv:/a/ü.csv", surrogate, None):
        origin = Origin(dataset=dataset, weights="/w.pt", paper_compat=True)
        assert Origin.from_bytes(origin.to_bytes(), where=f"/c/{origin.key}") == origin


def test_origin_records_the_preprocessing_only_if_parts_were_replaced() -> None:
    assert b"preprocessing" not in Origin(dataset="digits").to_bytes()
    origin = Origin(dataset="digits", preprocessing={"input_size": [32, 24], "crop_pct": 0.9})
    assert Origin.from_bytes(origin.to_bytes(), where=f"/c/{origin.key}") == origin


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"/a", b"/b"),
        lambda data: data[:-4],
        lambda data: b"[]",
        lambda data: data.replace(b'"folder:/a"', b'["x"]'),
        lambda data: data.replace(b'"weights"', b'"heights"'),
    ],
)
def test_origin_of_changed_bytes_raises(change: object) -> None:
    origin = Origin(dataset="folder:/a")
    with pytest.raises(CacheCorruptError, match="delete the file"):
        Origin.from_bytes(change(origin.to_bytes()), where=f"/c/{origin.key}")  # type: ignore[operator]
