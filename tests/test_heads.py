"""The heads as modules that anybody trains: equal forms, checkpoints, other people's loops."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import layercache
from layercache import heads
from layercache.errors import HeadMismatchError, OptionError, ProbeNotFoundError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads import build as build_batched
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import GATES, LAYERS, SPATIAL
from tests.probing.quick import ONE_CONFIG
from tests.probing.textbook import GivenDropout, randomize

T, D, C = 6, 20, 5
IDS = (0, 0, 1, 1, 2, 2)
SPECS = {
    "linear": HeadSpec(kind="linear", tokens=T, width=D, classes=C),
    "attentive": HeadSpec(kind="attentive", tokens=T, width=D, classes=C),
    "attentive, 3 heads": HeadSpec(kind="attentive", tokens=T, width=D, classes=C, num_heads=3),
    "attentive-tokens": HeadSpec(kind="attentive-tokens", tokens=T, width=D, classes=C),
    "scalar-mix": HeadSpec(kind="scalar-mix", tokens=T, width=D, classes=C),
    "scalar-mix, two kinds": HeadSpec(
        kind="scalar-mix", tokens=T, width=D, classes=C, mix_ids=(0, 1, 0, 1, 0, 1)
    ),
    "efficient": HeadSpec(kind="efficient", tokens=T, width=D, classes=C),
    "efficient, 3 queries": HeadSpec(kind="efficient", tokens=T, width=D, classes=C, num_heads=3),
    **{
        f"fusion, {gate} gate": HeadSpec(
            kind="fusion", tokens=T, width=D, classes=C, spatial_tokens=4, gate=gate
        )
        for gate in GATES
    },
    **{
        f"fusion, {branch} alone": HeadSpec(
            kind="fusion",
            tokens=T,
            width=D,
            classes=C,
            spatial_tokens=4,
            gate="class",
            embedding_ids=(0, 0, 1, 1),
            branch=branch,
        )
        for branch in (LAYERS, SPATIAL)
    },
    "hybrid": HeadSpec(kind="hybrid", tokens=T, width=D, classes=C),
    "hybrid, embeddings": HeadSpec(kind="hybrid", tokens=T, width=D, classes=C, embedding_ids=IDS),
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: heads.LinearHead(tokens=T, width=D, classes=C),
    "attentive": lambda: heads.AttentiveHead(tokens=T, width=D, classes=C, dropout=0.2),
    "scalar-mix": lambda: heads.ScalarMixHead(
        tokens=T, width=D, classes=C, mix_ids=(0, 1, 0, 1, 0, 1)
    ),
    "efficient": lambda: heads.EfficientHead(
        tokens=T, width=D, classes=C, num_queries=5, dropout=0.2
    ),
    "fusion": lambda: heads.FusionHead(tokens=T, width=D, classes=C, spatial_tokens=4),
    "fusion, class gate": lambda: heads.FusionHead(
        tokens=T, width=D, classes=C, spatial_tokens=4, gate="class", dropout=0.2
    ),
    "fusion, sample gate": lambda: heads.FusionHead(
        tokens=T, width=D, classes=C, spatial_tokens=4, gate="sample", embedding_ids=(0, 0, 1, 1)
    ),
    "fusion, one branch": lambda: heads.FusionBranch(
        tokens=T, width=D, classes=C, spatial_tokens=4, branch="spatial", dropout=0.2
    ),
    "hybrid": lambda: heads.HybridHead(
        tokens=T, width=D, classes=C, num_heads=2, embedding_ids=IDS
    ),
}


def tokens(n: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, T, D, generator=torch.Generator().manual_seed(4), dtype=dtype)


def fitted(spec: HeadSpec) -> FittedHead:
    """A head with every parameter far from its initial value: norms and running statistics too."""
    generator = torch.Generator().manual_seed(3)
    parameters = build_batched(spec).init_parameters(generator)
    for name, value in parameters.items():
        if name == "spatial_share":
            parameters[name] = torch.tensor([0.3])
            continue
        noise = torch.randn(value.shape, generator=generator)
        parameters[name] = (
            0.5 + noise.abs() if name.endswith("running_var") else value + 0.5 * noise
        )
    return FittedHead(spec=spec, state_dict=parameters, hparams={}, seed=0)


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(2, 5),
    t=st.integers(1, 6),
    d=st.integers(2, 17),
    h=st.integers(1, 6),
    train=st.booleans(),
    dropped=st.booleans(),
    embedded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_forward_equals_its_reference_with_all_gradients(
    b: int, t: int, d: int, h: int, train: bool, dropped: bool, embedded: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    module = randomize(
        heads.HybridHead(
            tokens=t,
            width=d,
            classes=3,
            num_heads=min(h, d),
            embedding_ids=range(t) if embedded else None,
        )
    ).train(train)
    if dropped:
        module.attention_dropout = GivenDropout(torch.rand(b, t, min(h, d)).double() * 2)
    other = copy.deepcopy(module)
    x = torch.randn(b, t, d, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    cotangent = torch.randn(b, 3, dtype=torch.float64)

    actual = module(x)
    expected = other.forward_reference(y)  # type: ignore[operator]
    (actual * cotangent).sum().backward()
    (expected * cotangent).sum().backward()

    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-7)
    for (name, p), q in zip(module.named_parameters(), other.parameters(), strict=True):
        assert p.grad is not None, name  # else DistributedDataParallel would wait for it
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-7, msg=name)
    for p, q in zip(module.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(p, q)


def test_reference_equals_scaled_dot_product_attention_of_torch() -> None:
    head = randomize(heads.AttentiveHead(tokens=T, width=D, classes=C, num_heads=4)).eval()
    assert isinstance(head, heads.AttentiveHead)
    x = F.normalize(tokens(7, dtype=torch.float64), dim=-1)
    q, k, v = (
        m.view(*m.shape[:-1], 4, 10).transpose(-2, -3)
        for m in (
            head.to_query(head.norm_query(head.query)).expand(7, 1, -1),
            head.to_key(head.norm_key(x)),
            head.to_value(head.norm_value(x)),
        )
    )
    mixed = F.scaled_dot_product_attention(q, k, v)[:, :, 0].flatten(1)
    expected = head.classifier(head.batch_norm(head.output(mixed)))
    torch.testing.assert_close(head.forward_reference(tokens(7, dtype=torch.float64)), expected)


def test_attention_has_one_row_of_weights_for_each_attention_head() -> None:
    head = heads.AttentiveHead(tokens=T, width=D, classes=C, num_heads=3)
    weights = head.attention(tokens(4))
    assert weights.shape == (4, 3, T)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))


@pytest.mark.parametrize("name", SPECS)
def test_loaded_module_gives_logits_and_attention_of_the_trained_head(name: str) -> None:
    trained = fitted(SPECS[name])
    head = heads.load(trained)
    assert not head.training
    expected = trained.predict(tokens(7))
    assert expected.std() > 0.1  # constant logits would agree trivially
    torch.testing.assert_close(head(tokens(7)), expected, atol=2e-5, rtol=1e-4)
    if not isinstance(head, heads.LinearHead):
        torch.testing.assert_close(head.attention(tokens(7)), trained.attention(tokens(7)))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (spec, name)
        for spec in (
            "hybrid, embeddings",
            "scalar-mix, two kinds",
            "efficient",
            "fusion, sample gate",
            "fusion, spatial alone",
        )
        for name in sorted(fitted(SPECS[spec]).state_dict)
    ],
)
def test_loaded_module_with_any_parameter_changed_gives_other_logits(spec: str, name: str) -> None:
    """Negative control; the key norm's bias adds the same to the score of every token."""
    trained = fitted(SPECS[spec])
    before = heads.load(trained)(tokens(7))
    value = trained.state_dict[name]
    noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(6))
    changed = dict(trained.state_dict) | {name: value + noise}
    after = heads.load(FittedHead(**vars(trained) | {"state_dict": changed}))(tokens(7))
    if name.endswith("norm_key.bias"):
        assert torch.equal(before, after)
    else:
        assert (after - before).abs().max() > 1e-3


