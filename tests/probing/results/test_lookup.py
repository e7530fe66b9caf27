"""Where probes are kept, and how one is found by its id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layercache
from layercache.cache import Cache
from layercache.cache.storage.lock import file_lock
from layercache.errors import (
    CacheBusyError,
    OptionError,
    ProbeAmbiguousError,
    ProbeNotFoundError,
    StorageError,
)
from layercache.probing.api import probe
from layercache.probing.results.lookup import find_probe, read_all_probes
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import read_probe
from layercache.probing.results.reading import read_results
from layercache.testing import write_planted_cache
from tests.cache.folders import folder_in_memory
from tests.probing.quick import ONE_CONFIG
from tests.read_only import read_only

KNN: dict[str, Any] = {"head": "knn", "layers": "last", "device": "cpu"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        path.chmod(0o777)
        yield path


@pytest.fixture
def cache(folder: Path) -> Cache:
    return write_planted_cache(root=folder / "lab")


def test_probe_of_a_read_only_cache_names_a_remedy_that_works(
    cache: Cache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder / "mine"
    both = {**KNN, **ONE_CONFIG, "head": ["linear", "knn"]}
    # imports what training needs: another user may not be able to
    probe(cache, probes_root=folder / "imports", **both)
    with read_only(folder / "lab"):
        with pytest.raises(
            StorageError,
            match=r"cannot be written: the cache is read-only .* as probes_root \(--probes DIR\)"
            r".* or set \$LAYERCACHE_PROBES",
        ):
            probe(cache, **KNN)
        (knn,) = probe(cache, probes_root=mine, **KNN)
        monkeypatch.setenv("LAYERCACHE_PROBES", str(mine))
        linear, again = probe(cache, **both)
    assert knn.path == mine / cache.spec.fingerprint[:12] / "probes" / knn.id
    assert (again.path, linear.path.parent) == (knn.path, knn.path.parent)
    assert not (cache.path / "probes").exists()


def test_probes_of_both_places_are_read_and_the_own_one_hides_its_double(
    cache: Cache, folder: Path
) -> None:
    (knn,) = probe(cache, **KNN)
    (logreg,) = probe(cache, probes_root=folder / "mine", **{**KNN, "head": "logreg"})
    (same,) = probe(cache, probes_root=folder / "mine", **KNN)
    assert same.path == knn.path, "a probe that the lab has is not trained again"
    (own,) = probe(cache, probes_root=folder / "mine", refresh=True, **KNN)
    assert own.path != knn.path
    read = read_results(folder / "lab", probes_root=folder / "mine")
    assert {p.path for p in read} == {own.path, logreg.path}
    assert {p.path for p in read_results(cache)} == {knn.path}
    assert [p.id for p in read_all_probes(cache)] == [knn.id]


def test_probes_root_that_is_a_file_raises(cache: Cache, folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(OptionError, match=r"probes_root: expected a folder, got the file"):
        probe(cache, probes_root=folder / "file", **KNN)


def test_find_probe_takes_ids_their_beginnings_and_paths(cache: Cache, folder: Path) -> None:
    root = folder / "lab"
    first, second = probe(cache, **{**KNN, "head": ["knn", "logreg"]})
    assert find_probe(first.id, root=root) == first.path
    (elsewhere,) = probe(cache, probes_root=folder / "mine", **{**KNN, "layers": "all"})
    assert find_probe(elsewhere.id[:8], root=root, probes_root=folder / "mine") == elsewhere.path
    assert find_probe(second.path) == second.path
    assert find_probe(str(second.path / "head.safetensors")) == second.path / "head.safetensors"
    with pytest.raises(ProbeNotFoundError, match=r"^123456789abc: there is no such file, and no"):
        find_probe("123456789abc", root=root)
    (second.path.parent / (first.id[:5] + "0000000")).mkdir()
    with pytest.raises(ProbeAmbiguousError) as caught:
        find_probe(first.id[:5], root=root)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"2 probes have an id that begins with {first.id[:5]}; give more digits:"
    known = f"  {first.id}: vit_small_made on made_up, knn, layers last, tokens cls+ap, seed 0"
    assert known in lines
    assert any(re.match(rf"  {first.id[:5]}0000000: not complete, /", line) for line in lines)


def test_load_head_of_an_id_of_the_default_root(
    cache: Cache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", str(folder / "lab"))
    (linear,) = probe(cache, **{**KNN, **ONE_CONFIG, "head": "linear"})
    assert layercache.load_head(layercache.find_probe(linear.id[:6])).name == "linear"


def test_remove_deletes_a_probe_unless_it_is_being_trained(cache: Cache, tmp_path: Path) -> None:
    (knn,) = probe(cache, **KNN)
    stored = ProbeFolder(knn.path)
    with file_lock(knn.path / ".lock"), pytest.raises(CacheBusyError, match="training this probe"):
        stored.remove()
    assert read_probe(knn.path) is not None
    stored.remove()
    assert not knn.path.exists()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ProbeNotFoundError, match=r"expected the folder of a probe"):
        ProbeFolder(tmp_path).remove()
    assert (tmp_path / "thesis.tex").exists()


def test_remove_of_a_link_to_a_probe_leaves_both(cache: Cache, tmp_path: Path) -> None:
    (knn,) = probe(cache, **KNN)
    (tmp_path / "link").symlink_to(knn.path)
    with pytest.raises(ProbeNotFoundError):
        ProbeFolder(tmp_path / "link").remove()
    assert read_probe(knn.path) is not None
