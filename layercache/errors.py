"""The exceptions of the library.

Every error in an option, a file or a configuration is a `LayercacheError`; the command line prints
its message and exits with status 1. A message has the place, the expected and the actual value, and
a remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from layercache._printable import redact


class LayercacheError(Exception):
    """Base class of all errors that the library raises on purpose.

    Its message shows no password that an address holds.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class OptionError(LayercacheError, ValueError):
    """An option is malformed, out of range, or incompatible with another."""


class UnknownNameError(LayercacheError, LookupError):
    """There is no model, dataset, head, layer or the like of this name; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}: {remedy}{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self))


class MissingExtraError(LayercacheError, ImportError):
    """An optional package is not installed; names the extra that installs it.

    The remedy is a command for a checkout: on the usual index, the distribution called layercache
    is another project.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed: pip install -e '.[{extra}]' in a "
            f"checkout of layercache, or pip install 'layercache-vit[{extra}]'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self))


class BackboneError(LayercacheError, ValueError):
    """A model or checkpoint cannot be used: no ViT, mismatched keys or shapes, no such token."""


class DataError(LayercacheError, ValueError):
    """A dataset, or a sample of it, cannot be used; names the sample's id."""


class DataChangedError(DataError):
    """An image is no longer what it was when the dataset was opened; nothing skips it."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The files of a dataset are missing."""


class WorkerError(LayercacheError, RuntimeError):
    """A worker process or machine died or failed; committed work is kept."""


class NonFiniteError(LayercacheError, ArithmeticError):
    """A token is NaN, infinite or overflows the storage dtype; names model, layer and sample."""


class CacheError(LayercacheError, RuntimeError):
    """Base class of errors of a cache."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """No cache matches the request."""


class CacheAmbiguousError(CacheError, LookupError):
    """Several caches match the request; lists them."""


class CacheIncompleteError(CacheError):
    """A split is not complete; says how to continue its extraction."""


class CacheCorruptError(CacheError):
    """A file of a cache is missing, truncated or changed; names the file."""


class CacheSchemaError(CacheError):
    """The cache was written with another schema; the message says what to do."""


class CacheBusyError(CacheError):
    """Another process is writing the same split."""


class StorageError(CacheError, OSError):
    """A disk or object store cannot be read or written, or is full; committed data is intact."""


class ProbeError(LayercacheError, ValueError):
    """A probe cannot be trained: a single class, invalid labels, all configurations diverged."""


class ProbeSchemaError(ProbeError):
    """A probe or saved head was written with another schema version; says what to do."""

    def __init__(self, message: str, *, schema: object = None) -> None:
        super().__init__(message)
        self.schema = schema
        """The other version."""


class ProbeNotFoundError(LayercacheError, FileNotFoundError):
    """There is no such probe or saved head."""


class ProbeAmbiguousError(LayercacheError, LookupError):
    """Several probes have an id that begins like this; lists them."""


class HeadMismatchError(LayercacheError, ValueError):
    """A saved head does not belong to the given backbone or cache."""


class ExportError(LayercacheError, RuntimeError):
    """A classifier cannot be exported, or the exported file returns other logits."""


def _restore(kind: type[LayercacheError], message: str) -> LayercacheError:
    """Unpickle an exception whose constructor composes the message."""
    error = kind.__new__(kind)
    error.args = (message,)
    return error
