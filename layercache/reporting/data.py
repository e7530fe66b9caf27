"""What a report is made of: caches, grouped into sources, and the complete probes kept beside them, read once.

Nothing is computed from images here, and no backbone is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layercache.cache.find import Cache, cache_root
from layercache.cache.format.spec import digest_ids, sha256_json
from layercache.cache.storage.paths import CachePath
from layercache.errors import ProbeNotFoundError
from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import selection_metric
from layercache.probing.results.probe_store import Predictions, Probe
from layercache.probing.results.table import read_results
from layercache.reporting.gains import CELL, pick
from layercache.reporting.mistakes import correct
from layercache.reporting.published import BASELINE, Cell
from layercache.reporting.statistics import PairedGain, paired_bootstrap

COLUMNS = [
    "dataset",
    "model",
    "source",
    *CELL,
    "seed",
    "shots",
    "fraction",
    "attention_heads",
    "accuracy",
    "metric",
    "probe",
    "variant",
]
Thumbnails = Callable[[str, str], Any]
"""(data set, id of a test image) -> PIL image, or None where it is not at hand."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """One backbone on one data set, run in one way: caches that differ only in which layers and tokens they store."""

    key: str
    """Digest of all that the caches have in common."""
    name: str
    """For people: "vit_nano on digits"."""
    caches: tuple[Cache, ...]
    """The one with most layers first."""

    @property
    def cache(self) -> Cache:
        """The one with most layers."""
        return self.caches[0]

    @property
    def model(self) -> str:
        """The name given to --model."""
        return self.cache.spec.model

    @property
    def dataset(self) -> str:
        """The name given to --dataset."""
        return self.cache.spec.dataset.name

    @property
    def depth(self) -> int:
        """Number of the last layer."""
        return self.cache.spec.depth

    @property
    def stem(self) -> str:
        """For file names and anchors."""
        return "-".join(re.findall(r"[a-z0-9_.]+", self.name.replace(" on ", " ").lower())).replace(
            ".", "-"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Correctness:
    """Which test images the probes of a cell classify rightly."""

    right: NDArray[np.float64]
    """(N,): share of the seeds that are right."""
    targets: NDArray[np.int64]
    """(N,): class numbers."""
    ids: str
    """Digest of the test images' ids."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """Caches and probes, with the table that the sections are made from."""

    sources: Mapping[str, Source]
    """By their key."""
    probes: Mapping[str, Probe]
    """By their folder."""
    table: pd.DataFrame
    """One row per probe, columns COLUMNS: shots, fraction and attention_heads are NaN where they are the protocol's own."""
    set_aside: int = 0
    """Probes left out because the same cell was also trained in another way (grid, epochs), with more seeds or a larger grid."""
    root: CachePath | None = None
    """Folder of all caches if one was given, for the commands that the page shows."""
    thumbnails: Thumbnails | None = None
    """Where test images are at hand."""
    per_head: bool = False
    """Also draw attention head by head."""
    cka_images: int = 2000
    """Test images that CKA is computed on, at most."""
    _right: dict[tuple[str, Cell], Correctness | None] = field(default_factory=dict, repr=False)
    details: int = 12
    """Sources that get figures of their own, at most; the others are in the overviews and tables."""

    @cached_property
    def main(self) -> pd.DataFrame:
        """Probes by the protocol's own choices: all training images, the paper's number of attention heads."""
        t = self.table
        main: pd.DataFrame = t[
            t["shots"].isna() & t["fraction"].isna() & t["attention_heads"].isna()
        ]
        return main

    @cached_property
    def detailed(self) -> list[Source]:
        """The sources that get figures of their own: those with most probes first."""
        counts = self.table["source"].value_counts()
        return sorted(self.sources.values(), key=lambda s: (-int(counts.get(s.key, 0)), s.name))[
            : self.details
        ]

    def command(self, source: Source | None, cell: Cell, *, more: str = "") -> str:
        """The command that trains a cell."""
        where = (
            "--model MODEL --dataset DATASET"
            if source is None
            else f"--model {quote(source.model)} --dataset {quote(source.dataset)}"
        )
        return f"layercache probe {where} --head {cell.head} --layers {cell.layers} --tokens {cell.tokens}{more}{self.at}"

    @property
    def at(self) -> str:
        """The option that says where the caches are, if they are not in the usual place."""
        return (
            f" --cache {quote(str(self.root))}"
            if self.root is not None and self.root != cache_root()
            else ""
        )

    def of(self, source: Source, cell: Cell) -> list[Probe]:
        """The probes of a cell on a source by the protocol's own choices, one per seed."""
        rows = pick(self.main, cell)
        return [
            self.probes[p] for p in rows[rows["source"] == source.key].sort_values("seed")["probe"]
        ]

    def pair(self, source: Source, cell: Cell) -> tuple[Predictions, Predictions] | None:
        """Predictions of a cell and of the baseline on the same test images, of the lowest seed that both have; None without such a pair."""
        ours = {int(p.spec["seed"]): p for p in self.of(source, cell)}
        base = {int(p.spec["seed"]): p for p in self.of(source, BASELINE)}
        for seed in sorted(set(ours) & set(base)):
            a, b = ours[seed].predictions(), base[seed].predictions()
            if a.ids == b.ids:
                return a, b
        return None

    def test_ids(self, source: Source, predictions: Predictions) -> list[str] | None:
        """Ids of the test images; None where no complete split of the caches is the one that was predicted."""
        for cache in source.caches:
            for name in cache.splits[::-1]:
                if (
                    cache.complete(name)
                    and digest_ids(ids := cache.split(name).ids) == predictions.ids
                ):
                    return ids
        return None

    def bootstrap(self, source: Source, cell: Cell) -> PairedGain | None:
        """Paired bootstrap of a cell against the baseline over the test images; an image's rightness is averaged over seeds.

        None where one of them is missing, where they were tested on different images, and for multi-label data.
        """
        ours, base = (self._rightness(source, c) for c in (cell, BASELINE))
        if ours is None or base is None or ours.ids != base.ids:
            return None
        return paired_bootstrap(ours.right, base.right, labels=ours.targets)

    def _rightness(self, source: Source, cell: Cell) -> Correctness | None:
        """Read once per cell: the logits of a large data set are many times larger than what is kept of them."""
        if (source.key, cell) not in self._right:
            self._right[source.key, cell] = self._read_rightness(source, cell)
        return self._right[source.key, cell]

    def _read_rightness(self, source: Source, cell: Cell) -> Correctness | None:
        found: list[Correctness] = []
        for probe in self.of(source, cell):
            said = probe.predictions()
            if said.targets.ndim != 1:
                return None
            found.append(
                Correctness(
                    right=correct(said.logits, said.targets).astype(np.float64),
                    targets=said.targets,
                    ids=said.ids,
                )
            )
        if not found or len({f.ids for f in found}) != 1:
            return None
        return replace(found[0], right=np.mean([f.right for f in found], axis=0))


