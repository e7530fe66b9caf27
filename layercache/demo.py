"""The embedded default: the ViT that ships with the package on the data set that comes with scikit-learn, both stages, offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layercache.cache.find import load_cache
from layercache.cache.storage.paths import CachePath
from layercache.extraction.api import extract
from layercache.probing.api import probe
from layercache.probing.results.table import Results
from layercache.probing.training.config import LEARNING_RATES, grid
from layercache.reporting.attention import arrange
from layercache.reporting.plotting.figure import require
from layercache.reporting.plotting.heatmaps import attention_heatmap, save

MODEL, DATASET = "vit_nano", "digits"
PROBES = (("linear", "last", "cls"), ("linear", "all", "cls+ap"), ("attentive", "all", "cls+ap"))
"""(head, layers, tokens): the usual probe, then fusion without and with attention."""
WEIGHT_DECAY, DROPOUTS = 1e-4, (0.0, 0.1)
"""A corner of the paper's grid, so that the demo ends within a minute."""


@dataclass(frozen=True)
class Demo:
    """What the demo came to."""

    cache: CachePath
    """The cache's folder."""
    results: Results
    """The probes in the order of PROBES."""
    picture: Path
    """Attention over layer and token kind, a PNG."""

    @property
    def gain(self) -> float:
        """Test balanced accuracy of attention over all layers minus that of the last class token alone, in percentage points."""
        scores = self.results.table["test_balanced_accuracy"]
        return 100 * float(scores.iloc[-1] - scores.iloc[0])


def demo(
    *,
    out: Path,
    cache: str | CachePath | None = None,
    say: Callable[[str], object] = print,
    progress: bool = True,
) -> Demo:
    """Extract `digits` with `vit_nano`, train three probes on a corner of the paper's grid, draw the attention into `out`/attention.png.

    Raises MissingExtraError without matplotlib, before any work.
    """
    require("matplotlib")
    (done,) = extract(models=[MODEL], dataset=DATASET, cache=cache, say=say, progress=progress)
    say(done.summary())
    found = []
    for head, layers, tokens in PROBES:
        settings = grid(
            lr=LEARNING_RATES,
            weight_decay=(WEIGHT_DECAY,),
            dropout=DROPOUTS if head == "attentive" else (0.0,),
        )
        found += list(
            probe(
                load_cache(done.path),
                head=head,
                layers=layers,
                tokens=tokens,
                configs=settings,
                progress=progress,
            )
        )
    attention = found[-1].attention()
    seen = arrange(attention.mean, attention.std, pairs=attention.pairs)
    figure = attention_heatmap(
        seen.mean_lt,
        layers=seen.layers,
        tokens=seen.tokens,
        title="Where the attentive head looks",
        subtitle=f"{MODEL} on {DATASET}: mean over {len(attention.mean)} attention heads and the test images",
    )
    out.mkdir(parents=True, exist_ok=True)
    picture = out / "attention.png"
    save(figure, picture)
    return Demo(cache=done.path, results=Results(found), picture=picture)
