"""The results table: one row per probe, as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from layercache._units import pluralize
from layercache.cache.cache import Cache
from layercache.cache.find import find_caches
from layercache.cache.format.origin import dataset_source, model_source
from layercache.cache.storage.paths import CachePath, cache_root, root_option
from layercache.errors import OptionError, ProbeNotFoundError
from layercache.probing.results.formatting import write_table
from layercache.probing.results.gain import describe_obstacles, find_gains, score_of
from layercache.probing.results.identity import target_name
from layercache.probing.results.lookup import read_all_probes
from layercache.probing.results.notes import describe_selection
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.view import combine_mean_and_std, identity_columns, to_text

if TYPE_CHECKING:
    import pandas as pd

# fmt: off
COLUMNS = (
    "probe", "model", "dataset", "head", "layers", "tokens", "spatial", "n_tokens", "num_heads",
    "embedding", "target", "train_split", "test_split", "seed", "shots", "train_fraction",
    "lr", "weight_decay", "dropout", "config",
    "val_balanced_accuracy", "val_top1_accuracy", "val_mean_average_precision",
    "test_balanced_accuracy", "test_top1_accuracy", "test_top5_accuracy",
    "test_mean_average_precision", "test_ci95_low", "test_ci95_high",
    "n_params", "epochs", "batch_size", "steps", "n_configs", "n_diverged", "converged",
    "n_folds",
    "train_rows", "test_rows", "empty_classes", "train_seconds", "device", "precision", "features",
    "tap", "fingerprint", "weights_digest", "dataset_digest", "train_config_digest", "grid_digest",
    "experiment", "path",
)
"""Columns in order; a column that is a parameter of `probe` has its name.

