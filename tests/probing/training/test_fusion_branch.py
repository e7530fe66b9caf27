"""Final fits of fusion heads of one branch: to the bits of a fit of both, and without the other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layercache.errors import ProbeError
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.fitted import FittedHead
from layercache.probing.heads.fusion import SHARE
from layercache.probing.heads.spec import GATES, LAYERS, SPATIAL
from layercache.probing.metrics import find_metric
from layercache.probing.refit import refit
from layercache.probing.results.config_score import ConfigScore
from layercache.probing.training.config import TrainConfig
from layercache.probing.training.fit import predict
from layercache.probing.training.trainer import SGDTrainer
from layercache.testing import InMemoryTokens

P, Q, D = 4, 6, 20
ROWS = np.arange(150)
SHORT = TrainConfig(epochs=4, min_steps=0, batch=50)
HPARAMS = {"lr": 1e-2, "weight_decay": 1e-2, "dropout": 0.3}
IDS = {"layer_ids": (0, 0, 1, 1, *[1] * Q), "kind_ids": (0, 1, 0, 1, *[2] * Q)}
REGULARIZED = dataclasses.replace(
    SHORT, layer_dropout=0.3, kind_dropout=0.2, last_layer_penalty=0.1, clip=0.05
)


def make_tokens(width: int = D) -> InMemoryTokens:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (200,), generator=generator)
    centers = torch.randn(3, P + Q, width, generator=generator)
    x = 0.5 * centers[labels] + torch.randn(200, P + Q, width, generator=generator)
    return InMemoryTokens(x, labels)


def train(
    share: float | None,
    *,
    gate: str = "scalar",
    width: int = D,
    config: TrainConfig = SHORT,
    hparams: dict[str, float] = HPARAMS,
    saver: Any = None,
    **more: Any,
) -> FittedHead:
    """Return the final fit for a chosen share; None: that of both branches."""
    shape = {"kind": "fusion", "tokens": P + Q, "width": width, "classes": 3, "spatial_tokens": Q}
    trainer = SGDTrainer(
        head=HeadSpec(**shape, gate=gate, **more),  # type: ignore[arg-type]
        config=config,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
        configs_per_pass=None,
        on_progress=None,
        saver=saver,
    )
    return trainer.train(make_tokens(width), hparams, rows=ROWS, epochs=None, spatial_share=share)


@pytest.mark.parametrize(("share", "branch"), [(0.0, LAYERS), (1.0, SPATIAL)])
@pytest.mark.parametrize(
    "options",
    [
        *({"gate": gate} for gate in GATES),
        {"embedding_ids": (0, 0, 1, 2, 2, 1)},
        {"width": 15, "gate": "class"},
        {"hparams": HPARAMS | {"dropout": 0.0}, "config": dataclasses.replace(SHORT, noise=None)},
        {"config": REGULARIZED, **IDS},
        {"config": dataclasses.replace(REGULARIZED, last_layer_penalty=0.0), **IDS},
    ],
)
def test_final_fit_of_one_branch_ends_with_the_bits_of_a_fit_of_both(
    share: float, branch: str, options: dict[str, Any]
) -> None:
    both, alone = train(None, **options), train(share, **options)
    assert alone.spec == dataclasses.replace(both.spec, branch=branch)
    assert alone.hparams == {**both.hparams, SHARE: share}
    used = {n: p for n, p in both.state_dict.items() if n.startswith(f"{branch}.")}
    assert 0 < len(used) < len(both.state_dict)
    assert alone.state_dict.keys() == used.keys()
    for name, value in used.items():
        assert torch.equal(alone.state_dict[name], value), name

    dataset = make_tokens(options.get("width", D))
    state = {**both.state_dict, SHARE: torch.tensor([share])}
    mixed = dataclasses.replace(both, state_dict=state)  # runs both branches, and the gate
    assert torch.equal(alone.predict(dataset.x), mixed.predict(dataset.x))
    assert torch.equal(alone.gate(dataset.x), mixed.gate(dataset.x))
    rows = torch.arange(200)
    logits = predict(alone, dataset=dataset, rows=rows)
    assert torch.equal(logits, predict(mixed, dataset=dataset, rows=rows))
    assert torch.equal(logits, predict(both.with_spatial_share(share), dataset=dataset, rows=rows))
    assert not torch.allclose(logits, predict(both, dataset=dataset, rows=rows)), "share 1/2"


@pytest.mark.parametrize(("share", "rows"), [(0.0, slice(P)), (1.0, slice(P, None))])
def test_head_of_one_branch_has_attention_and_parameters_of_this_branch_alone(
    share: float, rows: slice
) -> None:
    both, alone = train(None), train(share)
    x = make_tokens().x
    weights = alone.attention(x)
    assert torch.equal(weights, both.attention(x)[:, rows])
    assert weights.shape[1] == alone.spec.attention_rows < both.spec.attention_rows
    torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2]))
    assert alone.n_params + train(1 - share).n_params == both.n_params
    changed = x.clone()
    changed[:, P:] = 1 if share == 0 else changed[:, P:]
    changed[:, :P] = 1 if share == 1 else changed[:, :P]
    assert torch.equal(alone.predict(changed), alone.predict(x))
    assert not torch.allclose(both.predict(changed), both.predict(x))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_head_of_one_branch_refuses_a_share_of_the_branch_that_was_not_trained(
    share: float,
) -> None:
    alone = train(share)
    assert alone.with_spatial_share(share).state_dict.keys() == alone.state_dict.keys()
    for other in (0.5, 1 - share):
        with pytest.raises(ProbeError, match=f"expected share {share:g} .*, got {other:g}"):
            alone.with_spatial_share(other)


def test_final_fit_of_both_branches_has_the_share_that_was_chosen() -> None:
    head = train(0.25)
    assert head.spec.branch == ""
    assert head.state_dict[SHARE].item() == head.hparams[SHARE] == 0.25


@dataclass
class RecordingTrainer:
    """Diverges on the first final fit, and records the shares that it was given."""

    shares: list[float | None] = field(default_factory=list)

    def train(self, *_: Any, spatial_share: float | None = None, **__: Any) -> Any:
        self.shares.append(spatial_share)
        return SimpleNamespace(diverged=len(self.shares) == 1)


def test_refit_after_a_divergence_takes_the_share_of_the_next_configuration() -> None:
    name = "balanced_accuracy"
    configs = [
        ConfigScore(
            hparams={**HPARAMS, "lr": lr},
            fold=None,
            val_metrics={
                **dict.fromkeys((name, f"layers_{name}", f"spatial_{name}"), score),
                SHARE: share,
            },
        )
        for lr, score, share in ((0.1, 0.9, 0.0), (0.01, 0.8, 1.0), (0.001, 0.7, 0.5))
    ]
    search: Any = SimpleNamespace(
        head="fusion",
        paper_compat=False,
        selection_metric=find_metric("balanced_accuracy"),
        grid=tuple(config.hparams for config in configs),
    )
    trainer: Any = RecordingTrainer()
    selected, _ = refit(search, configs, make_tokens(), trainer, rows=ROWS)  # type: ignore[arg-type]
    assert trainer.shares == [0.0, 1.0]
    assert selected.hparams["lr"] == 0.01
    assert configs[0].diverged
