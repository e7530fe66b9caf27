from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.probing.heads import HeadSpec, build
from tests.probing.textbook import TextbookAttentive, randomize, stack_states


class TextbookEmbedding(TextbookAttentive):
    """The textbook head of tokens with embeddings added."""

    def __init__(self, *, ids: tuple[int, ...], **shape: int) -> None:
        super().__init__(**shape)
        self.ids = torch.tensor(ids)
        self.embedding = torch.nn.Parameter(torch.randn(max(ids) + 1, shape["width"]) * 0.02)

    def forward(self, x_bsd: torch.Tensor, kept_bhs: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x_bsd + self.embedding[self.ids], kept_bhs)


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
        randomize(TextbookEmbedding(ids=ids, tokens=6, width=d, classes=3, heads=h)).train()
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
        expected = module(
            x,
            None if rates is None else (draw >= rates[g]).double().transpose(1, 2) / (1 - rates[g]),
        )
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
