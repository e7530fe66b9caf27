"""Runs cells through an engine: locks, what is there already, the order of the tasks, and the records of a search that is stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from layercache.engine import Engine, Progress, Say, WorkerPool, open_engine, why_device
from layercache.errors import CacheIncompleteError
from layercache.probing.budget import parse_bytes, parse_disk, resolve_device
from layercache.probing.data.loader import Loader
from layercache.probing.evaluation import sample_subset
from layercache.probing.options import Options
from layercache.probing.progress import Watch, describe
from layercache.probing.results.probe_store import PROBES, Probe, ProbeFolder, read_probe
from layercache.probing.search_state import SearchState
from layercache.probing.spec import BASELINES, ProbeSpec, TokenSelection
from layercache.probing.training.fit import describe_groups, group_bounds
from layercache.probing.worker import SearchResult, WorkerConfig

MAX_CONCURRENT_PROBES = 256
"""Probes that are held, one open lock file each, and worked at side by side."""
VISIBILITY_TIMEOUT_S = 60.0
"""Seconds in which a probe that a worker has written on another machine is seen here: what a network file system's memory may last."""


def run_probes(cells: Sequence[ProbeSpec], options: Options) -> list[Probe]:
    """Each cell once, those that see the same tokens after one another; the probes in the order asked for."""
    say = options.say or (lambda _: None)
    read = [
        (cache, split)
        for cell in cells
        for cache, _ in cell.tokens.sources
        for split in (cell.train, cell.test)
    ]
    for cache, split in {(cache.path, split): (cache, split) for cache, split in read}.values():
        cache.split(split)  # one that is not complete is refused before any work
    order = list(dict.fromkeys(_same_tokens(cell.tokens) for cell in cells))
    once = list(
        {
            cell.id: cell
            for cell in sorted(cells, key=lambda c: order.index(_same_tokens(c.tokens)))
        }.values()
    )
    found = (
        {}
        if options.refresh
        else {cell.id: there for cell in once if (there := read_probe(_folder(cell))) is not None}
    )
    for cell in once:
        if cell.id in found:
            _say_there(cell, found[cell.id], say)
    if missing := [cell for cell in once if cell.id not in found]:
        with open_engine(options.engine, address=options.address) as engine:
            found |= _Run(missing, options, engine, say).all()
    return [found[cell.id] for cell in cells]


@dataclass(frozen=True)
class _Place:
    device: torch.device | str
    """For the workers."""
    why: str
    """For the user."""
    gpu: bool


