"""Attention, layer and kind dropout, and the penalty on attention below the last layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from layercache.errors import OptionError
from layercache.probing.heads import HeadSpec, build
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.spec import SPATIAL
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.config_batch import ConfigBatch
from layercache.probing.training.dropout import AttentionDropout, TokenDropout, drop_tokens
from layercache.probing.training.fit import fit
from layercache.testing import make_separable_tokens
from tests.probing.textbook import TextbookAttentive

LAYERS, KINDS = (0, 0, 1, 1, 2, 2), (0, 1, 0, 1, 0, 1)
SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)


def spec(kind: str = "attentive", **more: object) -> HeadSpec:
    fields = {"layer_ids": LAYERS, "kind_ids": KINDS} | more
    return HeadSpec(kind=kind, tokens=6, width=16, classes=3, **fields)  # type: ignore[arg-type]


def test_layers_and_kinds_are_dropped_whole_at_their_rates() -> None:
    dropout = TokenDropout(spec(), layer_rate=0.3, kind_rate=0.0, seed=0)
    kept = dropout.draw(20_000, step=0)
    assert kept is not None
    assert torch.equal(kept[:, ::2], kept[:, 1::2])  # both kinds of a layer
    # all three are dropped in 2.7 % of the draws; then one of them is kept after all
    assert (~kept[:, ::2]).float().mean().item() == pytest.approx(0.3 - 0.027 / 3, abs=0.01)
    kinds = TokenDropout(spec(), layer_rate=0.0, kind_rate=0.3, seed=0).draw(20_000, step=0)
    assert kinds is not None
    assert torch.equal(kinds[:, :2], kinds[:, 4:])
    assert (~kinds[:, :2]).float().mean().item() == pytest.approx(0.3 - 0.09 / 2, abs=0.01)


def test_every_row_keeps_a_token_and_draws_depend_on_seed_and_step_alone() -> None:
    ids = {"layer_ids": (0, 1, 2, 3, 4, 5), "kind_ids": (0, 1, 2, 3, 4, 5)}
    dropout = TokenDropout(spec(**ids), layer_rate=0.9, kind_rate=0.9, seed=1)
    kept = dropout.draw(500, step=3)
    assert kept is not None
    assert kept.any(1).all()
    again = TokenDropout(spec(**ids), layer_rate=0.9, kind_rate=0.9, seed=1).draw(500, step=3)
    assert torch.equal(kept, again)  # type: ignore[arg-type]
    assert not torch.equal(kept, dropout.draw(500, step=4))  # type: ignore[arg-type]
    assert TokenDropout(spec(), layer_rate=0.0, kind_rate=0.0, seed=1).draw(5, step=0) is None


def test_spatial_tokens_of_a_fusion_head_are_kept() -> None:
    fused = spec("fusion", spatial_tokens=2, gate="scalar")
    kept = TokenDropout(fused, layer_rate=0.5, kind_rate=0.5, seed=0).draw(300, step=0)
    assert kept is not None
    assert kept[:, 4:].all()
    assert not kept[:, :4].all()


@pytest.mark.parametrize("kind", ["attentive", "efficient"])
def test_attention_is_that_over_the_kept_tokens_alone(kind: str) -> None:
    torch.manual_seed(0)
    head = build(spec(kind, num_heads=2))
    generator = torch.Generator().manual_seed(0)
    p = {n: v.double()[None] for n, v in head.init_parameters(generator).items()}
    x = F.normalize(torch.randn(1, 6, 16, dtype=torch.float64), dim=-1)
    kept = torch.tensor([[True, True, False, False, True, True]])
    weights = head.attention(p, head.preprocess(x), kept_bs=kept)  # type: ignore[attr-defined]
    shorter = build(HeadSpec(kind=kind, tokens=4, width=16, classes=3, num_heads=2))
    expected = shorter.attention(p, shorter.preprocess(x[:, kept[0]]))  # type: ignore[attr-defined]
    torch.testing.assert_close(weights[:, kept[0]], expected)
    assert not weights[:, 2:4].any()


def test_heads_without_attention_see_zeros_and_the_rest_scaled_up() -> None:
    x = torch.ones(2, 4, 3)
    kept = torch.tensor([[True, True, True, True], [True, False, False, False]])
    dropped = drop_tokens(x, kept)
    assert torch.equal(dropped[0], x[0])
    assert dropped[1].sum(1).tolist() == [12, 0, 0, 0]


@pytest.mark.parametrize("penalty", [0.7, 0.0])
def test_penalty_adds_the_attention_below_the_last_layer_with_its_gradient(
    penalty: float,
) -> None:
    """One step of the penalized loss equals a step of torch's AdamW on the textbook module."""
    torch.manual_seed(0)
    config = dataclasses.replace(SHORT, last_layer_penalty=penalty, clip=None)
    batch = ConfigBatch(
        spec(num_heads=2),
        [HParams(lr=1e-2, weight_decay=0.0)],
        seed=0,
        train_config=config,
        steps=10,
        class_weights=None,
        device=torch.device("cpu"),
        precision="fp32",
    )
    module = TextbookAttentive(tokens=6, width=16, classes=3, num_heads=2)
    module.load_state_dict(batch.head_state_dict(0, steps=0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.0)
    x = F.normalize(torch.randn(30, 6, 16), dim=-1)
    y = torch.arange(30) % 3
    loss = F.cross_entropy(module.train()(x), y)
    loss = loss + config.last_layer_penalty * module.attention(x)[..., :4].sum(2).mean()
    loss.backward()
    optimizer.step()
    assert batch.step(x, y, step=0).item() == pytest.approx(loss.item(), rel=1e-5)
    state = batch.head_state_dict(0, steps=1)
    for name in ("to_key.weight", "query", "classifier.weight"):
        torch.testing.assert_close(state[name], module.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        spec("linear"),
        spec("scalar-mix", mix_ids=KINDS),
        spec(),
        spec("efficient"),
        spec("hybrid", embedding_ids=KINDS),
        spec("fusion", spatial_tokens=2, gate="sample"),
    ],
    ids=lambda head: head.kind,
)
def test_regularized_group_equals_each_configuration_alone_and_learns(head: HeadSpec) -> None:
    dataset = make_separable_tokens(tokens=6)
    train_config = TrainConfig(
        epochs=12,
        min_steps=0,
        batch=50,
        layer_dropout=0.3,
        kind_dropout=0.1,
        last_layer_penalty=0.0 if head.kind == "linear" else 0.1,
    )
    configs = [HParams(lr=1e-2, weight_decay=w) for w in (1e-4, 1.0)]

    def run(configs: list[HParams]) -> list[FittedHead]:
        return fit(
            dataset,
            head=head,
            configs=configs,
            train=torch.arange(200),
            val=torch.arange(200, 300),
            seed=1,
            train_config=train_config,
        )

    together = run(configs)
    assert together[1].losses == pytest.approx(run(configs[1:])[0].losses, rel=1e-4)
    assert together[0].val_metrics is not None
    assert together[0].val_metrics["balanced_accuracy"] > 0.7
    assert together[0].losses[-1] < together[0].losses[0]


