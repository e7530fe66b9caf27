from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import TextbookScalarMix, randomize, stack_states


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(1, 5),
    d=st.integers(1, 9),
    ids=st.sampled_from([None, (0, 0, 0, 0, 0), (0, 1, 0, 1, 0), (0, 1, 2, 2, 0)]),
    seed=st.integers(0, 2**31),
)
def test_scalar_mix_equals_the_module_with_all_gradients(
    n: int, b: int, d: int, ids: tuple[int, ...] | None, seed: int
) -> None:
    torch.manual_seed(seed)
    head = build(HeadSpec(kind="scalar-mix", tokens=5, width=d, classes=3, mix_ids=ids))
    modules = [
        randomize(TextbookScalarMix(mix_ids=ids, tokens=5, width=d, classes=3)) for _ in range(n)
    ]
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = torch.randn(b, 5, d, dtype=torch.float64)
    cotangent = torch.randn(n, b, 3, dtype=torch.float64)
    logits = head.logits(p, head.preprocess(x), train=True)
    (logits * cotangent).sum().backward()
    for g, module in enumerate(modules):
        expected = module(x)
        (expected * cotangent[g]).sum().backward()
        torch.testing.assert_close(logits[g], expected, rtol=1e-7, atol=1e-8)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(p[name].grad[g], parameter.grad, rtol=1e-6, atol=1e-7)


def test_logits_are_elmos_weighted_sum_of_the_layers_written_out() -> None:
    """Equation 1 of arXiv 1802.05365, for CLS and AP of three layers, in a loop."""
    module = randomize(TextbookScalarMix(mix_ids=(0, 1) * 3, tokens=6, width=4, classes=2))
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    state = module.state_dict()
    mix = state["mix"]
    sums = []
    for kind in range(2):
        total = sum(mix[kind + 2 * layer].exp() for layer in range(3))
        weights = [mix[kind + 2 * layer].exp() / total for layer in range(3)]
        mean = sum(weights[layer] * x[:, kind + 2 * layer] for layer in range(3))
        sums.append(state["scale"][kind] * mean)
    expected = torch.cat(sums, 1) @ state["classifier.weight"].t() + state["classifier.bias"]
    torch.testing.assert_close(module(x), expected)


def test_weights_of_each_mean_sum_to_one_over_its_own_tokens() -> None:
    ids = (0, 1, 0, 1)
    spec = HeadSpec(kind="scalar-mix", tokens=4, width=3, classes=2, mix_ids=ids)
    module = randomize(TextbookScalarMix(mix_ids=ids, tokens=4, width=3, classes=2))
    head = build(spec)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    p = stack_states([module], set(head.init_parameters(torch.Generator())))
    weights = head.attention(p, head.preprocess(x))[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(weights, module.attention(x))
    torch.testing.assert_close(weights.sum(2), torch.ones(5, 2, dtype=torch.float64))
    assert not weights[:, 0, [1, 3]].any()
    assert not weights[:, 1, [0, 2]].any()
