"""Schedules probes on an engine: locking, resuming, task order."""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from layercache._devices import resolve_device
from layercache._interruption import reraise_interrupt
from layercache._units import parse_bytes
from layercache.cache.format.result_folders import RECORD, SCHEMA
from layercache.cache.reading.split import Split
from layercache.cache.storage.paths import CachePath
from layercache.engine import (
    Engine,
    Progress,
    WorkerPool,
    cluster_device,
    open_engine,
)
from layercache.engine.shared_filesystem import wait_until_visible
from layercache.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    ProbeSchemaError,
    StorageError,
)
from layercache.probing.heads.spec import BASELINES
from layercache.probing.options import Options
from layercache.probing.progress import ProgressDisplay, describe
from layercache.probing.results.locations import (
    PROBES_VARIABLE,
    probe_folders,
    resolve_probes_root,
)
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import Probe, read_probe
from layercache.probing.results.training_checkpoints import TrainingCheckpoint
from layercache.probing.search.earlier_searches import EarlierSearches
from layercache.probing.search.state import SearchState
from layercache.probing.search.tasks import RefitTask, SearchResult, SearchTask
from layercache.probing.spec import ProbeSpec
from layercache.probing.splits.train_subset import sample_subset
from layercache.probing.targets.missing import log_missing_targets
from layercache.probing.token_selection import TokenSelection
from layercache.probing.training.configs_per_pass import describe_passes, pass_bounds
from layercache.probing.worker import WorkerConfig

logger = logging.getLogger(__name__)

MAX_CONCURRENT_PROBES = 256
"""Probes that are locked, with one open lock file each, and trained at the same time."""
MAX_DESCRIBED = 3
"""Unfinished probes that are described one by one when a run is interrupted."""


def run_probes(specs: Sequence[ProbeSpec], options: Options) -> list[Probe]:
    """Train the probes that do not exist yet, and return all of them in the order of `specs`.

    Probes that see the same tokens are trained one after another, so that the tokens are loaded
    once.

    Raises:
        CacheIncompleteError: A split is not complete; raised before any work.
    """
    splits = _open_splits(specs)
    token_order = list(dict.fromkeys(_token_key(spec.tokens) for spec in specs))
    ordered = sorted(specs, key=lambda spec: token_order.index(_token_key(spec.tokens)))
    unique = {spec.id: spec for spec in ordered}
    probes: dict[str, Probe] = {}
    if not options.refresh:
        for spec in unique.values():
            for folder in probe_folders(spec.tokens.cache, options.probes_root):
                if (probe := _read_existing(spec, folder / spec.id)) is not None:
                    ProbeFolder(probe.path).sweep()
                    probes[spec.id] = probe
                    break
    if missing := [spec for spec in unique.values() if spec.id not in probes]:
        log_missing_targets(missing, splits)
        with open_engine(options.engine, ray_address=options.ray_address) as engine:
            probes |= _Run(missing, splits, options, engine).all()
    return [probes[spec.id] for spec in specs]


def _open_splits(specs: Sequence[ProbeSpec]) -> dict[tuple[CachePath, str], Split]:
    splits: dict[tuple[CachePath, str], Split] = {}
    for spec in specs:
        for cache, _ in spec.tokens.sources:
            for name in (*spec.train_splits, spec.test_split):
                if (cache.path, name) not in splits:
                    splits[cache.path, name] = cache.split(name)
        for test in spec.further_tests:
            opened = test.cache or spec.tokens.cache
            if (opened.path, test.split) not in splits:
                splits[opened.path, test.split] = opened.split(test.split)
    return splits


