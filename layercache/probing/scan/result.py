"""The result of a scan: one row per subset and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from layercache.probing.metrics import PRIMARY, find_metric
from layercache.probing.results.table.formatting import format_table

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = {"test_ci95_low": "from", "test_ci95_high": "to"}
MAX_RANKED = 10
"""Rows of the ranking in a text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanResult:
    """Scores of all subsets and heads."""

    table: pd.DataFrame
    """One row per subset and head, in the order of the scan: head, layers, tokens, n_tokens,
    config (the selected setting), train_rows, val_METRIC, and, with a test split, test_METRIC and
    test_ci95_low and test_ci95_high, the 95 % bootstrap interval over test samples of the metric
    that selects. Metrics are fractions."""
    task: str
    """classification, multi-label or regression."""
    title: str
    """Model and dataset in words."""
    notes: tuple[str, ...]
    """Notes for the reader: subsets that were left out, reference rows."""
    seconds: float
    """Duration."""

    @property
    def metric(self) -> str:
        """Metric that selects."""
        return PRIMARY[self.task]

    @property
    def tested(self) -> bool:
        """True if there was a test split."""
        return "test_ci95_low" in self.table

    def ranking(self) -> pd.DataFrame:
        """Return the rows by validation score, best first; the test score chooses nothing."""
        return self.table.sort_values(f"val_{self.metric}", ascending=False, kind="stable")

    def curve(self, head: str, kind: str) -> pd.DataFrame:
        """Return the rows of a head on one token kind alone, by layer."""
        table = self.table
        chosen = (table["head"] == head) & (table["tokens"] == kind) & (table["n_tokens"] == 1)
        rows = table[chosen].assign(layer=lambda rows: rows["layers"].astype(int))
        return rows.sort_values("layer")

    def to_text(self) -> str:
        """Return the depth curves, the ranking and the notes as text."""
        part = "test" if self.tested else "val"
        title = f"{part} {find_metric(self.metric).title}"
        curves, ranking = self._curves(part), self._ranking()
        return "\n".join(
            [
                f"{title} of single tokens, {self.title}",
                "",
                self._format(curves),
                "",
                f"best {len(ranking)} of {len(self.table)} by the validation score",
                "",
                self._format(ranking),
                "",
                *self.notes,
                f"scanned in {self.seconds:.1f} s",
            ]
        )

    def _curves(self, part: str) -> pd.DataFrame:
        """Return the scores of single tokens: one row per layer, a column per head and kind."""
        import pandas as pd

        singles = self.table[self.table["n_tokens"] == 1]
        columns = {}
        for head in dict.fromkeys(singles["head"]):
            for kind in dict.fromkeys(singles["tokens"]):
                curve = self.curve(head, kind).set_index("layer")
                columns[f"{head} {kind}"] = curve[f"{part}_{self.metric}"]
        return pd.DataFrame(columns).rename_axis("layer").reset_index()

    def _ranking(self) -> pd.DataFrame:
        names = ["head", "layers", "tokens", "config", f"val_{self.metric}"]
        ranking = self.ranking().head(MAX_RANKED)
        if not self.tested:
            return ranking[names]
        return ranking[[*names, f"test_{self.metric}", "test_ci95_low", "test_ci95_high"]]

    def _format(self, table: pd.DataFrame) -> str:
        factor, digits = (100, 2) if find_metric(self.metric).percent else (1, 4)
        shown = table.astype(object)
        for name in table.columns:
            if table[name].dtype.kind == "f":
                shown[name] = [f"{factor * value:.{digits}f}" for value in table[name]]
        return format_table(shown.rename(columns=HEADINGS), "text")
