"""The trainer of a probe, by its head: gradient descent, or a closed form."""

from __future__ import annotations

import torch

from layercache.probing.baselines import BaselineTrainer
from layercache.probing.heads.spec import BASELINES
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.validation_options import LEAVE_ONE_OUT
from layercache.probing.training.fit import PassSaver
from layercache.probing.training.search_memory import SearchMemory
from layercache.probing.training.trainer import ProbeTrainer, ProgressCallback, SGDTrainer


def make_trainer(
    spec: ProbeSpec,
    *,
    device: torch.device,
    on_progress: ProgressCallback | None,
    configs_per_pass: int | None = None,
    saver: PassSaver | None = None,
    memory: SearchMemory | None = None,
) -> ProbeTrainer:
    """Return the trainer of a probe.

    Args:
        spec: The probe.
        device: Device to train on.
        on_progress: Called with (steps done, steps in total).
        configs_per_pass: See SGDTrainer. Like the following, without effect on closed-form heads.
        saver: See SGDTrainer.
        memory: See SGDTrainer.
    """
    if spec.head in BASELINES:
        return BaselineTrainer(
            name=spec.head,
            head=spec.head_spec,
            seed=spec.seed,
            select=spec.select,
            on_progress=on_progress,
            leave_one_out=spec.validation.scheme == LEAVE_ONE_OUT,
        )
    return SGDTrainer(
        head=spec.head_spec,
        config=spec.train_config,
        seed=spec.seed,
        device=device,
        precision=spec.precision,
        select=spec.select,
        memory=memory,
        configs_per_pass=configs_per_pass,
        on_progress=on_progress,
        saver=saver,
    )
