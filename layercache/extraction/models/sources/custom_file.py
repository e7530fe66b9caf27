"""FILE.py:FUNCTION: a Python file with a function that returns an Encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from layercache.errors import BackboneError, UnknownNameError
from layercache.extraction.models.encoder import Encoder


def load_encoder(address: str) -> Encoder:
    """Import a file, call its function and return the Encoder that it returns.

    Modules next to the file can be imported from it, as when Python runs the file.

    Args:
        address: FILE.py:FUNCTION.

    Raises:
        BackboneError: There is no such file, it cannot be imported, or the function fails or
            returns something else.
        UnknownNameError: The file has no such function.
    """
    file, _, name = address.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise BackboneError(
            f"{address}: there is no file {path}: name it where it is now, as model, "
            "FILE.py:FUNCTION"
        )
    with _importing_from(path.parent):
        module = _run(lambda: _import(path), address=address, file=path, what="its import")
        function = _function(module, name, address=address)
        encoder = _run(function, address=address, file=path, what=f"{name}()")
    if not isinstance(encoder, Encoder):
        raise BackboneError(
            f"{address}: expected {name}() to return a layercache.Encoder, got "
            f"{type(encoder).__name__}"
        )
    return encoder


def _import(path: Path) -> ModuleType:
    # the path is in the name, because two files may have one name
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"layercache_encoder_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, *, address: str) -> Callable[[], Any]:
    function: Any = getattr(module, name, None)
    if not callable(function):
        known = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise UnknownNameError(f"function of {address.rpartition(':')[0]}", name, known)
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise BackboneError(
            f"{address}: expected a function without arguments, got one with "
            f"{', '.join(needed)}: give them defaults"
        )
    return function  # type: ignore[no-any-return]


def _run(function: Callable[[], Any], *, address: str, file: Path, what: str) -> Any:
    try:
        return function()
    except Exception as e:  # of the user's own code
        line = ""
        frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename == str(file)]
        if frames:
            line = f" at line {frames[-1].lineno}"
        elif isinstance(e, SyntaxError) and e.filename == str(file):
            line = f" at line {e.lineno}"
        reason = (e.msg if isinstance(e, SyntaxError) else str(e)) or "no message"
        raise BackboneError(f"{address}: {what} failed{line}: {type(e).__name__}: {reason}") from e


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