class _Run:
    """One call of `run_probes`, on an engine."""

    def __init__(
        self,
        specs: Sequence[ProbeSpec],
        splits: dict[tuple[CachePath, str], Split],
        options: Options,
        engine: Engine,
    ) -> None:
        self._specs, self._splits, self._options = specs, splits, options
        self._folders = [
            probe_folders(spec.tokens.cache, options.probes_root)[0] / spec.id for spec in specs
        ]
        self._engine = engine
        device, self._device_reason = cluster_device(engine, options.device) or resolve_device(
            options.device
        )
        self._device = str(device)
        self._display = ProgressDisplay(show=options.progress)
        self._searches: dict[int, SearchState] = {}
        self._earlier = EarlierSearches(options)
        self._n_complete = 0
        self._device_logged = False

    def all(self) -> dict[str, Probe]:
        """Train the probes, and return them by id."""
        options, distributed = self._options, self._engine.distributed
        config = WorkerConfig(
            specs=self._specs,
            folders=self._folders,
            device=self._device,
            features=options.features,
            memory_budget=_bytes("memory_budget", options.memory_budget, minimum=1),
            disk_cache=_bytes("disk_cache", options.disk_cache, minimum=0),
            configs_per_pass=options.configs_per_pass,
        )
        size = MAX_CONCURRENT_PROBES if distributed else 1
        probes: dict[str, Probe] = {}
        with (
            reraise_interrupt(self._describe_kept),
            self._engine.pool(
                config,
                gpu=self._device.startswith("cuda"),
                threads=torch.get_num_threads(),
                on_message=self._on_message,
            ) as pool,
        ):
            for first in range(0, len(self._specs), size):
                numbers = range(first, min(first + size, len(self._specs)))
                probes |= self._train(
                    numbers,
                    pool,
                    configs_per_task=options.configs_per_pass if distributed else None,
                )
        return probes

    def _train(
        self, numbers: range, pool: WorkerPool, *, configs_per_task: int | None
    ) -> dict[str, Probe]:
        """Train some probes at the same time, given their numbers; return them by id."""
        probes: dict[str, Probe] = {}
        self._searches = {}
        with ExitStack() as stack:
            # Every process locks in the same order, so that two that wait for each other's probes
            # cannot deadlock.
            for path in sorted((self._folders[n] for n in numbers), key=lambda path: path.name):
                self._lock(path, stack)
            for n in numbers:
                spec, folder = self._specs[n], ProbeFolder(self._folders[n])
                probe = _read_existing(
                    spec, folder.path, refresh=self._options.refresh, explain=True
                )
                if probe is not None and not self._options.refresh:
                    probes[spec.id] = probe  # another process was faster
                    continue
                if not self._device_logged:
                    logger.info("device %s (%s)", self._device, self._device_reason)
                    self._device_logged = True
                path = spec.tokens.cache.path
                splits = [self._splits[path, name] for name in spec.train_splits]
                subset = sample_subset(spec, *splits)
                search = self._searches[n] = SearchState(
                    n,
                    spec,
                    folder=folder,
                    subset=subset,
                    replaces=None if probe is None else probe.sha256,
                    device=self._device,
                    configs_per_pass=self._options.configs_per_pass,
                    same_search=self._earlier.find(spec),
                )
                if kept := search.describe_kept():
                    logger.info("%s continues: %s", describe(spec), kept)
            self._run_tasks(pool, configs_per_task=configs_per_task)
            for search in self._searches.values():
                probes[search.spec.id] = self._wait_for_probe(search)
        self._searches = {}
        self._n_complete += len(probes)
        return probes

    def _describe_kept(self) -> str:
        """Return what an interrupted run leaves, in one line."""
        parts = []
        if len(self._specs) > 1:
            parts.append(f"{self._n_complete} of {len(self._specs)} probes are trained")
        kept = {n: text for n, s in self._searches.items() if (text := s.describe_kept())}
        parts += [
            f"{describe(self._specs[n])}: {text}" for n, text in list(kept.items())[:MAX_DESCRIBED]
        ]
        if len(kept) > MAX_DESCRIBED:
            parts.append(f"{len(kept) - MAX_DESCRIBED} more probes have begun")
        if not parts:
            return "no configuration is scored or saved yet; the same command starts again"
        return f"{'; '.join(parts)}; the same command continues from there"

    def _lock(self, path: CachePath, stack: ExitStack) -> None:
        try:
            stack.enter_context(ProbeFolder(path).locked())
        except StorageError as error:
            if resolve_probes_root(self._options.probes_root) is not None or not _is_forbidden(
                error
            ):
                raise
            raise StorageError(
                f"{path}: cannot be written: the cache is read-only for this user. "
                "To keep its probes elsewhere, give a folder of your own as probes_root "
                f"(--probes DIR), also to the commands that read them, or set ${PROBES_VARIABLE}"
            ) from error

    def _run_tasks(self, pool: WorkerPool, *, configs_per_task: int | None) -> None:
        searches = list(self._searches.values())
        tasks: deque[SearchTask | RefitTask] = deque(
            task
            for search in searches
            for task in search.first_tasks(configs_per_task=configs_per_task)
        )
        if not tasks:
            return
        if configs_per_task:
            for count in dict.fromkeys(
                len(s.spec.grid) for s in searches if s.spec.head not in BASELINES
            ):
                bounds = pass_bounds(count, configs_per_task)
                logger.info("%s", describe_passes(bounds, reason="as requested"))
        display = (
            self._display.many_tasks(len(tasks) + len(searches))
            if self._engine.distributed
            else self._display.one_probe(describe(searches[0].spec))
        )
        with display:
            for task, result in pool.run(tasks):
                if isinstance(result, SearchResult):
                    search = self._searches[task.probe]
                    search.record(task, result)
                    self._note_best()
                    # first in the queue, while the worker holds the tokens
                    following = search.next_tasks()
                    tasks.extendleft(following)
                    if n_searches := sum(isinstance(t, SearchTask) for t in following):
                        self._display.add_tasks(n_searches)
                        logger.info("%s: %s", describe(search.spec), search.describe_best())
                    self._display.on_done(task)
                else:
                    self._searches[task.probe].written = result

    def _on_message(self, task: Any, message: Any) -> None:
        if isinstance(message, SearchResult):
            self._searches[task.probe].record(task, message)
            self._note_best()
        elif isinstance(message, TrainingCheckpoint):
            self._searches[task.probe].record_saved(message)
        elif isinstance(message, Progress):
            left = 1.0
            if isinstance(task, SearchTask) and not self._display.estimated:
                left = self._searches[task.probe].work_left(task)
            self._display.on_progress(task, message, work_left=left)

    def _note_best(self) -> None:
        """Show the best score so far of the probe in training, if it is one."""
        if len(self._searches) == 1:
            (search,) = self._searches.values()
            self._display.set_note(search.describe_best())

    def _wait_for_probe(self, search: SearchState) -> Probe:
        """Return the probe that a worker has written, once it is visible on this machine."""
        path = search.folder.path

        def read() -> Probe | None:
            probe = read_probe(path)
            return probe if probe is not None and probe.sha256 == search.written else None

        probe = wait_until_visible(read, distributed=self._engine.distributed)
        if probe is None:
            raise CacheIncompleteError(
                f"{path}: expected the probe that a worker has written, got no such file: "
                "the folder of the caches must be the same on every machine of the cluster"
            )
        return probe


