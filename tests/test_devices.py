from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from layercache._devices import available_cores, free_memory, resolve_device
from layercache.errors import OptionError


def test_free_memory_of_the_cpu_is_positive_and_below_the_total() -> None:
    with open("/proc/meminfo") as lines:
        total = int(next(lines).split()[1]) * 1024
    assert 0 < free_memory(torch.device("cpu")) < total


def test_resolve_device_without_such_a_device_raises() -> None:
    assert resolve_device("cpu")[0] == torch.device("cpu")
    assert "as requested" in resolve_device("cpu")[1]
    if not torch.cuda.is_available():
        assert resolve_device("auto")[0].type == "cpu"
        with pytest.raises(
            OptionError, match="finds no CUDA device on this machine; use --device cpu"
        ):
            resolve_device("cuda")
    with pytest.raises(OptionError, match="expected auto, cpu, cuda or cuda:N, got 'abacus'"):
        resolve_device("abacus")


def test_available_cores_are_limited_by_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr("layercache._devices.CGROUP", tmp_path)
    assert available_cores() == 1
