"""Selection of the probes of a report: those of one way of training per backbone and dataset.

The same kinds of probe may have been trained several times, with other grids, epochs or splits. A
gain compares probes that were trained in the same way, and two ways of training are not two seeds
of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layercache._units import join_words
from layercache.cache.format.cache_spec import sha256_json
from layercache.cache.format.result_folders import RECORD
from layercache.cache.storage.open import open_store
from layercache.errors import OptionError
from layercache.probing.results.identity import Spec, experiment_key, read_settings
from layercache.probing.results.probe_store import Probe
from layercache.reporting.analysis.published import BASELINE, FUSION, ProbeKind

OPTION_COLUMNS = ["shots", "train_fraction", "num_heads"]
"""Training options; None for the default."""
MAX_LISTED_VALUE = 40
"""Longest value of a setting, in characters, that a reason spells out."""

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Probes of one combination that the report leaves out for one reason."""

    combination: str
    """Key of the combination."""
    variant: str
    """Way of training, see `training_variant`."""
    n_probes: int
    """Number of probes."""
    reason: str
    """Differences from the probes in the report: "epochs (10 instead of 40)"."""


def training_variant(spec: Spec) -> str:
    """Return a digest of how a head was trained and on which splits, 12 hex digits.

    The baselines (knn, logreg, ridge, lda) are not trained like heads; theirs is "".
    """
    training = _training_words(spec)
    return "" if spec["train_config"] is None else sha256_json(training)[:12]


def select_probes(
    rows: Sequence[Row], probes: Mapping[str, Probe], *, variant: str | None = None
) -> tuple[list[Row], list[LeftOut]]:
    """Select the rows of one way of training for each combination, and one row per seed.

    It is the newest one with the attentive head on all layers and the baseline of the same seed,
    else the newest one with any gain, else the newest.

    Args:
        rows: Rows with columns combination, head, layers, tokens, seed, probe and OPTION_COLUMNS.
        probes: Probes by the column probe.
        variant: First digits of the way of training to select instead.

    Returns:
        The selected rows, and what was left out.

    Raises:
        OptionError: If no probe was trained in the way of `variant`.
    """
    variants = {training_variant(probes[row["probe"]].spec) for row in rows} - {""}
    if variant is not None and not any(v.startswith(variant) for v in variants):
        raise OptionError(
            f"variant: expected the first digits of one of {', '.join(sorted(variants)) or 'none'} "
            f"(the ways of training of the probes), got {variant!r}"
        )
    kept: list[Row] = []
    left_out: list[LeftOut] = []
    for combination in _group(rows, lambda row: row["combination"]).values():
        same_training, other_training = _select_variant(combination, probes, variant)
        selected, duplicates = _select_experiments(same_training, probes)
        kept += selected
        left_out += [*other_training, *duplicates]
    return kept, left_out


def _select_variant(
    rows: Sequence[Row], probes: Mapping[str, Probe], variant: str | None
) -> tuple[list[Row], list[LeftOut]]:
    """Select the way of training of one combination."""

    def spec(row: Row) -> Spec:
        return probes[row["probe"]].spec

    by_variant = _group(rows, lambda row: training_variant(spec(row)))
    untrained = by_variant.pop("", [])
    candidates = [name for name in by_variant if name.startswith(variant or "")]
    kept: list[Row] = []
    if candidates:

        def rank(name: str) -> Any:
            return _completeness(by_variant[name]), _newest(by_variant[name], probes)

        kept = by_variant.pop(max(candidates, key=rank) if len(candidates) > 1 else candidates[0])
    left_out = [
        _left_out(
            others,
            name,
            _describe(_training_words(spec(kept[0])), _training_words(spec(others[0])))
            if kept
            else "not the requested variant",
        )
        for name, others in by_variant.items()
    ]
    if untrained:
        first = spec(kept[0] if kept else max(untrained, key=lambda row: _newest([row], probes)))
        by_splits = _group(untrained, lambda row: tuple(_split_words(spec(row)).items()))
        for others in by_splits.values():
            if reason := _describe(_split_words(first), _split_words(spec(others[0]))):
                left_out.append(_left_out(others, "", reason))
            else:
                kept = [*kept, *others]
    return kept, left_out


