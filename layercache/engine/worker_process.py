"""Set-up of a process that a worker has to itself."""

from __future__ import annotations

import os
from contextlib import suppress


def enter_worker_process(*, folder: str, cores: int | None) -> None:
    """Give a worker process the folder of the command, and as many threads as it has cores.

    Args:
        folder: Folder that relative paths start from; ignored if this machine lacks it.
        cores: Number of cores of the worker, or None if it runs in the process of the command.
    """
    if cores is None:
        return
    import torch

    with suppress(OSError):  # not needed if all paths are absolute
        os.chdir(folder)
    torch.set_num_threads(cores)
