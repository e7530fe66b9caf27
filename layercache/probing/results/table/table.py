"""The results table: one row per probe, as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layercache._units import join_words, pluralize
from layercache.cache.cache import Cache
from layercache.cache.format.origin import model_source
from layercache.errors import OptionError
from layercache.probing.metrics import parse_metrics, selection_metric_of
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.superseded_probes import describe_versions
from layercache.probing.results.table.columns import (
    COLUMNS,
    IDENTITY,
    columns_of,
    full_row,
    score_columns,
    shown_scores,
)
from layercache.probing.results.table.formatting import (
    INTERVAL,
    STATISTIC,
    format_score,
    write_table,
)
from layercache.probing.results.table.gain import describe_obstacles, find_gains, score_of
from layercache.probing.results.table.metric_columns import add_metrics
from layercache.probing.results.table.notes import (
    describe_encoders,
    describe_leakage,
    describe_scores,
    describe_selection,
)
from layercache.probing.results.table.scores_by_value import describe_values, scores_by, wide_table
from layercache.probing.results.table.view import (
    combine_bounds,
    combine_mean_and_std,
    identity_columns,
    name_gains,
    to_text,
)

if TYPE_CHECKING:
    import pandas as pd

BASELINE_NAME = "a linear head on the last layer's class token"


class Results:
    """Complete probes. Iteration yields them; `table` is the DataFrame.

    >>> results = layercache.probe(cache, head="attentive", seeds=3)   # doctest: +SKIP
    >>> results.table[["layers", "lr", "test_balanced_accuracy"]]      # doctest: +SKIP
    >>> results.over_seeds()                                           # doctest: +SKIP
    """

    def __init__(
        self, probes: Sequence[Probe], *, caches: Iterable[Cache] = (), by: str | None = None
    ) -> None:
        """Keep the probes, each once.

        Args:
            probes: Probes.
            caches: Caches that they are tested on, for `scores_by`.
            by: Annotation column whose scores `to_text` shows, too.
        """
        self.probes = tuple({probe.path: probe for probe in probes}.values())
        """Each once, in the order of the rows of `table`."""
        self.by = by
        """Annotation column whose scores `to_text` shows, too."""
        self._caches = tuple(caches)

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

        rows, columns = [full_row(probe) for probe in self.probes], columns_of(self.probes)
        table = pd.DataFrame({name: [row.get(name) for row in rows] for name in columns}).astype(
            dict.fromkeys((*score_columns(columns), "lr", "weight_decay"), float)
        )
        return table.copy()  # one block per dtype: pandas warns about more than 100 blocks

    def to_dataframe(self) -> pd.DataFrame:
        """Return `table`: one row per probe."""
        return self.table

    def with_metrics(self, names: str | Sequence[str], *, intervals: bool = False) -> pd.DataFrame:
        """Return `table` with the test metrics of these names, from the stored predictions.

        >>> results.with_metrics(["roc_auc", "f1_macro"])["test_roc_auc"]  # doctest: +SKIP

        Args:
            names: Names such as roc_auc, or "roc_auc,f1_macro" (docs/metrics.md). A probe whose
                task has no such metric has NaN.
            intervals: Add columns `test_<name>_ci95_low` and `test_<name>_ci95_high`, the 95 %
                bootstrap interval over test samples.

        Raises:
            UnknownNameError: There is no such metric.
            OptionError: It is no metric of these probes.
            CacheCorruptError: Predictions are damaged.
        """
        return add_metrics(self.table, self.probes, parse_metrics(names), intervals=intervals)

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
            row = full_row(probe)
            return all(str(row.get(name)) == value for name, value in wanted.items())

        return Results([probe for probe in self.probes if matches(probe)])

    def over_seeds(self, *, metrics: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row for all seeds of an experiment.

        It has `n_seeds`, and `<score>_mean` and `<score>_std` of each score. A probe that is stored
        twice counts once.

        Args:
            metrics: Further metrics, see `with_metrics`.

        The standard deviation (n - 1; NaN of a single seed) is that between training runs. The
        bootstrap interval of a single probe is that between test sets.
        """
        table = self.table if metrics is None else self.with_metrics(metrics)
        table = table.drop_duplicates(["experiment", "seed"])
        grouped = table.groupby("experiment", sort=False)
        statistics = grouped[score_columns(table.columns)].agg(["mean", "std"])
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
        decays). `gain` is the test score by the metric that selects, minus the baseline's (the
        reverse where lower is better), NaN without one.

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
        metrics: str | Sequence[str] | None = None,
        intervals: bool = False,
    ) -> str:
        """Return the table for a terminal, at most 100 columns wide if names are short.

        It shows what differs, the selected configuration, scores, and the ids. Below it stand what
        all rows share, and remarks: probes without a comparable baseline, configurations at the
        edge of their grid.

        Args:
            gain: Add the gain over the baseline, see `with_gain`.
            among: Probes to look for the baseline in.
            over_seeds: One row for all seeds, see `over_seeds`; without ids and paths.
            paths: List the folders of the probes below the table.
            metrics: Test metrics to show, see `with_metrics`, instead of the one that selected and
                top-1 accuracy.
            intervals: Show the 95 % bootstrap intervals of `metrics`, not with `over_seeds`.
        """
        if not self.probes:
            return "no probes match"
        table, identity, values = self._view(
            gain=gain, among=among, over_seeds=over_seeds, metrics=metrics, intervals=intervals
        )
        notes = describe_scores(values)
        if over_seeds:
            table = combine_mean_and_std(table)
            values = list(dict.fromkeys(STATISTIC.sub("", name) for name in values))
            notes.append("scores: mean ± standard deviation over seeds")
            if repeated := len(self) - int(table["n_seeds"].sum()):
                notes.append(f"{pluralize(repeated, 'probe')} stored twice, counted once")
        else:
            values = [*values, "probe"]
            if gain:
                titles = {selection_metric_of(probe.spec).title: None for probe in self.probes}
                notes.append(f"gains in {join_words([*titles])} over {BASELINE_NAME}")
                notes += describe_obstacles(find_gains(self, among=among or self))
        notes += describe_versions(self)
        notes += describe_leakage(self)
        notes += describe_encoders(self)
        notes += describe_selection(self)
        text = to_text(table, identity, values, notes=notes)
        folders = self.probes if paths and not over_seeds else ()
        text = "\n".join([text, *(f"{probe.id}: {probe.path}" for probe in folders)])
        return text if self.by is None or over_seeds else f"{text}\n\n{self.text_by(self.by)}"

    def scores_by(self, column: str, *, caches: Iterable[Cache] = ()) -> pd.DataFrame:
        """Return the test scores for each value of an annotation column, see `by_value.scores_by`.

        >>> scores = results.scores_by("hospital")  # doctest: +SKIP
        >>> scores[scores["worst"]]                 # doctest: +SKIP

        Args:
            column: Annotation column of the test samples.
            caches: Caches of the test samples; that around a probe need not be given.
        """
        return scores_by(self.probes, column, caches=[*self._caches, *caches])

    def text_by(self, column: str, *, caches: Iterable[Cache] = ()) -> str:
        """Return a table of `scores_by` for each test set, with the worst value of each probe."""
        scores = self.scores_by(column, caches=caches)
        settings = {probe.id: probe.settings for probe in self.probes}
        texts = []
        for (test, _), part in scores.groupby(["test", "metric"], sort=False):
            table, values = wide_table(part)
            table, identity = identity_columns(table, [settings[name] for name in table["probe"]])
            notes = [describe_values(part, column=column, test=str(test)), *describe_scores(values)]
            texts.append(to_text(table, identity, [*values, "probe"], notes=notes))
        return "\n\n".join(texts)

    def summary(self) -> str:
        """Return two lines: the best probe with its interval, and the folder of the probes."""
        if not self.probes:
            return "no probes"
        metric = selection_metric_of(self.probes[0].spec)
        comparable = [p for p in self.probes if selection_metric_of(p.spec) == metric]
        best = max(comparable, key=lambda probe: metric.sign * score_of(probe))
        row = best.row
        _, test_split = best.spec["splits"]
        split = "" if test_split == "test" else f", tested on split {test_split}"
        score, low, high = (
            format_score(metric, value)
            for value in (score_of(best), row["test_ci95_low"], row["test_ci95_high"])
        )
        unit, extreme = (
            " %" if metric.percent else "",
            "highest" if metric.higher_is_better else "lowest",
        )
        grouped = row.get("test_groups_in_train") is not None
        drawn = "groups of test images" if grouped else "test images"
        folders = ", ".join(dict.fromkeys(str(probe.path.parent) for probe in self.probes))
        return (
            f"{extreme} test {metric.title} {score}{unit}: {row['head']}, "
            f"layers {row['layers']}, tokens {row['tokens']}, seed {row['seed']}{split} "
            f"(95 % bootstrap interval over {drawn} {low} to {high}{unit})\n"
            f"stored in {folders}"
        )

    def export(
        self,
        path: str | Path,
        *,
        gain: bool = True,
        among: Results | None = None,
        over_seeds: bool = False,
        metrics: str | Sequence[str] | None = None,
        intervals: bool = False,
    ) -> Path:
        """Write the table to a file.

        .csv and .parquet hold all columns, .tex and .md those that `to_text` shows but for the
        ids.

        Args:
            path: The file; its suffix gives the format.
            gain: Add the gain over the baseline, see `with_gain`.
            among: Probes to look for the baseline in.
            over_seeds: One row for all seeds, see `over_seeds`.
            metrics: Test metrics to add, in .tex and .md to show, see `with_metrics`.
            intervals: Add the 95 % bootstrap intervals of `metrics`, not with `over_seeds`.

        Raises:
            OptionError: The suffix is another one.
            MissingExtraError: .parquet without pyarrow.
        """
        file = Path(path)
        if file.suffix in (".tex", ".md"):
            table, identity, values = self._view(
                gain=gain, among=among, over_seeds=over_seeds, metrics=metrics, intervals=intervals
            )
            table = table[[*identity, *values]]
        elif over_seeds:
            table = self.over_seeds(metrics=metrics)
        else:
            table = self.with_gain(among=among) if gain else self.table
            if metrics is not None:
                table = add_metrics(table, self.probes, parse_metrics(metrics), intervals=intervals)
        write_table(table, file)
        return file

    def _view(
        self,
        *,
        gain: bool,
        among: Results | None,
        over_seeds: bool,
        metrics: str | Sequence[str] | None,
        intervals: bool,
    ) -> tuple[pd.DataFrame, list[str], list[str]]:
        """Return a table, its columns that tell the rows apart, and those with results."""
        settings = [probe.settings for probe in self.probes]
        names = None if metrics is None else parse_metrics(metrics)
        shown = shown_scores(self.probes) if names is None else [f"test_{n}" for n in names]
        if over_seeds:
            table = self.over_seeds(metrics=names)
            by_key = {s.experiment_key: s for s in settings}
            settings = [by_key[key] for key in table["experiment"]]
            scores = [f"{score}_{statistic}" for score in shown for statistic in ("mean", "std")]
            values = ["n_seeds", *(n for n in scores if table[n].notna().any())]
        else:
            table = self.with_gain(among=among) if gain else self.table
            if names is not None:
                table = add_metrics(table, self.probes, names, intervals=intervals)
            if intervals:
                table = combine_bounds(table, shown)
                shown = [n for name in shown for n in (name, f"{name}{INTERVAL}") if n in table]
            if gain:
                table = name_gains(table, self.probes)
            values = _result_columns(table, shown)
        table, identity = identity_columns(table, settings)
        return table, identity, values


def _result_columns(table: pd.DataFrame, scores: Sequence[str]) -> list[str]:
    """Return the columns of selected configuration, scores and costs that have values."""
    names = ["lr", "weight_decay", "dropout"]
    if table["spatial_share"].notna().any():
        names.append("spatial_share")
    if (table["config"] != "").any():
        names.append("config")
    names += [name for name in scores if table[name].notna().any()]
    names += [name for name in ("gain", "improvement") if name in table]
    return [*names, "n_params", "train_seconds"]
