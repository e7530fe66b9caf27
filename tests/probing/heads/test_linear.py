from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import TextbookLinear, stack_states


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(1, 5),
    s=st.integers(1, 4),
    d=st.integers(1, 9),
    c=st.integers(2, 4),
)
def test_linear_head_equals_the_textbook_with_all_gradients(
    n: int, b: int, s: int, d: int, c: int
) -> None:
    head = build(HeadSpec(kind="linear", tokens=s, width=d, classes=c))
    modules = [TextbookLinear(tokens=s, width=d, classes=c).double() for _ in range(n)]
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = torch.randn(b, s, d, dtype=torch.float64)
    cotangent = torch.randn(n, b, c, dtype=torch.float64)
    logits = head.logits(p, head.preprocess(x), train=True)
    (logits * cotangent).sum().backward()
    for g, module in enumerate(modules):
        expected = module(x)
        (expected * cotangent[g]).sum().backward()
        torch.testing.assert_close(logits[g], expected)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(p[name].grad[g], parameter.grad)
