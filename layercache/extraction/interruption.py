"""Ctrl-C and SIGTERM in an extraction: the state is whole at every moment, so all there is to do is to stop and say so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during an extraction; its text says what is kept and how to continue."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, where this is the main thread and nobody else handles it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def telling(state: Callable[[], str]) -> Iterator[None]:
    """A KeyboardInterrupt leaves as Interrupted with the text of `state`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(state()) from None
