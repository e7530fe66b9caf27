"""Results published in "Attentive Multi-Layer Fusion for Vision Transformers", arXiv 2601.09322.

Balanced accuracy in percent: for each dataset that of a linear probe on the last layer's CLS, and
the gains of five other probes over it, as means over nine backbones (supervised S/16, B/16, L/16;
DINOv2 S/14, B/14, L/14; CLIP B/32, B/16, L/14). The accuracies of the nine backbones themselves are
in published.csv, for every dataset but ImageNet and for four of the six probes; on Flowers, two
backbones have all six.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAPER = "arXiv 2601.09322"
"""Source of every number in this file."""

PAPER_BACKBONES = (
    "vit_s16",
    "vit_b16",
    "vit_l16",
    "dinov2_s14",
    "dinov2_b14",
    "dinov2_l14",
    "clip_b32",
    "clip_b16",
    "clip_l14",
)
"""The nine models that the paper averages over."""


@dataclass(frozen=True, kw_only=True, order=True)
class ProbeKind:
    """A kind of probe: which head is trained on which layers and tokens."""

    head: str
    """Head: linear, attentive, attentive-tokens, ..."""
    layers: str
    """Layers: last, mid-last, quarter, all, or numbers such as 1,5,9."""
    tokens: str
    """Token kinds: cls, ap, cls+ap, all, ..."""

    def __str__(self) -> str:
        """Return the kind in words: "attentive, all layers, CLS+AP"."""
        layer_names = {
            "last": "last layer",
            "mid-last": "middle and last layer",
            "quarter": "layers at quarter depths",
            "all": "all layers",
        }
        token_names = {"cls": "CLS", "ap": "AP", "cls+ap": "CLS+AP", "all": "all tokens"}
        numbers = f"layer {self.layers}" if self.layers.isdigit() else f"layers {self.layers}"
        layers = layer_names.get(self.layers, numbers)
        return f"{self.head}, {layers}, {token_names.get(self.tokens, self.tokens)}"


BASELINE = ProbeKind(head="linear", layers="last", tokens="cls")
"""Baseline of every gain."""
FUSION = ProbeKind(head="attentive", layers="all", tokens="cls+ap")
"""Method proposed by the paper."""
PAPER_KINDS = (
    BASELINE,
    ProbeKind(head="attentive-tokens", layers="last", tokens="all"),
    ProbeKind(head="linear", layers="last", tokens="cls+ap"),
    ProbeKind(head="linear", layers="all", tokens="cls+ap"),
    ProbeKind(head="attentive", layers="last", tokens="cls+ap"),
    FUSION,
)
"""Columns of the paper's table, in its order."""

_MEANS: dict[str, tuple[float, ...]] = {
    "stl10": (99.29, 0.01, -0.01, 0.03, 0.03, 0.04),
    "cifar10": (96.91, 0.42, 0.08, 0.61, 0.19, 0.77),
    "caltech101": (95.57, 0.23, 0.43, 0.36, 0.09, 0.88),
    "voc2007": (87.82, -0.22, 1.38, 1.46, 1.19, 1.24),
    "imagenet": (81.40, 0.85, 0.33, 0.99, 0.15, 1.24),
    "cifar100": (85.45, 1.73, 0.61, 2.76, 0.87, 3.33),
    "country211": (21.48, -0.83, 1.18, 3.26, 1.35, 4.96),
    "pets": (93.98, -0.23, -0.05, -2.01, 0.12, 0.29),
    "flowers": (98.03, 0.41, 0.40, -0.25, 0.06, 0.46),
    "cars": (77.81, 8.97, 0.50, -0.86, 1.97, 6.35),
    "fgvc_aircraft": (55.69, 9.27, -0.96, -1.62, 1.84, 6.43),
    "gtsrb": (71.51, 18.02, 4.23, 8.76, 4.69, 13.47),
    "svhn": (56.06, 30.31, 6.94, 24.40, 7.39, 27.25),
    "pcam": (82.04, 5.03, 1.38, 5.32, 2.66, 2.85),
    "eurosat": (93.89, 3.38, 1.65, 4.08, 1.82, 4.37),
    "resisc45": (90.45, 4.07, 1.32, 4.53, 1.82, 5.23),
    "diabetic_retinopathy": (45.80, 1.94, 1.55, 5.92, 1.86, 6.86),
    "dtd": (75.99, 1.41, 1.18, 4.04, 2.53, 4.05),
    "fer2013": (59.08, 7.74, 2.18, 6.25, 3.61, 10.05),
    "dmlab": (44.91, 13.69, 1.81, 7.92, 2.61, 10.68),
}
"""Dataset -> accuracy of the baseline, then gains, in the order of PAPER_KINDS."""

ACCURACIES_FILE = Path(__file__).with_name("published.csv")
"""Balanced accuracies in percent (tables of the appendix): one row per dataset and kind of probe,
one column per backbone; an empty field is not published."""

_ALIASES = {
    "oxfordiiitpet": "pets",
    "flowers102": "flowers",
    "oxfordflowers102": "flowers",
    "stanfordcars": "cars",
    "aircraft": "fgvc_aircraft",
    "imagenet1k": "imagenet",
    "voc": "voc2007",
    "voc2007crops": "voc2007",
    "pascalvoc2007": "voc2007",
    "patchcamelyon": "pcam",
    "textures": "dtd",
    "retinopathy": "diabetic_retinopathy",
}


def paper_dataset(name: str) -> str | None:
    """Return the paper's dataset of that name, or None.

    Spelling and prefix do not matter: "wds:/data/RESISC-45" is resisc45.
    """
    last_part = name.rstrip("/").replace(":", "/").split("/")[-1]
    key = "".join(c for c in last_part.lower() if c.isalnum())
    names = {known.replace("_", ""): known for known in _MEANS}
    return names.get(key) or _ALIASES.get(key)


def published_accuracy(dataset: str, *, kind: ProbeKind, model: str | None = None) -> float | None:
    """Return the paper's balanced accuracy in percent, or None if it is not published.

    Args:
        dataset: Name in any spelling.
        kind: Kind of probe.
        model: Backbone; None for the mean over the nine.
    """
    name = paper_dataset(dataset)
    if name is None or kind not in PAPER_KINDS:
        return None
    column = PAPER_KINDS.index(kind)
    if model is not None:
        return _accuracies().get((name, kind, model))
    means = _MEANS[name]
    return round(means[0] + (means[column] if column else 0.0), 2)


@cache
def _accuracies() -> Mapping[tuple[str, ProbeKind, str], float]:
    """Return the published accuracies by dataset, kind of probe and backbone."""
    with open(ACCURACIES_FILE, encoding="utf-8", newline="") as file:
        return {
            (
                row["dataset"],
                ProbeKind(head=row["head"], layers=row["layers"], tokens=row["tokens"]),
                model,
            ): float(row[model])
            for row in csv.DictReader(file)
            for model in PAPER_BACKBONES
            if row[model]
        }


def published_gain(dataset: str, *, kind: ProbeKind, model: str | None = None) -> float | None:
    """Return the paper's gain over BASELINE in percentage points, or None if it is not published.

    Arguments as in `published_accuracy`.
    """
    accuracy = published_accuracy(dataset, kind=kind, model=model)
    baseline = published_accuracy(dataset, kind=BASELINE, model=model)
    return None if accuracy is None or baseline is None else round(accuracy - baseline, 2)
