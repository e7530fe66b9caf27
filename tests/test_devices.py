from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from layercache._devices import (
    available_cores,
    check_dtype,
    float64_device,
    free_memory,
    resolve_device,
)
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
    with pytest.raises(OptionError, match="expected auto, cpu, cuda, cuda:N or mps, got 'abacus'"):
        resolve_device("abacus")


def test_available_cores_are_limited_by_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr("layercache._devices.CGROUP", tmp_path)
    assert available_cores() == 1


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that there is an Apple GPU, and no other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 2**30)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2**30)


def test_resolve_device_auto_takes_an_apple_gpu_after_cuda(
    mac: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_device("auto") == (torch.device("mps"), "the GPU of this Mac")
    assert resolve_device("mps")[0].type == "mps"
    assert free_memory(torch.device("mps")) == 11 * 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert resolve_device("auto")[0].type == "cuda"


def test_resolve_device_mps_without_one_raises() -> None:
    with pytest.raises(OptionError, match="finds no Apple GPU on this machine; use --device cpu"):
        resolve_device("mps")


def test_float64_device_of_an_apple_gpu_is_the_cpu() -> None:
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_check_dtype_of_an_apple_gpu_that_lacks_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(size: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        if dtype == torch.bfloat16:
            raise TypeError("BFloat16 is not supported on MPS")
        return torch.zeros(size)

    monkeypatch.setattr(torch, "ones", ones)
    check_dtype(torch.device("mps"), torch.float16)
    with pytest.raises(OptionError, match=r"has no bfloat16 on mps here \(BFloat16 is not .* fp32"):
        check_dtype(torch.device("mps"), torch.bfloat16)
    check_dtype(torch.device("cpu"), torch.bfloat16)
