"""Policies of a cheaper search, replayed by racing.py on the records of full searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Curve = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Config:
    """One configuration of a run."""

    hparams: dict[str, float]
    curve: Curve
    """Validation metrics by epoch, of the long schedule."""
    short: dict[float, dict[str, float]]
    """Validation metrics at the end of shorter schedules, by part of the epochs."""
    final: dict[str, float]
    test: float

    @property
    def pair(self) -> tuple[float, float]:
        """Learning rate and dropout rate."""
        return self.hparams["lr"], self.hparams["dropout"]

    @property
    def decay(self) -> float:
        """Weight decay."""
        return self.hparams["weight_decay"]


@dataclass(frozen=True)
class Run:
    """The records of one cache and seed; configurations that diverged are left out."""

    name: str
    epochs: int
    configs: list[Config]
    n_configs: int
    """With those that diverged."""


Rank = Callable[[Config, dict[str, float]], tuple[float, ...]]
"""Key of a configuration with some metrics; the smallest is the best."""
Policy = Callable[[Run], tuple[list[Config], float]]
"""Returns the configurations that are trained to the end, and the fits that all of it takes."""


def by_accuracy(config: Config, metrics: dict[str, float]) -> tuple[float, ...]:
    """Rank as the library does: accuracy, then loss to three digits, then the larger decay."""
    loss = float(f"{metrics['log_loss']:.2e}")
    return -round(metrics["balanced_accuracy"], 12), loss, -config.decay


def by_loss(config: Config, metrics: dict[str, float]) -> tuple[float, ...]:
    """Rank by validation loss."""
    return metrics["log_loss"], -config.decay


def best(configs: Iterable[Config], rank: Rank = by_accuracy) -> list[Config]:
    """Return configurations by their final scores, best first."""
    return sorted(configs, key=lambda config: rank(config, config.final))


def halving(
    *rungs: tuple[float, float],
    rank: Rank = by_accuracy,
    within: Callable[[Config], object] = lambda _: None,
    short: bool = False,
) -> Policy:
    """Return successive halving: after each part of the epochs, a part of the group is kept.

    Args:
        *rungs: Part of the epochs, and part of the configurations to keep.
        rank: How configurations are compared.
        within: Group of a configuration that is only compared with its own.
        short: Each rung is a schedule of its own, and nothing is continued.
    """

    def run_policy(run: Run) -> tuple[list[Config], float]:
        configs, fits, done = run.configs, 0.0, 0.0
        count: float = run.n_configs
        for part, kept in rungs:
            fits += count * (part if short else part - done)

            def key(config: Config, part: float = part) -> tuple[float, ...]:
                epoch = max(1, round(part * run.epochs))
                return rank(config, config.short[part] if short else config.curve[epoch])

            groups: dict[object, list[Config]] = {}
            for config in sorted(configs, key=key):
                groups.setdefault(within(config), []).append(config)
            configs = [
                config
                for group in groups.values()
                for config in group[: max(1, round(kept * len(group)))]
            ]
            count, done = len(configs), 0.0 if short else part
        return configs, fits + count * (1 - done)

    return run_policy


def coordinate(
    n_pairs: int, *, decay: float = 1e-3, weak: float = 0.0, rung: tuple[float, int] | None = None
) -> Policy:
    """Return the search over pairs at one decay, then over the decays of the best pairs.

    Args:
        n_pairs: How many pairs are searched.
        decay: Weight decay at which pairs are compared.
        weak: Learning rate x weight decay up to which a pair is trained with one decay only.
        rung: Part of the epochs, and number of pairs that are trained on; None: all.
    """

    def run_policy(run: Run) -> tuple[list[Config], float]:
        first = [config for config in run.configs if config.decay == decay]
        fits = float(run.n_configs - len(run.configs))
        if rung is not None:
            part, kept = rung
            fits += part * (len(first) - kept)
            epoch = max(1, round(part * run.epochs))
            first = sorted(first, key=lambda c: by_accuracy(c, c.curve[epoch]))[:kept]
        pairs = {config.pair for config in best(first)[:n_pairs]}
        differing = one_weak_decay(run.configs, weak=weak, tried=decay)
        configs = first + [c for c in differing if c.pair in pairs and c not in first]
        return configs, fits + len(configs)

    return run_policy


def one_weak_decay(configs: list[Config], *, weak: float, tried: float) -> list[Config]:
    """Leave out the weak decays of each pair but one: `tried` if it is weak, or else the largest.

    Args:
        configs: Configurations, in any order.
        weak: Learning rate x weight decay up to which a decay is weak.
        tried: Weight decay that is trained in any case.
    """
    kept: dict[tuple[float, float], Config] = {}
    for config in sorted(configs, key=lambda c: (c.decay == tried, c.decay)):
        if config.decay * config.pair[0] <= weak:
            kept[config.pair] = config
    return [c for c in configs if c.decay * c.pair[0] > weak or c is kept[c.pair]]


def without_small_decays(lr: float, decay: float) -> Policy:
    """Return the full search without decays below `decay` at a learning rate."""

    def run_policy(run: Run) -> tuple[list[Config], float]:
        left_out = [c for c in run.configs if c.pair[0] == lr and c.decay < decay]
        configs = [c for c in run.configs if c not in left_out]
        return configs, run.n_configs - len(left_out)

    return run_policy


def random_subset(part: float) -> Policy:
    """Return the negative control: a part of the configurations, drawn at random."""

    def run_policy(run: Run) -> tuple[list[Config], float]:
        generator = np.random.default_rng(list(run.name.encode()))
        count = round(part * len(run.configs))
        return list(generator.choice(np.array(run.configs, object), count, replace=False)), count

    return run_policy


def pair(config: Config) -> object:
    """Return the group of all weight decays of one learning rate and dropout rate."""
    return config.pair


def dropout(config: Config) -> object:
    """Return the group of all learning rates and weight decays of one dropout rate."""
    return config.pair[1]


NINTH, THIRD = 1 / 9, 1 / 3
POLICIES: dict[str, Policy] = {
    "full": lambda run: (run.configs, run.n_configs),
    "full, at learning rate 1e-3 no decay below 1e-3": without_small_decays(1e-3, 1e-3),
    "halving 1/5, 1/3": halving((NINTH, 1 / 5), (THIRD, 1 / 3)),
    "halving 1/4, 1/3": halving((NINTH, 1 / 4), (THIRD, 1 / 3)),
    "halving 1/3, 1/3": halving((NINTH, 1 / 3), (THIRD, 1 / 3)),
    "halving 1/5, 1/3 by loss": halving((NINTH, 1 / 5), (THIRD, 1 / 3), rank=by_loss),
    "halving 1/3, 1/3 by loss": halving((NINTH, 1 / 3), (THIRD, 1 / 3), rank=by_loss),
    "halving 1/5, 1/3 within dropout": halving((NINTH, 1 / 5), (THIRD, 1 / 3), within=dropout),
    "halving 2/7, 1/2 within pairs": halving((NINTH, 2 / 7), (THIRD, 1 / 2), within=pair),
    "halving 1/8 at 1/6": halving((1 / 6, 1 / 8)),
    "halving 1/6, 1/3 at 1/6, 1/2": halving((1 / 6, 1 / 6), (1 / 2, 1 / 3)),
    "halving 1/12 at 1/6": halving((1 / 6, 1 / 12)),
    "own cosines 1/5, 1/3": halving((NINTH, 1 / 5), (THIRD, 1 / 3), short=True),
    "own cosines 1/3, 1/3": halving((NINTH, 1 / 3), (THIRD, 1 / 3), short=True),
    "coordinate, best pair, one weak decay": coordinate(1, weak=2e-6),
    "the same, 3 of the pairs after 1/3": coordinate(1, weak=2e-6, rung=(THIRD, 3)),
    "the same, 5 of the pairs after 1/2": coordinate(1, weak=2e-6, rung=(1 / 2, 5)),
    "coordinate, best pair": coordinate(1),
    "coordinate, best two pairs": coordinate(2),
    "coordinate from decay 1e-6, best two pairs": coordinate(2, decay=1e-6),
    "coordinate from decay 1e-6, best pair": coordinate(1, decay=1e-6),
    "coordinate from decay 1e-2, best two pairs": coordinate(2, decay=1e-2),
    "weight decay 1e-3 only": coordinate(0),
    "weight decay 1e-2 only": coordinate(0, decay=1e-2),
    "a quarter at random": random_subset(1 / 4),
}
