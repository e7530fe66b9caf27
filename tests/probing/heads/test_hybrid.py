from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import GivenDropout, TextbookHybrid, randomize, stack_states


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 3),
    h=st.integers(1, 5),
    d=st.integers(5, 12),
    dropped=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_embedding_head_equals_the_textbook_of_the_sums_with_all_gradients(
    n: int, h: int, d: int, dropped: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    ids = (0, 1, 2, 2, 2, 1)
    head = build(
        HeadSpec(kind="hybrid", tokens=6, width=d, classes=3, num_heads=h, embedding_ids=ids)
    )
    modules = [
        randomize(
            TextbookHybrid(embedding_ids=ids, tokens=6, width=d, classes=3, num_heads=h)
        ).train()
        for _ in range(n)
    ]
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = torch.nn.functional.normalize(torch.randn(5, 6, d, dtype=torch.float64), dim=-1)
    cotangent, draw = (
        torch.randn(n, 5, 3, dtype=torch.float64),
        torch.rand(5, 6, h, dtype=torch.float64),
    )
    rates = torch.rand(n, dtype=torch.float64) * 0.8 if dropped else None
    logits = head.logits(p, head.preprocess(x), train=True, dropout=rates, uniform_bsh=draw)
    (logits * cotangent).sum().backward()
    for g, module in enumerate(modules):
        if rates is not None:
            module.attention_dropout = GivenDropout((draw >= rates[g]) / (1 - rates[g]))
        expected = module(x)
        (expected * cotangent[g]).sum().backward()
        torch.testing.assert_close(logits[g], expected, rtol=1e-7, atol=1e-8)
        for name, parameter in module.named_parameters():
            gradient = torch.zeros_like(parameter) if p[name].grad is None else p[name].grad[g]
            torch.testing.assert_close(
                gradient,
                parameter.grad,
                rtol=1e-6,
                atol=1e-7,
                msg=lambda m, name=name: f"{name}: {m}",
            )
