"""The gain of a probe over its baseline, the linear head on the last layer's class token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layercache._units import join_words, pluralize
from layercache.probing.metrics import selection_metric_of
from layercache.probing.results.identity import differences
from layercache.probing.results.probe_store import Probe

BASELINE = ("linear", "last", "cls")
"""Head, layers and tokens of the baseline."""
MAX_LISTED_VALUE = 40
"""Longest value, in characters, that a note spells out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Gain:
    """A probe and its baseline."""

    baseline: Probe | None
    """Probe on the same data, trained in the same way; None if there is none, or no single one."""
    gain: float
    """Test score minus that of the baseline, or the reverse where lower is better; NaN without."""
    obstacle: str = ""
    """Why no baseline on the same data is the probe's; "" if it has one or there is none."""


def find_gains(probes: Iterable[Probe], *, among: Iterable[Probe]) -> list[Gain]:
    """Return the gain of each probe.

    Args:
        probes: Probes.
        among: Probes to look for the baselines in.
    """
    baselines: dict[str, list[Probe]] = {}
    for probe in among:
        if (probe.row["head"], probe.row["layers"], probe.row["tokens"]) == BASELINE:
            baselines.setdefault(probe.settings.data_key, []).append(probe)
    return [_gain(probe, baselines.get(probe.settings.data_key, [])) for probe in probes]


def score_of(probe: Probe) -> float:
    """Return the test score by the metric that selected the configuration; NaN without one."""
    value = probe.row.get(f"test_{selection_metric_of(probe.spec).name}")
    return float("nan") if value is None else float(value)


def describe_obstacles(gains: Sequence[Gain]) -> list[str]:
    """Return a line for each reason why probes have no gain although there are baselines."""
    counts = Counter(gain.obstacle for gain in gains if gain.obstacle)
    return [f"no gain for {pluralize(n, 'probe')}: {why}" for why, n in counts.items()]


def _gain(probe: Probe, candidates: Sequence[Probe]) -> Gain:
    differing = {c.path: differences(probe.settings, c.settings) for c in candidates}
    matching = [c for c in candidates if not differing[c.path]]
    if not matching:
        obstacle = ""
        if candidates:
            nearest = min(candidates, key=lambda c: (len(differing[c.path]), c.id))
            named = _describe(differing[nearest.path])
            obstacle = f"the nearest baseline on the same data differs in {named}"
        return Gain(baseline=None, gain=float("nan"), obstacle=obstacle)
    if len({c.settings.variant_key for c in matching}) > 1:
        # knn, logreg, ridge and lda, whose training is not that of any head
        names = {
            name: None
            for candidate in matching[1:]
            for name in differences(matching[0].settings, candidate.settings)
        }
        obstacle = (
            f"there are {len(matching)} baselines on the same data, which differ in "
            f"{join_words([*names])}"
        )
        return Gain(baseline=None, gain=float("nan"), obstacle=obstacle)
    baseline = min(matching, key=lambda c: (c.path.parent != probe.path.parent, c.id))
    sign = selection_metric_of(probe.spec).sign
    return Gain(baseline=baseline, gain=sign * (score_of(probe) - score_of(baseline)))


def _describe(differing: dict[str, tuple[str, str]]) -> str:
    return join_words(
        [
            f"{name} ({theirs} instead of {ours})"
            if max(len(ours), len(theirs)) <= MAX_LISTED_VALUE
            else name
            for name, (ours, theirs) in differing.items()
        ]
    )
