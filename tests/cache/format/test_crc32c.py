from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
import pytest

from layercache.cache.format import crc32c as module
from layercache.cache.format.crc32c import MIN_BYTES, crc32c


def crc32c_bit_by_bit(data: bytes, crc: int = 0) -> int:
    """The definition: reflected polynomial 0x82F63B78, all bits inverted before and after."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture(params=["libcrc32c", "google_crc32c"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    extend = module._find_extend() if request.param == "libcrc32c" else None
    if request.param == "libcrc32c" and extend is None:
        pytest.skip("libcrc32c cannot be reached on this machine")
    monkeypatch.setattr(module, "_EXTEND", extend)
    return str(request.param)


@pytest.mark.skipif(sys.platform != "linux", reason="wheels for Linux link to libcrc32c")
def test_libcrc32c_of_the_wheel_for_linux_is_found() -> None:
    assert google_crc32c.implementation == "c"
    assert module._find_extend() is not None


@pytest.mark.parametrize("size", [0, 1, 9, MIN_BYTES - 1, MIN_BYTES, MIN_BYTES + 1, MIN_BYTES + 13])
def test_crc32c_equals_its_definition_bit_by_bit(size: int) -> None:
    data = os.urandom(size)
    assert crc32c(data) == crc32c_bit_by_bit(data)
    flipped = np.frombuffer(data + b"\x01", np.uint8).copy()
    flipped[size // 2] ^= 4
    assert crc32c(flipped) == google_crc32c.value(flipped.tobytes()) != crc32c(data + b"\x01")


@pytest.mark.parametrize(
    "vector", [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_crc32c_of_the_test_vectors_of_rfc_3720(vector: tuple[bytes, int]) -> None:
    assert crc32c(vector[0]) == vector[1]


def test_crc32c_continues_in_pieces_of_any_size() -> None:
    data = os.urandom(5 * MIN_BYTES + 7)
    expected = google_crc32c.value(data)
    for cut in (0, 1, 1000, MIN_BYTES, 3 * MIN_BYTES + 1, len(data)):
        assert crc32c(data[cut:], crc32c(data[:cut])) == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int64"])
def test_crc32c_of_an_array_is_that_of_its_bytes(dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (3, 256, 768)).astype(dtype)
    for part in (array, array[1], array[1, 3:200], array[:0]):
        assert crc32c(part) == google_crc32c.value(part.tobytes())
    array.flags.writeable = False
    assert crc32c(array) == google_crc32c.value(array.tobytes())


@pytest.mark.parametrize("rows", [4, 4 * MIN_BYTES])
def test_crc32c_of_a_strided_array_raises(rows: int) -> None:
    with pytest.raises((ValueError, BufferError)):
        crc32c(np.zeros((rows, 8), np.uint8)[:, ::2])


@pytest.fixture
def no_switching() -> Iterator[None]:
    """No thread is made to give up the interpreter's lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


def runs_beside_another_thread(call: Callable[[], object]) -> bool:
    """Return whether another thread got the interpreter's lock during one of some calls."""
    ready, done = threading.Event(), []
    thread = threading.Thread(target=lambda: (ready.wait(), done.append(True)))
    thread.start()
    ready.set()
    for _ in range(200):
        call()
        if done:
            break
    overlapped = bool(done)  # before this thread waits, and so gives up the lock itself
    thread.join()
    return overlapped


@pytest.mark.usefixtures("no_switching")
def test_crc32c_of_a_large_buffer_releases_the_interpreter_lock(implementation: str) -> None:
    data = np.zeros(2**21, np.uint8)
    assert runs_beside_another_thread(lambda: crc32c(data)) == (implementation == "libcrc32c")
