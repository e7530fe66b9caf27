"""Damage to the files of probes is found by verify, and whenever a file is read."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercache.cache import Cache
from layercache.cache.verify import verify
from layercache.errors import (
    CacheCorruptError,
    HeadMismatchError,
    ProbeNotFoundError,
    ProbeSchemaError,
)
from layercache.probing.api import probe
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import Probe, read_probe
from layercache.probing.results.reading import read_results
from layercache.testing import write_planted_cache
from tests.cache.folders import tree
from tests.probing.quick import ONE_CONFIG

DAMAGED = (CacheCorruptError, HeadMismatchError, ProbeSchemaError)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache with three probes, and a fourth whose search has begun."""
    cache = write_planted_cache(root=tmp_path_factory.mktemp("caches"), rows=60, test_rows=30)
    options = {**ONE_CONFIG, "dropout": None}
    probe(cache, head=["linear", "attentive", "knn"], **options)
    begun = ProbeFolder(Path(str(cache.path)) / "probes" / "0123456789ab")
    begun.save_search(read_results(cache).probes[0].configs, seconds=1.5)
    assert verify(cache) == []
    return cache


def contents(cache: Cache) -> dict[str, Any]:
    """Everything that the probes of a cache give, by probe; a search's scores among it."""
    values: dict[str, Any] = {}
    for folder in sorted((Path(str(cache.path)) / "probes").iterdir()):
        search = ProbeFolder(folder).load_search()
        values[folder.name] = search if search[0] else None
        found = read_probe(folder, fingerprint=cache.spec.fingerprint)
        if found is not None:
            values[folder.name] = [found.spec, found.row, found.configs, *_arrays(found)]
    return values


def _arrays(found: Probe) -> Iterator[Any]:
    predictions = found.predictions()
    for name, array in sorted(vars(predictions).items()):
        yield name, array.tolist() if isinstance(array, np.ndarray) else array
    try:
        head = found.head()
    except ProbeNotFoundError:
        assert found.spec["head"] == "knn"
        return
    yield head.spec, head.provenance, head.hparams, head.losses
    yield {name: p.tolist() for name, p in head.state_dict.items()}


def corrupt(folder: Path, rng: random.Random) -> str:
    """Damage something below a folder of probes as chance has it; return what was done."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    file = rng.choice(files)
    data = bytearray(file.read_bytes())
    kind = rng.choice(["bit", "bit", "digit", "cut", "longer", "gone", "swap", "rename"])
    if kind == "bit":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "digit":
        places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
        place = rng.choice(places)
        data[place] = rng.choice([48 + d for d in range(10) if 48 + d != data[place]])
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "longer":
        data += bytes(rng.randrange(1, 9))
    elif kind == "gone":
        file.unlink()
        return f"{file.name} gone"
    elif kind == "swap":
        others = [p for p in files if p != file and p.name == file.name]
        if others:
            other = rng.choice(others)
            theirs = other.read_bytes()
            other.write_bytes(data)
            data = bytearray(theirs)
    else:
        one, two = rng.sample(sorted(p for p in folder.iterdir()), 2)
        one.rename(folder / "tmp")
        two.rename(one)
        (folder / "tmp").rename(two)
        return f"{one.name} and {two.name} renamed"
    file.write_bytes(data)
    return f"{kind} in {file.relative_to(folder)}"


@pytest.mark.parametrize(("seed", "count"), [(0, 40), pytest.param(1, 400, marks=pytest.mark.slow)])
def test_random_corruptions_are_found_or_change_nothing(
    probed: Cache, caplog: pytest.LogCaptureFixture, seed: int, count: int
) -> None:
    folder = Path(str(probed.path)) / "probes"
    original, right = tree(folder), contents(probed)
    rng = random.Random(seed)
    n_found = 0
    for number in range(count):
        done = corrupt(folder, rng)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="layercache"):
            on_load = ""
            try:
                now = contents(probed)
            except DAMAGED as e:
                on_load = str(e)
            found = verify(probed)
        warned = any("starts again" in message for message in caplog.messages)
        if on_load or warned:
            assert found or "another version" in caplog.text, (number, done, on_load)
        elif not found:
            assert now == right or done == "search.json gone", (number, done)
        n_found += bool(found)
        shutil.rmtree(folder)
        for name, data in original.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    assert n_found > 0.8 * count
    assert contents(probed) == right
