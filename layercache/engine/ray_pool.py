"""Workers on a Ray cluster: assigns tasks, collects messages and results, and detects lost workers.

Ray restarts an actor whose process or node was lost, and repeats its task there. If the remaining
nodes have no room for it, it would wait forever: so an idle worker is killed as soon as another one
waits for room, and the job ends with an error once no node has room for any worker.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from layercache._units import pluralize
from layercache.engine.base import MessageHandler, WorkerFactory
from layercache.engine.ray_actor import Actor, LogLine, TaskFailure
from layercache.errors import WorkerError

logger = logging.getLogger(__name__)

NO_WORKER_TIMEOUT_S = 120.0
"""Seconds without a worker, while no node is large enough for one, after which the job ends."""
WAIT_NOTICE_S = 30.0
"""Seconds without a worker after which a message reports that others use the cluster."""
MAX_RESTARTS = 100
"""Number of times that Ray restarts one worker."""
MAX_TASK_RETRIES = 3
"""Number of times that a worker may be lost during one task.

Ray's own count is no use here: while a node shuts down, it counts attempts to reach it.
"""
POLL_S = 1.0
"""Seconds that a poll waits in the worker, and between two checks of the cluster."""

Node = Mapping[str, float]
"""Resources of a node by name, such as CPU and GPU."""


@dataclass(frozen=True)
class Resources:
    """Resources that a worker needs."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return pluralize(self.cpus, "CPU") + (f" and {self.gpus} GPU" if self.gpus else "")

    def capacity(self, nodes: list[Node]) -> int:
        """Return how many workers fit on the nodes if nothing else runs there."""
        total = 0
        for node in nodes:
            fitting = int(node.get("CPU", 0) // self.cpus)
            if self.gpus:
                fitting = min(fitting, int(node.get("GPU", 0) // self.gpus))
            total += fitting
        return total


@dataclass(eq=False)
class _RemoteWorker:
    """One worker as the driver sees it."""

    actor: Any
    pending_poll: Any = None
    """Reference of the `poll` call in flight, or None."""
    reachable: bool = False
    """True if it answers: it is placed, and is not being restarted."""
    polled_at: float = 0.0
    """Time of the last poll."""
    process_id: str = ""
    """Id of its process."""
    times_lost: int = 0
    """Number of processes lost during the current task."""
    task_number: int = -1
    """Number of the current task."""
    pending_run: Any = None
    """Reference of the `run` call in flight; None if it is idle."""


class RayPool:
    """Workers on the nodes of a Ray cluster, started as tasks need them."""

    def __init__(
        self,
        factory: WorkerFactory,
        *,
        nodes: Callable[[], list[Node]],
        resources: Resources,
        environment: Mapping[str, str],
        on_message: MessageHandler,
    ) -> None:
        """Prepare the pool; no worker starts yet.

        Args:
            factory: Makes each worker.
            nodes: Returns the resources of every node that is up.
            resources: Resources of one worker.
            environment: Environment variables of the workers.
            on_message: Receives the messages of the workers.
        """
        import ray

        self._ray = ray
        self._nodes, self._resources = nodes, resources
        self._on_message = on_message
        self._factory = ray.put(factory)
        self._actor_class: Any = ray.remote(  # type: ignore[call-overload]  # no concurrency_groups in Ray's types
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=MAX_RESTARTS,
            max_task_retries=-1,
            concurrency_groups={"poll": 1},
            runtime_env={"env_vars": dict(environment)},
        )(Actor)
        self._workers: list[_RemoteWorker] = []
        self._tasks: list[Any] = []
        self._logged: set[str] = set()
        self._last_reachable = self._last_room = time.monotonic()

    @property
    def workers(self) -> int:
        """Number of workers that the nodes have room for if nothing else runs there; at least 1."""
        return max(1, self._capacity())

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) as tasks complete; see `WorkerPool`."""
        self._last_reachable = self._last_room = time.monotonic()
        while tasks or any(worker.pending_run is not None for worker in self._workers):
            self._scale_up(tasks)
            self._assign(tasks)
            self._poll()
            ready = self._wait()
            for worker in list(self._workers):
                if worker.pending_poll in ready:
                    self._receive(worker)
            for worker in list(self._workers):
                if worker.pending_run in ready:
                    yield self._result(worker)
            self._check_health()

    def shutdown(self) -> None:
        """Kill all workers, busy or not."""
        for worker in self._workers:
            self._kill(worker)
        self._workers = []

    def _capacity(self) -> int:
        return self._resources.capacity(self._nodes())

    def _scale_up(self, tasks: deque[Any]) -> None:
        """Start workers for the tasks, as many as fit; at least one, which may wait for a node."""
        idle = sum(worker.pending_run is None for worker in self._workers)
        if len(tasks) <= idle:
            return
        wanted = min(max(1, self._capacity()), len(self._workers) - idle + len(tasks))
        missing = wanted - len(self._workers)
        for _ in range(missing):
            self._workers.append(_RemoteWorker(self._actor_class.remote(self._resources.cpus)))
        if missing > 0:
            workers = pluralize(len(self._workers), "worker")
            nodes = pluralize(len(self._nodes()), "node")
            self._log_once(f"{workers} of {self._resources} on a Ray cluster of {nodes}")

    def _assign(self, tasks: deque[Any]) -> None:
        for worker in self._workers:
            if tasks and worker.reachable and worker.pending_run is None:
                worker.task_number, worker.times_lost = len(self._tasks), 0
                self._tasks.append(tasks.popleft())
                worker.pending_run = worker.actor.run.remote(
                    worker.task_number, self._tasks[-1], [self._factory]
                )

    def _poll(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.pending_poll is None and (
                worker.reachable or now - worker.polled_at > POLL_S
            ):
                # A lost poll is not retried: its failure is what shows that the worker is gone.
                poll = worker.actor.poll.options(concurrency_group="poll", max_task_retries=0)
                worker.pending_poll = poll.remote(POLL_S if worker.reachable else 0.0)
                worker.polled_at = now

    def _wait(self) -> set[Any]:
        """Return the references that are ready, after at most POLL_S."""
        pending = [
            reference
            for worker in self._workers
            for reference in (worker.pending_run, worker.pending_poll)
            if reference is not None
        ]
        if not pending:
            time.sleep(POLL_S)
            return set()
        self._ray.wait(pending, timeout=POLL_S)
        return set(self._ray.wait(pending, num_returns=len(pending), timeout=0)[0])

    def _receive(self, worker: _RemoteWorker) -> None:
        """Handle the answer to a poll."""
        pending, worker.pending_poll = worker.pending_poll, None
        exceptions = self._ray.exceptions
        try:
            process_id, messages = self._ray.get(pending)
        except exceptions.RayError as error:
            never_started = isinstance(error, exceptions.ActorDiedError) and not worker.process_id
            if isinstance(error, exceptions.RayTaskError) or never_started:
                raise WorkerError(
                    f"a worker cannot start on a machine of the cluster: {_last_line(error)}. "
                    "Every machine needs the same Python and the same layercache as this one"
                ) from error
            worker.reachable = False
            return
        restarted = worker.process_id not in ("", process_id)
        if worker.pending_run is not None and restarted:
            worker.times_lost += 1
            if worker.times_lost > MAX_TASK_RETRIES:
                raise self._lost(worker)
        worker.reachable, worker.process_id = True, process_id
        for number, message in messages:
            if isinstance(message, LogLine):
                self._log_once(message.text, level=message.level, name=message.logger)
            else:
                self._on_message(self._tasks[number], message)

    def _result(self, worker: _RemoteWorker) -> tuple[Any, Any]:
        """Return the task of a worker with its result. Raises what the task raised."""
        pending, task = worker.pending_run, self._tasks[worker.task_number]
        worker.pending_run = None
        try:
            result = self._ray.get(pending)
        except self._ray.exceptions.RayTaskError as error:
            # A task returns a TaskFailure instead: its arguments or result cannot be unpickled.
            raise WorkerError(
                f"a worker of the cluster failed at {task}: {error.cause or error}"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise self._lost(worker) from error
        if isinstance(result, TaskFailure):
            raise result.error
        return task, result

    def _lost(self, worker: _RemoteWorker) -> WorkerError:
        return WorkerError(
            f"a worker was lost {max(worker.times_lost, 1)} times "
            f"at {self._tasks[worker.task_number]}, killed or out of memory: "
            "check the memory of the nodes, or whether this input crashes the worker. "
            "Committed work is kept: the same command continues"
        )

    def _check_health(self) -> None:
        """Make room for workers that wait to be restarted, and raise where there can be no room."""
        unreachable = [worker for worker in self._workers if not worker.reachable]
        if any(worker.pending_run is not None for worker in unreachable):
            for worker in [worker for worker in self._workers if worker.pending_run is None]:
                self._workers.remove(worker)
                self._kill(worker)
        now, capacity = time.monotonic(), self._capacity()
        if len(unreachable) < len(self._workers):
            self._last_reachable = self._last_room = now
        elif capacity:
            self._last_room = now
        if now - self._last_reachable > WAIT_NOTICE_S and capacity:
            self._log_once(
                "waiting for room on the Ray cluster: other jobs hold what a worker needs "
                f"({self._resources})"
            )
        elif now - self._last_room > NO_WORKER_TIMEOUT_S:
            raise WorkerError(
                f"no node of the Ray cluster has had room for a worker ({self._resources}) for "
                f"{NO_WORKER_TIMEOUT_S:.0f} s: nodes were lost, "
                "or none is large enough. Committed work is kept: "
                "the same command continues, on a cluster with room or with --engine local"
            )

    def _kill(self, worker: _RemoteWorker) -> None:
        with suppress(Exception):  # it may be gone, or Ray itself
            self._ray.kill(worker.actor)

    def _log_once(self, text: str, *, level: int = logging.INFO, name: str = __name__) -> None:
        """Log a line once; lines that differ only in their last brackets are the same."""
        key = text.partition(" (")[0]
        if key not in self._logged:
            self._logged.add(key)
            logging.getLogger(name).log(level, "%s", text)


def _last_line(error: Exception) -> str:
    """Return the last line of a Ray exception; the lines before it are a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