def gather(
    caches: Sequence[Cache],
    *,
    root: CachePath | None = None,
    thumbnails: Thumbnails | None = None,
    per_head: bool = False,
    cka_images: int = 2000,
    details: int = 12,
) -> ReportData:
    """Everything that lies beside these caches. Raises CacheCorruptError where a record cannot be read."""
    sources = group(caches)
    probes, rows = {}, []
    for source in sources:
        for cache in source.caches:
            for probe in _probes(cache):
                probes[str(probe.path)] = probe
                rows.append(observation(probe, source))
    numbers = {"accuracy": float, "shots": float, "fraction": float, "attention_heads": float}
    table = pd.DataFrame(rows, columns=[*COLUMNS, "settings"]).astype(numbers)
    kept = one_variant(table)
    return ReportData(
        sources={s.key: s for s in sources},
        probes=probes,
        table=kept[COLUMNS],
        set_aside=len(table) - len(kept),
        root=root,
        thumbnails=thumbnails,
        per_head=per_head,
        cka_images=cka_images,
        details=details,
    )


def group(caches: Sequence[Cache]) -> list[Source]:
    """Caches of the same backbone, images, tap and arithmetic belong together, whatever layers and tokens they store."""
    together: dict[str, list[Cache]] = {}
    for cache in caches:
        common = {k: v for k, v in cache.spec.to_json().items() if k not in ("layers", "tokens")}
        together.setdefault(sha256_json(common), []).append(cache)
    ordered = {
        key: sorted(found, key=lambda c: (-len(c.spec.layers), "cls" not in c.spec.tokens, c.path))
        for key, found in together.items()
    }
    plain = {
        key: f"{found[0].spec.model} on {found[0].spec.dataset.name}"
        for key, found in ordered.items()
    }
    names = list(plain.values())
    return [
        Source(
            key=key,
            name=name if names.count(name) == 1 else f"{name} ({ordered[key][0].path.name})",
            caches=tuple(ordered[key]),
        )
        for key, name in plain.items()
    ]


def _probes(cache: Cache) -> Sequence[Probe]:
    try:
        return read_results(cache).probes
    except ProbeNotFoundError:
        return ()


def observation(probe: Probe, source: Source) -> dict[str, Any]:
    """One row of the table."""
    spec, row = probe.spec, probe.row
    metric = selection_metric(multi_label=source.cache.spec.dataset.multi_label)
    shape = {**spec["head_spec"], "groups": None}
    heads, usual = HeadSpec(**shape).heads, HeadSpec(**{**shape, "attention_heads": None}).heads
    return {
        "dataset": source.dataset,
        "model": source.model,
        "source": source.key,
        "head": spec["head"],
        "layers": row["layers"],
        "tokens": ", ".join(
            [
                row["tokens"],
                *([row["spatial"]] if row.get("spatial") else []),
                *(["embedding"] if row.get("embedding") else []),
            ]
        ),
        "seed": int(spec["seed"]),
        "shots": spec["shots"],
        "fraction": spec["train_fraction"],
        "attention_heads": None if heads == usual else heads,
        "accuracy": row[f"test_{metric}"],
        "metric": metric,
        "probe": str(probe.path),
        "variant": sha256_json(
            {name: spec[name] for name in ("grid", "train_config", "precision", "splits")}
        ),
        "settings": len(spec["grid"]),
    }


def one_variant(table: pd.DataFrame) -> pd.DataFrame:
    """Of probes that differ only in grid, epochs or another choice of training, those of one choice: most seeds, then the largest grid.

    Without it, two ways of training would pass for two seeds of one.
    """
    if table.empty:
        return table
    same = ["source", *CELL, "shots", "fraction", "attention_heads"]
    variants = (
        table.groupby([*same, "variant"], dropna=False, sort=True)
        .agg(seeds=("seed", "nunique"), settings=("settings", "max"))
        .reset_index()
    )
    best = variants.sort_values(
        ["seeds", "settings", "variant"], ascending=[False, False, True]
    ).drop_duplicates(same)
    return table.merge(best[[*same, "variant"]], on=[*same, "variant"]).reset_index(drop=True)
