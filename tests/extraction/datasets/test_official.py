"""The table of official archives against torchvision's own downloads."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torchvision

from layercache.extraction.datasets.official import OFFICIAL
from layercache.extraction.datasets.registry import DATASETS, DOWNLOAD
from layercache.extraction.datasets.sources.torchvision_datasets import TORCHVISION

CLASSES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    **{
        name: (entry.class_name, [dict(entry.train), dict(entry.test)])
        for name, entry in TORCHVISION.items()
    },
    "caltech101": ("Caltech101", [{}]),
    "eurosat": ("EuroSAT", [{}]),
    "voc2007": (
        "VOCDetection",
        [{"year": "2007", "image_set": "trainval"}, {"year": "2007", "image_set": "test"}],
    ),
}


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """(address, MD5) of what torchvision would download."""
    calls: list[tuple[str, str | None]] = []

    def file(url: str, root: Any, filename: str | None = None, md5: str | None = None) -> None:
        calls.append((url, md5))

    def archive(url: str, *args: Any, md5: str | None = None, **options: Any) -> None:
        calls.append((url, md5))

    for module in pkgutil.iter_modules(torchvision.datasets.__path__):
        loaded = importlib.import_module(f"torchvision.datasets.{module.name}")
        for name, stand_in in (("download_url", file), ("download_and_extract_archive", archive)):
            if hasattr(loaded, name):
                monkeypatch.setattr(loaded, name, stand_in)
    return calls


def test_official_holds_every_dataset_that_is_listed_as_a_download() -> None:
    assert set(OFFICIAL) == {n for n, info in DATASETS.items() if info.how_to_get == DOWNLOAD}


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name in CLASSES and name != "pcam"])
def test_official_files_are_those_of_torchvision(
    tmp_path: Path, downloads: list[tuple[str, str | None]], name: str
) -> None:
    class_name, options = CLASSES[name]
    for i, split in enumerate(options):
        with suppress(RuntimeError, OSError):  # there are no files after the download
            getattr(torchvision.datasets, class_name)(
                str(tmp_path / str(i)), download=True, **split
            )
    by_name = {url.rsplit("/", 1)[-1]: (urlsplit(url).path, md5) for url, md5 in downloads}
    assert len(by_name) == len(OFFICIAL[name].files)
    for file in OFFICIAL[name].files:
        # hosts move between releases of torchvision
        assert (urlsplit(file.url).path, file.md5) == by_name[file.name]


def test_official_checksums_of_pcam_are_those_of_torchvision() -> None:
    expected = {
        f"{file_name}.gz": md5
        for split in ("train", "test")
        for file_name, _, md5 in torchvision.datasets.PCAM._FILES[split].values()
    }
    assert {file.name: file.md5 for file in OFFICIAL["pcam"].files} == expected
