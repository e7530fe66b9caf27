"""CLIP's projection: where there is one, and what a checkpoint must hold for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from layercache.errors import BackboneError
from layercache.extraction.models.projection import projection, refuse_unprojected


def clip(
    architecture: str = "vit_tiny_clip", tag: str = "openai", head: nn.Module | None = None
) -> Any:
    module: Any = nn.Module()
    module.head = head or nn.Linear(8, 4)
    module.embed_dim = 8
    module.pretrained_cfg = {"architecture": architecture, "tag": tag}
    return module


def test_the_checkpoints_own_map() -> None:
    state = {"head.weight": torch.randn(5, 8).half(), "norm.weight": torch.ones(8)}
    head = projection(clip(), state, name="it")
    assert torch.equal(head.weight, state["head.weight"].float())
    assert head.bias is None
    assert not head.weight.requires_grad
    assert (
        projection(clip(), state | {"head.bias": torch.ones(5)}, name="it").bias.tolist() == [1] * 5
    )


def test_without_a_checkpoint_the_modules() -> None:
    module = clip()
    assert projection(module, None, name="it") is module.head


@pytest.mark.parametrize(
    "module",
    [clip("vit_base_patch16_224"), clip(tag="openai_ft_in1k"), clip(head=nn.Identity())],
    ids=["supervised", "fine-tuned", "head-less"],
)
def test_others_have_none(module: Any) -> None:
    refuse_unprojected(clip(), name="it")
    with pytest.raises(
        BackboneError,
        match="it: --projected needs a CLIP model with its projection into the joint space, this one has none",
    ):
        refuse_unprojected(module, name="it")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            {},
            "it: --projected needs head.weight in the checkpoint, which has none: leave --projected out",
        ),
        (
            {"head.weight": torch.zeros(9, 8)},
            r"it: --projected expects head.weight of at most \(8, 8\), got \(9, 8\)",
        ),
        ({"head.weight": torch.zeros(4, 7)}, r"got \(4, 7\)"),
    ],
)
def test_checkpoints_without_it(state: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(BackboneError, match=text):
        projection(clip(), state, name="it")
