"""Search strategies: the configurations that train next, and how far, by the scores so far.

full        every configuration to the end
halving     successive halving (arXiv 1502.07943): every configuration for a part of the epochs,
            then the best ones for a larger part, and the best of these to the end. All follow
            the learning rate of the whole schedule, and scores that are compared share batches
            and noise
coordinate  every learning rate with every dropout rate at the middle weight decay, then the
            other weight decays of the best pair, but only one of those without much effect

Of configurations whose training is the same to the bit, only the first is trained.

The branches of a fusion head are independent: the best configurations are those of each branch
alone, and at the end the best one of each branch is scored with that of the other (`best_pair`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from layercache.probing.results.config_score import (
    ConfigScore,
    config_key,
    is_pair,
    training_key,
)
from layercache.probing.search.best_config import (
    Search,
    best_pair,
    branches_of,
    rank_configs,
    summarize,
)

SEARCHES = ("full", "halving", "coordinate")

HParams = Mapping[str, float]


@dataclass(frozen=True)
class Rung:
    """A point of the training at which configurations are dropped."""

    epochs: float
    """Part of the epochs."""
    kept: float
    """Part of the configurations that continue."""


RUNGS = (Rung(1 / 9, 1 / 5), Rung(1 / 3, 1 / 3))
"""Measured in benchmarks/racing.py."""
WEAK_DECAY = 2e-6
"""Learning rate x weight decay up to which a search by coordinates tries one weight decay only:
over 1,000 steps of the cosine, decay shrinks the parameters by a thousandth at most."""


@dataclass(frozen=True)
class Stage:
    """Configurations whose scores are needed next."""

    configs: tuple[HParams, ...]
    """The configurations, in the order of the grid."""
    stop_epoch: int | None = None
    """Epoch, from 1, after which they are scored; None: the last."""


def current_stage(
    search: Search, scores: Sequence[ConfigScore], *, n_folds: int, epochs: int
) -> Stage:
    """Return the stage of a search; it is the last one if all of its scores are known.

    Args:
        search: The search.
        scores: The scores so far.
        n_folds: Number of folds that score every configuration.
        epochs: Epochs of the training.
    """
    scored = {(s.fold, s.training, s.stop_epoch) for s in scores}
    branches = branches_of(search.head)

    def means(stage: Stage, grid: Sequence[HParams]) -> list[ConfigScore] | None:
        """Return the mean scores of configurations after a stage; None if some are missing."""
        if any(
            (fold, training_key(hparams), stage.stop_epoch) not in scored
            for fold in range(n_folds)
            for hparams in stage.configs
        ):
            return None
        return summarize(search, [s for s in scores if s.stop_epoch == stage.stop_epoch], grid=grid)

    def rank(stage: Stage) -> list[list[HParams]] | None:
        """Return the configurations of a stage, best first; None if scores are missing."""
        configs = means(stage, stage.configs)
        if configs is None:
            return None
        if all(config.diverged for config in configs):
            return [[]]
        rankings = (rank_configs(search, configs, branch=branch) for branch in branches)
        return [[config.hparams for config in ranking] for ranking in rankings]

    stage = _STAGES[search.search](_trainings(search.grid), rank, epochs)
    if len(branches) == 1 or stage.stop_epoch is not None:
        return stage
    configs = means(stage, search.grid)
    if configs is None or all(config.diverged for config in configs):
        return stage
    pair = best_pair(search, configs)
    return Stage((*stage.configs, pair)) if pair and is_pair(pair) else stage


def count_fits(search: str, grid: Sequence[HParams], *, epochs: int, head: str = "") -> float:
    """Return the number of trainings on one fold; a stopped one counts by its part of the epochs.

    Of a fusion head it is the largest possible number, without the pair that is scored last.

    Args:
        search: full, halving or coordinate.
        grid: The configurations.
        epochs: Epochs of the training.
        head: Name of the head.
    """
    trained: dict[object, float] = {}

    def rank(stage: Stage) -> list[list[HParams]]:
        for hparams in stage.configs:
            trained[config_key(hparams)] = (stage.stop_epoch or epochs) / epochs
        # most weight decays differ in their effect at the largest learning rate
        ranking = sorted(stage.configs, key=lambda hparams: -hparams.get("lr", 0.0))
        return [ranking, ranking[1:] + ranking[:1]][: len(branches_of(head))]

    rank(_STAGES[search](_trainings(grid), rank, epochs))
    return sum(trained.values())


def _trainings(grid: Sequence[HParams]) -> tuple[HParams, ...]:
    """Return the configurations to train, in the order of the grid.

    Of configurations that train in the same way (`training_key`), only the first is returned.
    """
    by_training = {training_key(hparams): hparams for hparams in reversed(grid)}
    return tuple(reversed(by_training.values()))


Rank = Callable[[Stage], "list[list[HParams]] | None"]
"""Returns rankings, best first: by the whole head, or by each branch of a fusion head."""


def _full(grid: tuple[HParams, ...], rank: Rank, epochs: int) -> Stage:
    return Stage(grid)


def _halving(grid: tuple[HParams, ...], rank: Rank, epochs: int) -> Stage:
    configs, last_stop = grid, 0
    for rung in RUNGS:
        kept = max(1, round(rung.kept * len(configs)))
        stop_epoch = round(rung.epochs * epochs)
        if kept == len(configs) or not last_stop < stop_epoch < epochs:
            continue
        stage = Stage(configs, stop_epoch)
        rankings = rank(stage)
        if rankings is None:
            return stage
        best = dict.fromkeys(map(config_key, chain(*zip(*rankings, strict=True))))
        kept_keys = set(islice(best, kept))
        configs = tuple(hparams for hparams in grid if config_key(hparams) in kept_keys)
        last_stop = stop_epoch
    return Stage(configs)


def _coordinate(grid: tuple[HParams, ...], rank: Rank, epochs: int) -> Stage:
    decays = sorted({_decay(hparams) for hparams in grid})
    middle = len(decays) // 2
    nearest: dict[object, HParams] = {}
    for hparams in sorted(grid, key=lambda h: abs(decays.index(_decay(h)) - middle)):
        nearest.setdefault(_without_decay(hparams), hparams)
    stage = Stage(_in_order(grid, list(nearest.values())))
    rankings = rank(stage)
    if rankings is None:
        return stage
    tried = list(stage.configs)
    for best in {_without_decay(ranking[0]) for ranking in rankings if ranking}:
        tried += _differing_decays([h for h in grid if _without_decay(h) == best], nearest[best])
    return Stage(_in_order(grid, tried))


def _differing_decays(configs: Sequence[HParams], tried: HParams) -> list[HParams]:
    """Return the configurations of one pair whose weight decay is not weak, and one that is.

    That one is `tried` if it is weak, else the one with the largest weak decay.
    """
    weak = [h for h in configs if h.get("lr", 0.0) * _decay(h) <= WEAK_DECAY]
    kept = tried if tried in weak else max(weak, key=_decay, default=None)
    return [h for h in configs if h not in weak or h == kept]


_STAGES = {"full": _full, "halving": _halving, "coordinate": _coordinate}


def _decay(hparams: HParams) -> float:
    return hparams.get("weight_decay", 0.0)


def _without_decay(hparams: HParams) -> object:
    """Return all hyperparameters but the weight decay."""
    return config_key({name: v for name, v in hparams.items() if name != "weight_decay"})


def _in_order(grid: Sequence[HParams], configs: Sequence[HParams]) -> tuple[HParams, ...]:
    keys = {config_key(hparams) for hparams in configs}
    return tuple(hparams for hparams in grid if config_key(hparams) in keys)
