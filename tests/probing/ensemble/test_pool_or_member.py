"""The choice between a pool and its best member, with groups that cross-fitting must not divide."""

from __future__ import annotations

import numpy as np
import pytest

from layercache.errors import ProbeError
from layercache.probing.ensemble.pool_or_member import Choice, choose_pool
from layercache.probing.metrics import find_metric

SITES = np.repeat(np.arange(2), 100)
Y = np.arange(200) % 2


def choose(groups: np.ndarray | None) -> Choice:
    """One member is right at one site and guesses at the other, one the other way round.

    Where it guesses, a member is wrong more often than not, but less sure than one that is right:
    the sum of both is right everywhere, while weights fitted at one site drop the member that the
    other site needs.
    """
    rng = np.random.default_rng(0)
    right = np.where(Y == 1, 1.0, -1.0)
    margins = []
    for site in (0, 1):
        wrong = rng.random(200) < 0.6
        elsewhere = np.where(wrong, -1.0, 1.0) * right
        margins.append(np.where(site == SITES, 2.0 * right, elsewhere) + rng.normal(0, 0.3, 200))
    outputs = np.stack([np.stack([-m, m], 1) for m in margins]).astype(np.float32)
    return choose_pool(
        outputs,
        Y,
        task="classification",
        metric=find_metric("balanced_accuracy"),
        class_weights=True,
        groups=groups,
    )


def test_cross_fitting_that_keeps_groups_together_sees_what_weights_of_other_groups_do() -> None:
    divided, together = choose(None), choose(SITES)
    # weights that saw samples of both sites use both members
    assert divided.fallback is None
    assert divided.score > max(divided.member_scores)
    # weights of one site rely on the member that fails at the other
    assert together.score < 0.7
    assert together.fallback is not None
    assert together.in_sample_score == divided.in_sample_score


def test_samples_of_one_group_are_refused_with_a_remedy() -> None:
    with pytest.raises(ProbeError, match=r"all of one group.*\(--folds 5\)"):
        choose(np.zeros(200, np.int64))
