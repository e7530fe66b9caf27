"""`layercache predict`: predict for image files with a trained head."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layercache_cli._terminal import echo, echo_lines
from layercache_cli.options.shared import (
    MovedModel,
    Offline,
    ProbesRoot,
    RecordedWeights,
    Root,
    SavedHead,
)

if TYPE_CHECKING:
    from layercache.deploy import Prediction, PredictionResult, Score, ValuePrediction

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE...", help="Image files and folders of images, subfolders included."
    ),
]
TopK = Annotated[int, typer.Option("--top-k", "-k", help="Number of classes per image.")]
Format = Annotated[str, typer.Option(help="table | csv | json.")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | mps.")]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic of the backbone: fp32 | bf16 | fp16.", show_default="that of the cache"
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images per forward pass.")]
Targets = Annotated[
    str | None,
    typer.Option(
        "--score",
        help="Print scores instead of predictions. Targets: folders (the name of an image's folder "
        "is its class), or a CSV or Parquet table with the columns path and label. none: "
        "predictions alone.",
        show_default="predictions, and scores where the sub-folders of a folder are the classes",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="With scores: metrics, as in roc_auc,f1_macro (docs/metrics.md).", show_default="all"
    ),
]
OnError = Annotated[
    str, typer.Option(help="For an image that cannot be decoded: stop | skip (listed at the end).")
]

FORMATS = ("table", "csv", "json")
ON_ERROR = {"stop": "raise", "skip": "skip"}


def predict(
    head: SavedHead,
    images: Images,
    *,
    top_k: TopK = 5,
    format: Format = "table",
    model: MovedModel = None,
    weights: RecordedWeights = None,
    offline: Offline = False,
    device: Device = "auto",
    precision: Precision = None,
    batch_size: BatchSize = 32,
    on_error: OnError = "stop",
    score: Targets = None,
    metrics: Metrics = None,
    cache: Root = None,
    probes: ProbesRoot = None,
) -> None:
    """Classify images with a trained head, or predict the numbers of a regression.

    Probabilities are a softmax over the classes, or for a multi-label head a
    sigmoid of each. Numbers are in the unit of the annotation column.
    """
    from layercache.deploy import folders_are_classes, predict_probe
    from layercache.deploy import score as compare
    from layercache.errors import OptionError, UnknownNameError
    from layercache.probing.results.lookup import find_probe

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    if on_error not in ON_ERROR:
        raise OptionError(f"--on-error: expected stop or skip, got {on_error!r}")
    if metrics is not None and score == "none":
        raise OptionError("--metrics needs scores: leave out --score none")
    path = find_probe(head, root=cache, probes_root=probes)
    loaded, result = predict_probe(
        path,
        images,
        root=cache,
        model=model,
        weights=weights,
        device=device,
        precision=precision,
        offline=offline,
        top_k=top_k,
        batch_size=batch_size,
        on_error=ON_ERROR[on_error],  # type: ignore[arg-type]
    )
    if score not in (None, "none"):
        print_scores(compare(loaded, result, targets=score, metrics=metrics), format)
    else:
        scores = None
        if score is None and folders_are_classes(loaded, result, images):
            scores = compare(loaded, result, targets="folders", metrics=metrics)
        elif metrics is not None:
            raise OptionError(
                "--metrics needs targets: --score folders, --score TABLE, or a folder whose "
                "sub-folders are all named like classes of the head"
            )
        print_predictions(result, format, scores=scores)
    if result.skipped:
        n_images = len(result.skipped) + len(result.images)
        echo(f"{len(result.skipped)} of {n_images} images skipped:", err=True)
        for message in result.skipped.values():
            echo(f"  {message}", err=True)


def print_scores(score: Score, format: str) -> None:
    """Print the scores as a table, CSV or JSON, and on stderr how many images had no target."""
    from layercache.probing.results.table.formatting import format_scores

    if format == "table":
        echo(f"{score.n_images} images")
        echo()
        echo_lines(format_scores(score.metrics, score.intervals))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["metric", "value", "ci95_low", "ci95_high"])
        for name, value in score.metrics.items():
            writer.writerow([name, value, *score.intervals[name]])
    else:
        content = {"images": score.n_images, "scores": _scores_as_json(score)}
        echo_lines(json.dumps(content, indent=1))
    if score.without_target:
        n_images = score.n_images + len(score.without_target)
        echo(
            f"{len(score.without_target)} of {n_images} images have no target and are left out, "
            f"such as {score.without_target[0]}",
            err=True,
        )


def print_predictions(result: PredictionResult, format: str, *, scores: Score | None) -> None:
    """Print the predictions, and their scores where the folders of the images are the classes.

    CSV keeps to the predictions: the scores are on stderr. JSON has them as "scores".
    """
    from layercache.probing.results.table.formatting import format_scores

    if format == "table":
        _print_table(result)
    elif format == "csv":
        _print_csv(result)
    else:
        _print_json(result, scores)
    if scores is None:
        return
    err = format != "table"
    if not err:
        echo()
    echo(
        f"The sub-folders are named like the head's classes, so the {scores.n_images} predictions "
        "are scored (--score none leaves this out):",
        err=err,
    )
    if format != "json":
        echo_lines(format_scores(scores.metrics, scores.intervals), err=err)


def _scores_as_json(score: Score) -> dict[str, Any]:
    return {
        name: {"value": _finite(value), "ci95": [*map(_finite, score.intervals[name])]}
        for name, value in score.metrics.items()
    }


def _finite(value: float) -> float | None:
    """Return a number that JSON has; None for NaN."""
    return None if value != value else value


def _print_table(result: PredictionResult) -> None:
    from layercache._printable import escape_control

    files = [escape_control(image.image) for image in result.images]
    width = max(map(len, files), default=0)
    for file, image in zip(files, result.images, strict=True):
        words = [escape_control(f"{name} {number}") for name, number in _in_words(image)]
        echo(f"{file:<{width}}  {'  '.join(words)}")


def _in_words(image: Prediction | ValuePrediction) -> list[tuple[str, str]]:
    """Return the names and numbers of a prediction as text."""
    from layercache.deploy import ValuePrediction

    if isinstance(image, ValuePrediction):
        return [(n, f"{v:.5g}") for n, v in zip(image.columns, image.values, strict=True)]
    pairs = zip(image.classes, image.probabilities, strict=True)
    return [(name, f"{100 * p:.1f} %") for name, p in pairs]


def _print_csv(result: PredictionResult) -> None:
    """Write a row per image and class; of a regression, a row per image."""
    from layercache._printable import escape_control, guard_cell
    from layercache.deploy import ValuePrediction

    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = ["image", "rank", "class", "probability"]
    if result.images and isinstance(first := result.images[0], ValuePrediction):
        header = ["image", *(guard_cell(escape_control(name)) for name in first.columns)]
    writer.writerow(header)
    for image in result.images:
        file = guard_cell(escape_control(image.image))
        if isinstance(image, ValuePrediction):
            writer.writerow([file, *(f"{value:.7g}" for value in image.values)])
            continue
        for rank, (name, p) in enumerate(zip(image.classes, image.probabilities, strict=True), 1):
            writer.writerow([file, rank, guard_cell(escape_control(name)), f"{p:.6f}"])


def _print_json(result: PredictionResult, scores: Score | None) -> None:
    images = [{"image": image.image, **_as_json(image)} for image in result.images]
    content: dict[str, Any] = {"images": images, "skipped": dict(result.skipped)}
    if scores is not None:
        content["scores"] = _scores_as_json(scores)
    echo_lines(json.dumps(content, indent=1))


def _as_json(image: Prediction | ValuePrediction) -> dict[str, Any]:
    from layercache.deploy import ValuePrediction

    if isinstance(image, ValuePrediction):
        pairs = zip(image.columns, image.values, strict=True)
        return {"values": {name: float(f"{value:.7g}") for name, value in pairs}}
    return {
        "top": [
            {"class": name, "probability": round(p, 6)}
            for name, p in zip(image.classes, image.probabilities, strict=True)
        ]
    }
