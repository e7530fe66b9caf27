"""Spec of a cache of a ViT-B (12 layers x {CLS, AP} x 768, float16), also with narrower tokens."""

from __future__ import annotations

from layercache.cache import CacheSpec, DatasetIdentity, SplitIdentity
from layercache.cache.format import layout

LAYERS, KINDS, WIDTH = 12, ("cls", "ap"), 768
SPLIT = "train"


def make_spec(rows: int, width: int, *, ids: str = "00" * 32) -> CacheSpec:
    """Return the spec of a ViT-B of the given width on one split."""
    return CacheSpec(
        model="made_up",
        architecture="made_up",
        weights="00" * 32,
        depth=LAYERS,
        width=width,
        tap="norm2",
        layers=tuple(range(1, LAYERS + 1)),
        tokens=KINDS, projected=False, preprocessing={}, precision="fp32", storage_dtype="float16",
        dataset=DatasetIdentity(
            name=f"made_up_{rows}",
            limit=None,
            limit_seed=0,
            splits={SPLIT: SplitIdentity(rows=rows, ids=ids, content="names:00")},
        ),
    )  # fmt: skip


def narrow(width: int) -> None:
    """Give row blocks of narrow tokens as many rows as those of a ViT-B have."""
    rows = layout.block_rows(make_spec(10**6, WIDTH), 10**6)
    spec = make_spec(10**6, width)
    row = len(spec.layers) * len(spec.tokens) * width * 2
    layout.MAX_SHARD_BYTES = (
        rows * row
        + layout.index_bytes(spec)
        + len(spec.layers) * len(spec.tokens) * layout.CRC_BYTES
        + 1
    )
    assert layout.block_rows(spec, 10**6) == rows
