"""Workers on a Ray cluster and the tasks they are at: hands out the next task, listens, and knows when to give up.

Ray restarts an actor whose process or node was lost, and repeats its task there. Where the nodes that are left have no room for it, it would wait
for ever: so a worker without a task is let go as soon as another one waits, and where no node has room for any, the job ends and says so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layercache.engine.base import MessageHandler, Say, WorkerFactory
from layercache.engine.ray_actor import Actor, TaskFailure
from layercache.errors import WorkerError

if TYPE_CHECKING:
    from layercache.engine.ray_engine import RayEngine, Resources

PATIENCE = 120.0
"""Seconds without a worker, while no node is large enough for one, after which the job ends."""
NOTICE = 30.0
"""Seconds without a worker after which it is said that others have the cluster."""
RESTARTS = 100
"""Times that one worker may be lost."""
RETRIES = 3
"""Times that a worker may be lost at one task. Ray's own count will not do: while a node is going, it counts attempts to reach it."""
NEWS = 1.0
"""Seconds that a worker waits for something to tell; as often the state of the cluster is looked at."""


@dataclass(eq=False)
class _RemoteWorker:
    """One worker, as seen from here."""

    actor: Any
    hear: Any
    """The pending call of `hear`, or None while it is no use to ask."""
    up: bool = False
    """It answers: it is placed, and not being restarted."""
    asked: float = 0.0
    """When it was last asked."""
    name: str = ""
    """Of its process."""
    lost: int = 0
    """Processes that it has lost at the task at hand."""
    number: int = -1
    """Of its task."""
    run: Any = None
    """The pending call of `run`; None: it is idle."""


