"""Configurations of each baseline, and the tasks that it can be trained for."""

from __future__ import annotations

from collections.abc import Mapping

from layercache._units import join_words
from layercache.errors import OptionError
from layercache.probing.heads.spec import CLASSIFICATION, MULTI_LABEL, REGRESSION

Config = Mapping[str, float]

NEIGHBORS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.01, 0.03, 0.07, 0.2)
PENALTIES = tuple(10 ** (i / 2) for i in range(-8, 13))
SHRINKAGES = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.99, 1.0)
INVERSE_PENALTIES = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)

GRIDS: Mapping[str, tuple[Config, ...]] = {
    "knn": (
        *({"k": k} for k in NEIGHBORS),
        *({"k": k, "temperature": t} for k in NEIGHBORS if k > 1 for t in TEMPERATURES),
    ),
    "logreg": tuple({"C": c} for c in INVERSE_PENALTIES),
    "ridge": tuple({"alpha": alpha} for alpha in PENALTIES),
    "lda": tuple({"shrinkage": shrinkage} for shrinkage in SHRINKAGES),
}
"""Configurations to search, in order.

knn: number of neighbors, which vote equally, or with exp(cosine similarity / temperature). C is the
inverse strength of the L2 penalty and alpha its strength, as in scikit-learn, on concatenated
tokens of unit length. Shrinkage 1 is the nearest class mean.
"""
TASKS: Mapping[str, tuple[str, ...]] = {
    "knn": (CLASSIFICATION, MULTI_LABEL, REGRESSION),
    "logreg": (CLASSIFICATION, MULTI_LABEL),
    "ridge": (CLASSIFICATION, MULTI_LABEL, REGRESSION),
    "lda": (CLASSIFICATION,),
}
"""Tasks of each baseline."""


def check_task(name: str, task: str) -> None:
    """Check that a head can be trained for a task.

    Args:
        name: Name of the head; those that are no baselines can be trained for all.
        task: classification, multi-label or regression.

    Raises:
        OptionError: It cannot.
    """
    if name in TASKS and task not in TASKS[name]:
        able = [other for other, tasks in TASKS.items() if task in tasks]
        choices = f"{', '.join(able)} or linear"
        raise OptionError(
            f"head {name} is trained for {join_words(TASKS[name])}, and this target is for "
            f"{task}: choose {choices}"
        )
