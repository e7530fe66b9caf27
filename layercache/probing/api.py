"""The public function `probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from layercache._interruption import sigterm_as_interrupt
from layercache.cache.cache import Cache
from layercache.cache.storage.paths import CachePath
from layercache.probing.join import JoinedCaches
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
Gate = Literal["scalar", "class", "sample"]
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
    position_embedding: bool = False,
    gate: Gate = "scalar",
    join: JoinedCaches = (),
    join_width: int | str | None = None,
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
        head: linear, scalar-mix, attentive, attentive-tokens, hybrid, efficient, fusion, knn,
            logreg, ridge or lda, or several of them; docs/heads.md says what each is. knn ranks
            classes by votes, and those with equally many, also none, by their nearest sample.
        layers: last, mid-last, quarter, all, a number or numbers ("1,5,9" or [1, 5, 9]: one probe
            on three layers), or a list of several of these (["last", "all"], [[1], [5], [9]]: a
            probe for each). Default: all; for attentive-tokens: last.
        tokens: Token kinds such as cls, ap, cls+ap, or several of these. Default: cls+ap; for
            attentive-tokens: all.
        spatial: Spatial tokens of the hybrid and fusion heads, grid:K or patch; for the fusion head
            also all, patches and CLS.
        spatial_layers: Layers of the spatial tokens.
        spatial_cache: Cache of the spatial tokens if it is another one, of the same weights and
            images.
        embedding: For the hybrid and fusion heads: learn an embedding for each layer and kind of
            token, of the fusion head for spatial ones.
        position_embedding: The same for each position, too: one embedding for each of these tokens.
        gate: Gate of the fusion head: one weight for both branches ("scalar"), one for each class
            ("class") or one for each image ("sample").
        join: Caches of further encoders whose tokens the head sees, too: opened, as folders, or as
            names of models that have a cache of the same images below the same root. `layers` and
            `tokens` choose from each. For linear and attentive heads, and the closed-form ones.
        join_width: Width to which an attentive head maps the tokens of each joined encoder, or
            "pad": zeros up to the largest width. Default: maps to the largest width. Linear heads
            see the concatenated tokens in any case.
        num_heads: Number of attention heads, or of queries of the efficient head. Default: one for
            each token that is not spatial; for attentive-tokens: 8; for efficient: 32.
        configs: Configurations to search, instead of the product of `lr`, `weight_decay` and
            `dropout`.
        lr: Learning rates to search.
        weight_decay: Weight decays to search.
        dropout: Attention dropout rates to search. By default the grid is the paper's: 21
            configurations for linear and scalar-mix, 63 for the others.
        search: full trains every configuration to the end; halving drops the worse ones on the
            way; coordinate searches the weight decay for the best learning and dropout rates only;
            auto chooses (docs/search.md).
        seeds: Number of seeds (3: seeds 0, 1, 2), or which.
        shots: Training samples per class.
        train_fraction: Fraction of the training samples.
        epochs: Replaces the epochs of `train_config`.
        train_config: Schedule, batch size, noise and loss. Default: the paper's.
        test_split: Split to test on, or several: the first gives the columns `test_...`, the others
            `test_...@SPLIT`, of one selected head.
        test_cache: Caches of other datasets of the same backbone to test on as well, opened, as
            folders, or as names of datasets ("imagenet_v2", "imagenet_v2@val" for a split that is
            not "test"). Classes are matched by name; samples of other classes are left out.
        val_split: Split that scores the configurations. "auto": the one called val, valid,
            validation or dev, where the dataset has one; None: 20 % of the training samples; "loo":
            each training sample by the fit to all others, exactly and without a refit (ridge and
            lda).
        folds: Score the configurations by the mean over this many stratified folds of the training
            samples.
        repeats: Draw the folds, or the 20 %, this often.
        group: Annotation column, such as a patient: where training samples are held out, those of
            one value are held out together.
        fold_column: Annotation column with the fold of each sample; those without a value, or with
            -1, are always trained on.
        refit: Where a split of its own selects, train the selected configuration on "train", or on
            "train+val".
        paper_compat: Break ties as the paper's code does, by the order lr, weight decay, dropout.
        select: Metric by which a configuration is selected (docs/metrics.md), such as roc_auc or
            log_loss. Default: balanced_accuracy, mean_average_precision for multi-label, r2 for
            regression.
        by: Annotation column, such as a hospital: `Results.scores_by(by)` has the test scores for
            each of its values and says which is the worst, and `to_text` shows them.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Arithmetic of the products over tokens: fp32 or bf16.
        features: resident or stream: whether tokens are kept on the device or read again every
            epoch; auto chooses by the memory.
        memory_budget: Memory for tokens (8GB, 500MiB or bytes). Default: half of the free memory.
        disk_cache: Disk space for tokens that are streamed from object storage (20GB; 0: none),
            which later epochs then do not read over the network again. Default: half of the free
            space in the folder for temporary files.
        configs_per_pass: Largest number of configurations trained together, which does not change
            the one that is selected. Default: as many as fit into half of the free memory; on a CPU
            at most 512 MiB of them, because larger groups are slower.
        probes_root: Folder to keep probes in, for a cache that is not writable. Default:
            $LAYERCACHE_PROBES, else the folder of the cache.
        refresh: Train probes again that already exist.
        progress: Show a progress bar.
        engine: Where probes are trained: "local", or "ray" for a Ray cluster; the results are the
            same.
        ray_address: Address of a running Ray cluster ("auto", "HOST:PORT"); None starts one on this
            machine.

    Returns:
        The probes in the order of head, layers, tokens, shots, train_fraction and seeds, each once:
        repeated seeds, or two names of the same layers, are logged and left out.

    Raises:
        OptionError: An option is wrong.
        UnknownNameError: There is no head, layer choice or token kind of this name.
        ProbeError: The labels allow no probe, or all configurations diverged.
        CacheError: The cache is not complete.
        NonFiniteError: A token is not finite.
        Interrupted: Ctrl-C or SIGTERM; the message says what is kept. The same call continues.

    >>> import layercache  # doctest: +SKIP
    >>> cache = layercache.open_cache(model="vit_nano", dataset="digits")  # doctest: +SKIP
    >>> results = layercache.probe(cache, head=["linear", "attentive"], seeds=3)  # doctest: +SKIP
    >>> results.over_seeds()[["head", "test_balanced_accuracy_mean"]]  # doctest: +SKIP
    """
    options = Options(
        device=device,
        precision=precision,
        features=features,
        memory_budget=memory_budget,
        disk_cache=disk_cache,
        configs_per_pass=configs_per_pass,
        probes_root=probes_root,
        refresh=refresh,
        progress=progress,
        engine=engine,
        ray_address=ray_address,
    )
    request = ProbeRequest(
        target=target,
        task=task,
        head=head,
        layers=layers,
        tokens=tokens,
        spatial=spatial,
        spatial_layers=spatial_layers,
        spatial_cache=spatial_cache,
        embedding=embedding,
        position_embedding=position_embedding,
        gate=gate,
        join=join,
        join_width=join_width,
        num_heads=num_heads,
        configs=configs,
        lr=lr,
        weight_decay=weight_decay,
        dropout=dropout,
        seeds=seeds,
        shots=shots,
        train_fraction=train_fraction,
        epochs=epochs,
        train_config=train_config,
        precision=precision,
        test_split=test_split,
        test_cache=test_cache,
        val_split=val_split,
        folds=folds,
        repeats=repeats,
        group=group,
        fold_column=fold_column,
        refit=refit,
        paper_compat=paper_compat,
        select=select,
        search=search,
    )
    specs = plan_probes(cache, request)
    caches = tested_caches(specs)
    if by is not None:
        check_any_column(caches, by)
    with sigterm_as_interrupt():
        return Results(run_probes(specs, options), caches=caches, by=by)
