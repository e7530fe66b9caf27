"""`report`: from caches and the probes next to them to one page, its figures and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from layercache._units import join_words, pluralize
from layercache._version import installed_version
from layercache.cache.cache import Cache
from layercache.cache.find import find_caches, make_command
from layercache.cache.format.origin import model_source
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import CacheNotFoundError, OptionError
from layercache.probing.metrics import parse_metrics
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.formatting import write_csv
from layercache.reporting.analysis.published import PAPER
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.data.report_data import ReportData, ThumbnailLoader
from layercache.reporting.dependencies import require
from layercache.reporting.page import FigureBlock, Page, Table
from layercache.reporting.plotting.figure import save_figure
from layercache.reporting.sections.attention import attention_section
from layercache.reporting.sections.encoders import encoder_section
from layercache.reporting.sections.gains import gains_section
from layercache.reporting.sections.head_weights import weight_section
from layercache.reporting.sections.images import image_section
from layercache.reporting.sections.metrics import metric_section
from layercache.reporting.sections.overview import overview
from layercache.reporting.sections.predicted_values import value_section
from layercache.reporting.sections.published import published_section
from layercache.reporting.sections.significance import significance_section
from layercache.reporting.sections.similarity import similarity_section
from layercache.reporting.sections.single_layers import single_layer_section
from layercache.reporting.sections.training import training_section
from layercache.reporting.sections.variants import variant_section

PAGE = "index.html"
FIGURES = "figures"
TABLES = "tables"
SECTIONS = (
    gains_section,
    published_section,
    significance_section,
    attention_section,
    encoder_section,
    weight_section,
    single_layer_section,
    similarity_section,
    variant_section,
    metric_section,
    training_section,
    image_section,
    value_section,
)
"""Sections of the page from top to bottom."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Files and headline of a report."""

    page: Path
    """The HTML page, which needs no other file."""
    figures: tuple[Path, ...]
    """PNG and SVG files."""
    tables: tuple[Path, ...]
    """CSV files."""
    headline: tuple[str, ...]
    """The result in a few sentences."""


def report(
    out: str | Path,
    *,
    root: str | CachePath | None = None,
    model: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    per_head: bool = False,
    cka_images: int = 2000,
    details: int = 12,
    load_thumbnail: ThumbnailLoader | None = None,
    probes: Sequence[Probe] | None = None,
    variant: str | None = None,
    probes_root: str | CachePath | None = None,
    metrics: str | Sequence[str] | None = None,
) -> Report:
    """Write OUT/index.html, OUT/figures/*.png and *.svg, OUT/tables/*.csv; no backbone is run.

    Args:
        out: Folder to write to.
        root: Root of the caches, as in `open_cache`.
        model: Backbone or backbones to include; all by default.
        dataset: Dataset or datasets to include, by name or by source as in "folder:PATH"; all by
            default.
        target: Targets to include, "label" for the dataset's own label; by default all that share
            the metric of the label, or without probes of it the metric of most probes.
        per_head: Draw the attention of each head, too.
        cka_images: Number of test images for CKA at most.
        details: Number of combinations of backbone and dataset with figures of their own at most;
            all are in the overviews and tables.
        load_thumbnail: Function from (dataset, id of a test image) to a PIL image, or None if the
            image is not available.
        probes: Probes to include, with the caches of their tokens; all by default.
        variant: First digits of a way of training (grid, epochs, splits ...), as listed on the
            page; by default the newest with the attentive head on all layers and the baseline,
            separately for each backbone and dataset. What was trained in another way is left out
            and listed.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
        metrics: Further metrics to show (docs/metrics.md), as in "roc_auc,f1_macro".

    Raises:
        MissingExtraError: Without the extra `report`.
        CacheNotFoundError: If no cache matches.
        CacheCorruptError: If a record cannot be read.
        OptionError: For an option out of range, or targets that share no page.
        UnknownNameError: There is no such metric.
    """
    names = () if metrics is None else parse_metrics(metrics)
    for package in ("jinja2", "matplotlib", "scipy"):
        require(package)
    for option, value, least in (("cka_images", cka_images, 4), ("details", details, 1)):
        if value < least:
            raise OptionError(f"{option}: expected at least {least}, got {value}")
    base = cache_root(root)
    caches = _select_caches(base, models=_as_list(model), datasets=_as_list(dataset))
    if probes is not None:
        used = {source["fingerprint"] for p in probes for source in p.spec["sources"]}
        caches = [cache for cache in caches if cache.spec.fingerprint in used]
    data = load_report_data(
        caches,
        probes=probes,
        variant=variant,
        targets=_as_list(target),
        probes_root=probes_root,
        root=None if root is None else base,
        load_thumbnail=load_thumbnail,
        per_head=per_head,
        cka_images=cka_images,
        details=details,
        metrics=names,
    )
    return _write(compose(data), Path(out))


