"""Faults cross process borders whole: type and text."""

from __future__ import annotations

import pickle

import pytest

from layercache import errors
from layercache.errors import LayercacheError, MissingExtraError, UnknownNameError

MADE = [
    UnknownNameError("model", "vit_nanno", ["vit_nano"], hint="(or timm's)"),
    MissingExtraError("ray", "ray"),
]
PLAIN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LayercacheError) and kind not in map(type, MADE)
]


@pytest.mark.parametrize(
    "error",
    [*MADE, *(kind("where: what") for kind in PLAIN)],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_survives_being_pickled(error: LayercacheError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) != ""
    assert str(pickle.loads(pickle.dumps(again))) == str(error), "and a second time"
