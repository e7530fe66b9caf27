"""Predictions of a trained head on any split of its cache, with labels or without: no forward.

Shapes: N rows, S tokens of a row, D width, C classes or columns of a regression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layercache.cache.cache import Cache, load_cache
from layercache.cache.find import open_cache
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheError
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.metrics import task_of, to_probabilities
from layercache.probing.results.head_checkpoint import Checkpoint
from layercache.probing.results.lookup import read_members
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.prediction_table import score_columns

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 1024
Logits = NDArray[np.float32]


def predict_split(probe: Probe, split: str, *, root: str | CachePath | None = None) -> pd.DataFrame:
    """Return a row per image of a split: id, prediction, and a probability_<class> of each class.

    The head reads the cached tokens on the CPU. There are no targets, as the split may have no
    labels. A regression has `prediction` alone, or prediction_<column>.

    Args:
        probe: The probe.
        split: Any complete split of its cache.
        root: Root of the caches, for a probe that is kept elsewhere.

    Raises:
        ProbeNotFoundError: The probe, or a member of an ensemble, has no head, as a
            nearest-neighbor classifier, or a member was deleted.
        CacheNotFoundError: Its cache is not there.
        CacheIncompleteError: The split is not complete.
        UnknownNameError: There is no such split.
    """
    import pandas as pd

    logits, ids, names = _outputs(probe, split, root)
    task = task_of(probe.spec["head_spec"])
    columns: dict[str, object] = {"id": ids}
    if task == REGRESSION:
        return pd.DataFrame(columns | score_columns("prediction", logits, names))
    probabilities = to_probabilities(logits, task=task).astype(np.float32)
    if task == CLASSIFICATION:
        columns["prediction"] = np.array(names, object)[logits.argmax(1)]
    else:
        predicted = (logits > 0).astype(np.uint8)
        columns |= score_columns("prediction", predicted, names, always=True)
    return pd.DataFrame(columns | score_columns("probability", probabilities, names, always=True))


def _outputs(
    probe: Probe, split: str, root: str | CachePath | None
) -> tuple[Logits, list[str], list[str]]:
    """Return logits (N, C) of a probe, the ids of the rows and the names of the classes."""
    if "ensemble" not in probe.spec:
        head = probe.head()
        return *_predict(head, open_sources(probe, root), split), list(head.classes)
    total, ids, names = np.zeros(()), list[str](), list[str]()
    for member, coefficient in read_members(probe, root=root):
        logits, ids, names = _outputs(member, split, root)
        total = total + coefficient * logits
    return total.astype(np.float32), ids, names


Source = tuple[Cache, list[tuple[int, str]]]
"""A cache and its (layer, token) pairs."""


def open_sources(probe: Probe, root: str | CachePath | None) -> list[Source]:
    """Return the caches that a probe reads."""
    sources: list[Source] = []
    for source in probe.spec["sources"]:
        pairs = [(int(layer), str(token)) for layer, token in source["pairs"]]
        sources.append((_open_cache(probe, source["fingerprint"], root), pairs))
    return sources


def _open_cache(probe: Probe, fingerprint: str, root: str | CachePath | None) -> Cache:
    try:
        own = load_cache(probe.path.parent.parent)
    except CacheError:
        own = None
    if own is not None and own.spec.fingerprint == fingerprint:
        return own
    return open_cache(root=root, fingerprint=fingerprint)


def _predict(head: Checkpoint, sources: list[Source], name: str) -> tuple[Logits, list[str]]:
    """Return logits (N, C), float32, and the ids of the rows."""
    splits = [(cache.split(name), pairs) for cache, pairs in sources]
    first = splits[0][0]
    parts = []
    for start in range(0, first.rows, BATCH_ROWS):
        rows = (start, min(start + BATCH_ROWS, first.rows))
        tokens_snd = _pad([split.read(pairs, rows=rows) for split, pairs in splits])
        x_nsd = np.ascontiguousarray(tokens_snd.transpose(1, 0, 2)).astype(np.float32)
        parts.append(head.predict(x_nsd).cpu().numpy().astype(np.float32))
    return np.concatenate(parts), first.ids


def _pad(parts_snd: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the tokens of several caches, narrower ones padded with zeros."""
    width = max(part.shape[2] for part in parts_snd)
    padded = [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[2]))) for part in parts_snd]
    return np.concatenate(padded)
