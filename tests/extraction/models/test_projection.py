"""CLIP's projection: the models that have one, and the tensors that a checkpoint needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from layercache.errors import BackboneError
from layercache.extraction.models.projection import check_has_projection, load_projection


def clip(
    architecture: str = "vit_tiny_clip", tag: str = "openai", head: nn.Module | None = None
) -> Any:
    module: Any = nn.Module()
    module.head = head or nn.Linear(8, 4)
    module.embed_dim = 8
    module.pretrained_cfg = {"architecture": architecture, "tag": tag}
    return module


def test_load_projection_with_a_checkpoint_takes_its_head() -> None:
    state = {"head.weight": torch.randn(5, 8).half(), "norm.weight": torch.ones(8)}
    head = load_projection(clip(), state, name="it")
    assert torch.equal(head.weight, state["head.weight"].float())
    assert head.bias is None
    assert not head.weight.requires_grad
    assert (
        load_projection(clip(), state | {"head.bias": torch.ones(5)}, name="it").bias.tolist()
        == [1] * 5
    )


def test_load_projection_without_a_checkpoint_takes_the_modules_head() -> None:
    module = clip()
    assert load_projection(module, None, name="it") is module.head


@pytest.mark.parametrize(
    "module",
    [clip("vit_base_patch16_224"), clip(tag="openai_ft_in1k"), clip(head=nn.Identity())],
    ids=["supervised", "fine-tuned", "head-less"],
)
def test_check_has_projection_of_other_models_raises(module: Any) -> None:
    check_has_projection(clip(), name="it")
    with pytest.raises(
        BackboneError,
        match="it: projected needs a CLIP model with its projection into the joint space, this "
        "one has none",
    ):
        check_has_projection(module, name="it")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            {},
            "it: projected needs head.weight in the checkpoint, which has none: leave projected "
            "out",
        ),
        (
            {"head.weight": torch.zeros(9, 8)},
            r"it: projected expects head.weight of at most \(8, 8\), got \(9, 8\)",
        ),
        ({"head.weight": torch.zeros(4, 7)}, r"got \(4, 7\)"),
    ],
)
def test_load_projection_without_a_fitting_head_raises(
    state: dict[str, torch.Tensor], text: str
) -> None:
    with pytest.raises(BackboneError, match=text):
        load_projection(clip(), state, name="it")
