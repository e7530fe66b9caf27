"""The table of probes: a thin layer over a pandas DataFrame, one row per probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache.cache.reader import Cache, cache_root, find_caches
from layercache.errors import OptionError, ProbeNotFoundError
from layercache.probing.export import render, write
from layercache.probing.record import PROBES, Probe, read_probe

if TYPE_CHECKING:
    import pandas as pd

# fmt: off
COLUMNS = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "heads", "embedding", "seed", "shots", "fraction",
    "lr", "weight_decay", "dropout", "setting", "val_balanced_accuracy", "val_top1", "val_map",
    "test_balanced_accuracy", "test_top1", "test_top5", "test_map", "test_ci_low", "test_ci_high",
    "parameters", "epochs", "batch", "steps", "settings", "diverged", "folds", "train_rows", "test_rows", "empty_classes", "seconds",
    "device", "precision", "features", "tap", "fingerprint", "weights", "data", "protocol", "path",
)
"""In this order. test_ci_low and test_ci_high bound a 95 % bootstrap interval over test samples, of test_balanced_accuracy or, when multi-label,
test_map."""
# fmt: on
FILTERS = ("model", "dataset", "head", "layers", "tokens")
SHOWN = (
    "head",
    "layers",
    "tokens",
    "lr",
    "weight_decay",
    "dropout",
    "val_balanced_accuracy",
    "test_balanced_accuracy",
    "test_top1",
    "parameters",
    "seconds",
)
"""Columns of the printed table; those that say what differs between rows are put before them."""
VARYING = ("model", "dataset", "spatial", "seed", "shots", "fraction", "setting")
REPEATED = (
    "model",
    "dataset",
    "data",
    "weights",
    "tap",
    "protocol",
    "head",
    "layers",
    "tokens",
    "spatial",
    "n_tokens",
    "heads",
    "embedding",
    "shots",
    "fraction",
)
"""What probes that differ in nothing but their seed have in common."""
SCORES = ("val_balanced_accuracy", "val_map", "test_balanced_accuracy", "test_top1", "test_top5", "test_map")
PAIRED = ("weights", "data", "seed", "shots", "fraction")
"""What a probe and its baseline must have in common."""


class Results:
    """Complete probes. Iterating gives them; `table` is the DataFrame.

    >>> results = layercache.probe(cache, head="attentive", seeds=3)   # doctest: +SKIP
    >>> results.table[["layers", "lr", "test_balanced_accuracy"]]      # doctest: +SKIP
    >>> results.over_seeds()                                           # doctest: +SKIP
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = tuple(probes)
        """In the order of the rows of `table`."""

    def __len__(self) -> int:
        return len(self.probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    def __repr__(self) -> str:
        return self.to_text() if self.probes else "Results: no probes"

    @property
    def table(self) -> pd.DataFrame:
        """One row per probe with COLUMNS; what a probe does not have is NaN (None in columns of text)."""
        import pandas as pd

        rows = [{**probe.row, "path": str(probe.path)} for probe in self.probes]
        return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}).astype(dict.fromkeys((*SCORES, "lr", "weight_decay"), float))

    def only(self, **wanted: str | None) -> Results:
        """Those whose row has these values, as in `only(model="clip_b16")`. None asks for nothing. Raises OptionError for another column."""
        if unknown := set(wanted) - set(COLUMNS):
            raise OptionError(f"{', '.join(sorted(unknown))}: no such column; there are {', '.join(COLUMNS)}")
        return Results([p for p in self.probes if all(v is None or str(p.row.get(name)) == str(v) for name, v in wanted.items())])

    def over_seeds(self) -> pd.DataFrame:
        """One row per probe but for its seed: `seeds` (how many) and of each score `<score>_mean` and `<score>_std` (n - 1; NaN of a single seed).

        The deviation says how far training draws move a figure; the bootstrap interval of a single probe, how far other test images would.
        """
        grouped = self.table.groupby(list(REPEATED), dropna=False, sort=False)
        spread = grouped[list(SCORES)].agg(["mean", "std"])
        spread.columns = spread.columns.map("_".join)
        return grouped.size().rename("seeds").to_frame().join(spread).reset_index()

    def with_gain(self, *, among: Results | None = None) -> pd.DataFrame:
        """`table` with two more columns, `baseline` and `gain`.

        The baseline is the linear head on the last layer's class token of the same model, data set, seed and draw of samples, looked for among
        `among` (default: these); `gain` is test balanced accuracy (mAP when multi-label) minus the baseline's, NaN without one.
        Of several baselines, one of the same cache and protocol goes first, then the one with the larger grid.
        """
        import pandas as pd

        table = self.table
        baselines: dict[tuple[Any, ...], list[Probe]] = {}
        for probe in among or self:
            row = probe.row
            if (row["head"], row["layers"], row["tokens"]) == ("linear", "last", "cls"):
                baselines.setdefault(tuple(row[name] for name in PAIRED), []).append(probe)
        names: list[str | None] = []
        gains: list[float] = []
        for probe in self.probes:
            row = probe.row
            found = baselines.get(tuple(row[name] for name in PAIRED), [])
            best = min(
                found,
                key=lambda b: (b.row["fingerprint"] != row["fingerprint"], b.row["protocol"] != row["protocol"], -b.row["settings"], b.id),
                default=None,
            )
            names.append(best.id if best else None)
            gains.append(_score(probe) - _score(best) if best else float("nan"))
        return table.assign(baseline=pd.Series(names, dtype=object), gain=pd.Series(gains, dtype=float))

    def to_text(self, *, gain: bool = False) -> str:
        """The table for a terminal."""
        return render(self._shown(gain), "text")

    def export(self, path: str | Path, *, gain: bool = True) -> Path:
        """Writes all columns, in the format that the name ends in: .csv, .parquet (needs pyarrow), .tex, .md.

        Raises OptionError for another ending, MissingExtraError without pyarrow.
        """
        file = Path(path)
        narrow = file.suffix in (".tex", ".md")
        write(self._shown(gain) if narrow else (self.with_gain() if gain else self.table), file)
        return file

    def _shown(self, gain: bool) -> pd.DataFrame:
        table = self.with_gain() if gain else self.table
        several = [name for name in VARYING if name in ("model", "dataset") or table[name].nunique(dropna=False) > 1]
        if table["test_map"].notna().any():
            several += ["val_map", "test_map"]
        names = [n for n in several if n != "setting" or (table["setting"] != "").any()]
        first = [name for name in names if name in ("model", "dataset")]
        rest = [name for name in names if name not in first]
        shown = [*first, *SHOWN[:3], *rest, *SHOWN[3:], *(["gain"] if gain else [])]
        return table[[name for name in shown if name in table]]


def _score(probe: Probe) -> float:
    row = probe.row
    return float(row["test_map"] if row["test_balanced_accuracy"] is None else row["test_balanced_accuracy"])


def read_results(where: str | Path | Cache | None = None) -> Results:
    """All complete probes below a cache root (None: the default one), or beside one cache. Sorted by data set, model, head, layers, tokens, seed.

    Raises ProbeNotFoundError where there is none.
    """
    caches = [where] if isinstance(where, Cache) else find_caches(cache_root(where))
    folders = [folder for cache in caches for folder in sorted((cache.path / PROBES).glob("*"))]
    found = [probe for folder in folders if (probe := read_probe(folder)) is not None]
    if not found:
        place = where.path if isinstance(where, Cache) else cache_root(where)
        raise ProbeNotFoundError(f"no probes below {place}: make one with `layercache probe`, or say where they are with --cache")
    names = ("dataset", "model", "head", "n_tokens", "layers", "tokens", "shots", "fraction", "seed", "probe")
    return Results(
        sorted(
            found,
            key=lambda p: tuple((p.row[name] is not None, p.row[name] or 0) if name in ("shots", "fraction") else p.row[name] for name in names),
        )
    )
