from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache import CacheSpec, DatasetIdentity, digest_ids
from layercache.testing import make_spec

CHANGES: dict[str, Any] = {
    "architecture": "vit_other",
    "weights": "cd" * 32,
    "depth": 13,
    "width": 16,
    "tap": "block",
    "layers": (12,),
    "tokens": ("ap", "cls"),
    "projected": True,
    "preprocessing": {"mean": [0.5, 0.5, 0.4], "interpolation": "bicubic"},
    "precision": "bf16",
    "storage_dtype": "float32",
    "codec": "int8",
    "schema": 4,
}
DATASET_CHANGES: dict[str, Any] = {
    "name": "forms",
    "limit": 10,
    "limit_seed": 1,
    "splits": {},
}


def test_changes_below_cover_every_field_of_the_spec() -> None:
    assert {f.name for f in fields(CacheSpec)} == set(CHANGES) | {"model", "dataset"}
    assert {f.name for f in fields(DatasetIdentity)} == set(DATASET_CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_fingerprint_changes_with_every_field(field: str) -> None:
    assert make_spec(**{field: CHANGES[field]}).fingerprint != make_spec().fingerprint


@pytest.mark.parametrize("field", DATASET_CHANGES)
def test_fingerprint_changes_with_the_dataset(field: str) -> None:
    spec = make_spec()
    assert (
        replace(spec, dataset=replace(spec.dataset, **{field: DATASET_CHANGES[field]})).fingerprint
        != spec.fingerprint
    )


@pytest.mark.parametrize("field", ["rows", "ids", "content"])
def test_fingerprint_changes_with_a_sample(field: str) -> None:
    spec = make_spec()
    train = replace(spec.dataset.splits["train"], **{field: 51 if field == "rows" else "changed"})
    changed = replace(
        spec, dataset=replace(spec.dataset, splits={**spec.dataset.splits, "train": train})
    )
    assert changed.fingerprint != spec.fingerprint


def test_fingerprint_does_not_change_with_the_given_name() -> None:
    assert make_spec(model="alias").fingerprint == make_spec().fingerprint


def test_from_json_restores_the_spec() -> None:
    spec = make_spec()
    assert CacheSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(st.lists(st.text()), st.lists(st.text()))
def test_digest_ids_collides_only_for_equal_lists(a: list[str], b: list[str]) -> None:
    surrogates = any(0xD800 <= ord(c) < 0xE000 for s in a + b for c in s)
    if not surrogates:
        assert (digest_ids(a) == digest_ids(b)) == (a == b)


def test_digest_ids_of_ids_with_the_same_concatenation_differs() -> None:
    assert digest_ids(["ab", "c"]) != digest_ids(["a", "bc"])
