from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.mixing import CHUNK_BYTES, mix_and_map
from tests.probing.textbook import TextbookAttentive, TextbookLinear


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter away from its special initial value (a LayerNorm at ones and zeros would hide faults in the folding)."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return module.double()


def stacked(modules: list[torch.nn.Module], names: set[str]) -> dict[str, torch.Tensor]:
    states = [m.state_dict() for m in modules]
    return {
        n: torch.stack([s[n] for s in states]).clone().requires_grad_("running" not in n)
        for n in states[0]
        if n in names
    }


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
def test_attentive_head_and_all_its_gradients_are_the_textbook_ones(
    n: int, b: int, s: int, d: int, h: int, c: int, dropped: bool, train: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    h = min(h, d)
    spec = HeadSpec(kind="attentive", tokens=s, width=d, classes=c, attention_heads=h)
    head = build(spec)
    modules = [
        randomised(TextbookAttentive(tokens=s, width=d, classes=c, heads=h)).train(train)
        for _ in range(n)
    ]
    p = stacked(modules, set(head.initial(torch.Generator())))
    x = torch.nn.functional.normalize(torch.randn(b, s, d, dtype=torch.float64), dim=-1)
    cotangent = torch.randn(n, b, c, dtype=torch.float64)
    rates = torch.rand(n, dtype=torch.float64) * 0.8 if dropped else None
    draw = torch.rand(b, s, h, dtype=torch.float64)

    logits = head.logits(p, head.prepare(x), train=train, rates=rates, draw=draw)
    (logits * cotangent).sum().backward()

    for g, module in enumerate(modules):
        kept = None
        if dropped and train:
            kept = (draw >= rates[g]).double().transpose(1, 2) / (1 - rates[g])
        expected = module(x, kept)
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


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    b=st.integers(1, 5),
    s=st.integers(1, 4),
    d=st.integers(1, 9),
    c=st.integers(2, 4),
)
def test_linear_head_and_its_gradients_are_the_textbook_ones(
    n: int, b: int, s: int, d: int, c: int
) -> None:
    head = build(HeadSpec(kind="linear", tokens=s, width=d, classes=c))
    modules = [TextbookLinear(tokens=s, width=d, classes=c).double() for _ in range(n)]
    p = stacked(modules, set(head.initial(torch.Generator())))
    x = torch.randn(b, s, d, dtype=torch.float64)
    cotangent = torch.randn(n, b, c, dtype=torch.float64)
    logits = head.logits(p, head.prepare(x), train=True)
    (logits * cotangent).sum().backward()
    for g, module in enumerate(modules):
        expected = module(x)
        (expected * cotangent[g]).sum().backward()
        torch.testing.assert_close(logits[g], expected)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(p[name].grad[g], parameter.grad)


@pytest.mark.parametrize("kind", ["linear", "attentive", "attentive-tokens"])
def test_initial_parameters_load_into_the_plain_module_and_have_its_distribution(kind: str) -> None:
    torch.manual_seed(0)
    spec = HeadSpec(kind=kind, tokens=4, width=64, classes=5)
    plain = (
        TextbookLinear(tokens=4, width=64, classes=5)
        if kind == "linear"
        else TextbookAttentive(
            tokens=4, width=64, classes=5, heads=8 if kind == "attentive-tokens" else 4
        )
    )
    drawn = build(spec).initial(torch.Generator().manual_seed(3))
    plain_state = plain.state_dict()
    assert set(plain_state) - {"batch_norm.num_batches_tracked"} == set(drawn)
    for name, value in drawn.items():
        assert value.shape == plain_state[name].shape
        assert value.dtype == torch.float32
        if value.numel() >= 64:
            spread, expected = value.std(), plain_state[name].std()
            assert abs(spread - expected) <= 0.3 * expected, name
    again = build(spec).initial(torch.Generator().manual_seed(3))
    assert all(torch.equal(drawn[k], again[k]) for k in drawn)


