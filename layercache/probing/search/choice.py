"""Choice of the search of a probe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from layercache.errors import UnknownNameError
from layercache.probing.search.stages import SEARCHES

logger = logging.getLogger(__name__)

AUTO = "auto"


def choose_search(
    requested: str, *, head: str, grid: Sequence[Mapping[str, float]], epochs: bool
) -> str:
    """Return full, halving or coordinate, and log what is taken instead of the requested one.

    Args:
        requested: full, halving, coordinate or auto.
        head: Name of the head, for the log.
        grid: Its configurations.
        epochs: It is trained in epochs, not in closed form.

    Raises:
        UnknownNameError: There is no search of this name.
    """
    if requested not in (*SEARCHES, AUTO):
        raise UnknownNameError("search", requested, (*SEARCHES, AUTO))
    if not epochs:
        if requested not in ("full", AUTO):
            logger.info(
                "%s: all configurations are scored, as it is not trained in epochs; search %s "
                "has no effect",
                head,
                requested,
            )
        return "full"
    if requested != AUTO:
        return requested
    return "full"