def test_state_dict_of_a_module_is_that_of_the_checkpoint(planted: Callable[..., Any]) -> None:
    cache = planted()
    results = layercache.probe(
        cache, head=["linear", "scalar-mix", "attentive", "efficient"], **ONE_CONFIG
    )
    x = torch.from_numpy(cache.split("test").read([(1, "cls")])).float()
    for probe in results:
        checkpoint = layercache.load_head(probe.path)
        head = heads.load(probe)
        assert set(head.state_dict()) == set(checkpoint.state_dict)
        x = torch.from_numpy(cache.split("test").read(checkpoint.pairs)).transpose(0, 1)
        torch.testing.assert_close(head(x), checkpoint.predict(x), atol=1e-5, rtol=1e-4)
        assert torch.equal(head(x), heads.load(str(probe.path))(x))


@pytest.mark.parametrize("name", MODULES)
def test_module_is_copied_pickled_and_restored(name: str) -> None:
    head = MODULES[name]().eval()
    expected = head(tokens(3))
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    restored = MODULES[name]().eval()
    restored.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), restored):
        assert torch.equal(other(tokens(3)), expected)


@pytest.mark.parametrize("name", MODULES)
def test_module_compiles_as_one_graph(name: str) -> None:
    head = MODULES[name]().eval()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens(3)), head(tokens(3)))


