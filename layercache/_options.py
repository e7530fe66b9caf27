"""Options given as keyword arguments, read into a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from layercache.errors import UnknownNameError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read_options(kind: type[T], keywords: Mapping[str, Any], *, function: str) -> T:
    """Return options from keyword arguments.

    Args:
        kind: Dataclass of the options, which validates their values.
        keywords: The keyword arguments.
        function: Name of the function that takes them, for the error.

    Raises:
        UnknownNameError: There is no such option; the message suggests the nearest.
        OptionError: A value is wrong.
    """
    known = [option.name for option in fields(kind)]
    for name in keywords:
        if name not in known:
            raise UnknownNameError(f"option of {function}", name, known)
    return kind(**keywords)