def compose(data: ReportData) -> Page:
    """Compose the page from all sections."""
    sentences, tiles = overview(data)
    if len(data.combinations) > len(data.detailed):
        sentences.append(
            f"Detailed figures are drawn for {len(data.detailed)} of {len(data.combinations)} "
            "combinations of backbone and dataset; choose others with --model, --dataset or "
            "--details."
        )
    if data.left_out:
        n_left_out = sum(left.n_probes for left in data.left_out)
        sentences.append(
            f"Left out: {pluralize(n_left_out, 'probe')} trained in another way, listed with the "
            "differences below the gains."
        )
    if data.other_targets:
        listed = [f"{name} ({pluralize(n, 'probe')})" for name, n in data.other_targets.items()]
        sentences.append(
            f"Not on this page: probes of other targets, {join_words(listed)}; choose them with "
            "--target."
        )
    models = _join_names([c.model_label for c in data.combinations.values()], "backbones")
    datasets = _join_names([c.dataset_label for c in data.combinations.values()], "datasets")
    return Page(
        title=f"Layer fusion: {models} on {datasets}",
        headline=sentences,
        tiles=tiles,
        sections=[made for section in SECTIONS if (made := section(data)) is not None],
        footer=_footer(),
    )


def _select_caches(
    root: CachePath, *, models: list[str] | None, datasets: list[str] | None
) -> list[Cache]:
    found = {
        cache.path: cache
        for dataset in (datasets if datasets is not None else [None])
        for cache in find_caches(root, dataset=dataset)
    }
    names = None if models is None else {model_source(model) for model in models}
    selected = [c for c in found.values() if names is None or c.spec.model in names]
    if not selected:
        filters = [
            f"{name} {', '.join(values)}"
            for name, values in (("model", models), ("dataset", datasets))
            if values
        ]
        existing = sorted(
            {f"{c.spec.model} on {c.source or c.spec.dataset.name}" for c in find_caches(root)}
        )
        command = make_command(
            root,
            model=models[0] if models else None,
            dataset=datasets[0] if datasets else None,
        )
        raise CacheNotFoundError(
            f"no cache of {join_words(filters) or 'any model and dataset'} below {root}, "
            f"found {join_words(existing) or 'none'}: make one with: {command}, "
            "or give another root of the caches"
        )
    return selected


def _as_list(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)


def _join_names(names: list[str], noun: str) -> str:
    distinct = list(dict.fromkeys(names))
    return join_words(distinct) if len(distinct) <= 3 else f"{len(distinct)} {noun}"


def _footer() -> str:
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"Written by layercache {installed_version()} on {date} from cached tokens and saved "
        f"probes; no backbone was run. Method and published results: {PAPER}."
    )


def _write(page: Page, out: Path) -> Report:
    """Write all files, the page last, so that a page that exists is complete."""
    figures: list[Path] = []
    tables: list[Path] = []
    for block in (block for section in page.sections for block in section.blocks):
        if isinstance(block, FigureBlock):
            figures += save_figure(block.figure, out / FIGURES / block.name)
        elif isinstance(block, Table):
            path = out / TABLES / f"{block.name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_csv(block.frame, path)
            tables.append(path)
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{PAGE}.partial"
    partial.unlink(missing_ok=True)
    with open(partial, "x", encoding="utf-8") as file:  # never through a link
        file.write(page.html())
    partial.replace(out / PAGE)
    return Report(
        page=out / PAGE, figures=tuple(figures), tables=tuple(tables), headline=tuple(page.headline)
    )
