"""Import of the packages that the extra `report` installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from layercache.errors import MissingExtraError


def require(package: str) -> Any:
    """Import a package of the extra `report` and return it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "report") from error
