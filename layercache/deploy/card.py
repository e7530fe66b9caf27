"""Model card of a trained head, in markdown: what a stranger must know before using it.

The results come from the probe's record next to the head; without it the card says that they are
not known.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import mean, stdev
from typing import Any

from layercache._printable import escape_control
from layercache._units import join_words
from layercache.deploy.backbones import has_address
from layercache.extraction.models.encoder import ARCHITECTURE_PREFIX
from layercache.extraction.models.registry import MODELS
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION, SPATIAL
from layercache.probing.metrics import find_metric, selection_metric_of
from layercache.probing.results.head_checkpoint import (
    Checkpoint,
    EncoderRecord,
    HeadPath,
    head_file,
    head_path,
    weights_files,
)
from layercache.probing.results.identity import DEFAULT_VALIDATION, experiment_key
from layercache.probing.results.probe_store import Probe, read_probe, read_probes
from layercache.probing.results.table.formatting import escape_markdown

BACKBONE_LIMIT = "- The head inherits the gaps and biases of the backbone's training data."
MEANINGS = {
    "balanced_accuracy": "mean over classes of recall",
    "mean_average_precision": "mean over classes of average precision",
    "r2": "share of the variance of the true values that the predictions explain",
    "top1_accuracy": "share of test images whose most probable class is right",
    "top5_accuracy": "share with the right class among the five most probable",
    "mae": "mean absolute error, in the unit of the column",
    "rmse": "root of the mean squared error, in the unit of the column",
    "spearman": "correlation of the ranks of true and predicted values",
}
"""Metrics of a card and what they mean."""
MAX_CLASSES = 40
"""Number of class names that a card lists at most."""


def write_card(head: Checkpoint, path: str | HeadPath) -> str:
    """Return the card of a head in markdown.

    Args:
        head: The trained head.
        path: Where it was loaded from: a probe's folder or a head file.
    """
    path = head_path(path)
    probe = read_probe(head_file(path).parent)
    weights = weights_files(head, path)
    parts = [
        _title(head),
        _data(head, probe),
        _backbones(head, weights),
        _training(head, probe),
        _results(head, probe),
        _limits(head),
        _use(head, path, weights),
    ]
    return "\n".join(escape_control(line) for part in parts for line in (*part, ""))


def weights_licence(model: str) -> str | None:
    """Return the licence of a model's published weights, as recorded by timm, or None."""
    if model == "vit_nano":
        return "apache-2.0"
    if ":" in model:  # an address; timm knows licences by name only
        return None
    import timm

    info = MODELS.get(model)
    config = timm.get_pretrained_cfg(info.architecture if info else model)
    return config.license if config is not None else None


def _title(head: Checkpoint) -> Iterator[str]:
    spec, provenance = head.spec, head.provenance
    layers = sorted({layer for layer, _ in head.pairs})
    kinds = head.kinds
    models = join_words([record.model for record, _ in provenance.tokens_by_encoder])
    yield f"# {head.name} head on {models} for {provenance.dataset}"
    yield ""
    article = "An" if head.name[0] in "aeiou" else "A"
    n_heads = spec.attention_rows if spec.branch else spec.num_heads
    attention = f" with {n_heads} attention heads" if n_heads else ""
    yield (
        f"{article} {head.name} head{attention} that {_purpose(head)} from {spec.tokens} tokens of "
        f"{'a frozen backbone' if provenance.encoders is None else models}: {', '.join(kinds)} of "
        f"layer{'s' if len(layers) > 1 else ''} "
        f"{', '.join(map(str, layers))}."
    )
    if spec.branch:
        tokens = spec.branch_tokens(spec.branch)
        used, other = "pooled tokens of the layers", "spatial tokens"
        if spec.branch == SPATIAL:
            used, other = other, used
        n_used = tokens.stop - tokens.start
        yield (
            f"Validation chose one branch of the fusion head: only the {n_used} {used} have an "
            f"effect on the output, the {spec.tokens - n_used} {other} have none."
        )


def _purpose(head: Checkpoint) -> str:
    """Return what the head does, for "a head that ..."."""
    columns = " and ".join(head.provenance.target)
    if head.spec.task == REGRESSION:
        return f"predicts the number{'s' if len(head.classes) > 1 else ''} {columns} of an image"
    by_column = "" if head.provenance.target == ("label",) else f" ({columns})"
    return f"classifies images into {head.spec.classes} classes{by_column}"


