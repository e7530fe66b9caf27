from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from layercache.errors import StorageError
from layercache.probing.results.training_checkpoints import TrainingCheckpoint
from layercache.probing.training import autosave
from layercache.probing.training.autosave import Autosave
from layercache.probing.training.config import HParams
from tests.clock import Clock
from tests.logs import logged

CONFIGS = (HParams(lr=0.1, weight_decay=0.0),)


class Memory:
    """TrainingCheckpoints in memory; saving takes some seconds of the clock, or fails."""

    def __init__(self, clock: Clock, *, seconds: float = 0.0, error: Exception | None = None):
        self.clock, self.seconds, self.error = clock, seconds, error
        self.last: tuple[TrainingCheckpoint, Any] | None = None
        self.saves: list[float] = []

    def load(self, probe: str, **_: Any) -> Any:
        return self.last

    def save(self, saved: TrainingCheckpoint, state: Any) -> None:
        self.saves.append(self.clock.now)
        self.clock.now += self.seconds
        if self.error:
            raise self.error
        self.last = (saved, state)


def run(memory: Memory, clock: Clock, *, seconds: int) -> list[TrainingCheckpoint]:
    """Train for some seconds, with a step per second."""
    saved: list[TrainingCheckpoint] = []
    saver = Autosave(
        memory,  # type: ignore[arg-type]
        probe="p",
        fold=0,
        device="cpu",
        on_saved=saved.append,
    )
    saver.load(CONFIGS)
    training: Any = SimpleNamespace(
        configs=CONFIGS,
        step=0,
        steps=9999,
        state_dict=lambda: {"step": training.step},
    )
    for _ in range(seconds):
        clock.now += 1
        training.step += 1
        saver.save_if_due(training)
    return saved


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.now = 1000.0
    monkeypatch.setattr(autosave, "time", clock)
    return clock


def test_autosave_saves_at_least_every_few_minutes(clock: Clock) -> None:
    memory = Memory(clock)
    saved = run(memory, clock, seconds=400)
    assert memory.saves == [1120, 1240, 1360]
    assert [(one.step, one.steps, one.seconds) for one in saved] == [
        (120, 9999, 120),
        (240, 9999, 240),
        (360, 9999, 360),
    ]
    assert [one.seconds for one in run(memory, clock, seconds=130)] == [480], "with those before"


def test_autosave_spends_a_twentieth_of_the_time_at_most(clock: Clock) -> None:
    memory = Memory(clock, seconds=30)
    run(memory, clock, seconds=1300)
    assert memory.saves == [1120, 1720, 2320]


def test_autosave_on_a_full_disk_warns_once_and_training_goes_on(clock: Clock) -> None:
    memory = Memory(clock, error=StorageError("no space left"))
    with logged() as lines:
        assert run(memory, clock, seconds=400) == []
    assert lines == ["training continues, but its state cannot be saved: no space left"]
