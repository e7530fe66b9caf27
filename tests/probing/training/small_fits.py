"""Heads, configurations and rows of fits that take a fraction of a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import WITHOUT_DROPOUT
from layercache.probing.training.config import HParams, TrainConfig
from layercache.testing import InMemoryTokens
from tests.probing.textbook import (
    TextbookAttentive,
    TextbookEfficient,
    TextbookLinear,
    TextbookScalarMix,
)

SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
CONFIGS = (
    HParams(lr=1e-2, weight_decay=1e-2, dropout=0.0),
    HParams(lr=3e-3, weight_decay=1.0, dropout=0.3),
    HParams(lr=1e-3, weight_decay=0.0, dropout=0.1),
)


def spec(kind: str, dataset: InMemoryTokens, **more: object) -> HeadSpec:
    return HeadSpec(kind=kind, tokens=dataset.tokens, width=dataset.width, classes=3, **more)  # type: ignore[arg-type]


def configs_for(kind: str) -> tuple[HParams, ...]:
    if kind in WITHOUT_DROPOUT:
        return tuple(dataclasses.replace(s, dropout=0.0) for s in CONFIGS)
    return CONFIGS


def plain(head: HeadSpec, state: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    shape = {"tokens": head.tokens, "width": head.width, "classes": head.classes}
    module: torch.nn.Module
    if head.kind == "linear":
        module = TextbookLinear(**shape)
    elif head.kind == "scalar-mix":
        module = TextbookScalarMix(**shape, mix_ids=head.mix_ids)
    elif head.kind == "efficient":
        module = TextbookEfficient(**shape, num_queries=head.num_heads)
    else:
        module = TextbookAttentive(**shape, num_heads=head.num_heads)
    if state is not None:
        module.load_state_dict(state)
    return module


def assert_same_head(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], *, but: set[str] | None = None
) -> None:
    assert set(a) == set(b)
    for name in set(a) - (but or set()):
        torch.testing.assert_close(
            a[name], b[name], rtol=2e-3, atol=5e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


NO_STEPS = TrainConfig(epochs=1, min_steps=0, batch=200, min_batches=1, lr_end=1e-30, noise=None)
