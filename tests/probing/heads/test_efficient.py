from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import (
    TextbookEfficient,
    assert_head_equals_modules,
    randomize,
    stack_states,
)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(2, 5),
    s=st.integers(1, 6),
    d=st.integers(2, 13),
    h=st.integers(1, 6),
    dropped=st.booleans(),
    train=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_efficient_head_with_and_without_dropout_equals_the_module_with_all_gradients(
    n: int, b: int, s: int, d: int, h: int, dropped: bool, train: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    h = min(h, d)
    head = build(HeadSpec(kind="efficient", tokens=s, width=d, classes=3, num_heads=h))
    modules = [
        randomize(TextbookEfficient(tokens=s, width=d, classes=3, num_queries=h)).train(train)
        for _ in range(n)
    ]
    assert_head_equals_modules(
        head,
        modules,
        rows=b,
        train=train,
        dropped=dropped,
    )


def test_logits_are_those_of_the_paper_written_out_query_by_query() -> None:
    """arXiv 2506.10178: query h attends to whole tokens and weights its own share of the values."""
    module = randomize(TextbookEfficient(tokens=5, width=8, classes=3, num_queries=4)).eval()
    state = module.state_dict()
    x = F.normalize(torch.randn(2, 5, 8, dtype=torch.float64), dim=-1)
    for image, logits in zip(x, module(x), strict=True):
        z = [(t - t.mean()) / (t.var(correction=0) + 1e-5).sqrt() for t in image]
        shares = []
        for h in range(4):
            scores = torch.stack([state["queries"][h] @ t / 8**0.5 for t in z])
            weights = scores.exp() / scores.exp().sum()
            value_map = state["to_value.weight"][2 * h : 2 * h + 2]
            shares.append(sum(w * (value_map @ t) for w, t in zip(weights, z, strict=True)))
        joined = (torch.cat(shares) - state["batch_norm.running_mean"]) / (
            state["batch_norm.running_var"] + 1e-6
        ).sqrt()
        expected = state["classifier.weight"] @ joined + state["classifier.bias"]
        torch.testing.assert_close(logits, expected)


def test_attention_equals_the_module_and_sums_to_one() -> None:
    module = randomize(TextbookEfficient(tokens=5, width=12, classes=3, num_queries=3))
    head = build(HeadSpec(kind="efficient", tokens=5, width=12, classes=3, num_heads=3))
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    p = stack_states([module], set(head.init_parameters(torch.Generator())))
    weights = head.attention(p, head.preprocess(x))
    torch.testing.assert_close(weights[:, :, 0].transpose(1, 2), module.attention(x))
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 1, 3, dtype=torch.float64))


def test_number_of_parameters_is_queries_values_and_classifier() -> None:
    spec = HeadSpec(kind="efficient", tokens=196, width=768, classes=100)
    assert (spec.num_heads, spec.head_width) == (32, 24)
    p = build(spec).init_parameters(torch.Generator())
    trained = sum(v.numel() for name, v in p.items() if "running" not in name)
    assert trained == 32 * 768 + 768 * 768 + 100 * 769
