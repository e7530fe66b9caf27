"""The results table: one row per probe, as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.storage.paths import CachePath, cache_root
from layercache.errors import OptionError, ProbeNotFoundError
from layercache.probing.results.formatting import format_table, write_table
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.probe_store import Probe

if TYPE_CHECKING:
    import pandas as pd

# fmt: off
COLUMNS = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "num_heads",
    "embedding", "seed", "shots", "train_fraction", "lr", "weight_decay", "dropout", "config",
    "val_balanced_accuracy", "val_top1_accuracy", "val_mean_average_precision",
    "test_balanced_accuracy", "test_top1_accuracy", "test_top5_accuracy",
    "test_mean_average_precision", "test_ci95_low", "test_ci95_high",
    "n_params", "epochs", "batch_size", "steps", "n_configs", "n_diverged", "n_folds",
    "train_rows", "test_rows", "empty_classes", "train_seconds", "device", "precision", "features",
    "tap", "fingerprint", "weights_digest", "dataset_digest", "train_config_digest", "grid_digest",
    "path",
)
"""Columns in order; a column that is a parameter of `probe` has its name.

`config` holds the selected configuration of a baseline ("k=5"). `test_ci95_low` and
`test_ci95_high` bound a 95 % bootstrap interval over test samples, of the test balanced accuracy
or, for multi-label, the test mean average precision.
"""
GROUP_KEYS = (
    "model", "dataset", "dataset_digest", "weights_digest", "fingerprint", "tap",
    "train_config_digest", "grid_digest", "n_configs", "precision", "head", "layers", "tokens",
    "spatial", "n_tokens", "num_heads", "embedding", "shots", "train_fraction",
)
"""Columns that probes share if they differ only in their seed."""
SCORES = (
    "val_balanced_accuracy", "val_mean_average_precision", "test_balanced_accuracy",
    "test_top1_accuracy", "test_top5_accuracy", "test_mean_average_precision",
)
SORT_KEYS = (
    "dataset", "model", "head", "n_tokens", "layers", "tokens", "shots", "train_fraction", "seed",
    "probe",
)
# fmt: on
BASELINE_KEYS = ("weights_digest", "dataset_digest", "seed", "shots", "train_fraction")
"""Columns that a probe and its baseline share."""
ALWAYS_SHOWN = ("model", "dataset", "head", "layers", "tokens")
IF_VARYING = ("spatial", "shots", "train_fraction", "seed")
"""Columns that are shown if they differ between rows."""
IF_AMBIGUOUS = (
    "num_heads",
    "embedding",
    "epochs",
    "n_configs",
    "precision",
    "tap",
    "fingerprint",
)
"""Columns that are shown if rows would look alike without them."""


class Results:
    """Complete probes. Iteration yields them; `table` is the DataFrame.

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
        """One row per probe with COLUMNS; missing values are NaN (None in columns of text)."""
        import pandas as pd

        rows = [{**probe.row, "path": str(probe.path)} for probe in self.probes]
        return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}).astype(
            dict.fromkeys((*SCORES, "lr", "weight_decay"), float)
        )

    def filter(self, **values: str | None) -> Results:
        """Return the probes whose row has these values; None matches all.

        >>> results.filter(model="clip_b16")  # doctest: +SKIP

        Raises:
            OptionError: There is no such column.
        """
        if unknown := set(values) - set(COLUMNS):
            raise OptionError(
                f"expected names of columns ({', '.join(COLUMNS)}), "
                f"got {', '.join(sorted(unknown))}"
            )
        return Results(
            [
                probe
                for probe in self.probes
                if all(v is None or str(probe.row.get(k)) == str(v) for k, v in values.items())
            ]
        )

    def over_seeds(self) -> pd.DataFrame:
        """Return one row for all seeds of a probe.

        It has `n_seeds`, and `<score>_mean` and `<score>_std` of each score.

        The standard deviation (n - 1; NaN of a single seed) is that between training runs. The
        bootstrap interval of a single probe is that between test sets.
        """
        grouped = self.table.groupby(list(GROUP_KEYS), dropna=False, sort=False)
        statistics = grouped[list(SCORES)].agg(["mean", "std"])
        statistics.columns = statistics.columns.map("_".join)
        return grouped.size().rename("n_seeds").to_frame().join(statistics).reset_index()

    def with_gain(self, *, among: Results | None = None) -> pd.DataFrame:
        """Return `table` with two more columns, `baseline` (a probe's id) and `gain`.

        The baseline is the linear head on the last layer's class token of the same model, dataset,
        seed and training subset. `gain` is the test balanced accuracy (mean average precision for
        multi-label) minus the baseline's, NaN without one. Of several baselines, one of the same
        cache and training configuration is preferred, then the one with the larger grid.

        Args:
            among: Probes to look for the baseline in; default: these.
        """
        import pandas as pd

        baselines: dict[tuple[Any, ...], list[Probe]] = {}
        for probe in among or self:
            row = probe.row
            if (row["head"], row["layers"], row["tokens"]) == ("linear", "last", "cls"):
                baselines.setdefault(_baseline_key(probe), []).append(probe)
        names: list[str | None] = []
        gains: list[float] = []
        for probe in self.probes:
            baseline = _preferred_baseline(probe, baselines.get(_baseline_key(probe), []))
            names.append(baseline.id if baseline else None)
            gains.append(_score(probe) - _score(baseline) if baseline else float("nan"))
        return self.table.assign(
            baseline=pd.Series(names, dtype=object), gain=pd.Series(gains, dtype=float)
        )

    def to_text(
        self,
        *,
        gain: bool = False,
        among: Results | None = None,
        over_seeds: bool = False,
        paths: bool = False,
    ) -> str:
        """Return the table for a terminal.

        It shows what differs, the selected configuration, scores in percent, and the ids.

        Args:
            gain: Add the gain over the baseline, see `with_gain`.
            among: Probes to look for the baseline in.
            over_seeds: One row for all seeds, see `over_seeds`; without ids and paths.
            paths: Add the folders of the probes.
        """
        if not self.probes:
            return "no probes match"
        shown = self._shown(gain=gain, among=among, over_seeds=over_seeds)
        if not over_seeds:
            shown["probe"] = [probe.id for probe in self.probes]
            if paths:
                shown["path"] = [str(probe.path) for probe in self.probes]
        return format_table(shown, "text")

    def summary(self) -> str:
        """Return two lines: the best probe with its interval, and the folder of the probes."""
        if not self.probes:
            return "no probes"
        best = max(self.probes, key=_score)
        row = best.row
        metric = "balanced accuracy"
        if row["test_balanced_accuracy"] is None:
            metric = "mean average precision"
        low, high = 100 * row["test_ci95_low"], 100 * row["test_ci95_high"]
        folders = ", ".join(dict.fromkeys(str(probe.path.parent) for probe in self.probes))
        return (
            f"highest test {metric} {100 * _score(best):.2f} %: {row['head']}, "
            f"layers {row['layers']}, tokens {row['tokens']}, seed {row['seed']} "
            f"(95 % bootstrap interval over test images {low:.2f} to {high:.2f} %)\n"
            f"stored in {folders}"
        )

    def export(
        self,
        path: str | Path,
        *,
        gain: bool = True,
        among: Results | None = None,
        over_seeds: bool = False,
    ) -> Path:
        """Write the table to a file.

        .csv and .parquet hold all columns, .tex and .md those that `to_text` shows but for the
        ids.

        Args:
            path: The file; its suffix gives the format.
            gain: Add the gain over the baseline, see `with_gain`.
            among: Probes to look for the baseline in.
            over_seeds: One row for all seeds, see `over_seeds`.

        Raises:
            OptionError: The suffix is another one.
            MissingExtraError: .parquet without pyarrow.
        """
        file = Path(path)
        if file.suffix in (".tex", ".md"):
            table = self._shown(gain=gain, among=among, over_seeds=over_seeds)
        elif over_seeds:
            table = self.over_seeds()
        else:
            table = self.with_gain(among=among) if gain else self.table
        write_table(table, file)
        return file

    def _shown(self, *, gain: bool, among: Results | None, over_seeds: bool) -> pd.DataFrame:
        if over_seeds:
            table = self.over_seeds()
            shown = ("val_balanced", "val_mean_average", "test_")
            scores = [n for n in map(str, table) if n.startswith(shown) and table[n].notna().any()]
            return table[[*_distinguishing(table), "n_seeds", *scores]]
        table = self.with_gain(among=among) if gain else self.table
        names = [*_distinguishing(table), "lr", "weight_decay", "dropout"]
        if (table["config"] != "").any():
            names.append("config")
        if table["test_balanced_accuracy"].notna().any():
            names += ["val_balanced_accuracy", "test_balanced_accuracy", "test_top1_accuracy"]
        if table["test_mean_average_precision"].notna().any():
            names += ["val_mean_average_precision", "test_mean_average_precision"]
        if gain:
            names.append("gain")
        return table[[*names, "n_params", "train_seconds"]]


