"""Choice of the search: full, halving or coordinate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from layercache.errors import UnknownNameError
from layercache.probing.search.strategies import SEARCHES, count_fits

logger = logging.getLogger(__name__)

AUTO = "auto"
MAX_PART = 1 / 3
"""Part of the grid that "auto" trains at most in a search by coordinates."""


def choose_search(
    requested: str,
    *,
    head: str,
    grid: Sequence[Mapping[str, float]],
    epochs: bool,
    paper_compat: bool = False,
) -> str:
    """Return full, halving or coordinate, and log the choice if it is not the requested one.

    Configurations whose training is identical to that of others are counted in the log.

    "auto" chooses coordinate if that trains at most a third of the grid and `paper_compat` is
    False, else full (docs/search.md gives the reasons).

    Args:
        requested: full, halving, coordinate or auto.
        head: Name of the head, for the log.
        grid: Its configurations.
        epochs: True if the head is trained in epochs, False for a closed form.
        paper_compat: With "auto", search as the paper does.

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
    n_fits = {
        search: round(count_fits(search, grid, epochs=1, head=head))
        for search in ("full", "coordinate")
    }
    if n_fits["full"] < len(grid):
        logger.info(
            "%s: %d of %d configurations not trained, as their results are identical to those of "
            "others (the weight decay rounds to nothing in float32)",
            head,
            len(grid) - n_fits["full"],
            len(grid),
        )
    if requested != AUTO:
        return requested
    too_many = n_fits["coordinate"] > MAX_PART * len(grid)
    search = "full" if paper_compat or too_many else "coordinate"
    logger.info(
        "%s: search auto takes %s, %s%d of %d configurations are trained",
        head,
        search,
        "" if search == "full" else "at most ",
        n_fits[search],
        len(grid),
    )
    return search