def test_penalty_moves_attention_to_the_last_layer() -> None:
    dataset = make_separable_tokens(tokens=6)
    shares = []
    for penalty in (0.0, 1.0):
        (head,) = fit(
            dataset,
            head=spec(),
            configs=[HParams(lr=1e-2, weight_decay=0.0)],
            train=torch.arange(200),
            val=None,
            seed=0,
            train_config=dataclasses.replace(SHORT, epochs=20, last_layer_penalty=penalty),
        )
        shares.append(head.attention(dataset.x)[..., 4:].sum(2).mean().item())
    assert shares[1] > shares[0] + 0.2


def test_invalid_values_and_heads_are_refused() -> None:
    with pytest.raises(OptionError, match=r"layer_dropout: expected a probability in \[0, 1\)"):
        TrainConfig(layer_dropout=1.0)
    with pytest.raises(OptionError, match="last_layer_penalty: expected a number >= 0, got -1"):
        TrainConfig(last_layer_penalty=-1)
    with pytest.raises(OptionError, match="linear head has no attention to direct"):
        TrainConfig(last_layer_penalty=0.1).check_head(spec("linear"))
    with pytest.raises(OptionError, match="arrays do not have: leave them out"):
        TrainConfig(layer_dropout=0.1).check_head(
            HeadSpec(kind="linear", tokens=6, width=16, classes=3)
        )
    with pytest.raises(OptionError, match="layer_ids to hold one index for each of the 6 tokens"):
        spec(layer_ids=(0, 1))


def test_default_fields_are_not_in_the_identity_of_a_probe() -> None:
    assert "layer_dropout" not in TrainConfig().to_json()
    assert TrainConfig(layer_dropout=0.2).to_json()["layer_dropout"] == 0.2
    assert "layer_ids" not in HeadSpec(kind="linear", tokens=1, width=4, classes=2).to_json()


def test_attention_dropout_of_a_fusion_head_is_that_of_each_branch_alone() -> None:
    shape = {"kind": "fusion", "tokens": 10, "width": 16, "classes": 3, "spatial_tokens": 6}
    fusion = HeadSpec(**shape, gate="scalar")  # type: ignore[arg-type]
    specs = (fusion, *fusion.branches, dataclasses.replace(fusion, branch=SPATIAL))
    both, layers, spatial, alone = (
        AttentionDropout(spec, seed=3, device=torch.device("cpu")) for spec in specs
    )
    for _ in range(2):
        state = both.get_state()
        drawn, of_layers, of_spatial = both.draw(5), layers.draw(5), spatial.draw(5)
        assert of_layers.shape == (5, 4, 4)
        assert of_spatial.shape == (5, 6, 8)
        assert torch.equal(drawn, torch.cat([of_layers.flatten(1), of_spatial.flatten(1)], 1))
        assert torch.equal(alone.draw(5), of_spatial)
    both.set_state(state)
    assert torch.equal(both.draw(5), drawn)