class _Run:
    def __init__(
        self, cells: Sequence[ProbeSpec], options: Options, engine: Engine, say: Say
    ) -> None:
        self._cells, self._options, self._engine, self._say = cells, options, engine, say
        self._place = _place(engine, options.device)
        self._watch = Watch(show=options.progress)
        self._searches: dict[int, SearchState] = {}
        # of the splits it needs the labels only; the features are the workers'
        self._loader = Loader(
            device=torch.device("cpu"), mode=options.features, budget=None, say=say
        )
        self._told = False

    def all(self) -> dict[str, Probe]:
        """The probes by id."""
        options, spreads = self._options, self._engine.spreads
        training = WorkerConfig(
            cells=self._cells,
            device=str(self._place.device),
            features=options.features,
            memory=options.memory,
            disk_cache=options.disk_cache,
            group_size=options.group_size,
            cut=spreads and bool(options.group_size),
        )
        if options.memory is not None:
            parse_bytes(options.memory)
        if options.disk_cache is not None:
            parse_disk(options.disk_cache)
        found: dict[str, Probe] = {}
        with self._engine.crew(
            training,
            gpu=self._place.gpu,
            threads=torch.get_num_threads(),
            say=self._say,
            heard=self._heard,
        ) as crew:
            for first in range(
                0, len(self._cells), size := MAX_CONCURRENT_PROBES if spreads else 1
            ):
                found |= self._some(
                    range(first, min(first + size, len(self._cells))),
                    crew,
                    group_size=options.group_size if training.cut else None,
                )
        return found

    def _some(
        self, numbers: range, crew: WorkerPool, *, group_size: int | None
    ) -> dict[str, Probe]:
        """Cells that are worked at side by side, or one."""
        found: dict[str, Probe] = {}
        self._searches = {}
        with ExitStack() as stack:
            # One order of locks in every process, so that two that wait for each other's probes cannot wait for ever.
            for cell in sorted((self._cells[n] for n in numbers), key=lambda cell: cell.id):
                stack.enter_context(ProbeFolder(_folder(cell)).held())
            for n in numbers:
                cell, folder = self._cells[n], ProbeFolder(_folder(self._cells[n]))
                if self._options.refresh:
                    folder.clear()
                if (there := read_probe(folder.path)) is not None:
                    _say_there(cell, there, self._say)  # another process was faster
                    found[cell.id] = there
                    continue
                if not self._told:
                    self._say(f"device {self._place.why}")
                    self._told = True
                self._searches[n] = SearchState(
                    n, cell, folder=folder, drawn=sample_subset(cell, self._loader, self._say)
                )
            self._work(crew, group_size=group_size)
            return found | {
                search.cell.id: self._seen(search) for search in self._searches.values()
            }

    def _work(self, crew: WorkerPool, *, group_size: int | None) -> None:
        searches = self._searches
        tasks: deque[Any] = deque(
            task for search in searches.values() for task in search.tasks(group_size=group_size)
        )
        if not tasks:
            return
        for grid, kind in (
            dict.fromkeys((len(s.cell.grid), s.cell.head in BASELINES) for s in searches.values())
            if group_size
            else ()
        ):
            if not kind:
                self._say(
                    describe_groups(grid, group_bounds(grid, group_size or grid), reason="as asked")
                )
        with (
            self._watch.many(len(tasks) + len(searches))
            if self._engine.spreads
            else self._watch.one(describe(next(iter(searches.values())).cell))
        ):
            for task, result in crew.run(tasks):
                if isinstance(result, SearchResult):
                    searches[task.cell].keep(task, result)
                    tasks.extendleft(
                        searches[task.cell].next()
                    )  # at once, while the tokens are at hand
                    self._watch.ended(task)

    def _heard(self, task: Any, message: Any) -> None:
        if isinstance(message, SearchResult):
            self._searches[task.cell].keep(task, message)
        elif isinstance(message, Progress):
            self._watch.heard(task, message)

    def _seen(self, search: SearchState) -> Probe:
        """The probe that a worker has kept; from another machine it may be seen a little later."""
        deadline = time.monotonic() + (VISIBILITY_TIMEOUT_S if self._engine.spreads else 0.0)
        while (probe := read_probe(search.folder.path)) is None:
            if time.monotonic() > deadline:
                raise CacheIncompleteError(
                    f"{search.folder.path}: a worker has kept this probe, and it is not there: "
                    "the folder of the caches must be the same one on every machine of the cluster"
                )
            time.sleep(0.2)
        return probe


def _say_there(cell: ProbeSpec, probe: Probe, say: Say) -> None:
    say(f"{describe(cell)}: already there, {probe.path} (--refresh trains it again)")


def _place(engine: Engine, asked: str) -> _Place:
    gpu = engine.gpu(asked)
    if gpu is None:
        device, why = resolve_device(asked)
        return _Place(device, why, device.type == "cuda")
    there = "cuda" if gpu else "cpu"
    return _Place(there, f"{there} ({why_device(asked, gpu=gpu)})", gpu)


def _folder(cell: ProbeSpec) -> Any:
    return cell.tokens.cache.path / PROBES / cell.id


def _same_tokens(tokens: TokenSelection) -> tuple[Any, ...]:
    return tuple((cache.path, pairs) for cache, pairs in tokens.sources)