def _distinguishing(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell the rows apart, as few as possible."""
    names = list(ALWAYS_SHOWN)
    names += [n for n in IF_VARYING if n in table and table[n].nunique(dropna=False) > 1]
    for name in IF_AMBIGUOUS:
        if name not in table or not table.duplicated(names).any():
            continue
        if table.groupby(names, dropna=False)[name].nunique(dropna=False).max() > 1:
            names.append(name)
    return names


def _baseline_key(probe: Probe) -> tuple[Any, ...]:
    return tuple(probe.row[name] for name in BASELINE_KEYS)


def _preferred_baseline(probe: Probe, candidates: Sequence[Probe]) -> Probe | None:
    def rank(candidate: Probe) -> tuple[Any, ...]:
        row = candidate.row
        return (
            row["fingerprint"] != probe.row["fingerprint"],
            row["train_config_digest"] != probe.row["train_config_digest"],
            -row["n_configs"],
            candidate.id,
        )

    return min(candidates, key=rank, default=None)


def _score(probe: Probe) -> float:
    score = probe.row["test_balanced_accuracy"]
    return float(probe.row["test_mean_average_precision"] if score is None else score)


def read_results(
    where: str | CachePath | Cache | None = None,
    *,
    probes_root: str | CachePath | None = None,
) -> Results:
    """Load all complete probes, sorted by dataset, model, head, layers, tokens and seed.

    Probes that another version wrote are left out, and logged.

    Args:
        where: A cache root (None: the default one), or a cache.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.

    Raises:
        ProbeNotFoundError: There is none.
    """
    caches = [where] if isinstance(where, Cache) else find_caches(cache_root(where))
    probes = [probe for cache in caches for probe in read_all_probes(cache, probes_root)]
    if not probes:
        folder = where.path if isinstance(where, Cache) else cache_root(where)
        raise ProbeNotFoundError(
            f"{folder}: expected probes below this folder, got none: train one with "
            "`layercache probe`, or give another cache root (--cache)"
        )

    def sort_key(probe: Probe) -> tuple[Any, ...]:
        # None and numbers do not compare: all samples come before a subset
        return tuple(
            (probe.row[name] is not None, probe.row[name] or 0)
            if name in ("shots", "train_fraction")
            else probe.row[name]
            for name in SORT_KEYS
        )

    return Results(sorted(probes, key=sort_key))
