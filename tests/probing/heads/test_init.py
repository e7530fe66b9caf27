from __future__ import annotations

import pytest
import torch

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import TextbookAttentive, TextbookLinear


@pytest.mark.parametrize("kind", ["linear", "attentive", "attentive-tokens"])
def test_init_parameters_load_into_the_textbook_module_and_have_its_distribution(kind: str) -> None:
    torch.manual_seed(0)
    spec = HeadSpec(kind=kind, tokens=4, width=64, classes=5)
    plain = (
        TextbookLinear(tokens=4, width=64, classes=5)
        if kind == "linear"
        else TextbookAttentive(
            tokens=4, width=64, classes=5, num_heads=8 if kind == "attentive-tokens" else 4
        )
    )
    parameters = build(spec).init_parameters(torch.Generator().manual_seed(3))
    plain_state = plain.state_dict()
    assert set(plain_state) - {"batch_norm.num_batches_tracked"} == set(parameters)
    for name, value in parameters.items():
        assert value.shape == plain_state[name].shape
        assert value.dtype == torch.float32
        if value.numel() >= 64:
            spread, expected = value.std(), plain_state[name].std()
            assert abs(spread - expected) <= 0.3 * expected, name
    again = build(spec).init_parameters(torch.Generator().manual_seed(3))
    assert all(torch.equal(parameters[k], again[k]) for k in parameters)