@pytest.mark.parametrize("name", MODULES)
def test_module_trains_in_any_loop_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    head = MODULES[name]()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    y = torch.arange(60) % C
    x = tokens(60) + 3 * torch.randn(C, T, D)[y]
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(head(x), y)
        loss.backward()
        optimizer.step()
    head.eval()
    assert (head(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize("name", MODULES)
def test_module_trains_in_distributed_data_parallel(name: str, tmp_path: Path) -> None:
    """Its second step raises if a parameter had no gradient in the first."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        head = nn.parallel.DistributedDataParallel(MODULES[name]())
        for _ in range(2):
            head(tokens(4)).sum().backward()
    finally:
        dist.destroy_process_group()


def test_float16_tokens_of_a_cache_are_computed_in_float32() -> None:
    head = heads.AttentiveHead(tokens=T, width=D, classes=C).eval()
    assert torch.equal(head(tokens(3).half()), head(tokens(3).half().float()))
    assert head(tokens(3).half()).dtype == torch.float32


def test_tokens_are_normalized_unless_switched_off() -> None:
    head = heads.LinearHead(tokens=T, width=D, classes=C)
    torch.testing.assert_close(head(tokens(3)), head(3 * tokens(3)))
    head.normalize = False
    assert not torch.allclose(head(tokens(3)), head(3 * tokens(3)))


def test_sizes_that_no_head_has_are_refused() -> None:
    with pytest.raises(OptionError, match="width to be at least 1, got 0"):
        heads.LinearHead(tokens=T, width=0, classes=C)
    with pytest.raises(OptionError, match="between 1 and the width 4, got 6: set num_heads"):
        heads.AttentiveHead(tokens=6, width=4, classes=C)
    with pytest.raises(OptionError, match="one index for each of the 2 tokens"):
        heads.HybridHead(tokens=2, width=4, classes=C, num_heads=1, embedding_ids=[0, 2])
    with pytest.raises(HeadMismatchError, match=r"expected tokens \(images, 6, 20\), got \(3, 6\)"):
        heads.LinearHead(tokens=T, width=D, classes=C)(torch.zeros(3, 6))
    with pytest.raises(ProbeNotFoundError):
        heads.load("no-such-probe")
