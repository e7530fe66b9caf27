from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.fusion import SHARES, BatchedFusionHead
from layercache.probing.heads.spec import GATES
from tests.probing.textbook import GivenDropout, TextbookFusion, randomize, stack_states

P, Q = 4, 5


def make_spec(d: int, *, gate: str, embedded: bool = False) -> HeadSpec:
    return HeadSpec(
        kind="fusion",
        tokens=P + Q,
        width=d,
        classes=3,
        num_heads=2,
        spatial_tokens=Q,
        gate=gate,
        embedding_ids=(0, 0, 1, 2, 1) if embedded else None,
    )


def make_modules(n: int, spec: HeadSpec) -> list[torch.nn.Module]:
    modules = []
    for i in range(n):
        module = randomize(
            TextbookFusion(
                tokens=P + Q,
                width=spec.width,
                classes=3,
                num_heads=2,
                spatial_tokens=Q,
                gate=spec.gate,
                embedding_ids=spec.embedding_ids,
            )
        )
        module.spatial_share.fill_(0.2 + 0.3 * i)
        modules.append(module)
    return modules


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    d=st.integers(5, 12),
    gate=st.sampled_from(GATES),
    dropped=st.booleans(),
    embedded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_fusion_head_equals_the_module_with_all_gradients(
    n: int, d: int, gate: str, dropped: bool, embedded: bool, seed: int
) -> None:
    """The sum of the losses of both branches and of the gate, which sees fixed branches."""
    torch.manual_seed(seed)
    spec = make_spec(d, gate=gate, embedded=embedded)
    head, modules = build(spec), [module.train() for module in make_modules(n, spec)]
    assert isinstance(head, BatchedFusionHead)
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = F.normalize(torch.randn(6, P + Q, d, dtype=torch.float64), dim=-1)
    cotangents = torch.randn(3, n, 6, 3, dtype=torch.float64)
    n_spatial = spec.branches[1].num_heads
    draw = torch.rand(6, P * 2 + Q * n_spatial, dtype=torch.float64)
    rates = torch.rand(2, n, dtype=torch.float64) * 0.8 if dropped else None

    parts = head.training_logits(p, head.preprocess(x), dropout=rates, uniform_bsh=draw)
    assert len(parts) == (2 if gate == "scalar" else 3)
    sum((c * part).sum() for c, part in zip(cotangents, parts, strict=False)).backward()

    for g, module in enumerate(modules):
        if rates is not None:
            layers, spatial = (
                (part >= rate) / (1 - rate)
                for part, rate in zip(
                    (draw[:, : P * 2], draw[:, P * 2 :]), rates[:, g], strict=True
                )
            )
            module.layers.attention_dropout = GivenDropout(layers.view(6, P, 2))
            module.spatial.attention_dropout = GivenDropout(spatial.view(6, Q, n_spatial))
        layers, spatial = module.branch_logits(x)
        expected = [layers, spatial]
        (layers * cotangents[0, g]).sum().backward()
        (spatial * cotangents[1, g]).sum().backward()
        if gate != "scalar":
            expected.append(module(x))
            before = {
                name: q.grad.clone() for name, q in module.named_parameters() if q.grad is not None
            }
            (expected[2] * cotangents[2, g]).sum().backward()
            for name, q in module.named_parameters():
                if not name.startswith("gate."):
                    q.grad = before[name]
        for part, values in zip(parts, expected, strict=True):
            torch.testing.assert_close(part[g], values, rtol=1e-6, atol=1e-7)
        for name, q in module.named_parameters():
            gradient = torch.zeros_like(q) if p[name].grad is None else p[name].grad[g]
            torch.testing.assert_close(
                gradient, q.grad, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("gate", GATES)
def test_logits_attention_and_gate_equal_the_module_in_evaluation_mode(gate: str) -> None:
    torch.manual_seed(0)
    spec = make_spec(9, gate=gate)
    head, (module,) = build(spec), make_modules(1, spec)
    assert isinstance(head, BatchedFusionHead)
    module.eval()
    p = stack_states([module], set(head.init_parameters(torch.Generator())))
    x = F.normalize(torch.randn(4, P + Q, 9, dtype=torch.float64), dim=-1)
    preprocessed = head.preprocess(x)
    torch.testing.assert_close(head.logits(p, preprocessed, train=False)[0], module(x))
    torch.testing.assert_close(head.gate(p, preprocessed)[0], module.gate_weights(x))
    weights = head.attention(p, preprocessed)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(weights, module.attention(x))
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 2 + 8, dtype=torch.float64))
    assert not weights[:, :2, P:].any()
    assert not weights[:, 2:, :P].any()


@pytest.mark.parametrize("gate", GATES)
def test_shares_of_zero_and_one_are_the_branches_exactly(gate: str) -> None:
    torch.manual_seed(1)
    spec = make_spec(9, gate=gate)
    head, modules = build(spec), make_modules(2, spec)
    assert isinstance(head, BatchedFusionHead)
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = F.normalize(torch.randn(4, P + Q, 9, dtype=torch.float64), dim=-1)
    by_share = head.logits_by_share(p, head.preprocess(x), torch.tensor(SHARES).double())
    for g, module in enumerate(modules):
        layers, spatial = module.eval().branch_logits(x)
        torch.testing.assert_close(by_share[0, g], layers)
        torch.testing.assert_close(by_share[-1, g], spatial)
        assert not torch.allclose(by_share[2, g], layers)  # negative control
        if gate == "scalar":
            torch.testing.assert_close(by_share[1, g], 0.75 * layers + 0.25 * spatial)


def test_learned_gate_hands_no_gradient_to_the_branches() -> None:
    spec = make_spec(9, gate="sample")
    head, modules = build(spec), make_modules(1, spec)
    assert isinstance(head, BatchedFusionHead)
    p = stack_states(modules, set(head.init_parameters(torch.Generator())))
    x = F.normalize(torch.randn(4, P + Q, 9, dtype=torch.float64), dim=-1)
    head.training_logits(p, head.preprocess(x))[2].sum().backward()
    with_gradient = {name for name, value in p.items() if value.grad is not None}
    assert with_gradient == {"gate.weight", "gate.bias"}


def test_fusion_specs_with_invalid_values_are_refused() -> None:
    shape = {"kind": "fusion", "tokens": 9, "width": 8, "classes": 3}
    with pytest.raises(OptionError, match="at least 1 and less than all 9 tokens, got 0"):
        HeadSpec(**shape, gate="scalar")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean sample"):
        HeadSpec(**shape, spatial_tokens=5, gate="samples")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean spatial"):
        HeadSpec(**shape, spatial_tokens=5, gate="class", branch="spatiall")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a gate and branches, got"):
        HeadSpec(kind="attentive", tokens=3, width=8, classes=3, branch="layers")
    with pytest.raises(OptionError, match="only the fusion head has spatial_tokens"):
        HeadSpec(kind="attentive", tokens=3, width=8, classes=3, spatial_tokens=1)
    with pytest.raises(OptionError, match="one index for each of the 5 tokens"):
        HeadSpec(**shape, spatial_tokens=5, gate="class", embedding_ids=(0, 1))  # type: ignore[arg-type]
