"""The public function `probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from layercache._interruption import sigterm_as_interrupt
from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.probing.options import Options
from layercache.probing.plan import plan_probes, tested_caches
from layercache.probing.request import Layers, Numbers, ProbeRequest, Words
from layercache.probing.results.table.table import Results
from layercache.probing.runner import run_probes
from layercache.probing.splits.validation_choice import AUTO
from layercache.probing.targets.annotation_columns import check_any_column
from layercache.probing.training.config import HParams, TrainConfig

TaskName = Literal["classification", "multi-label", "regression"]
Refit = Literal["train", "train+val"]
SearchName = Literal["full", "halving", "coordinate", "auto"]
Precision = Literal["fp32", "bf16"]
Features = Literal["auto", "resident", "stream"]


def probe(
    cache: Cache | str | CachePath,
    *,
    target: Words | None = None,
    task: TaskName | None = None,
    head: Words = "attentive",
    layers: Layers | None = None,
    tokens: Words | None = None,
    spatial: str | None = None,
    spatial_layers: str = "last",
    spatial_cache: Cache | str | CachePath | None = None,
    embedding: bool = False,
    num_heads: int | None = None,
    configs: Sequence[HParams] | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    dropout: Numbers | None = None,
    search: SearchName = "full",
    seeds: int | Sequence[int] = 1,
    shots: int | Sequence[int] | None = None,
    train_fraction: Numbers | None = None,
    epochs: int | None = None,
    train_config: TrainConfig | None = None,
    test_split: Words = "test",
    test_cache: Cache | str | CachePath | Sequence[Cache | str | CachePath] = (),
    val_split: str | None = AUTO,
    folds: int | None = None,
    repeats: int = 1,
    group: str | None = None,
    fold_column: str | None = None,
    refit: Refit = "train",
    paper_compat: bool = False,
    by: str | None = None,
    select: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    features: Features = "auto",
    memory_budget: int | str | None = None,
    disk_cache: int | str | None = None,
    configs_per_pass: int | None = None,
    probes_root: str | CachePath | None = None,
    refresh: bool = False,
    progress: bool = False,
    engine: str = "local",
    ray_address: str | None = None,
) -> Results:
    """Train heads on cached tokens and test them.

    The defaults follow the paper (arXiv 2601.09322, "Attentive Multi-Layer Fusion").

    For every seed, the validation split, or without one a stratified 20 % of the training samples,
    scores the configurations by balanced accuracy (mean average precision for multi-label). Ties go
    to the lower validation loss, then to the larger weight decay. The best one is trained again on
    all training samples and tested once. Probes are stored in CACHE/probes/<id>/. A probe that
    exists is read instead of trained. A killed search continues: scores are kept as they arrive,
    and training is saved every few minutes.

    Args:
        cache: A cache or its folder.
        target: Annotation column to predict, or several ("a,b,c" or a list). Samples without a
            value are left out. Default: the dataset's own label.
        task: classification, multi-label or regression. Default: a regression for floats,
            multi-label for several columns of 0 and 1, else classification, also for integers.
        head: linear, scalar-mix, attentive, attentive-tokens, hybrid, efficient, knn, logreg, ridge
            or lda, or several of them; docs/heads.md says what each is. knn ranks classes by votes,
            and those with equally many, also none, by their nearest sample.
        layers: last, mid-last, quarter, all, a number or numbers ("1,5,9" or [1, 5, 9]: one probe
            on three layers), or a list of several of these (["last", "all"], [[1], [5], [9]]: a
            probe for each). Default: all; for attentive-tokens: last.
        tokens: Token kinds such as cls, ap, cls+ap, or several of these. Default: cls+ap; for
            attentive-tokens: all.
        spatial: Spatial tokens of the hybrid head, grid:K or patch.
        spatial_layers: Layers of the spatial tokens.
        spatial_cache: Cache of the spatial tokens if it is another one, of the same weights and
            images.
        embedding: For the hybrid head: learn an embedding for each layer and token kind.
        num_heads: Number of attention heads, or of queries of the efficient head. Default: one for
            each token that is not spatial; for attentive-tokens: 8; for efficient: 32.
        configs: Configurations to search, instead of the product of `lr`, `weight_decay` and
            `dropout`.
        lr: Learning rates to search.
        weight_decay: Weight decays to search.
        dropout: Attention dropout rates to search. By default the grid is the paper's: 21
        search: full trains every configuration to the end; halving drops the worse ones on the
            way; coordinate searches the weight decay for the best learning and dropout rates only;
            auto chooses (docs/search.md).
