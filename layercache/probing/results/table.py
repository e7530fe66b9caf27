"""The table of probes: a thin layer over a pandas DataFrame, one row per probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache.cache.find import Cache, cache_root, find_caches
from layercache.cache.storage.paths import CachePath
from layercache.errors import OptionError, ProbeNotFoundError
from layercache.probing.results.formatting import render, write
from layercache.probing.results.probe_store import PROBES, Probe, read_probes

if TYPE_CHECKING:
    import pandas as pd

# fmt: off
COLUMNS = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "heads", "embedding", "seed", "shots", "fraction",
    "lr", "weight_decay", "dropout", "setting", "val_balanced_accuracy", "val_top1", "val_map",
    "test_balanced_accuracy", "test_top1", "test_top5", "test_map", "test_ci_low", "test_ci_high",
    "parameters", "epochs", "batch", "steps", "settings", "diverged", "folds", "train_rows", "test_rows", "empty_classes", "seconds",
    "device", "precision", "features", "tap", "fingerprint", "weights", "data", "protocol", "grid", "path",
)
"""In this order. test_ci_low and test_ci_high bound a 95 % bootstrap interval over test samples, of test_balanced_accuracy or, when multi-label,
test_map."""
# fmt: on
FIRST = ("model", "dataset", "head", "layers", "tokens")
"""Columns that are always shown."""
VARYING = ("spatial", "shots", "fraction", "seed")
"""Columns that are shown where they differ between rows."""
TELLING = ("heads", "embedding", "epochs", "settings", "precision", "tap", "fingerprint")
"""Columns that are shown where rows would look alike without them."""
REPEATED = (
    "model",
    "dataset",
    "data",
    "weights",
    "fingerprint",
    "tap",
    "protocol",
    "grid",
    "settings",
    "precision",
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
SCORES = (
    "val_balanced_accuracy",
    "val_map",
    "test_balanced_accuracy",
    "test_top1",
    "test_top5",
    "test_map",
)
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
        return self.to_text()

    @property
    def table(self) -> pd.DataFrame:
        """One row per probe with COLUMNS; what a probe does not have is NaN (None in columns of text)."""
        import pandas as pd

        rows = [{**probe.row, "path": str(probe.path)} for probe in self.probes]
        return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}).astype(
            dict.fromkeys((*SCORES, "lr", "weight_decay"), float)
        )

    def only(self, **wanted: str | None) -> Results:
        """Those whose row has these values, as in `only(model="clip_b16")`. None asks for nothing. Raises OptionError for another column."""
        if unknown := set(wanted) - set(COLUMNS):
            raise OptionError(
                f"{', '.join(sorted(unknown))}: no such column; there are {', '.join(COLUMNS)}"
            )
        return Results(
            [
                p
                for p in self.probes
                if all(v is None or str(p.row.get(name)) == str(v) for name, v in wanted.items())
            ]
        )

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
                key=lambda b: (
                    b.row["fingerprint"] != row["fingerprint"],
                    b.row["protocol"] != row["protocol"],
                    -b.row["settings"],
                    b.id,
                ),
                default=None,
            )
            names.append(best.id if best else None)
            gains.append(_score(probe) - _score(best) if best else float("nan"))
        return table.assign(
            baseline=pd.Series(names, dtype=object), gain=pd.Series(gains, dtype=float)
        )

    def to_text(
        self, *, gain: bool = False, among: Results | None = None, over_seeds: bool = False
    ) -> str:
        """The table for a terminal: what differs, what was chosen, scores in percent."""
        return (
            render(self._shown(gain=gain, among=among, over_seeds=over_seeds), "text")
            if self.probes
            else "no probes match"
        )

    def summary(self) -> str:
        """Where the probes are kept, and the best of them by its test score with its interval."""
        if not self.probes:
            return "no probes"
        best = max(self.probes, key=_score)
        row = best.row
        metric = "mAP" if row["test_balanced_accuracy"] is None else "balanced accuracy"
        interval = f"95 % bootstrap interval over test images {100 * row['test_ci_low']:.2f} to {100 * row['test_ci_high']:.2f}"
        places = ", ".join(dict.fromkeys(str(probe.path.parent) for probe in self.probes))
        return (
            f"highest test {metric} {100 * _score(best):.2f}: {row['head']}, layers {row['layers']}, tokens {row['tokens']}, seed {row['seed']} "
            f"({interval})\nkept in {places}"
        )

    def export(
        self,
        path: str | Path,
        *,
        gain: bool = True,
        among: Results | None = None,
        over_seeds: bool = False,
    ) -> Path:
        """Writes the table in the format that the name ends in: .csv and .parquet with all columns, .tex and .md as `to_text` shows it.

        Raises OptionError for another ending, MissingExtraError without pyarrow.
        """
        file = Path(path)
        if file.suffix in (".tex", ".md"):
            write(self._shown(gain=gain, among=among, over_seeds=over_seeds), file)
        elif over_seeds:
            write(self.over_seeds(), file)
        else:
            write(self.with_gain(among=among) if gain else self.table, file)
        return file

    def _shown(self, *, gain: bool, among: Results | None, over_seeds: bool) -> pd.DataFrame:
        if over_seeds:
            table = self.over_seeds()
            means = [
                name
                for name in map(str, table)
                if name.startswith(("val_bal", "test_", "val_map")) and table[name].notna().any()
            ]
            return table[[*_named(table), "seeds", *means]]
        table = self.with_gain(among=among) if gain else self.table
        scores = (
            ["val_balanced_accuracy", "test_balanced_accuracy", "test_top1"]
            if table["test_balanced_accuracy"].notna().any()
            else []
        )
        ranked = ["val_map", "test_map"] if table["test_map"].notna().any() else []
        chosen = [
            "lr",
            "weight_decay",
            "dropout",
            *(["setting"] if (table["setting"] != "").any() else []),
        ]
        return table[
            [
                *_named(table),
                *chosen,
                *scores,
                *ranked,
                *(["gain"] if gain else []),
                "parameters",
                "seconds",
            ]
        ]


def _named(table: pd.DataFrame) -> list[str]:
    """The columns that tell the rows apart, as few as will do."""
    names = [
        *FIRST,
        *(name for name in VARYING if name in table and table[name].nunique(dropna=False) > 1),
    ]
    for name in TELLING:
        if (
            name in table
            and table.duplicated(names).any()
            and table.groupby(names, dropna=False)[name].nunique(dropna=False).max() > 1
        ):
            names.append(name)
    return names


def _score(probe: Probe) -> float:
    row = probe.row
    return float(
        row["test_map"] if row["test_balanced_accuracy"] is None else row["test_balanced_accuracy"]
    )


def read_results(where: str | CachePath | Cache | None = None) -> Results:
    """All complete probes below a cache root (None: the default one), or beside one cache. Sorted by data set, model, head, layers, tokens, seed.

    Raises ProbeNotFoundError where there is none.
    """
    caches = [where] if isinstance(where, Cache) else find_caches(cache_root(where))
    found = [probe for cache in caches for probe in read_probes(cache.path / PROBES)]
    if not found:
        place = where.path if isinstance(where, Cache) else cache_root(where)
        raise ProbeNotFoundError(
            f"no probes below {place}: make one with `layercache probe`, or say where they are with --cache"
        )
    names = (
        "dataset",
        "model",
        "head",
        "n_tokens",
        "layers",
        "tokens",
        "shots",
        "fraction",
        "seed",
        "probe",
    )
    return Results(
        sorted(
            found,
            key=lambda p: tuple(
                (p.row[name] is not None, p.row[name] or 0)
                if name in ("shots", "fraction")
                else p.row[name]
                for name in names
            ),
        )
    )
