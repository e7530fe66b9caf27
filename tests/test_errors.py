"""Errors keep their type and message when they are pickled."""

from __future__ import annotations

import pickle

import pytest

from layercache import errors
from layercache.errors import LayercacheError, MissingExtraError, UnknownNameError

COMPOSED = [
    UnknownNameError("model", "vit_nanno", ["vit_nano"], hint="(or timm's)"),
    MissingExtraError("ray", "ray"),
]
PLAIN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, LayercacheError)
    and kind not in map(type, COMPOSED)
]


@pytest.mark.parametrize(
    "error",
    [*COMPOSED, *(kind("message") for kind in PLAIN)],
    ids=lambda error: type(error).__name__,
)
def test_error_pickled_keeps_type_and_message(error: LayercacheError) -> None:
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is type(error)
    assert str(restored) == str(error) != ""
    assert str(pickle.loads(pickle.dumps(restored))) == str(error), "pickled twice"
