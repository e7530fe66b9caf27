from __future__ import annotations

from typing import Any

import pytest
import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.training.configs_per_pass import (
    activation_row_bytes,
    config_bytes,
    describe_passes,
    pass_bounds,
    plan_passes,
)
from tests.logs import logged

HEAD = HeadSpec(kind="linear", tokens=2, width=8, classes=3)
ACTIVATIONS = 4 * 10 * activation_row_bytes(HEAD)


def test_config_bytes_counts_parameters_moments_and_gradient() -> None:
    assert config_bytes(HEAD) == 4 * 4 * (3 * 16 + 3)


@pytest.mark.parametrize(
    ("n_configs", "max_configs", "bounds"),
    [(3, 2, [(0, 1), (1, 3)]), (4, 4, [(0, 4)]), (7, 3, [(0, 2), (2, 4), (4, 7)])],
)
def test_pass_bounds_are_nearly_equal(
    n_configs: int, max_configs: int, bounds: list[tuple[int, int]]
) -> None:
    assert pass_bounds(n_configs, max_configs) == bounds


@pytest.mark.parametrize(
    ("free", "largest"), [(10**9, 6), (2 * (2 * config_bytes(HEAD) + ACTIVATIONS), 2)]
)
def test_plan_passes_fits_into_half_of_the_free_memory(
    free: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layercache.probing.training.configs_per_pass.free_memory", lambda _: free)
    bounds = plan_passes(HEAD, 6, batch_size=10, device=torch.device("cpu"), configs_per_pass=None)
    assert max(b - a for a, b in bounds) == largest


def test_plan_passes_of_wide_tokens_bounds_the_memory_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("layercache.probing.training.configs_per_pass.free_memory", lambda _: 2**40)
    head = HeadSpec(kind="attentive", tokens=24, width=768, classes=10)
    options: dict[str, Any] = {"batch_size": 46, "configs_per_pass": None}
    with logged() as lines:
        bounds = plan_passes(head, 63, device=torch.device("cpu"), **options)
    assert {last - first for first, last in bounds} == {7}
    assert lines == [
        "63 configurations train in 9 groups of at most 7 (75.8 MB each, at most 537 MB together)"
    ]
    assert plan_passes(head, 63, device=torch.device("cuda"), **options) == [(0, 63)]


def test_describe_passes_names_number_and_size() -> None:
    expected = "3 configurations train in 2 groups of at most 2 (as requested)"
    assert describe_passes(pass_bounds(3, 2), reason="as requested") == expected
