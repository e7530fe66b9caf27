"""Heads with a closed form or a convex loss, and nearest neighbors: searched without epochs.

grids.py          configurations of each, and what each can predict
trainer.py        BaselineTrainer: scores the configurations and fits the selected one
fitting.py        one fit for all configurations
models.py         what one fit gives for all configurations, on `probing.closed_form`
neighbors.py      nearest neighbors as a trained model
leave_one_out.py  outputs for each sample by the fit to all others
"""

from layercache.probing.baselines.grids import GRIDS, check_task
from layercache.probing.baselines.neighbors import NeighborClassifier
from layercache.probing.baselines.trainer import BaselineTrainer

__all__ = ["GRIDS", "BaselineTrainer", "NeighborClassifier", "check_task"]
