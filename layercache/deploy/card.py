"""Model card of a trained head, in markdown: what a stranger must know before using it.

The results come from the probe's record next to the head; without it the card says that they are
not known.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

from layercache._printable import escape_control
from layercache.extraction.models.registry import MODELS
from layercache.probing.results.checkpoint import (
    Checkpoint,
    HeadPath,
    head_file,
    head_path,
    weights_file,
)
from layercache.probing.results.formatting import escape_markdown
from layercache.probing.results.identity import experiment_key
from layercache.probing.results.probe_store import Probe, read_probe, read_probes

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
    weights = weights_file(head, path)
    parts = [
        _title(head),
        _data(head, probe),
        _backbone(head, weights),
        _training(head, probe),
        _results(head, probe),
        _limits(head),
        _use(path, weights),
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
    kinds = list(dict.fromkeys(token.split("/")[0] for _, token in head.pairs))
    yield f"# {head.name} head on {provenance.model} for {provenance.dataset}"
    yield ""
    article = "An" if head.name[0] in "aeiou" else "A"
    attention = f" with {spec.num_heads} attention heads" if spec.num_heads else ""
    yield (
        f"{article} {head.name} head{attention} that classifies images into {spec.classes} classes "
        f"from {spec.tokens} tokens of a frozen backbone: {', '.join(kinds)} of "
        f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}."
    )


def _data(head: Checkpoint, probe: Probe | None) -> Iterator[str]:
    yield "## Data"
    yield ""
    rows = ""
    if probe is not None:
        rows = f": {probe.row['train_rows']} training and {probe.row['test_rows']} test images"
    several = head.spec.multi_label
    labels = "An image may have several classes." if several else "Each image has one class."
    yield f"{head.provenance.dataset}{rows}. {labels}"
    names = [" ".join(name.split()) for name in head.classes]
    more = f" and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
    yield f"Classes: {', '.join(names[:MAX_CLASSES])}{more}."


def _backbone(head: Checkpoint, weights: str | None) -> Iterator[str]:
    provenance = head.provenance
    info = MODELS.get(provenance.model)
    licence = weights_licence(provenance.model)
    licence = (
        f"{licence} (of the published weights of this name)"
        if licence
        else "not known: see where the weights came from"
    )
    preprocessing = ", ".join(
        f"{name} {_format_value(value)}" for name, value in provenance.preprocessing.items()
    )
    yield "## Backbone"
    yield ""
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
    yield ""
    yield "The head refuses a backbone with any other weights."


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
        f"Selected from {row['n_configs']} configurations by {_metric(head)[1]} on held-out "
        f"training samples: {config}; then trained on all training samples with seed "
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
        yield (
            f"AdamW, cosine schedule, {row['epochs']} epochs with batch size {row['batch_size']} "
            f"({row['steps']} steps), gradient norm clipped at {protocol['clip']}, class weights "
            f"{'on' if protocol['class_weights'] else 'off'}, {noise_text}."
        )


def _results(head: Checkpoint, probe: Probe | None) -> Iterator[str]:
    yield "## Results"
    yield ""
    if probe is None:
        yield "Not known: the probe's record (probe.json) is not next to this head."
        return
    row = probe.row
    metric, name = _metric(head)
    definition = "average precision" if head.spec.multi_label else "recall"
    _, test_split = probe.spec["splits"]
    split = "" if test_split == "test" else f" (split {escape_markdown(test_split)})"
    yield "| metric | value | meaning |"
    yield "|---|---|---|"
    yield (
        f"| test {name} | {_percent(row[f'test_{metric}'])} | mean over classes of {definition}, "
        f"on {row['test_rows']} test images{split}, evaluated once |"
    )
    yield (
        f"| 95 % interval | {_percent(row['test_ci95_low'])} to {_percent(row['test_ci95_high'])} "
        "| bootstrap over test images: variation between test sets |"
    )
    scores = [float(p.row[f"test_{metric}"]) for p in other_seeds(probe)]
    if len(scores) > 1:
        yield (
            f"| over {len(scores)} seeds | {_percent(mean(scores))} ± {_percent(stdev(scores))} | "
            "mean and standard deviation: variation between training runs |"
        )
    for key, label, meaning in (
        (
            "test_top1_accuracy",
            "test top-1 accuracy",
            "share of test images whose most probable class is right",
        ),
        (
            "test_top5_accuracy",
            "test top-5 accuracy",
            "share with the right class among the five most probable",
        ),
        (
            f"val_{metric}",
            f"validation {name}",
            "of the selected configuration on the held-out training samples; optimistic, as the "
            "configuration was selected by it",
        ),
    ):
        if row.get(key) is not None:
            yield f"| {label} | {_percent(row[key])} | {meaning} |"


def _limits(head: Checkpoint) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield (
        f"- The results hold for images like the test images of {head.provenance.dataset}; "
        "no others were tested."
    )
    if not head.spec.multi_label:
        yield (
            "- The head cannot reject an image that belongs to none of the classes: "
            "its probabilities always sum to 1 over them."
        )
    yield "- The probabilities are not calibrated."
    yield "- The head inherits the gaps and biases of the backbone's training data."


def _use(path: HeadPath, weights: str | None) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```"
    option = f" --weights {shlex.quote(weights)}" if weights is not None else ""
    yield f"layercache predict {shlex.quote(str(path))}{option} IMAGE..."
    yield "```"


def other_seeds(probe: Probe) -> list[Probe]:
    """Return this probe and those of the same cache that differ from it only in their seed."""
    key = experiment_key(probe.spec)
    same = [p for p in read_probes(probe.path.parent) if experiment_key(p.spec) == key]
    return list({p.spec["seed"]: p for p in [*same, probe]}.values())


def _metric(head: Checkpoint) -> tuple[str, str]:
    """Return the metric's column suffix and its name."""
    if head.spec.multi_label:
        return "mean_average_precision", "mean average precision"
    return "balanced_accuracy", "balanced accuracy"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _format_value(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
