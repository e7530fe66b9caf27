"""What is kept of a probe, in CACHE/probes/<probe id>/: written whole, `probe.json` last, whose existence says that the probe is complete.

    probe.json          specification, row of the table, validation scores of every setting
    head.safetensors    the trained head (not of a knn baseline)
    predictions.npz     logits (N, C) float32, targets, digest of the ids; of heads with attention also its mean and deviation (H, S)
    search.json         only while the probe is not complete: scores of the settings done so far

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from layercache.cache.storage.base import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError, ProbeError, StorageError
from layercache.probing.config_score import ConfigScore
from layercache.probing.results.checkpoint import HEAD_FILE, Checkpoint, load_head

PROBES = "probes"
PROBE_FILE = "probe.json"
PREDICTIONS_FILE = "predictions.npz"
SEARCH_FILE = "search.json"
SCHEMA = 2

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention:
    """Attention weights over the test images."""

    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of the S columns."""
    mean: Array
    """(H, S) float32: mean weight of each attention head on each token; a row sums to 1."""
    std: Array
    """(H, S) float32: standard deviation over the images."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What a probe said about the test images."""

    logits: Array
    """(N, C) float32; of baselines the logarithm of their class probabilities."""
    targets: Array
    """(N,) int64 or (N, C) uint8."""
    ids: str
    """SHA-256 hex over the test images' ids in order: two probes with equal digests can be compared image by image."""
    attention_mean: Array | None = None
    """(H, S) float32, see Attention."""
    attention_std: Array | None = None
    """(H, S) float32, see Attention."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One complete probe: a head, trained with one seed on one selection of tokens, tested once."""

    path: CachePath
    """Its folder."""
    spec: Mapping[str, Any]
    """All that determined it; the id is a digest of it."""
    row: Mapping[str, Any]
    """Its row of the table."""
    configs: tuple[ConfigScore, ...]
    """Mean validation score of every configuration of the grid."""

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def pairs(self) -> tuple[tuple[int, str], ...]:
        """(layer, token) of each token that the head sees."""
        return tuple(
            (int(layer), str(token))
            for source in self.spec["sources"]
            for layer, token in source["pairs"]
        )

    def head(self) -> Checkpoint:
        """Load the trained head. Raises ProbeNotFoundError for a knn baseline, which has none."""
        return load_head(self.path)

    def predictions(self) -> Predictions:
        """Logits and targets of the test images."""
        try:
            with np.load(
                io.BytesIO(open_store(self.path).read(PREDICTIONS_FILE)), allow_pickle=False
            ) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except StorageError:
            raise
        except (OSError, ValueError, BadZipFile) as e:
            raise CacheCorruptError(
                f"{self.path / PREDICTIONS_FILE} cannot be read ({e}): train the probe again with --refresh"
            ) from e
        return Predictions(**{**arrays, "ids": str(arrays["ids"])})

    def attention(self) -> Attention:
        """Mean attention over the test images. Raises ProbeError for a head without attention."""
        stored = self.predictions()
        if stored.attention_mean is None or stored.attention_std is None:
            raise ProbeError(
                f"probe {self.id} is a {self.row['head']} head, which has no attention"
            )
        return Attention(pairs=self.pairs, mean=stored.attention_mean, std=stored.attention_std)


def read_probes(folder: CachePath, *, skip_damaged: bool = False) -> list[Probe]:
    """The complete probes in CACHE/probes, by id. Raises CacheCorruptError where a record cannot be read, or leaves that probe out."""
    store = open_store(folder)
    ids = store.folders(".")
    found: dict[str, Probe | None] = {}

    def read(name: str) -> None:
        try:
            found[name] = read_probe(folder / name)
        except CacheCorruptError:
            if not skip_damaged:
                raise
            found[name] = None

    in_threads(read, ids, threads=store.requests)
    return [probe for name in ids if (probe := found[name]) is not None]


def read_probe(folder: CachePath) -> Probe | None:
    """The complete probe in a folder, or None. Raises CacheCorruptError where its record cannot be read."""
    file = folder / PROBE_FILE
    try:
        found = json.loads(open_store(folder).read(PROBE_FILE))
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise CacheCorruptError(
            f"{file} is not valid JSON ({e}): remove the folder and probe again"
        ) from e
    if found.get("schema") != SCHEMA:
        raise CacheCorruptError(
            f"{file} has schema {found.get('schema')}, this version reads {SCHEMA}: remove the folder and probe again"
        )
    return Probe(
        path=folder,
        spec=found["spec"],
        row=found["row"],
        configs=tuple(ConfigScore(**score) for score in found["configs"]),
    )


class ProbeFolder:
    """Writes one probe."""

    def __init__(self, path: CachePath) -> None:
        self.path = path
        self._store = open_store(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from this probe, where there are locks; waits for one that is at it.

        On object storage two may train the same probe: each puts whole files, the record last, and both are the same probe.
        """
        with self._store.lock(".lock", wait=True):
            yield

    def clear(self) -> None:
        """Forget the probe; its record goes first."""
        for key in (PROBE_FILE, SEARCH_FILE, HEAD_FILE, PREDICTIONS_FILE):
            self._store.delete(key)

    def load_search(self) -> dict[str, Any]:
        """What `save_search` wrote, or {}; a record that cannot be read counts as none."""
        try:
            found: dict[str, Any] = json.loads(self._store.read(SEARCH_FILE))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def save_search(self, state: Mapping[str, Any]) -> None:
        """Scores of the settings done so far."""
        self._store.put(SEARCH_FILE, [_json(state)])

    def finish(
        self,
        *,
        spec: Mapping[str, Any],
        row: Mapping[str, Any],
        configs: Sequence[ConfigScore],
        head: Checkpoint | None,
        predictions: Predictions,
    ) -> Probe:
        """Writes everything, the record last."""
        if head is not None:
            self._store.put(HEAD_FILE, [head.to_bytes()])
        arrays = {
            name: np.asarray(value)
            for name, value in vars(predictions).items()
            if value is not None
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self._store.put(PREDICTIONS_FILE, [buffer.getvalue()])
        self._store.put(
            PROBE_FILE,
            [
                _json(
                    {
                        "schema": SCHEMA,
                        "spec": spec,
                        "row": row,
                        "configs": [asdict(config) for config in configs],
                    }
                )
            ],
        )
        self._store.delete(SEARCH_FILE)
        self._store.sweep()
        written = read_probe(self.path)
        assert written is not None
        return written


def _json(value: Any) -> bytes:
    return json.dumps(_plain(value), indent=1, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """Plain JSON values; what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