def _data(head: Checkpoint, probe: Probe | None) -> Iterator[str]:
    yield "## Data"
    yield ""
    rows = ""
    if probe is not None:
        rows = f": {probe.row['train_rows']} training and {probe.row['test_rows']} test images"
    labels = {
        CLASSIFICATION: "Each image has one class.",
        MULTI_LABEL: "An image may have several classes.",
        REGRESSION: "Images without a value were left out.",
    }
    yield f"{head.provenance.dataset}{rows}. {labels[head.spec.task]}"
    if head.spec.task == REGRESSION:
        yield f"Predicted columns: {', '.join(' '.join(name.split()) for name in head.classes)}."
        return
    names = [" ".join(name.split()) for name in head.classes]
    more = f" and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
    yield f"Classes: {', '.join(names[:MAX_CLASSES])}{more}."


def _backbones(head: Checkpoint, weights: Sequence[str | None]) -> Iterator[str]:
    encoders = [record for record, _ in head.provenance.tokens_by_encoder]
    for record, file in zip_longest(encoders, weights):
        yield (
            "## Backbone" if len(encoders) == 1 else f"## Backbone {escape_markdown(record.model)}"
        )
        yield ""
        yield from _backbone(record, file)
        yield ""
    yield "The head refuses a backbone with any other weights."


def _backbone(provenance: EncoderRecord, weights: str | None) -> Iterator[str]:
    info = MODELS.get(provenance.model)
    is_own = provenance.architecture.startswith(ARCHITECTURE_PREFIX)
    licence = None if is_own else weights_licence(provenance.model)
    licence = (
        f"{licence} (of the published weights of this name)"
        if licence
        else "not known: see where the weights came from"
    )
    preprocessing = ", ".join(
        f"{name} {_format_value(value)}" for name, value in provenance.preprocessing.items()
    )
    yield "| | |"
    yield "|---|---|"
    architecture = info.architecture if info else provenance.architecture
    tap = f"{provenance.tap}, last layer projected" if provenance.projected else provenance.tap
    yield f"| model | {escape_markdown(f'{provenance.model} ({architecture})')} |"
    if info:
        yield f"| trained on | {info.note} |"
    if weights is not None:
        yield f"| weights | `{weights}` |"
    yield f"| SHA-256 of the weights | `{provenance.weights}` |"
    yield f"| tokens read at | {tap} |"
    yield f"| preprocessing | {escape_markdown(preprocessing)} |"
    yield f"| licence of the weights | {licence} |"


def _training(head: Checkpoint, probe: Probe | None) -> Iterator[str]:
    yield "## Training"
    yield ""
    config = ", ".join(f"{name} {value:g}" for name, value in head.hparams.items())
    config = config or "no hyperparameters"
    if probe is None:
        yield (
            f"Configuration: {config}; seed {head.seed}. How it was selected is in the probe's "
            "record, which is not next to this head."
        )
        return
    row, spec = probe.row, probe.spec
    subset = ""
    if spec["shots"]:
        subset += f" Training subset: {spec['shots']} samples per class."
    if spec["train_fraction"]:
        subset += f" Training subset: {100 * spec['train_fraction']:g} % of the training samples."
    yield (
        f"Selected from {row['n_configs']} configurations by "
        f"{_title_of(selection_metric_of(spec).name)} on "
        f"{_held_out(probe)}: {config}; then trained on {_trained_on(probe)} with seed "
        f"{head.seed}.{subset}"
    )
    if protocol := spec["train_config"]:
        noise = protocol["noise"]
        noise_text = (
            f"noise of standard deviation {noise['std']:g} on {100 * noise['probability']:g} % of "
            "the samples"
            if noise
            else "no noise"
        )
        loss = f"class weights {'on' if protocol['class_weights'] else 'off'}"
        if head.spec.task == REGRESSION:
            loss = "mean squared error of standardised values"
        yield (
            f"AdamW, cosine schedule, {row['epochs']} epochs with batch size {row['batch_size']} "
            f"({row['steps']} steps), gradient norm clipped at {protocol['clip']}, {loss}, "
            f"{noise_text}."
        )


def _held_out(probe: Probe) -> str:
    """Return in words which samples selected the configuration."""
    validation = probe.settings.data["validation"]
    if validation == DEFAULT_VALIDATION:
        return "held-out training samples"
    return escape_markdown(validation)


def _trained_on(probe: Probe) -> str:
    """Return in words which samples trained the selected configuration."""
    splits = probe.settings.data.get("final fit on")
    return "all training samples" if splits is None else f"all samples of {splits}"


