"""Shows log messages of the library: warnings on stderr, the others on stdout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class LineHandler(logging.Handler):
    """Prints each log record as a line, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. Lets BrokenPipeError through, so that a closed pipe ends the command."""
        from layercache._printable import escape_message

        line = escape_message(self.format(record))
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(line, file=stream)
        else:
            print(line, file=stream)


@contextmanager
def log_to_stdout(*, debug: bool) -> Iterator[None]:
    """Show what the library logs, for the duration of a command."""
    logger = logging.getLogger("layercache")
    handler, level = LineHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def hide_probe_log() -> AbstractContextManager[None]:
    """Hide what probes log, in a command that trains many."""
    from layercache._log_level import log_level

    return log_level("layercache.probing", logging.WARNING)
