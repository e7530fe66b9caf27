"""The public function `ensemble`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from layercache._devices import resolve_device
from layercache._progress import ProgressBar
from layercache._units import parse_bytes
from layercache.cache.storage.paths import CachePath
from layercache.errors import OptionError
from layercache.probing.ensemble.held_out import HeldOut, predict_held_out
from layercache.probing.ensemble.members import (
    EnsembleMember,
    class_weights,
    load_members,
    selection_metric,
)
from layercache.probing.ensemble.pool_or_member import Choice, choose_pool
from layercache.probing.ensemble.record import find_ensemble, make_spec, write_ensemble
from layercache.probing.metrics import Metric, check_metric
from layercache.probing.results.probe_store import Probe
from layercache.probing.results.table.formatting import format_score
from layercache.probing.results.table.table import Results

logger = logging.getLogger(__name__)


def ensemble(
    probes: Sequence[str | CachePath | Probe],
    *,
    select: str | None = None,
    root: str | CachePath | None = None,
    probes_root: str | CachePath | None = None,
    device: str = "auto",
    memory_budget: int | str | None = None,
    refresh: bool = False,
    progress: bool = False,
) -> Results:
    """Pool trained probes of the same targets and images: late fusion.

    The pool multiplies the members' probabilities, each to a power of at least 0: the softmax of a
    weighted mean of their logits, over a temperature. The powers are fitted on training samples
    that the members held out, to the loss that heads are trained with. For that, the selected
    configuration of each member is trained once more on each fold of its search; the pooled test
    outputs are those that the members stored. The score of the pool on the held-out samples is
    cross-fitted: its powers are fitted on four fifths and scored on the fifth, and a group that the
    members kept together (`probe(group=...)`) is in one of them. Where the pool is
    below the best member by that, the result is that member alone, and a warning says so.

    The held-out samples have selected the configurations, too, so the validation scores of members
    and pool are a little too high; the test scores are not.

    Args:
        probes: At least two probes, their ids, beginnings of these, or folders: of the same
            dataset, target and splits, but of any backbone, tokens, head and seed. Members of
            different seeds need folds (`probe(folds=5)`).
        select: Metric that judges the pool. Default: the one that selected the members.
        root: Root of the caches, as in `open_cache`.
        probes_root: Root of probes outside their caches; default $LAYERCACHE_PROBES.
        device: Device to train on: auto, cpu, cuda, cuda:N or mps.
        memory_budget: Memory for tokens (8GB, 500MiB or bytes). Default: half of the free memory.
        refresh: Fit again an ensemble that exists.
        progress: Show a progress bar.

    Returns:
        The members and the ensemble, which is stored next to its first member.

    Raises:
        OptionError: The probes do not belong together.
        ProbeError: The probes held out too few samples in common.
        ProbeNotFoundError: There is no such probe.
        CacheNotFoundError: The cache of a member is not there.

    >>> import layercache  # doctest: +SKIP
    >>> layercache.ensemble(["c9a91f", "10bd77"]).to_text()  # doctest: +SKIP
    """
    if isinstance(probes, str):
        raise OptionError(f"probes: expected a list of probes, got the text {probes!r}")
    members = load_members(probes, root=root, probes_root=probes_root)
    task = members[0].spec.head_spec.task
    metric = selection_metric(members, select)
    check_metric(metric.name, task=task, option="select")
    spec = make_spec(members, metric=metric)
    stored = None if refresh else find_ensemble(members[0], spec, probes_root=probes_root)
    if stored is not None:
        logger.info("already exists, %s (--refresh fits it again)", stored.path)
        return _results(members, stored)
    started = time.perf_counter()
    torch_device, reason = resolve_device(device)
    logger.info("device %s (%s)", torch_device, reason)
    budget = None
    if memory_budget is not None:
        budget = parse_bytes(memory_budget, name="memory_budget", minimum=1)
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with ProgressBar("held-out outputs", total=1.0, show=progress, bar_format=layout) as bar:
        held_out = predict_held_out(
            members, device=torch_device, memory_budget=budget, on_progress=bar.move_to
        )
    choice = choose_pool(
        held_out.outputs,
        held_out.targets,
        task=task,
        metric=metric,
        class_weights=class_weights(members),
        groups=held_out.groups,
    )
    _log_choice(members, held_out, choice)
    probe = write_ensemble(
        members,
        spec,
        choice,
        metric=metric,
        probes_root=probes_root,
        n_val_rows=len(held_out.targets),
        seconds=time.perf_counter() - started,
    )
    return _results(members, probe)


def _results(members: Sequence[EnsembleMember], probe: Probe) -> Results:
    return Results([*(member.probe for member in members), probe])


def _log_choice(members: Sequence[EnsembleMember], held_out: HeldOut, choice: Choice) -> None:
    """Log weights and scores, and whether the pool or a member is the result."""
    kind = "out-of-fold outputs" if held_out.out_of_fold else "outputs"
    metric = choice.metric
    logger.info(
        "fitted to the members' %s on %s, which also selected their configurations",
        kind,
        held_out.where,
    )
    for member, weight, score in zip(
        members, choice.fitted.weights, choice.member_scores, strict=True
    ):
        logger.info(
            "  weight %.3f, held-out %s %s: %s",
            weight,
            metric.title,
            _format(metric, score),
            member.describe(),
        )
    logger.info(
        "  pool: temperature %.3g, held-out %s %s cross-fitted, %s in sample; equal weights %s",
        choice.fitted.temperature,
        metric.title,
        _format(metric, choice.score),
        _format(metric, choice.in_sample_score),
        _format(metric, choice.equal_score),
    )
    if choice.fallback is not None:
        best = choice.fallback
        logger.warning(
            "the pool is below its best member on the held-out samples (%s against %s), so "
            "the ensemble is that member alone: %s",
            _format(metric, choice.worse_score),
            _format(metric, choice.member_scores[best]),
            members[best].describe(),
        )


def _format(metric: Metric, score: float) -> str:
    return f"{format_score(metric, score)}{' %' if metric.percent else ''}"
