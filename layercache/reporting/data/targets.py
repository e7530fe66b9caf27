"""Targets of a report's probes, and which of them share a page.

A page compares scores, so all of its probes have the same metric. Probes of another metric belong
on a page of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layercache.cache.format.cache_spec import sha256_json
from layercache.errors import OptionError
from layercache.probing.metrics import PRIMARY, task_of
from layercache.probing.results.identity import LABEL, Spec, target_name
from layercache.probing.results.probe_store import Probe


@dataclass(frozen=True, kw_only=True)
class ProbeTarget:
    """Target of a probe."""

    name: str
    """Annotation columns, or "label" for the dataset's own label."""
    task: str
    """classification, multi-label or regression."""
    annotations: str = ""
    """Digest of the columns' versions, 12 hex digits; "" for the dataset's own label."""

    @property
    def is_label(self) -> bool:
        """True for the dataset's own label."""
        return self.name == LABEL and not self.annotations

    @property
    def options(self) -> list[str]:
        """Options of `layercache probe` that choose it."""
        return [] if self.is_label else ["--target", self.name, "--task", self.task]

    @property
    def metric(self) -> str:
        """Metric that its probes are compared by."""
        return PRIMARY[self.task]


def target_of(spec: Spec) -> ProbeTarget:
    """Return the target in the spec of a probe."""
    annotations = ""
    if spec.get("target"):
        annotations = sha256_json(spec.get("annotations"))[:12]
    return ProbeTarget(
        name=target_name(spec), task=task_of(spec["head_spec"]), annotations=annotations
    )


def choose_targets(probes: Iterable[Probe], requested: Sequence[str] | None) -> set[ProbeTarget]:
    """Return the targets of one page.

    Args:
        probes: All probes.
        requested: Names of targets. Default: all that share the metric of the dataset's own label,
            or without probes of it the metric of most probes.

    Raises:
        OptionError: There is no probe of a requested target, or they have several metrics.
    """
    counts = Counter(target_of(probe.spec) for probe in probes)
    if requested is None:
        labels = [target for target in counts if target.is_label]
        chosen = labels or [target for target, _ in counts.most_common(1)]
        metrics = {target.metric for target in chosen[:1]}
        return {target for target in counts if target.metric in metrics}
    names = {target.name for target in counts}
    if missing := [name for name in requested if name not in names]:
        raise OptionError(
            f"target: there is no probe of {', '.join(missing)}, only of "
            f"{', '.join(sorted(names)) or 'nothing'}: train one with `layercache probe --target`"
        )
    targets = {target for target in counts if target.name in requested}
    if len({target.metric for target in targets}) > 1:
        named = ", ".join(sorted(f"{target.name} ({target.task})" for target in targets))
        raise OptionError(
            f"target: one page compares one metric, got {named}: write a page for each"
        )
    return targets