class RayPool:
    """See contract.Crew."""

    def __init__(
        self,
        engine: RayEngine,
        make: WorkerFactory,
        *,
        needs: Resources,
        environment: Mapping[str, str],
        say: Say,
        heard: MessageHandler,
    ) -> None:
        import ray

        self._ray, self._engine, self._needs, self._say, self._heard = (
            ray,
            engine,
            needs,
            say,
            heard,
        )
        self._make = ray.put(make)
        self._actors: Any = ray.remote(  # type: ignore[call-overload]  # Ray's types leave out concurrency_groups
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            max_restarts=RESTARTS,
            max_task_retries=-1,
            concurrency_groups={"news": 1},
            runtime_env={"env_vars": dict(environment)},
        )(Actor)
        self._hands: list[_RemoteWorker] = []
        self._tasks: list[Any] = []
        self._said: set[str] = set()
        self._last_up = self._last_room = time.monotonic()

    @property
    def workers(self) -> int:
        """What the nodes have room for, were nothing else on them; 1 where no node has."""
        return max(1, self._room())

    def run(self, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """See contract.Crew."""
        self._last_up = self._last_room = time.monotonic()
        while tasks or any(hand.run is not None for hand in self._hands):
            self._engage(tasks)
            self._hand_out(tasks)
            self._ask()
            pending = [
                ref for hand in self._hands for ref in (hand.run, hand.hear) if ref is not None
            ]
            if pending:
                self._ray.wait(pending, timeout=NEWS)
                ready = set(self._ray.wait(pending, num_returns=len(pending), timeout=0)[0])
            else:
                time.sleep(NEWS)
                ready = set()
            for hand in list(self._hands):
                if hand.hear in ready:
                    self._listen(hand)
            for hand in list(self._hands):
                if hand.run in ready:
                    yield self._take(hand)
            self._look_after()

    def dismiss(self) -> None:
        """End all workers, whatever they are at."""
        for hand in self._hands:
            self._let_go(hand)
        self._hands = []

    def _room(self) -> int:
        """Workers that fit onto the nodes that are up."""
        needs = self._needs
        rooms = []
        for node in self._engine.nodes():
            each = int(node.get("CPU", 0) // needs.cpus)
            rooms.append(min(each, int(node.get("GPU", 0) // needs.gpus)) if needs.gpus else each)
        return sum(rooms)

    def _engage(self, tasks: deque[Any]) -> None:
        """As many workers as there are tasks for and room for; one at least, which may wait for a node to come."""
        idle = sum(hand.run is None for hand in self._hands)
        if len(tasks) <= idle:
            return
        count = min(max(1, self._room()), len(self._hands) - idle + len(tasks)) - len(self._hands)
        for _ in range(count):
            actor = self._actors.remote(self._needs.cpus)
            self._hands.append(_RemoteWorker(actor, None))
        if count > 0:
            workers, nodes = len(self._hands), len(self._engine.nodes())
            self._once(
                f"{workers} worker{'s' * (workers != 1)} of {self._needs} on a Ray cluster of {nodes} node{'s' * (nodes != 1)}"
            )

    def _hand_out(self, tasks: deque[Any]) -> None:
        for hand in self._hands:
            if tasks and hand.up and hand.run is None:
                hand.number, hand.lost = len(self._tasks), 0
                self._tasks.append(tasks.popleft())
                hand.run = hand.actor.run.remote(hand.number, self._tasks[-1], [self._make])

    def _ask(self) -> None:
        now = time.monotonic()
        for hand in self._hands:
            if hand.hear is None and (hand.up or now - hand.asked > NEWS):
                # a lost question is not repeated: its failure is how one learns that the worker is away
                hear = hand.actor.hear.options(concurrency_group="news", max_task_retries=0)
                hand.hear, hand.asked = hear.remote(NEWS if hand.up else 0.0), now

    def _listen(self, hand: _RemoteWorker) -> None:
        pending, hand.hear = hand.hear, None
        try:
            name, told = self._ray.get(pending)
        except self._ray.exceptions.RayError as error:
            faults = self._ray.exceptions
            if isinstance(error, faults.RayTaskError) or (
                isinstance(error, faults.ActorDiedError) and not hand.name
            ):
                raise WorkerError(
                    f"a worker cannot begin on a machine of the cluster: {_last_line(error)}. Every machine needs the same Python and the same "
                    "layercache as this one"
                ) from error
            hand.up = False
            return
        if hand.run is not None and hand.name not in ("", name):
            hand.lost += 1
            if hand.lost > RETRIES:
                raise self._lost(hand)
        hand.up, hand.name = True, name
        for number, message in told:
            if isinstance(message, str):
                self._once(message)
            else:
                self._heard(self._tasks[number], message)

    def _take(self, hand: _RemoteWorker) -> tuple[Any, Any]:
        pending, task, hand.run = hand.run, self._tasks[hand.number], None
        try:
            result = self._ray.get(pending)
        except self._ray.exceptions.RayTaskError as error:  # not by the task, which gives a Fault: its arguments or result cannot be read there
            raise WorkerError(
                f"a worker of the cluster failed at {task}: {error.cause or error}"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise self._lost(hand) from error
        if isinstance(result, TaskFailure):
            raise result.error
        return task, result

    def _lost(self, hand: _RemoteWorker) -> WorkerError:
        return WorkerError(
            f"a worker was lost {max(hand.lost, 1)} times at {self._tasks[hand.number]}, killed or out of memory: look whether a machine is short of "
            "memory, or what it does to these. What was done is kept: the same command continues"
        )

    def _look_after(self) -> None:
        """Makes room for workers that wait to be placed again, and gives up where there can be none."""
        away = [hand for hand in self._hands if not hand.up]
        if any(hand.run is not None for hand in away):
            for hand in [hand for hand in self._hands if hand.run is None]:
                self._hands.remove(hand)
                self._let_go(hand)
        now, room = time.monotonic(), self._room()
        if len(away) < len(self._hands):
            self._last_up = self._last_room = now
        elif room:
            self._last_room = now
        if now - self._last_up > NOTICE and room:
            self._once(
                f"waiting for room on the Ray cluster: others have what a worker needs ({self._needs})"
            )
        elif now - self._last_room > PATIENCE:
            raise WorkerError(
                f"no node of the Ray cluster has had room for a worker ({self._needs}) for {PATIENCE:.0f} s: nodes were lost, or none is large "
                "enough. What was done is kept: the same command continues, on a cluster with room or with --engine local"
            )

    def _let_go(self, hand: _RemoteWorker) -> None:
        with suppress(Exception):  # it may be gone, or Ray itself
            self._ray.kill(hand.actor)

    def _once(self, line: str) -> None:
        """Workers say the same with other figures in brackets."""
        if (key := line.partition(" (")[0]) not in self._said:
            self._said.add(key)
            self._say(line)


def _last_line(error: Exception) -> str:
    """What an exception of Ray says last: the lines before it are a traceback."""
    return next(
        (line.strip() for line in reversed(str(error).splitlines()) if line.strip()),
        type(error).__name__,
    )
