"""Ctrl-C and SIGTERM during an extraction.

The cache is consistent at every moment, so an extraction only has to stop and say how to continue.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during an extraction; the message says what is kept and how to continue."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, if this is the main thread and nothing else handles it."""
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
def reraise_interrupt(describe: Callable[[], str]) -> Iterator[None]:
    """Raise Interrupted with the text of `describe` in place of KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(describe()) from None
