"""The exception tree. Every fault of a user, a file or a configuration is a `LayercacheError`; the command line prints its text and exits with 1.

A message says where, what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class LayercacheError(Exception):
    """The root: catch this to catch everything the library raises on purpose."""


class OptionError(LayercacheError, ValueError):
    """An option is malformed, out of range, or does not go with another."""


class UnknownNameError(LayercacheError, LookupError):
    """No model, data set, head, layer or token kind of this name; the message suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}: {meant}{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), str(self))


class MissingExtraError(LayercacheError, ImportError):
    """An optional package is not installed; the message says which extra brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed: pip install 'layercache[{extra}]'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), str(self))


class BackboneError(LayercacheError, ValueError):
    """A model or checkpoint cannot serve: not a ViT, keys or shapes that do not match, no such token."""


class DataError(LayercacheError, ValueError):
    """A data set or one of its samples is not usable; names the sample's id."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data set's files are not where they were looked for."""


class WorkerError(LayercacheError, RuntimeError):
    """A decoding worker died or failed; what was committed is kept."""


class NonFiniteError(LayercacheError, ArithmeticError):
    """A token is NaN, infinite or overflows the storage dtype; names model, layer, token kind and sample."""


class CacheError(LayercacheError, RuntimeError):
    """A cache cannot be used as asked."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """No cache matches."""


class CacheAmbiguousError(CacheError, LookupError):
    """Several caches match; the message lists them."""


class CacheIncompleteError(CacheError):
    """A split has no complete record; the message says how to go on."""


class CacheCorruptError(CacheError):
    """Bytes are missing, cut or changed; the message names the file."""


class CacheBusyError(CacheError):
    """Another process is writing this split."""


class StorageError(CacheError, OSError):
    """The disk is full or refuses to be written; what was committed is whole."""


class ProbeError(LayercacheError, ValueError):
    """A probe cannot be trained as asked: one class only, labels outside the classes, all configurations diverged."""


class ProbeSchemaError(ProbeError):
    """A probe or trained head was written with another schema; the message says what to do."""


class ProbeNotFoundError(LayercacheError, FileNotFoundError):
    """There is no such probe or saved head."""


class HeadMismatchError(LayercacheError, ValueError):
    """A saved head was asked to work on a backbone or a cache that is not its own."""


class ExportError(LayercacheError, RuntimeError):
    """A classifier cannot be exported, or the exported file does not give the same logits."""


def _again(kind: type[LayercacheError], text: str) -> LayercacheError:
    """An exception whose constructor makes its text, from that text: how it comes out of a pickle."""
    error = kind.__new__(kind)
    error.args = (text,)
    return error
