"""Trained heads as modules."""

from __future__ import annotations

from typing import Any

from layercache.errors import HeadMismatchError
from layercache.heads.attentive import AttentiveHead
from layercache.heads.efficient import EfficientHead
from layercache.heads.fusion import FusionBranch, FusionHead
from layercache.heads.hybrid import HybridHead
from layercache.heads.linear import LinearHead
from layercache.heads.multi_encoder import MultiEncoderHead
from layercache.heads.scalar_mix import ScalarMixHead
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.results.head_checkpoint import HeadPath, load_head
from layercache.probing.results.lookup import find_probe
from layercache.probing.results.probe_store import Probe

AnyHead = (
    LinearHead
    | ScalarMixHead
    | AttentiveHead
    | HybridHead
    | EfficientHead
    | FusionHead
    | FusionBranch
)


def load(probe: Probe | FittedHead | str | HeadPath) -> AnyHead:
    """Load the trained head of a probe as a module in evaluation mode, float32 on the CPU.

    A fusion head whose spatial share is 0 or 1 is a `FusionBranch`, without the other branch, which
    the final fit does not train.

    The names of its classes and tokens are those of `layercache.load_head(probe)`. To train it
    further, call `train()`.

    Args:
        probe: A probe, its id or the beginning of it (of probes in the default root), its folder
            (CACHE/probes/ID), its head.safetensors, or a loaded head.

    Raises:
        ProbeNotFoundError: There is no such probe, or it has no head (knn).
        HeadMismatchError: The file is damaged, or not a head that layercache wrote.
    """
    if isinstance(probe, Probe):
        head: FittedHead = load_head(probe.path)
    else:
        head = probe if isinstance(probe, FittedHead) else load_head(find_probe(probe))
    if not head.state_dict:
        raise HeadMismatchError(
            f"this {head.spec.kind} head has no parameters, because its training diverged"
        )
    module = _untrained(head.spec)
    module.load_state_dict(dict(head.state_dict))
    return module.eval()


def _untrained(spec: HeadSpec) -> AnyHead:
    shape: dict[str, Any] = {
        "tokens": spec.tokens,
        "width": spec.width,
        "classes": spec.classes,
    }
    if spec.kind == "linear":
        return LinearHead(**shape)
    if spec.kind == "scalar-mix":
        return ScalarMixHead(**shape, mix_ids=spec.mix_ids)
    if spec.kind == "efficient":
        return EfficientHead(**shape, num_queries=spec.num_heads)
    if spec.kind == "fusion":
        shape["spatial_tokens"], shape["embedding_ids"] = spec.spatial_tokens, spec.embedding_ids
        shape["num_heads"] = spec.num_heads
        if spec.branch:
            return FusionBranch(**shape, branch=spec.branch)  # type: ignore[arg-type]
        return FusionHead(**shape, gate=spec.gate)  # type: ignore[arg-type]  # the spec checks them
    if spec.encoder_tokens is not None and spec.encoder_widths is not None:
        return MultiEncoderHead(
            encoder_tokens=spec.encoder_tokens,
            encoder_widths=spec.encoder_widths,
            width=spec.width,
            classes=spec.classes,
            num_heads=spec.num_heads,
        )
    if spec.kind == "hybrid":
        return HybridHead(**shape, num_heads=spec.num_heads, embedding_ids=spec.embedding_ids)
    return AttentiveHead(**shape, num_heads=spec.num_heads)
