"""The probes of an ensemble: whether they fit together, and how each is trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from layercache.cache.storage.paths import CachePath, cache_root, root_option
from layercache.errors import OptionError, ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import Metric, find_metric, selection_metric_of
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.results.identity import experiment_key
from layercache.probing.results.lookup import load_probe
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.split_predictions import open_sources
from layercache.probing.results.table.notes import selected_config
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.validation_options import Validation
from layercache.probing.targets.target_columns import read_target
from layercache.probing.token_selection import TokenSelection
from layercache.probing.training.config import Noise, TrainConfig

HEAD = "ensemble"
"""Name of the head of an ensemble."""
MAY_DIFFER = ("weights digest", "seed")
"""What the members may differ in: backbone and seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsembleMember:
    """A trained probe of an ensemble."""

    probe: Probe
    """The probe as stored."""
    spec: ProbeSpec
    """Its specification, by which the selected configuration is trained again."""
    selected: ConfigScore
    """Its selected configuration."""

    @cached_property
    def experiment(self) -> str:
        """Digest of everything but its seed."""
        return experiment_key(self.probe.settings)

    def describe(self) -> str:
        """Return the member in words: "c9a91f (vit_nano, attentive, all, cls+ap, seed 0)"."""
        row = self.probe.row
        words = [row["model"], row["head"], row["layers"], row["tokens"], row["spatial"]]
        return f"{self.probe.id} ({', '.join(word for word in words if word)}, seed {row['seed']})"


def load_members(
    probes: Sequence[str | CachePath | Probe],
    *,
    root: str | CachePath | None = None,
    probes_root: str | CachePath | None = None,
) -> list[EnsembleMember]:
    """Load the members of an ensemble and check that they belong together.

    Args:
        probes: Probes, their ids, beginnings of these, or folders.
        root: Root of the caches, as in `open_cache`.
        probes_root: Root of probes outside their caches.

    Raises:
        OptionError: There are fewer than two, or they predict other targets or other images.
        ProbeNotFoundError: A probe, or
        CacheNotFoundError: its cache is not there.
        ProbeError: Nothing was held out, or labels were corrected since.
    """
    found = [
        probe if isinstance(probe, Probe) else load_probe(probe, root=root, probes_root=probes_root)
        for probe in probes
    ]
    found = list({probe.id: probe for probe in found}.values())
    if len(found) < 2:
        raise OptionError(
            f"an ensemble needs at least two different probes, got {len(found)}: "
            f"`layercache results{root_option(cache_root(root))}` lists them with their ids"
        )
    for probe in found:
        if probe.spec["head"] == HEAD:
            raise OptionError(
                f"{probe.id} is an ensemble itself: give its members instead, "
                f"{' '.join(member_ids(probe))}"
            )
    check_same_data(found)
    return [_member(probe, root) for probe in found]


def member_ids(probe: Probe) -> list[str]:
    """Return the ids of the members of an ensemble."""
    return [str(member["probe"]) for member in probe.spec["ensemble"]["members"]]


def check_same_data(probes: Sequence[Probe]) -> None:
    """Raise OptionError unless all probes predict the same targets of the same images.

    They may differ in their backbone, tokens, head, training and seed.
    """
    first = probes[0]
    for other in probes[1:]:
        theirs, ours = other.settings.data, first.settings.data
        names = [name for name in dict.fromkeys([*ours, *theirs]) if name not in MAY_DIFFER]
        for name in names:
            if ours.get(name) != theirs.get(name):
                raise OptionError(
                    "an ensemble needs probes of the same dataset, target and splits: "
                    f"{first.id} has {name} {ours.get(name, 'none')}, {other.id} has "
                    f"{theirs.get(name, 'none')}: train both on the same data, or leave one out"
                )
        mine, their_own = first.predictions(), other.predictions()
        if mine.class_names != their_own.class_names:
            raise OptionError(
                f"{first.id} and {other.id} name their classes differently: train one of them "
                "again with refresh (--refresh)"
            )
        if mine.ids != their_own.ids:
            raise OptionError(
                f"{first.id} and {other.id} were tested on other images: train one of them again "
                "with refresh (--refresh)"
            )