def _results(head: Checkpoint, probe: Probe | None) -> Iterator[str]:
    yield "## Results"
    yield ""
    if probe is None:
        yield "Not known: the probe's record (probe.json) is not next to this head."
        return
    row = probe.row
    primary = selection_metric_of(probe.spec).name
    _, test_split = probe.spec["splits"]
    split = "" if test_split == "test" else f" (split {escape_markdown(test_split)})"
    where = f"on {row['test_rows']} test images{split}, evaluated once"
    yield "| metric | value | meaning |"
    yield "|---|---|---|"
    meaning = f"{MEANINGS[primary]}, " if primary in MEANINGS else ""
    yield f"| test {_title_of(primary)} | {_value(row, f'test_{primary}')} | {meaning}{where} |"
    low, high = (_value(row, f"test_ci95_{end}", metric=primary) for end in ("low", "high"))
    yield (
        f"| 95 % interval | {low} to {high} | bootstrap over test images: variation between test "
        "sets |"
    )
    scores = [float(p.row[f"test_{primary}"]) for p in other_seeds(probe)]
    if len(scores) > 1:
        yield (
            f"| over {len(scores)} seeds | {_number(primary, mean(scores))} ± "
            f"{_number(primary, stdev(scores))} | mean and standard deviation: variation between "
            "training runs |"
        )
    for name in MEANINGS:
        if name != primary and row.get(f"test_{name}") is not None:
            value = _value(row, f"test_{name}")
            yield f"| test {_title_of(name)} | {value} | {MEANINGS[name]} |"
    for name in probe.tests[1:]:
        yield (
            f"| {escape_markdown(name)}: {_title_of(primary)} | "
            f"{_value(row, f'test_{primary}@{name}')} | on {row[f'test_rows@{name}']} images of "
            "a further test set |"
        )
    if shared := row.get("test_rows_in_train"):
        yield (
            f"| test images in train | {shared} | the same image on both sides: the test scores "
            "are too high |"
        )
    if row.get(f"val_{primary}") is not None:
        yield (
            f"| validation {_title_of(primary)} | {_value(row, f'val_{primary}')} | of the "
            f"selected configuration on {_held_out(probe)}; optimistic, as the configuration was "
            "selected by it |"
        )


def _limits(head: Checkpoint) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield (
        f"- The results hold for images like the test images of {head.provenance.dataset}; "
        "no others were tested."
    )
    if head.spec.task == REGRESSION:
        yield (
            "- Values beyond those of the training images were not tested, and a prediction comes "
            "without an interval."
        )
        yield BACKBONE_LIMIT
        return
    if not head.spec.multi_label:
        yield (
            "- The head cannot reject an image that belongs to none of the classes: "
            "its probabilities always sum to 1 over them."
        )
    yield "- The probabilities are not calibrated."
    yield BACKBONE_LIMIT


def _use(head: Checkpoint, path: HeadPath, weights: Sequence[str | None]) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```"
    is_object = not has_address(head.provenance)
    model = " --model FILE.py:FUNCTION" if is_object else ""
    records = [record for record, _ in head.provenance.tokens_by_encoder]
    files = [
        shlex.quote(file if len(records) == 1 else f"{record.model}={file}")
        for record, file in zip_longest(records, weights)
        if file is not None
    ]
    options = "".join(f" --weights {file}" for file in dict.fromkeys(files))
    yield f"layercache predict {shlex.quote(str(path))}{model}{options} IMAGE..."
    yield "```"
    if is_object:
        yield ""
        yield (
            "FUNCTION returns the `layercache.Encoder` that the tokens are from; in Python, "
            "`load_classifier(head, model=encoder)`."
        )


def other_seeds(probe: Probe) -> list[Probe]:
    """Return this probe and those of the same cache that differ from it only in their seed."""
    key = experiment_key(probe.spec)
    same = [p for p in read_probes(probe.path.parent) if experiment_key(p.spec) == key]
    return list({p.spec["seed"]: p for p in [*same, probe]}.values())


def _title_of(metric: str) -> str:
    return escape_markdown(find_metric(metric).title)


def _value(row: Mapping[str, Any], column: str, *, metric: str | None = None) -> str:
    """Return the value of a column as text; its metric is in its name unless it is given."""
    return _number(metric or column.partition("_")[2], float(row[column]))


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.2f} %" if find_metric(metric).percent else f"{value:.4g}"


def _format_value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
