"""Demo of both stages, offline: the bundled ViT on the dataset that ships with scikit-learn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from layercache.cache.cache import load_cache
from layercache.cache.storage.paths import CachePath
from layercache.extraction.api import extract
from layercache.probing.api import probe
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.table import Results
from layercache.probing.training.config import LEARNING_RATES, grid
from layercache.reporting.analysis.attention_weights import arrange_attention
from layercache.reporting.dependencies import require
from layercache.reporting.plotting.attention_heatmap import attention_heatmap
from layercache.reporting.plotting.figure import save_figure

logger = logging.getLogger(__name__)

MODEL, DATASET = "vit_nano", "digits"
PROBES = (("linear", "last", "cls"), ("linear", "all", "cls+ap"), ("attentive", "all", "cls+ap"))
"""(head, layers, tokens): the usual probe, then fusion without and with attention."""
WEIGHT_DECAY = 1e-4
DROPOUTS = (0.0, 0.1)
"""Attention dropouts; with WEIGHT_DECAY, a part of the paper's grid that trains within a minute."""


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    cache: CachePath
    """Folder of the cache."""
    results: Results
    """The probes in the order of PROBES."""
    heatmap: Path
    """Attention over layers and token kinds, as PNG."""

    @property
    def gain(self) -> float:
        """Gain in test balanced accuracy of attentive fusion over the last CLS, in points."""
        accuracies = self.results.table["test_balanced_accuracy"]
        return 100 * float(accuracies.iloc[-1] - accuracies.iloc[0])


def demo(
    *,
    out: Path,
    cache: str | CachePath | None = None,
    progress: bool = True,
) -> DemoResult:
    """Extract `digits` with `vit_nano`, train three probes and draw OUT/attention.png.

    Args:
        out: Folder of the heatmap.
        cache: Root of the caches.
        progress: Show progress bars.

    Raises:
        MissingExtraError: Without matplotlib, before any work.
    """
    require("matplotlib")
    (extraction,) = extract(models=[MODEL], dataset=DATASET, cache=cache, progress=progress)
    logger.info("%s", extraction.summary())
    probes: list[Probe] = []
    for head, layers, tokens in PROBES:
        configs = grid(
            lr=LEARNING_RATES,
            weight_decay=(WEIGHT_DECAY,),
            dropout=DROPOUTS if head == "attentive" else (0.0,),
        )
        probes += probe(
            load_cache(extraction.path),
            head=head,
            layers=layers,
            tokens=tokens,
            configs=configs,
            progress=progress,
        )
    weights = probes[-1].attention()
    attention = arrange_attention(weights.mean, weights.std, pairs=weights.pairs)
    figure = attention_heatmap(
        attention.mean_lt,
        layers=attention.layers,
        tokens=attention.tokens,
        title="Attention of the attentive head on all layers",
        subtitle=f"{MODEL} on {DATASET}: mean over {len(weights.mean)} attention heads and the "
        "test images",
    )
    (heatmap,) = save_figure(figure, out / "attention.png")
    return DemoResult(cache=extraction.path, results=Results(probes), heatmap=heatmap)