def selection_metric(members: Sequence[EnsembleMember], select: str | None) -> Metric:
    """Return the metric that judges an ensemble: the given one, or that of all members.

    Raises:
        OptionError: The members were selected by different metrics.
    """
    if select is not None:
        return find_metric(select)
    metrics = {member.probe.id: selection_metric_of(member.probe.spec) for member in members}
    names = {metric.name for metric in metrics.values()}
    if len(names) > 1:
        listed = ", ".join(f"{probe} by {metric.name}" for probe, metric in metrics.items())
        raise OptionError(
            f"the probes were selected by different metrics ({listed}): name one (select, --select)"
        )
    return next(iter(metrics.values()))


def _member(probe: Probe, root: str | CachePath | None) -> EnsembleMember:
    selected = selected_config(probe)
    if selected is None:
        raise ProbeError(
            f"{probe.id}: its record does not say which configuration was selected: train it "
            "again with refresh (--refresh)"
        )
    spec = stored_spec(probe, root=root)
    recorded = probe.spec.get("annotations") or {}
    current = spec.to_json().get("annotations") or {}
    if changed := [name for name, digest in recorded.items() if current.get(name) != digest]:
        raise ProbeError(
            f"{probe.id}: the annotations {', '.join(changed)} were changed since it was trained: "
            "the same `layercache probe` trains it on the current ones"
        )
    return EnsembleMember(probe=probe, spec=spec, selected=selected)


def stored_spec(probe: Probe, *, root: str | CachePath | None = None) -> ProbeSpec:
    """Return the specification of a stored probe, on its opened caches, without further tests.

    Args:
        probe: The probe.
        root: Root of the caches, for a probe that is kept elsewhere.

    Raises:
        CacheNotFoundError: A cache is not there.
        UnknownNameError: A column that it predicts was dropped.
    """
    values, row = probe.spec, probe.row
    sources = tuple((cache, tuple(pairs)) for cache, pairs in open_sources(probe, root))
    cache = sources[0][0]
    columns = values.get("target") or {}
    target = read_target(cache, columns.get("columns"), task=columns.get("task"))
    validation = Validation(**values.get("validation", {}))
    digests = cache.annotation_digests if validation.columns else {}
    return ProbeSpec(
        tokens=TokenSelection(
            sources,
            layers=row["layers"],
            kinds=row["tokens"],
            spatial=row["spatial"],
            pooled=len(sources[0][1]),
            joined=bool(row.get("join")),
        ),
        head=values["head"],
        head_spec=HeadSpec.from_json(values["head_spec"]),
        grid=tuple(values["grid"]),
        seed=values["seed"],
        shots=values["shots"],
        train_fraction=values["train_fraction"],
        train_config=_train_config(values["train_config"]),
        precision=values["precision"] or "fp32",
        train_split=values["splits"][0],
        test_split=values["splits"][1],
        paper_compat=bool(values.get("paper_compat")),
        target=None if target.is_label else target,
        select=values.get("select"),
        validation=replace(
            validation, digests={n: digests[n] for n in validation.columns if n in digests}
        ),
    )


def _train_config(values: Mapping[str, Any] | None) -> TrainConfig:
    """Return a training configuration from JSON; of a baseline, which has none, the default."""
    if values is None:
        return TrainConfig()
    fields: dict[str, Any] = dict(values)
    fields["betas"] = tuple(fields["betas"])
    if fields["noise"] is not None:
        fields["noise"] = Noise(**fields["noise"])
    return TrainConfig(**fields)


def class_weights(members: Sequence[EnsembleMember]) -> bool:
    """Return whether the members were trained with weights of the classes."""
    return bool(np.mean([member.spec.train_config.class_weights for member in members]) >= 0.5)