`config` holds the selected configuration of a baseline ("k=5"), `converged` whether its logistic
regression did. `experiment` is the same for all seeds of an experiment and for nothing else.
`test_ci95_low` and `test_ci95_high` bound a 95 % bootstrap interval over test samples, of the test
balanced accuracy or, for multi-label, the test mean average precision.
"""
IDENTITY = (
    "model", "dataset", "dataset_digest", "weights_digest", "fingerprint", "tap",
    "train_config_digest", "grid_digest", "n_configs", "precision", "head", "layers", "tokens",
    "spatial", "n_tokens", "num_heads", "embedding", "target", "train_split", "test_split",
    "shots", "train_fraction", "experiment",
)
"""Columns that do not depend on the seed."""
SCORES = (
    "val_balanced_accuracy", "val_mean_average_precision", "test_balanced_accuracy",
    "test_top1_accuracy", "test_top5_accuracy", "test_mean_average_precision",
)
SORT_KEYS = (
    "dataset", "model", "head", "n_tokens", "layers", "tokens", "shots", "train_fraction",
    "target", "train_split", "test_split", "experiment", "seed", "probe",
)
# fmt: on
BASELINE_NAME = "a linear head on the last layer's class token"


class Results:
    """Complete probes. Iteration yields them; `table` is the DataFrame.

    >>> results = layercache.probe(cache, head="attentive", seeds=3)   # doctest: +SKIP
    >>> results.table[["layers", "lr", "test_balanced_accuracy"]]      # doctest: +SKIP
    >>> results.over_seeds()                                           # doctest: +SKIP
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = tuple({probe.path: probe for probe in probes}.values())
        """Each once, in the order of the rows of `table`."""

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

        rows = [_full_row(probe) for probe in self.probes]
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
        wanted = {name: str(value) for name, value in values.items() if value is not None}
        if "model" in wanted:
            wanted["model"] = model_source(wanted["model"])

        def matches(probe: Probe) -> bool:
            row = _full_row(probe)
            return all(str(row.get(name)) == value for name, value in wanted.items())

        return Results([probe for probe in self.probes if matches(probe)])

    def over_seeds(self) -> pd.DataFrame:
        """Return one row for all seeds of an experiment.

        It has `n_seeds`, and `<score>_mean` and `<score>_std` of each score. A probe that is stored
        twice counts once.

        The standard deviation (n - 1; NaN of a single seed) is that between training runs. The
        bootstrap interval of a single probe is that between test sets.
        """
        table = self.table.drop_duplicates(["experiment", "seed"])
        grouped = table.groupby("experiment", sort=False)
        statistics = grouped[list(SCORES)].agg(["mean", "std"])
        statistics.columns = statistics.columns.map("_".join)
        shared = table.drop_duplicates("experiment")[list(IDENTITY)].set_index("experiment")
        n_seeds = grouped.size().rename("n_seeds")
        return (
            shared.assign(experiment=shared.index)
            .join([n_seeds, statistics])
            .reset_index(drop=True)
        )

    def with_gain(self, *, among: Results | None = None) -> pd.DataFrame:
        """Return `table` with two more columns, `baseline` (a probe's id) and `gain`.

        The baseline is the linear head on the last layer's class token of the same weights,
        dataset, splits, seed and training subset, whose tokens were extracted and whose head was
        trained in the same way (training configuration, precision, learning rates and weight
        decays). `gain` is the test balanced accuracy (mean average precision for multi-label) minus
        the baseline's, NaN without one.

        Args:
            among: Probes to look for the baseline in; default: these.
        """
        import pandas as pd

        gains = find_gains(self, among=among or self)
        names = [gain.baseline.id if gain.baseline else None for gain in gains]
        return self.table.assign(
            baseline=pd.Series(names, dtype=object),
            gain=pd.Series([gain.gain for gain in gains], dtype=float),
        )

    def to_text(
        self,
        *,
        gain: bool = False,
        among: Results | None = None,
        over_seeds: bool = False,
        paths: bool = False,
    ) -> str:
        """Return the table for a terminal, at most 100 columns wide if names are short.

        It shows what differs, the selected configuration, scores in percent, and the ids. Below it
        stand what all rows share, and remarks: probes without a comparable baseline, configurations
        at the edge of their grid.

        Args:
            gain: Add the gain over the baseline, see `with_gain`.
            among: Probes to look for the baseline in.
            over_seeds: One row for all seeds, see `over_seeds`; without ids and paths.
            paths: List the folders of the probes below the table.
        """
        if not self.probes:
            return "no probes match"
        table, identity, values = self._view(gain=gain, among=among, over_seeds=over_seeds)
        notes = ["scores in percent"]
        if over_seeds:
            table = combine_mean_and_std(table)
            values = ["n_seeds", *(n for n in SCORES if f"{n}_mean" in values)]
            notes = ["scores in percent: mean ± standard deviation over seeds"]
            if repeated := len(self) - int(table["n_seeds"].sum()):
                notes.append(f"{pluralize(repeated, 'probe')} stored twice, counted once")
        else:
            values = [*values, "probe"]
            if gain:
                notes = [f"scores in percent, gains over {BASELINE_NAME}"]
                notes += describe_obstacles(find_gains(self, among=among or self))
        notes += describe_selection(self)
        text = to_text(table, identity, values, notes=notes)
        folders = self.probes if paths and not over_seeds else ()
        return "\n".join([text, *(f"{probe.id}: {probe.path}" for probe in folders)])

    def summary(self) -> str:
        """Return two lines: the best probe with its interval, and the folder of the probes."""
        if not self.probes:
            return "no probes"
        best = max(self.probes, key=score_of)
        row = best.row
        metric = "balanced accuracy"
        if row["test_balanced_accuracy"] is None:
            metric = "mean average precision"
        _, test_split = best.spec["splits"]
        split = "" if test_split == "test" else f", tested on split {test_split}"
        low, high = 100 * row["test_ci95_low"], 100 * row["test_ci95_high"]
        folders = ", ".join(dict.fromkeys(str(probe.path.parent) for probe in self.probes))
        return (
            f"highest test {metric} {100 * score_of(best):.2f} %: {row['head']}, "
            f"layers {row['layers']}, tokens {row['tokens']}, seed {row['seed']}{split} "
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
            table, identity, values = self._view(gain=gain, among=among, over_seeds=over_seeds)
            table = table[[*identity, *values]]
        elif over_seeds:
            table = self.over_seeds()
        else:
            table = self.with_gain(among=among) if gain else self.table
        write_table(table, file)
        return file

    def _view(
        self, *, gain: bool, among: Results | None, over_seeds: bool
    ) -> tuple[pd.DataFrame, list[str], list[str]]:
        """Return a table, its columns that tell the rows apart, and those with results."""
        settings = [probe.settings for probe in self.probes]
        if over_seeds:
            table = self.over_seeds()
            by_key = {s.experiment_key: s for s in settings}
            settings = [by_key[key] for key in table["experiment"]]
            scores = [f"{score}_{statistic}" for score in SCORES for statistic in ("mean", "std")]
            values = ["n_seeds", *(n for n in scores if table[n].notna().any())]
        else:
            table = self.with_gain(among=among) if gain else self.table
            values = _result_columns(table)
        table, identity = identity_columns(table, settings)
        return table, identity, values


def _full_row(probe: Probe) -> dict[str, Any]:
    """Return the stored row with the columns that the spec and the folder give."""
    train_split, test_split = probe.spec["splits"]
    return {
        **probe.row,
        "target": target_name(probe.spec),
        "train_split": train_split,
        "test_split": test_split,
        "experiment": probe.settings.experiment_key,
        "path": str(probe.path),
    }


def _result_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of selected configuration, scores and costs that have values."""
    names = ["lr", "weight_decay", "dropout"]
    if (table["config"] != "").any():
        names.append("config")
    if table["test_balanced_accuracy"].notna().any():
        names += ["val_balanced_accuracy", "test_balanced_accuracy", "test_top1_accuracy"]
    if table["test_mean_average_precision"].notna().any():
        names += ["val_mean_average_precision", "test_mean_average_precision"]
    if "gain" in table:
        names.append("gain")
    return [*names, "n_params", "train_seconds"]


def read_results(
    where: str | CachePath | Cache | None = None,
    *,
    dataset: str | None = None,
    probes_root: str | CachePath | None = None,
) -> Results:
    """Load all complete probes, sorted by dataset, model, head, layers, tokens and seed.

    Probes that are damaged or that another version wrote are left out and named in a warning.

    Args:
        where: A cache root (None: the default one), or a cache.
        dataset: Only caches of this dataset, by its name or its source as in "folder:PATH".
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.

    Raises:
        ProbeNotFoundError: There is none.
    """
    caches = (
        [where] if isinstance(where, Cache) else find_caches(cache_root(where), dataset=dataset)
    )
    probes = [probe for cache in caches for probe in read_all_probes(cache, probes_root)]
    if not probes:
        raise _no_probes(where, dataset)

    def sort_key(probe: Probe) -> tuple[Any, ...]:
        row = _full_row(probe)
        # None and numbers do not compare: all samples come before a subset
        return tuple(
            (row[name] is not None, row[name] or 0)
            if name in ("shots", "train_fraction")
            else row[name]
            for name in SORT_KEYS
        )

    return Results(sorted(probes, key=sort_key))


def _no_probes(where: str | CachePath | Cache | None, dataset: str | None) -> ProbeNotFoundError:
    of_dataset = option = existing = ""
    if isinstance(where, Cache):
        folder, root = where.path, where.path.parent.parent.parent
        option = f" --fingerprint {where.spec.fingerprint[:12]}"
    else:
        folder = root = cache_root(where)
        if dataset is not None:
            dataset = dataset_source(dataset)
            of_dataset, option = f" of dataset {dataset!r}", f" --dataset {quote(dataset)}"
            names = {cache.source or cache.spec.dataset.name for cache in find_caches(folder)}
            existing = f" (there are caches of {', '.join(sorted(names)) or 'none'})"
    return ProbeNotFoundError(
        f"{folder}: expected probes{of_dataset} below this folder, got none{existing}: train one "
        f"with `layercache probe{option}{root_option(root)}`, or give another cache root (--cache)"
    )
