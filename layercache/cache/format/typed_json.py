"""JSON of a file as a dataclass, each field checked for its type and range.

A cache may come from anyone: a field of another type or out of range is an error that names it, not
a crash or an endless loop further on.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

STRICT: Any = {"extra": "forbid", "strict": True}
"""Value of `__pydantic_config__` in a dataclass: no unknown fields, no conversions."""
MAX_VALUE_CHARS = 60
"""Length at which a value is cut in a message."""


def load_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, holds NaN or an infinite number, or is nested too deeply.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_fields(kind: type[T], value: Any) -> T:
    """Return a dataclass made from plain JSON values; lists become tuples where it has tuples.

    Raises:
        ValueError: A field is missing, unknown, of another type or out of range: says which one,
            what was expected and what was got.
    """
    from pydantic import ValidationError

    try:
        adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
        return adapter.validate_json(json.dumps(value, allow_nan=False))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise ValueError(f"{_describe(details[0])}{more}") from None


def shorten(value: Any) -> str:
    """Return a value as one short line, for messages."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + ".."


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # a tenth of a second, which --help does not need

    return TypeAdapter(kind)


def _describe(error: ErrorDetails) -> str:
    field = ".".join(map(str, error["loc"])) or "value"
    expected = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{field}: expected, but missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{field}: expected no such field"
    for start in ("Input should be ", "Input should "):
        expected = expected.removeprefix(start)
    return f"{field}: expected {expected}, got {shorten(error['input'])}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, got {name}")
