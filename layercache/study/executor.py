"""What is done for a cell: by `extract` and by `probe`, which find out themselves what is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from layercache.cache.storage.paths import CachePath
from layercache.errors import LayercacheError
from layercache.extraction.options import ExtractOptions
from layercache.probing.results.table import Results
from layercache.study.plan import PlannedExtraction, PlannedProbe

logger = logging.getLogger(__name__)

PROBE_PARAMETERS = {
    "heads": "num_heads",
    "fraction": "train_fraction",
    "memory": "memory_budget",
    "group_size": "configs_per_pass",
}
"""Key of the file -> parameter of `probe`."""


class JobExecutor(Protocol):
    """What a study needs done. Asked again for what is there, both do nothing."""

    def extract(self, cell: PlannedExtraction) -> CachePath:
        """The cell's complete cache."""
        ...

    def train(self, cell: PlannedProbe, cache: CachePath, beside: CachePath | None) -> Results:
        """The cell's probes, one per seed."""
        ...


class LocalExecutor:
    """`JobExecutor` by `extract` and `probe`."""

    def __init__(
        self,
        *,
        yes: bool = False,
        progress: bool = True,
        together: Sequence[PlannedExtraction] = (),
        engine: str = "local",
        address: str | None = None,
    ) -> None:
        """`together`: cells that may be extracted with others of the same data set and options in one run, which decodes every image once for all.

        engine, address: where cells run, one after the other; a cell spreads over the whole of a cluster.
        """
        self._engine, self._address = engine, address
        self._yes, self._progress, self._together = yes, progress, together
        self._made: dict[tuple[str, ...], CachePath] = {}
        self._apart: set[tuple[str, ...]] = set()

    def extract(self, cell: PlannedExtraction) -> CachePath:
        """Extracts what is missing."""
        if cell.key not in self._made:
            mates = self._mates(cell)
            if len(mates) < 2 or not self._extract_together(mates):
                self._made |= self._extract([cell])
        return self._made[cell.key]

    def train(self, cell: PlannedProbe, cache: CachePath, beside: CachePath | None) -> Results:
        """Trains what is missing."""
        from layercache.probing.api import probe

        head = cell.head
        options = {**head.options, **cell.options}
        return probe(
            cache,
            head=head.head,
            layers=head.layers,
            tokens=head.tokens,
            spatial_cache=beside,
            configs=head.settings or None,
            seeds=cell.seeds,
            train_config=head.protocol,
            progress=self._progress,
            engine=self._engine,
            ray_address=self._address,
            **{PROBE_PARAMETERS.get(k, k): v for k, v in options.items()},
        )

    def _mates(self, cell: PlannedExtraction) -> list[PlannedExtraction]:
        """The cells to extract with this one, itself among them."""
        wanted = _without_model(cell.options)
        return [
            mate
            for mate in self._together
            if mate.key not in self._made | dict.fromkeys(self._apart)
            and _without_model(mate.options) == wanted
        ]

    def _extract_together(self, mates: Sequence[PlannedExtraction]) -> bool:
        try:
            self._made |= self._extract(mates)
        except Exception as error:  # of one of them, perhaps: on their own the others come through, and this one fails with its own name
            self._apart |= {mate.key for mate in mates}
            logger.info(
                f"{mates[0].dataset}: {len(mates)} models together came to nothing ({reason(error)}); one by one now"
            )
            return False
        return True

    def _extract(self, cells: Sequence[PlannedExtraction]) -> dict[tuple[str, ...], CachePath]:
        from layercache.extraction.api import extract

        weights = {model: file for cell in cells for model, file in cell.options.weights.items()}
        options: dict[str, Any] = vars(
            replace(
                cells[0].options,
                models=[cell.model for cell in cells],
                weights=weights,
                engine=self._engine,
                ray_address=self._address,
            )
        )
        made = extract(confirm=not self._yes, progress=self._progress, **options)
        return {cell.key: extraction.path for cell, extraction in zip(cells, made, strict=True)}


def reason(error: Exception) -> str:
    """A fault in one line; one that is none of ours is named as unexpected."""
    text = (str(error).strip() or "no reason given").splitlines()[0]
    return (
        text
        if isinstance(error, LayercacheError | OSError)
        else f"unexpected {type(error).__name__}: {text}"
    )


def _without_model(options: ExtractOptions) -> ExtractOptions:
    return replace(options, models=["any"], weights={})
