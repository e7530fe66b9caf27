from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import GivenDropout, TextbookAttentive, randomize, stack_states


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(2, 5),
    s=st.integers(1, 6),
    d=st.integers(2, 17),
    h=st.integers(1, 6),
    c=st.integers(2, 4),
    dropped=st.booleans(),
    train=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_attentive_head_with_and_without_dropout_equals_the_textbook_with_all_gradients(
    n: int, b: int, s: int, d: int, h: int, c: int, dropped: bool, train: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    h = min(h, d)
    spec = HeadSpec(kind="attentive", tokens=s, width=d, classes=c, num_heads=h)
    head = build(spec)
    modules = [
        randomize(TextbookAttentive(tokens=s, width=d, classes=c, num_heads=h)).train(train)
        for _ in range(n)
    ]
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = torch.nn.functional.normalize(torch.randn(b, s, d, dtype=torch.float64), dim=-1)
    cotangent = torch.randn(n, b, c, dtype=torch.float64)
    rates = torch.rand(n, dtype=torch.float64) * 0.8 if dropped else None
    draw = torch.rand(b, s, h, dtype=torch.float64)

    logits = head.logits(p, head.preprocess(x), train=train, dropout=rates, uniform_bsh=draw)
    (logits * cotangent).sum().backward()

    for g, module in enumerate(modules):
        if dropped and train:
            module.attention_dropout = GivenDropout((draw >= rates[g]) / (1 - rates[g]))
        expected = module(x)
        torch.testing.assert_close(logits[g], expected, rtol=1e-7, atol=1e-8)
        if train:
            (expected * cotangent[g]).sum().backward()
            for name, parameter in module.named_parameters():
                gradient = torch.zeros_like(parameter) if p[name].grad is None else p[name].grad[g]
                torch.testing.assert_close(
                    gradient,
                    parameter.grad,
                    rtol=1e-6,
                    atol=1e-7,
                    msg=lambda m, name=name: f"{name}: {m}",
                )
        for name, buffer in module.named_buffers():
            if "running" in name:
                torch.testing.assert_close(p[name][g], buffer)


def test_attention_equals_the_textbook_and_sums_to_one() -> None:
    module = randomize(TextbookAttentive(tokens=5, width=12, classes=3))
    head = build(HeadSpec(kind="attentive", tokens=5, width=12, classes=3))
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    weights = head.attention(
        stack_states([module], set(head.init_parameters(torch.Generator()))), head.preprocess(x)
    )
    torch.testing.assert_close(weights[:, :, 0].transpose(1, 2), module.attention(x))
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 1, 5, dtype=torch.float64))
