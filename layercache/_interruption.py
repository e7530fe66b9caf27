"""Ctrl-C and SIGTERM during long work that is kept on disk as it proceeds.

Such work is consistent at every moment, so it only has to stop and report what is kept.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the message says what is kept and how to continue."""

    def __init__(self, message: str = "", *, signum: int = signal.SIGINT) -> None:
        """Store the message and the signal that stops the work."""
        super().__init__(message)
        self.signum = signum
        """SIGINT or SIGTERM."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise Interrupted on SIGTERM, if this is the main thread and nothing else handles it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _raise_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def reraise_interrupt(describe: Callable[[], str]) -> Iterator[None]:
    """Raise Interrupted with the text of `describe` in place of KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(describe(), signum=interrupt_signal(interrupt)) from None


def interrupt_signal(interrupt: KeyboardInterrupt) -> int:
    """Return the signal behind an exception: SIGTERM or SIGINT (Ctrl-C)."""
    return interrupt.signum if isinstance(interrupt, Interrupted) else signal.SIGINT


def _raise_interrupted(signum: int, frame: Any) -> NoReturn:
    raise Interrupted(signum=signum)
