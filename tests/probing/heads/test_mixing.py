from __future__ import annotations

import pytest
import torch

from layercache.probing.heads.mixing import mix_and_map


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("b", "block_bytes"), [(9, 1), (9, 700), (9, 10**9), (4, 1), (0, 1)])
def test_mix_and_map_of_any_rows_and_block_size_equals_einsum(
    b: int, block_bytes: int, shifted: bool
) -> None:
    s, d, g, h, e = 3, 5, 2, 2, 4
    shapes = {"weights": (b, s, g * h), "maps": (g * h, e, d), "scale": (g, d)}
    if shifted:
        shapes |= {"shift": (g, d), "excess": (b, g * h)}
    values = {
        name: torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for name, shape in shapes.items()
    }
    x = torch.randn(b, s, d, dtype=torch.float64)
    cotangent = torch.randn(g * h, b, e, dtype=torch.float64)

    actual = mix_and_map(
        values["weights"],
        x,
        values["maps"],
        scale_gd=values["scale"],
        shift_gd=values.get("shift", torch.zeros(g, d, dtype=torch.float64)),
        excess_bk=values.get("excess"),
        block_bytes=block_bytes,
    )

    scale = values["scale"].repeat_interleave(h, 0)
    sums = torch.einsum("bsk,bsd->kbd", values["weights"], x) * scale[:, None]
    if shifted:
        shift = values["shift"].repeat_interleave(h, 0)
        sums = sums + values["excess"].t()[..., None] * shift[:, None]
    expected = sums @ values["maps"].transpose(1, 2)
    torch.testing.assert_close(actual, expected)
    gradients = (
        torch.autograd.grad((out * cotangent).sum(), list(values.values()))
        for out in (actual, expected)
    )
    torch.testing.assert_close(*gradients)
