"""Storage of a probe in CACHE/probes/<probe id>/.

    probe.json          specification, row of the table, validation score of every configuration
    head.safetensors    the trained head (not for a knn baseline)
    predictions.npz     logits (N, C) float32, targets, digest of the ids; for heads with attention
                        also its mean and standard deviation (H, S)
    search.json         only while the probe is not complete: the scores so far

`probe.json` is written last: its existence says that the probe is complete.

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from layercache.cache.storage.lock import file_lock
from layercache.cache.storage.open import open_store
from layercache.cache.storage.paths import CachePath
from layercache.cache.storage.threads import in_threads
from layercache.errors import CacheCorruptError, ProbeError, ProbeSchemaError, StorageError
from layercache.probing.config_score import ConfigScore
from layercache.probing.results.checkpoint import HEAD_FILE, Checkpoint, load_head

logger = logging.getLogger(__name__)

PROBES = "probes"
PROBE_FILE = "probe.json"
PREDICTIONS_FILE = "predictions.npz"
SEARCH_FILE = "search.json"
LOCK_FILE = ".lock"
SCHEMA = 3
"""Of probe.json and search.json."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention:
    """Attention weights over the test images."""

    pairs: tuple[tuple[int, str], ...]
    """(layer, token) of the S columns."""
    mean: Array
    """Mean weight of each attention head on each token, (H, S) float32; a row sums to 1."""
    std: Array
    """Standard deviation over the images, (H, S) float32."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """Output of a probe on the test images."""

    logits: Array
    """(N, C) float32; for a knn baseline the logarithm of its vote shares."""
    targets: Array
    """(N,) int64 or (N, C) uint8."""
    ids: str
    """SHA-256 hex of the test images' ids in order; equal digests mean the same images."""
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
    """All that determined it (see `ProbeSpec.to_json`); the id is its digest."""
    row: Mapping[str, Any]
    """Its row of the results table."""
    configs: tuple[ConfigScore, ...]
    """Mean validation score of every configuration of the grid."""

    @property
    def id(self) -> str:
        """Name of the folder."""
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
        """Load the trained head.

        Raises:
            ProbeNotFoundError: It is a knn baseline, which has none.
        """
        return load_head(self.path)

    def predictions(self) -> Predictions:
        """Load logits and targets of the test images.

        Raises:
            CacheCorruptError: The file cannot be read.
        """
        try:
            data = io.BytesIO(open_store(self.path).read(PREDICTIONS_FILE))
            with np.load(data, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except StorageError:
            raise
        except (OSError, ValueError, BadZipFile) as e:
            raise CacheCorruptError(
                f"{self.path / PREDICTIONS_FILE} cannot be read ({e}): train the probe again with "
                "refresh=True (--refresh)"
            ) from e
        return Predictions(**{**arrays, "ids": str(arrays["ids"])})

    def attention(self) -> Attention:
        """Load the mean attention over the test images.

        Raises:
            ProbeError: The head has no attention.
        """
        stored = self.predictions()
        if stored.attention_mean is None or stored.attention_std is None:
            raise ProbeError(
                f"probe {self.id} is a {self.row['head']} head, which has no attention"
            )
        return Attention(pairs=self.pairs, mean=stored.attention_mean, std=stored.attention_std)


def read_probes(folder: CachePath, *, skip_damaged: bool = False) -> list[Probe]:
    """Load the complete probes in CACHE/probes, by id.

    Probes of another schema are left out, counted and named in a warning.

    Args:
        folder: The folder CACHE/probes.
        skip_damaged: Leave out probes whose record cannot be read.

    Raises:
        CacheCorruptError: A record cannot be read, unless `skip_damaged`.
    """
    store = open_store(folder)
    ids = store.list_dirs(".")
    probes: dict[str, Probe | None] = {}
    outdated: list[str] = []

    def read(name: str) -> None:
        try:
            probes[name] = read_probe(folder / name)
        except ProbeSchemaError:
            outdated.append(name)
        except CacheCorruptError:
            if not skip_damaged:
                raise

    in_threads(read, ids, threads=store.requests)
    if outdated:
        logger.warning(
            "%s: %d of %d probes left out, which another version of layercache wrote (expected "
            "schema %d): %s; to have them again, run the same `layercache probe` again",
            folder,
            len(outdated),
            len(ids),
            SCHEMA,
            ", ".join(sorted(outdated)),
        )
    return [probe for name in ids if (probe := probes.get(name)) is not None]


def read_probe(folder: CachePath) -> Probe | None:
    """Load the complete probe in a folder, or return None if there is none.

    Raises:
        CacheCorruptError: Its record cannot be read.
        ProbeSchemaError: Another version of layercache wrote it.
    """
    file = folder / PROBE_FILE
    try:
        record = json.loads(open_store(folder).read(PROBE_FILE))
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise CacheCorruptError(
            f"{file} is not valid JSON ({e}): remove the folder and probe again"
        ) from e
    if record.get("schema") != SCHEMA:
        raise ProbeSchemaError(
            f"{file}: expected schema {SCHEMA}, got schema {record.get('schema')}, which another "
            "version of layercache wrote: remove the folder and run the same `layercache probe` "
            "again"
        )
    return Probe(
        path=folder,
        spec=record["spec"],
        row=record["row"],
        configs=tuple(ConfigScore(**score) for score in record["configs"]),
    )


class ProbeFolder:
    """Writes one probe."""

    def __init__(self, path: CachePath) -> None:
        self.path = path
        """CACHE/probes/<probe id>."""
        self._store = open_store(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the probe against other processes, after waiting for one that holds it.

        On object storage, which has no locks, two processes may train the same probe. Each writes
        whole files, the record last, and both are the same probe.
        """
        with file_lock(self._store.path(LOCK_FILE), wait=True):
            yield

    def clear(self) -> None:
        """Delete the probe, its record first."""
        for key in (PROBE_FILE, SEARCH_FILE, HEAD_FILE, PREDICTIONS_FILE):
            self._store.delete(key)

    def load_search(self) -> tuple[list[ConfigScore], float]:
        """Return what `save_search` wrote: scores and seconds; none if they cannot be read."""
        try:
            state = json.loads(self._store.read(SEARCH_FILE))
        except (FileNotFoundError, ValueError):
            return [], 0.0
        if state.get("schema") != SCHEMA:
            return [], 0.0
        return [ConfigScore(**score) for score in state["scores"]], float(state["seconds"])

    def save_search(self, scores: Sequence[ConfigScore], *, seconds: float) -> None:
        """Write the scores so far, and the seconds behind them."""
        state = {"schema": SCHEMA, "scores": [asdict(s) for s in scores], "seconds": seconds}
        self._store.put(SEARCH_FILE, [_json_bytes(state)])

    def write(
        self,
        *,
        spec: Mapping[str, Any],
        row: Mapping[str, Any],
        configs: Sequence[ConfigScore],
        head: Checkpoint | None,
        predictions: Predictions,
    ) -> None:
        """Write the probe, its record last, and delete what the search has left."""
        if head is not None:
            self._store.put(HEAD_FILE, [head.to_bytes()])
        arrays = {k: np.asarray(v) for k, v in vars(predictions).items() if v is not None}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self._store.put(PREDICTIONS_FILE, [buffer.getvalue()])
        record = {
            "schema": SCHEMA,
            "spec": spec,
            "row": row,
            "configs": [asdict(config) for config in configs],
        }
        self._store.put(PROBE_FILE, [_json_bytes(record)])
        self._store.delete(SEARCH_FILE)
        self._store.remove_temporary()


def _json_bytes(value: Any) -> bytes:
    return json.dumps(_plain(value), indent=1, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """Return plain JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
