from __future__ import annotations

import io
import tracemalloc
import zipfile
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from layercache.cache.format.cache_spec import digest_ids
from layercache.probing.results.predictions import Predictions

STORED = Predictions(
    logits=np.arange(12, dtype=np.float32).reshape(4, 3),
    targets=np.array([0, 2, 1, 0]),
    ids="ab" * 32,
    attention_mean=np.full((2, 5), 0.2, np.float32),
    attention_std=np.zeros((2, 5), np.float32),
)


def read(data: bytes) -> Predictions:
    return Predictions.from_bytes(data, classes=3, heads={2}, tokens=5)


def test_predictions_come_back_and_may_be_changed() -> None:
    without_attention = replace(STORED, attention_mean=None, attention_std=None)
    multi_label = replace(STORED, targets=np.eye(4, 3, dtype=np.uint8))
    transposed = replace(STORED, logits=np.asfortranarray(STORED.logits))
    names = ("a/1.png", 'b "2".png', "c\n3.png", "дом.png")
    with_names = replace(
        STORED,
        ids=digest_ids([*names]),
        sample_ids=names,
        groups=("p", "p", "q", ""),
        class_names=("cat", "dog", "cat"),
    )
    for stored in (STORED, without_attention, multi_label, transposed, with_names):
        back = read(stored.to_bytes())
        for name, value in vars(stored).items():
            np.testing.assert_array_equal(getattr(back, name), value)
        back.logits[:] = 0
    with np.load(io.BytesIO(STORED.to_bytes())) as file:
        np.testing.assert_array_equal(file["logits"], STORED.logits)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"logits": np.zeros((4, 2), np.float32)}, r"logits: expected float32 \(4, 3\), got"),
        ({"logits": np.zeros((4, 3))}, r"logits: expected float32 \(4, 3\), got float64"),
        ({"logits": np.float32(1)}, r"logits: expected float32 \(0, 3\), got float32 \(\)"),
        ({"logits": np.full((4, 3), np.nan, np.float32)}, "logits: expected finite numbers"),
        ({"targets": np.array([0, 1, 2])}, r"targets: expected int64 \(4,\), got int64 \(3,\)"),
        ({"targets": np.array([0, 1, 2, 3])}, "targets: expected 0 to 2, got others"),
        ({"targets": np.array([0, 1, 2, -1])}, "targets: expected 0 to 2, got others"),
        ({"targets": np.full((4, 3), 2, np.uint8)}, "targets: expected 0 to 1, got others"),
        ({"attention_mean": np.zeros((2, 4), np.float32)}, r"attention_mean: expected float32"),
        ({"ids": 7}, "ids: expected text"),
        ({"groups": ("a", "b")}, "groups: expected 4 values, got 2"),
        ({"class_names": ("a", "b")}, "class_names: expected 3 values, got 2"),
        ({"groups": (1, 2, 3, 4)}, "groups: expected a JSON list of text, got other JSON"),
        ({"sample_ids": ("a", "b", "c", "d")}, "sample_ids: expected those of the digest"),
        ({"ids": None}, "expected logits, targets and ids, got"),
    ],
)
def test_predictions_of_another_shape_or_with_other_values_are_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        read(replace(STORED, **changes).to_bytes())


def test_predictions_with_a_forged_header_are_refused() -> None:
    file = io.BytesIO()
    np.save(file, STORED.logits)
    data = file.getvalue()
    for header in (b"{'descr': (<", b"{'descr': [1, b'a']", b"{1: 2, b'a': 3}", b"(" * 60):
        forged = data[:10] + header + data[10 + len(header) :]
        with pytest.raises(ValueError, match=r"header|descr"):
            read(_npz(forged, b"", 0))


def _npz(header: bytes, data: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("logits.npy", header + data)
    return buffer.getvalue()


def test_predictions_that_claim_16_gib_are_refused_before_memory_is_taken() -> None:
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2**32, 1)}
    np.lib.format.write_array_header_1_0(header, shape)
    files = {
        "expected 17179869184 bytes of float32": _npz(header.getvalue(), bytes(8), 0),
        "expected uncompressed arrays": _npz(header.getvalue(), bytes(2**24), 8),
    }
    tracemalloc.start()
    for problem, data in files.items():
        tracemalloc.reset_peak()
        with pytest.raises(ValueError, match=problem):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_predictions_with_any_byte_flipped_raise_no_other_error() -> None:
    data = STORED.to_bytes()
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with suppress(ValueError):
            read(bytes(changed))


def test_predictions_with_objects_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.array([{}], object), targets=STORED.targets, ids="ab")
    with pytest.raises(ValueError, match="expected numbers or text in C order, got object"):
        read(buffer.getvalue())