def _read_existing(
    spec: ProbeSpec, folder: CachePath, *, refresh: bool = False, explain: bool = False
) -> Probe | None:
    """Return the complete probe of a specification, if it exists and can be used.

    Args:
        spec: The probe.
        folder: Its folder.
        refresh: It is trained again in any case.
        explain: Log why an existing one cannot be used.

    Raises:
        ProbeSchemaError: A newer version of layercache wrote it.
    """
    try:
        probe = read_probe(folder, fingerprint=spec.tokens.cache.spec.fingerprint)
    except ProbeSchemaError as e:
        if isinstance(e.schema, int) and e.schema > SCHEMA:
            raise
        if explain:
            logger.info(
                "%s: trained again, as another version of layercache wrote %s",
                describe(spec),
                folder,
            )
        return None
    except CacheCorruptError:
        if explain:
            logger.warning(
                "%s: trained again, as its record is damaged: %s", describe(spec), folder / RECORD
            )
        return None
    if probe is not None and not refresh:
        logger.info("%s: already exists, %s (--refresh trains it again)", describe(spec), folder)
    return probe


def _is_forbidden(error: StorageError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def _bytes(name: str, size: int | str | None, *, minimum: int) -> int | None:
    return None if size is None else parse_bytes(size, name=name, minimum=minimum)


def _token_key(tokens: TokenSelection) -> tuple[Any, ...]:
    return tuple((cache.path, pairs) for cache, pairs in tokens.sources)
