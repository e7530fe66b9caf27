"""Predictions of a probe as a table: a row per test image.

Shapes: N test images, C classes or columns of a regression.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache.cache.cache import load_cache
from layercache.cache.format.cache_spec import digest_ids
from layercache.errors import CacheError, OptionError, ProbeNotFoundError
from layercache.probing.heads.spec import CLASSIFICATION, REGRESSION
from layercache.probing.metrics import task_of, to_probabilities
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.formatting import write_table

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")

logger = logging.getLogger(__name__)


def prediction_table(probe: Probe, *, test: str | None = None) -> pd.DataFrame:
    """Return a row per test image, in the order of the split.

    Columns are id, group (if there are groups), and

    - of one class per image: target, prediction (names), correct, and a probability_<class> each;
    - multi-label: target_<class>, prediction_<class> (1 if the probability is above 0.5) and
      probability_<class> for each class, and correct, True if all classes are;
    - of a regression: target and prediction, or target_<column> and prediction_<column>.

    Args:
        probe: The probe.
        test: Name of the test set, one of `probe.tests`; None: the test split.

    Raises:
        UnknownNameError: The probe has no such test set.
        CacheCorruptError: The predictions are damaged.
    """
    import pandas as pd

    stored, task = probe.predictions(test), task_of(probe.spec["head_spec"])
    names = _class_names(probe, stored)
    columns: dict[str, Any] = {"id": _sample_ids(probe, stored)}
    if stored.groups is not None:
        columns["group"] = list(stored.groups)
    if task == REGRESSION:
        columns |= score_columns("target", stored.targets, names)
        columns |= score_columns("prediction", stored.logits, names)
        return pd.DataFrame(columns)
    probabilities = to_probabilities(stored.logits, task=task).astype(np.float32)
    if task == CLASSIFICATION:
        predicted, classes = stored.logits.argmax(1), np.array(names, dtype=object)
        columns |= {"target": classes[stored.targets], "prediction": classes[predicted]}
        columns["correct"] = predicted == stored.targets
    else:
        predicted = (stored.logits > 0).astype(np.uint8)
        columns |= score_columns("target", stored.targets, names, always=True)
        columns |= score_columns("prediction", predicted, names, always=True)
        columns["correct"] = (predicted == stored.targets).all(1)
    return pd.DataFrame(columns | score_columns("probability", probabilities, names, always=True))


def write_predictions(probe: Probe, path: str | Path, *, test: str | None = None) -> int:
    """Write `prediction_table` as .csv or .parquet; return the number of rows.

    Args:
        probe: The probe.
        path: The file; its suffix gives the format.
        test: As in `prediction_table`.

    Raises:
        UnknownNameError: The probe has no such test set.
        OptionError: The suffix is another one.
        MissingExtraError: .parquet without pyarrow.
        CacheCorruptError: The predictions are damaged.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise OptionError(
            f"{file}: expected a file that ends in .csv or .parquet, got {file.suffix!r}"
        )
    table = prediction_table(probe, test=test)
    write_table(table, file)
    return len(table)


def score_columns(
    kind: str, values_nc: np.ndarray[Any, Any], names: Sequence[str], *, always: bool = False
) -> dict[str, Any]:
    """Return a column kind_<name> for each name, or one column `kind` if there is one name."""
    if len(names) == 1 and not always:
        return {kind: values_nc[:, 0]}
    return {f"{kind}_{name}": values_nc[:, c] for c, name in enumerate(names)}


def _class_names(probe: Probe, stored: Predictions) -> list[str]:
    """Return a name for each class, none twice; numbers if an older version stored none."""
    names = stored.class_names
    if names is None:
        try:
            names = probe.head().provenance.classes
        except ProbeNotFoundError:  # a nearest-neighbor classifier
            names = tuple(map(str, range(stored.logits.shape[1])))
    if len(set(names)) < len(names):
        return [f"{name}_{c}" for c, name in enumerate(names)]
    return list(names)


def _sample_ids(probe: Probe, stored: Predictions) -> list[str]:
    """Return the ids of the test images, from the cache if an older version stored none."""
    if stored.sample_ids is not None:
        return list(stored.sample_ids)
    try:
        ids = load_cache(probe.path.parent.parent).split(probe.spec["splits"][1]).ids
    except CacheError:
        ids = []
    if digest_ids(ids) == stored.ids:
        return ids
    logger.warning(
        "%s: an older version of layercache stored no ids of the test images, and the cache is "
        "not available: the column id holds row numbers",
        probe.path,
    )
    return [str(row) for row in range(len(stored.logits))]
