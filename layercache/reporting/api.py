"""The report: from caches and the probes beside them to one page, its figures and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layercache.cache.find import cache_root, find_caches
from layercache.cache.storage.paths import CachePath
from layercache.errors import CacheNotFoundError, OptionError
from layercache.reporting.data import ReportData, Thumbnails, gather
from layercache.reporting.page import FigureBlock, Page, Table
from layercache.reporting.plotting.figure import require, save
from layercache.reporting.published import SOURCE
from layercache.reporting.sections.certainty import certainty_section
from layercache.reporting.sections.depth import attention_section, depth_section
from layercache.reporting.sections.gains import gains_section
from layercache.reporting.sections.images import image_section
from layercache.reporting.sections.overview import headline
from layercache.reporting.sections.similarity import similarity_section
from layercache.reporting.sections.variants import variant_section
from layercache.reporting.words import listed

PAGE = "index.html"
FIGURES = "figures"
TABLES = "tables"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a report lies and what is in it."""

    page: Path
    """The HTML page; it needs no other file."""
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
    per_head: bool = False,
    cka_images: int = 2000,
    details: int = 12,
    thumbnails: Thumbnails | None = None,
) -> Report:
    """Write OUT/index.html, OUT/figures/*.png and *.svg, OUT/tables/*.csv from results, saved heads and caches; no backbone is run.

    Parameters
    ----------
    root
        Folder of all caches, as in `open_cache`.
    model, dataset
        Only caches of this model or data set, or of these.
    per_head
        Also draw attention head by head.
    cka_images
        Test images that CKA is computed on, at most.
    details
        Pairs of backbone and data set that get figures of their own, at most; all are in the overviews and tables.
    thumbnails
        (data set, id of a test image) -> PIL image or None: where test images are at hand.

    Raises MissingExtraError without matplotlib or scipy, CacheNotFoundError where no cache matches, OptionError, CacheCorruptError.
    """
    for package in ("jinja2", "matplotlib", "scipy"):
        require(package)
    if cka_images < 4 or details < 1:
        raise OptionError(
            f"expected at least 4 images for CKA and 1 pair in detail, came {cka_images} and {details}: leave the options out"
        )
    base = cache_root(root)
    models, datasets = _names(model), _names(dataset)
    every = find_caches(base)
    caches = [
        c
        for c in every
        if (models is None or c.spec.model in models)
        and (datasets is None or c.spec.dataset.name in datasets)
    ]
    if not caches:
        asked = (
            listed(
                [
                    f"{word} {', '.join(names)}"
                    for word, names in (("model", models), ("data set", datasets))
                    if names
                ]
            )
            or "any model and data set"
        )
        raise CacheNotFoundError(
            f"no cache of {asked} below {base}; there is {listed(sorted({f'{c.spec.model} on {c.spec.dataset.name}' for c in every})) or 'none'}. "
            "Make one with layercache extract, or say where it is with --cache"
        )
    material = gather(
        caches,
        root=None if root is None else base,
        thumbnails=thumbnails,
        per_head=per_head,
        cka_images=cka_images,
        details=details,
    )
    page = compose(material)
    return _write(page, Path(out))


def compose(material: ReportData) -> Page:
    """All sections, in the order of the questions: what is gained, how surely, where it comes from, for which images."""
    sentences, tiles = headline(material)
    left_out = len(material.sources) - len(material.detailed)
    if left_out > 0:
        drawn = f"Figures of single pairs are drawn for {len(material.detailed)} of {len(material.sources)}"
        sentences = [*sentences, f"{drawn}; --model, --dataset or --details choose others."]
    models, datasets = (
        [getattr(s, what) for s in material.sources.values()] for what in ("model", "dataset")
    )
    title = f"Layer fusion: {_named(models, 'backbones')} on {_named(datasets, 'data sets')}"
    make = (
        gains_section,
        certainty_section,
        attention_section,
        depth_section,
        similarity_section,
        variant_section,
        image_section,
    )
    return Page(
        title=title,
        headline=sentences,
        tiles=tiles,
        sections=[section(material) for section in make],
        footer=_footer(),
    )


def _names(given: str | Sequence[str] | None) -> list[str] | None:
    """None where nothing was asked for."""
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given)


def _named(names: list[str], noun: str) -> str:
    different = list(dict.fromkeys(names))
    return listed(different) if len(different) <= 3 else f"{len(different)} {noun}"


def _footer() -> str:
    try:
        number = version("layercache")
    except PackageNotFoundError:
        number = "from source"
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    made = f"Written by layercache {number} on {day} from cached tokens and saved probes; no backbone was run for it."
    return f"{made} Method and published figures: {SOURCE}."


def _write(page: Page, out: Path) -> Report:
    """The page last, so that a page that exists is whole."""
    figures: list[Path] = []
    tables: list[Path] = []
    for block in (block for section in page.sections for block in section.blocks):
        if isinstance(block, FigureBlock):
            figures += save(block.figure, out / FIGURES / block.name)
        elif isinstance(block, Table):
            path = out / TABLES / f"{block.name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            block.frame.to_csv(path, index=False)
            tables.append(path)
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{PAGE}.partial"
    partial.write_text(page.html(), encoding="utf-8")
    partial.replace(out / PAGE)
    return Report(
        page=out / PAGE, figures=tuple(figures), tables=tuple(tables), headline=tuple(page.headline)
    )
