from __future__ import annotations

import os
from pathlib import Path

import pytest

from layercache.cache import find_caches, open_cache
from layercache.cache.remove import remove
from layercache.cache.storage.lock import file_lock
from layercache.errors import CacheBusyError, OptionError, StorageError
from layercache.testing import make_cache, make_spec, make_writer
from tests.cache.folders import PROBE, tree, write_probe


def test_remove_deletes_one_cache_and_its_empty_parents(tmp_path: Path) -> None:
    first, second = (
        make_cache(tmp_path, make_spec(30)),
        make_cache(tmp_path, make_spec(30, tap="block")),
    )
    with (
        make_writer(tmp_path, make_spec(30), "test"),
        pytest.raises(CacheBusyError, match=r"commits/test\.lock: process \d+"),
    ):
        remove(first)
    assert len(find_caches(tmp_path)) == 2
    remove(first)
    assert [c.path for c in find_caches(tmp_path)] == [second.path]
    remove(second)
    assert list(tmp_path.iterdir()) == []


def test_remove_of_a_cache_whose_probe_is_being_trained_deletes_nothing(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, make_spec(30))
    write_probe(cache)
    before = set(tree(tmp_path))
    folder = Path(str(cache.path)) / PROBE
    with (
        file_lock(folder / ".lock"),
        pytest.raises(
            CacheBusyError, match=f"{folder}: another process is training this probe; wait"
        ),
    ):
        remove(cache)
    assert before <= set(tree(tmp_path))
    remove(cache)
    assert list(tmp_path.iterdir()) == []


def test_remove_of_a_link_to_a_cache_deletes_nothing_and_names_the_folder(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "disk", make_spec(30))
    before = tree(tmp_path / "disk")
    link = tmp_path / "root" / "shapes" / "vit_tiny" / cache.path.name
    link.parent.mkdir(parents=True)
    link.symlink_to(cache.path)
    with pytest.raises(
        OptionError, match=f"{link}: expected the folder of a cache, got a symbolic link to "
    ) as error:
        remove(open_cache(link))
    assert tree(tmp_path / "disk") == before
    assert str(cache.path) in str(error.value)
    remove(open_cache(cache.path))  # the remedy
    assert not Path(str(cache.path)).exists()


def test_remove_leaves_what_links_in_a_cache_lead_to(tmp_path: Path) -> None:
    root = tmp_path / "root"
    cache = make_cache(root, make_spec(30))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "notes").write_text("mine")
    (Path(str(cache.path)) / "probes").symlink_to(outside)
    model = Path(str(cache.path)).parent
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    remove(open_cache(cache.path))
    assert (outside / "notes").read_text() == "mine"
    assert model.is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_remove_without_write_permission_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path, make_spec(30))
    before = set(tree(tmp_path))
    protected = Path(str(cache.path)) / "train.zarr"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != protected)
    with pytest.raises(
        StorageError, match=f"cannot be deleted: {protected} is not writable; nothing was deleted"
    ):
        remove(cache)
    assert before <= set(tree(tmp_path))
