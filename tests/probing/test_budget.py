from __future__ import annotations

import pytest
import torch

from layercache.errors import OptionError
from layercache.probing.budget import format_bytes, free_memory, parse_bytes, resolve_device


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("500MiB", 500 * 2**20),
        ("123456", 123456),
        (1000, 1000),
        ("1.5 GiB", 3 * 2**29),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["lots", "8XB", "-1GB", "0", ""])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--memory is a size such as 8GB"):
        parse_bytes(text)


def test_sizes_are_written() -> None:
    assert [format_bytes(n) for n in (12, 1536, 3 * 2**20, 5 * 2**30, 2**41)] == [
        "12 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "2.0 TiB",
    ]


def test_free_memory_is_positive_and_below_the_machines() -> None:
    with open("/proc/meminfo") as lines:
        total = int(next(lines).split()[1]) * 1024
    assert 0 < free_memory(torch.device("cpu")) < total


def test_a_device_that_is_not_there_is_refused() -> None:
    assert resolve_device("cpu")[0] == torch.device("cpu")
    assert "as asked" in resolve_device("cpu")[1]
    if not torch.cuda.is_available():
        assert resolve_device("auto")[0].type == "cpu"
        with pytest.raises(OptionError, match="finds no CUDA device here; use --device cpu"):
            resolve_device("cuda")
    with pytest.raises(OptionError, match="auto, cpu or cuda"):
        resolve_device("abacus")
