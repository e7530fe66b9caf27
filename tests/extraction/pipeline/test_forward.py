from __future__ import annotations

import torch

from layercache.extraction.pipeline.forward import FixedBatch


def test_fixed_batch_with_fewer_images_pads_them_and_returns_their_tokens_alone() -> None:
    seen = []

    def backbone(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(tuple(images.shape))
        mean = images.float().mean((1, 2, 3)).reshape(1, 1, -1, 1)
        return mean, 2 * mean

    images = torch.randint(1, 255, (3, 3, 4, 4), dtype=torch.uint8)
    padded, whole = FixedBatch(backbone, rows=5)(images), backbone(images)
    assert all(torch.equal(a, b) for a, b in zip(padded, whole, strict=True))
    assert seen == [(5, 3, 4, 4), (3, 3, 4, 4)]