def _select_experiments(
    rows: Sequence[Row], probes: Mapping[str, Probe]
) -> tuple[list[Row], list[LeftOut]]:
    """Select the newest experiment of each kind of probe, and one probe per seed of it."""
    kept: list[Row] = []
    left_out: list[LeftOut] = []
    for same_kind in _group(rows, lambda r: (_kind(r), *(r[n] for n in OPTION_COLUMNS))).values():
        by_experiment = _group(same_kind, lambda row: experiment_key(probes[row["probe"]].spec))
        chosen = next(iter(by_experiment))
        if len(by_experiment) > 1:
            chosen = max(by_experiment, key=lambda key: _newest(by_experiment[key], probes))
        by_seed = _group(by_experiment.pop(chosen), lambda row: row["seed"])
        kept += [same_seed[0] for same_seed in by_seed.values()]
        spec = probes[kept[-1]["probe"]].spec
        variant = training_variant(spec)
        for others in by_experiment.values():
            other = probes[others[0]["probe"]].spec
            reason = _describe(read_settings(spec).head, read_settings(other).head)
            left_out.append(_left_out(others, variant, reason))
        if copies := [row for same_seed in by_seed.values() for row in same_seed[1:]]:
            left_out.append(_left_out(copies, variant, "the same probes in another cache"))
    return kept, left_out


def _completeness(rows: Sequence[Row]) -> int:
    """Return 2 if fusion and the baseline share a seed, 1 if any other kind does, else 0."""
    seeds: dict[ProbeKind, set[int]] = {}
    for row in rows:
        if all(row[name] is None for name in OPTION_COLUMNS):
            seeds.setdefault(_kind(row), set()).add(row["seed"])
    baseline = seeds.pop(BASELINE, set())
    if baseline & seeds.get(FUSION, set()):
        return 2
    return int(any(baseline & others for others in seeds.values()))


def _newest(rows: Iterable[Row], probes: Mapping[str, Probe]) -> tuple[float, str]:
    """Return when the last of these probes was written; its id makes the order unique."""
    ages = []
    for row in rows:
        probe = probes[row["probe"]]
        written_at = probe.written_at
        if not written_at:  # by an older version
            record = open_store(probe.path).stat(RECORD)
            written_at = record.modified if record else 0.0
        ages.append((written_at, probe.id))
    return max(ages)


def _left_out(rows: Sequence[Row], variant: str, reason: str) -> LeftOut:
    combination = str(rows[0]["combination"])
    return LeftOut(combination=combination, variant=variant, n_probes=len(rows), reason=reason)


def _kind(row: Row) -> ProbeKind:
    return ProbeKind(head=row["head"], layers=row["layers"], tokens=row["tokens"])


def _split_words(spec: Spec) -> dict[str, str]:
    """Return the splits that train, select and test, as `Settings.data` names them."""
    names = ("train split", "validation", "final fit on", "test split")
    data = read_settings(spec).data
    return {name: data[name] for name in names if name in data}


def _training_words(spec: Spec) -> dict[str, str]:
    return {**_split_words(spec), **read_settings(spec).training}


def _describe(chosen: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return the settings that differ, with short values: "epochs (10 instead of 40)"."""
    words = []
    for name in dict.fromkeys([*chosen, *other]):
        ours, theirs = chosen.get(name, "none"), other.get(name, "none")
        if ours != theirs:
            short = max(len(ours), len(theirs)) <= MAX_LISTED_VALUE
            words.append(f"{name} ({theirs} instead of {ours})" if short else name)
    return join_words(words)


def _group(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
