"""Scores of predictions for image files whose targets are known.

Shapes: N images, C classes or columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercache._units import join_words, pluralize
from layercache.deploy.classifier import Classifier, Regressor
from layercache.deploy.predict import PredictionResult
from layercache.errors import DataError, DataNotFoundError, MissingExtraError, OptionError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL
from layercache.probing.metrics import Interval, bootstrap, compute, parse_metrics

if TYPE_CHECKING:
    import pandas as pd

FOLDERS = "folders"
"""Targets: the name of an image's folder is its class."""
PATH_COLUMNS = ("path", "file", "image", "filename", "id")
"""Columns of a table that may hold the path of the image, the first of them first."""
LABEL_COLUMNS = ("label", "class", "target", "labels")
"""Columns of a table that may hold the class."""
MAX_LISTED = 5

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of a prediction."""

    metrics: Mapping[str, float]
    """Metrics by name, see docs/metrics.md."""
    intervals: Mapping[str, Interval]
    """95 % bootstrap interval of each metric over the images."""
    n_images: int
    """Number of images that were scored."""
    without_target: tuple[str, ...]
    """Images that were left out, because no target is known."""


def score(
    model: Classifier | Regressor,
    result: PredictionResult,
    *,
    targets: str | os.PathLike[str],
    metrics: str | Sequence[str] | None = None,
) -> Score:
    """Compare predictions with targets.

    Args:
        model: The model that predicted.
        result: From `predict`.
        targets: "folders", if the name of an image's folder is its class; or a CSV or Parquet
            table. It has a column path (or file, image, filename, id), relative to the table's
            folder, and a column label (or class, target); several labels are joined by ";". For a
            regression it has the columns that the head predicts.
        metrics: Metrics, as "roc_auc,f1_macro"; None: all of the task.

    Raises:
        DataError: No image has a target, or a target is none of the head's classes.
        DataNotFoundError: There is no such table.
        OptionError: A metric is not one of the task.
    """
    task = model.checkpoint.spec.task
    files = [image.image for image in result.images]
    if targets == FOLDERS:
        known = _folder_targets(model, files)
    else:
        known = _table_targets(model, _read_table(Path(targets)), folder=Path(targets).parent)
    rows = [i for i, file in enumerate(files) if _key(file) in known]
    if not rows:
        reason = "the name of no image's folder is a class of the head"
        if targets != FOLDERS:
            reason = f"{targets} lists none of them by its path, relative to the table's folder"
        raise DataError(f"none of {pluralize(len(files), 'image')} has a target: {reason}")
    values = np.array([known[_key(files[i])] for i in rows])
    names = None if metrics is None else parse_metrics(metrics)
    outputs = result.outputs[rows]
    return Score(
        metrics=compute(outputs, values, task=task, names=names),
        intervals=bootstrap(outputs, values, task=task, names=names),
        n_images=len(rows),
        without_target=tuple(file for file in files if _key(file) not in known),
    )


def folders_are_classes(
    model: Classifier | Regressor,
    result: PredictionResult,
    paths: Sequence[str | os.PathLike[str]],
) -> bool:
    """Return whether the targets are known without being given: PATH/<class>/image.jpg.

    That is so if every path is a folder, and every image lies in a sub-folder that is named like
    one of the head's classes.

    Args:
        model: The model that predicted.
        result: From `predict`.
        paths: What was given to `predict`.
    """
    if model.checkpoint.spec.task != CLASSIFICATION or not result.images:
        return False
    if not all(os.path.isdir(path) for path in paths):
        return False
    given = {_key(path) for path in paths}
    parents = {os.path.dirname(_key(image.image)) for image in result.images}
    names = {os.path.basename(parent) for parent in parents}
    return not parents & given and names <= set(model.checkpoint.classes)


def _key(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(path)


def _folder_targets(model: Classifier | Regressor, files: Sequence[str]) -> dict[str, int]:
    """Return the class number of each file whose folder is named like a class."""
    if model.checkpoint.spec.task != CLASSIFICATION:
        raise OptionError(
            "targets: folders give one class per image, which is not what this head predicts: "
            "give a table"
        )
    assert isinstance(model, Classifier)
    numbers = {name: c for c, name in enumerate(model.classes)}
    folders = {file: os.path.basename(os.path.dirname(_key(file))) for file in files}
    return {_key(file): numbers[name] for file, name in folders.items() if name in numbers}


def _read_table(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file).astype(str)
        return pd.read_csv(file, dtype=str, keep_default_na=False, sep=None, engine="python")
    except FileNotFoundError:
        raise DataNotFoundError(
            f"{file}: there is no such table of targets; to take the names of the images' folders, "
            f"give {FOLDERS!r}"
        ) from None
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: expected a CSV or Parquet table, got {error}") from None


def _table_targets(
    model: Classifier | Regressor, table: pd.DataFrame, *, folder: Path
) -> dict[str, Any]:
    """Return the target of each listed file: a class number, (C,) 0/1, or (C,) floats."""
    table = table.rename(columns={name: str(name).strip() for name in table.columns})
    paths = [_key(folder / path) for path in table[_find_column(table, PATH_COLUMNS, "path")]]
    if isinstance(model, Regressor):
        columns = [table[_find_column(table, (name,), name)] for name in model.columns]
        return {
            path: [_number(text) for text in row]
            for path, *row in zip(paths, *columns, strict=True)
            if all(text.strip() not in ("", "nan") for text in row)
        }
    labels = table[_find_column(table, LABEL_COLUMNS, "label")]
    multi_label = model.checkpoint.spec.task == MULTI_LABEL
    words = [text.split(";") if multi_label else [text] for text in labels]
    names = [[word.strip() for word in row if word.strip()] for row in words]
    numbers = {name: c for c, name in enumerate(model.classes)}
    if unknown := sorted({name for row in names for name in row} - set(numbers)):
        listed = join_words([repr(name) for name in unknown[:MAX_LISTED]])
        raise DataError(
            f"{pluralize(len(unknown), 'label')} of the table ({listed}"
            f"{' ...' if len(unknown) > MAX_LISTED else ''}) "
            f"{'is' if len(unknown) == 1 else 'are'} none of the head's classes, such as "
            f"{join_words([repr(name) for name in model.classes[:MAX_LISTED]])}: correct them, or "
            "leave these rows out"
        )
    if not multi_label:
        return {path: numbers[row[0]] for path, row in zip(paths, names, strict=True) if row}
    return {
        path: np.isin(np.arange(len(numbers)), [numbers[name] for name in row]).astype(np.uint8)
        for path, row in zip(paths, names, strict=True)
    }


def _find_column(table: pd.DataFrame, names: Sequence[str], title: str) -> str:
    for name in names:
        for column in table.columns:
            if column.lower() == name.lower():
                return str(column)
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise DataError(
        f"the table of targets has no column {title!r}{others}; it has "
        f"{join_words([repr(name) for name in table.columns])}"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"expected a number as target, got {text!r}") from None
