"""The card of a trained head: what a stranger must know before using it, in markdown.

The figures come from the probe's record beside the head. A head file on its own says so instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean, stdev
from typing import Any

from layercache.extraction.models.registry import MODELS
from layercache.probing.results.checkpoint import FittedHead, HeadPath, head_file
from layercache.probing.results.probe_store import Probe, read_probe, read_probes

MOST_CLASSES = 40
"""Class names that a card lists."""


def write_card(head: FittedHead, path: HeadPath) -> str:
    """The card of `head`, which was read from `path`, a probe's folder or a head file."""
    probe = read_probe(head_file(path).parent)
    parts = [
        _title(head),
        _data(head, probe),
        _backbone(head),
        _protocol(head, probe),
        _figures(head, probe),
        _limits(head),
        _use(head, path),
    ]
    return "\n".join(line for part in parts for line in (*part, ""))


def weights_licence(model: str) -> str | None:
    """Licence of the published weights behind a model's name, as timm records it; None where it does not."""
    if model == "vit_nano":
        return "apache-2.0"
    import timm

    info = MODELS.get(model)
    known = timm.get_pretrained_cfg(info.architecture if info else model)
    return known.license if known is not None else None


def _title(head: FittedHead) -> Iterator[str]:
    spec, origin = head.spec, head.origin
    layers = sorted({layer for layer, _ in head.pairs})
    kinds = list(dict.fromkeys(token.split("/")[0] for _, token in head.pairs))
    yield f"# {head.name} head on {origin.model} for {origin.dataset}"
    yield ""
    article = "An" if head.name[0] in "aeiou" else "A"
    attention = f" with {spec.heads} attention heads" if spec.heads else ""
    yield (
        f"{article} {head.name} head{attention}: it tells {spec.classes} classes apart from {spec.tokens} tokens of a frozen backbone: "
        f"{', '.join(kinds)} of layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}."
    )


def _data(head: FittedHead, probe: Probe | None) -> Iterator[str]:
    yield "## Data"
    yield ""
    rows = (
        f": {probe.row['train_rows']} training and {probe.row['test_rows']} test images"
        if probe
        else ""
    )
    yield f"{head.origin.dataset}{rows}. {'An image may have several classes.' if head.spec.multi_label else 'Each image has one class.'}"
    names = [" ".join(name.split()) for name in head.classes]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    yield f"Classes: {', '.join(names[:MOST_CLASSES])}{more}."


def _backbone(head: FittedHead) -> Iterator[str]:
    origin = head.origin
    info = MODELS.get(origin.model)
    licence = weights_licence(origin.model)
    yield "## Backbone"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| model | {origin.model} ({info.architecture if info else origin.architecture}) |"
    if info:
        yield f"| trained on | {info.note} |"
    yield f"| digest of its weights | `{origin.weights}` |"
    yield f"| tokens read at | {origin.tap}{', last layer projected' if origin.projected else ''} |"
    yield f"| preprocessing | {', '.join(f'{k} {_plain(v)}' for k, v in origin.preprocessing.items())} |"
    yield (
        f"| licence of the weights | {f'{licence} (of the published weights of this name)' if licence else 'not known: look where you got them'} |"
    )
    yield ""
    yield "The head refuses a backbone with any other weights."


def _protocol(head: FittedHead, probe: Probe | None) -> Iterator[str]:
    yield "## Training"
    yield ""
    chosen = (
        ", ".join(f"{name} {value:g}" for name, value in head.setting.items())
        or "no hyperparameters"
    )
    if probe is None:
        yield f"Setting: {chosen}; seed {head.seed}. How it was found is in the probe's record, which is not beside this head."
        return
    row, protocol = probe.row, probe.spec["protocol"]
    few = f" {probe.spec['shots']} samples of each class." if probe.spec["shots"] else ""
    part = (
        f" {100 * probe.spec['fraction']:g} % of the training samples."
        if probe.spec["fraction"]
        else ""
    )
    yield (
        f"Chosen of {row['settings']} settings by {'mean average precision' if head.spec.multi_label else 'balanced accuracy'} on held-out training "
        f"samples: {chosen}; then trained on all training samples, seed {head.seed}.{few}{part}"
    )
    if protocol:
        noise = protocol["noise"]
        yield (
            f"AdamW, cosine schedule, {row['epochs']} epochs in batches of {row['batch']} ({row['steps']} steps), gradient norm at most "
            f"{protocol['clip']}, class weights {'on' if protocol['class_weights'] else 'off'}, "
            + (
                f"noise of {noise['std']:g} on {100 * noise['probability']:g} % of the samples."
                if noise
                else "no noise."
            )
        )


def _figures(head: FittedHead, probe: Probe | None) -> Iterator[str]:
    yield "## Figures"
    yield ""
    if probe is None:
        yield "Not known: the probe's record (probe.json) is not beside this head."
        return
    row = probe.row
    metric, name = (
        ("map", "mean average precision")
        if head.spec.multi_label
        else ("balanced_accuracy", "balanced accuracy")
    )
    meaning = (
        "mean over classes of average precision"
        if head.spec.multi_label
        else "mean over classes of the share recognised"
    )
    yield "| figure | value | what it says |"
    yield "|---|---|---|"
    yield f"| test {name} | {_percent(row[f'test_{metric}'])} | {meaning}, on {row['test_rows']} test images, read once for this head |"
    yield f"| its 95 % interval | {_percent(row['test_ci_low'])} to {_percent(row['test_ci_high'])} | bootstrap over test images: other test images |"
    seeds = [float(p.row[f"test_{metric}"]) for p in siblings(probe)]
    if len(seeds) > 1:
        yield f"| over {len(seeds)} seeds | {_percent(mean(seeds))} ± {_percent(stdev(seeds))} | mean and standard deviation: other training seeds |"
    for key, label, says in (
        ("test_top1", "test top-1", "share of test images whose class comes first"),
        ("test_top5", "test top-5", "share of test images whose class is among the first five"),
        (
            f"val_{metric}",
            f"validation {name}",
            "of the chosen setting on the held-out training samples; chosen for it, hence optimistic",
        ),
    ):
        if row.get(key) is not None:
            yield f"| {label} | {_percent(row[key])} | {says} |"


def _limits(head: FittedHead) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"- The figures hold for images like the test images of {head.origin.dataset}; nothing was measured on others."
    if head.spec.multi_label:
        yield "- The probabilities are sigmoids of the logits and were not calibrated."
    else:
        yield "- It has no answer for an image of none of the classes: its probabilities sum to 1 over them whatever it is shown."
        yield "- The probabilities were not calibrated."
    yield "- Whatever the backbone's training data lack or distort, the head inherits."


def _use(head: FittedHead, path: HeadPath) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```"
    yield f"layercache predict {path} IMAGE..."
    yield "```"


def siblings(probe: Probe) -> list[Probe]:
    """The probes beside this one that differ from it in their seed alone, itself among them."""
    return [
        other
        for other in read_probes(probe.path.parent, skip_damaged=True)
        if _but_seed(other.spec) == _but_seed(probe.spec)
    ]


def _but_seed(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "seed"}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