def test_attention_sums_to_one_and_is_the_textbooks() -> None:
    module = randomised(TextbookAttentive(tokens=5, width=12, classes=3))
    head = build(HeadSpec(kind="attentive", tokens=5, width=12, classes=3))
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    weights = head.attention(
        stacked([module], set(head.initial(torch.Generator()))), head.prepare(x)
    )
    torch.testing.assert_close(weights[:, :, 0].transpose(1, 2), module.attention(x))
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 1, 5, dtype=torch.float64))


class TextbookEmbedding(TextbookAttentive):
    """The embeddings added to the tokens, then the plain head."""

    def __init__(self, *, groups: tuple[int, ...], **shape: int) -> None:
        super().__init__(**shape)
        self.group = torch.tensor(groups)
        self.embedding = torch.nn.Parameter(torch.randn(max(groups) + 1, shape["width"]) * 0.02)

    def forward(self, x_bsd: torch.Tensor, kept_bhs: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x_bsd + self.embedding[self.group], kept_bhs)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 3),
    h=st.integers(1, 5),
    d=st.integers(5, 12),
    dropped=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_embeddings_of_layer_and_kind_are_the_plain_sum_before_the_head(
    n: int, h: int, d: int, dropped: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    groups = (0, 1, 2, 2, 2, 1)
    head = build(
        HeadSpec(kind="hybrid", tokens=6, width=d, classes=3, attention_heads=h, groups=groups)
    )
    modules = [
        randomised(TextbookEmbedding(groups=groups, tokens=6, width=d, classes=3, heads=h)).train()
        for _ in range(n)
    ]
    p = stacked(modules, set(head.initial(torch.Generator())))
    x = torch.nn.functional.normalize(torch.randn(5, 6, d, dtype=torch.float64), dim=-1)
    cotangent, draw = (
        torch.randn(n, 5, 3, dtype=torch.float64),
        torch.rand(5, 6, h, dtype=torch.float64),
    )
    rates = torch.rand(n, dtype=torch.float64) * 0.8 if dropped else None
    logits = head.logits(p, head.prepare(x), train=True, rates=rates, draw=draw)
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


@pytest.mark.parametrize("chunk_bytes", [1, 700, 10**9])
def test_mixing_in_chunks_is_the_plain_product(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk_bytes)
    weights, x, maps = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((7, 3, 4), (7, 3, 5), (4, 2, 5))
    )
    weights.requires_grad_()
    maps.requires_grad_()
    cotangent = torch.randn(4, 7, 2, dtype=torch.float64)
    found = mix_and_map(weights, x, maps)
    expected = torch.einsum("bsk,bsd,ked->kbe", weights, x, maps)
    torch.testing.assert_close(found, expected)
    gradients = (
        torch.autograd.grad((out * cotangent).sum(), (weights, maps)) for out in (found, expected)
    )
    torch.testing.assert_close(*gradients)


def test_heads_by_kind() -> None:
    assert HeadSpec(kind="attentive", tokens=24, width=384, classes=10).heads == 24
    assert HeadSpec(kind="attentive", tokens=24, width=384, classes=10).head_width == 32
    assert HeadSpec(kind="attentive", tokens=5, width=384, classes=10).head_width == 152
    assert HeadSpec(kind="attentive-tokens", tokens=197, width=768, classes=10).heads == 8
    assert (
        HeadSpec(
            kind="attentive-tokens", tokens=197, width=768, classes=10, attention_heads=4
        ).heads
        == 4
    )


def test_faulty_specs_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean attentive"):
        HeadSpec(kind="atentive", tokens=1, width=4, classes=2)
    with pytest.raises(OptionError, match=r"between 1 and the width 4, came 5: set --heads"):
        HeadSpec(kind="attentive", tokens=5, width=4, classes=2)
    with pytest.raises(OptionError, match="at least 2 classes"):
        HeadSpec(kind="linear", tokens=5, width=4, classes=1)
    with pytest.raises(OptionError, match="linear head has no attention heads"):
        HeadSpec(kind="linear", tokens=5, width=4, classes=2, attention_heads=2)
