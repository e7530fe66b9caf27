from __future__ import annotations

import pytest
import torch

from layercache.probing.heads.outer_product import OuterProduct
from layercache.probing.training import batched_adamw
from layercache.probing.training.batched_adamw import AdamW
from layercache.probing.training.schedule import cosine_lr


@pytest.mark.parametrize("groups", [("",), ("a", "b")])
@pytest.mark.parametrize("fused_from", [1, 10**9])
def test_adamw_by_kernel_and_by_formula_equals_torch_per_configuration(
    fused_from: int, groups: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    lr = torch.tensor([[0.1, 0.01, 0.001], [0.02, 0.3, 0.005]])[: len(groups)]
    decay = torch.tensor([[0.0, 0.5, 1.0], [0.1, 0.0, 0.2]])[: len(groups)]
    ours = {"a": torch.randn(3, 40, 5), "b": torch.randn(3, 7)}
    theirs = [{n: torch.nn.Parameter(v[g].clone()) for n, v in ours.items()} for g in range(3)]
    in_groups = [
        [[value for name, value in p.items() if name.startswith(group)] for group in groups]
        for p in theirs
    ]
    optimisers = [
        torch.optim.AdamW(
            [
                {"params": params, "lr": float(lr[k, g]), "weight_decay": float(decay[k, g])}
                for k, params in enumerate(of_config)
            ]
        )
        for g, of_config in enumerate(in_groups)
    ]
    optimiser = AdamW(
        ours,
        betas=(0.9, 0.999),
        eps=1e-8,
        clip=5.0,
        param_groups=groups,
        fused_min_elements=fused_from,
    )
    for count in range(1, 8):
        gradients = {
            n: torch.randn_like(v) * torch.tensor([0.01, 1.0, 100.0]).view(3, *[1] * (v.dim() - 1))
            for n, v in ours.items()
        }
        factor = cosine_lr(1.0, end=0.0, step=count, steps=10)
        copies = {n: v.clone() for n, v in gradients.items()}
        norms = []
        for at in (slice(0, 1), slice(1, 3)):
            part = {n: v[at] for n, v in gradients.items()}
            norms += optimiser.step(
                ours, part, at=at, count=count, lr=lr[:, at] * factor, weight_decay=decay[:, at]
            ).tolist()
        for g, p in enumerate(theirs):
            for name, value in p.items():
                value.grad = copies[name][g].clone()
            of_groups = [torch.nn.utils.clip_grad_norm_(params, 5.0) for params in in_groups[g]]
            assert torch.stack(of_groups).norm().item() == pytest.approx(norms[g])
            for k, group in enumerate(optimisers[g].param_groups):
                group["lr"] = float(lr[k, g]) * factor
            optimisers[g].step()
    for g, p in enumerate(theirs):
        for name, value in p.items():
            torch.testing.assert_close(ours[name][g], value.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused_from", [1, 10**9])
def test_adamw_of_an_outer_product_equals_that_of_its_matrix(
    fused_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_adamw, "PART_ELEMENTS", 12)
    torch.manual_seed(0)
    start = torch.randn(2, 3 * 4, 5)
    steps = [OuterProduct(torch.randn(2, 3, 4), torch.randn(2, 3, 5)) for _ in range(4)]
    values = []
    for dense in (False, True):
        parameters = {"a": start.clone()}
        optimizer = AdamW(
            parameters, betas=(0.9, 0.999), eps=1e-8, clip=1.0, fused_min_elements=fused_from
        )
        for count, gradient in enumerate(steps, 1):
            optimizer.step(
                parameters,
                {"a": gradient.dense() if dense else gradient},
                at=slice(0, 2),
                count=count,
                lr=torch.tensor([[0.1, 0.01]]),
                weight_decay=torch.tensor([[0.0, 0.5]]),
            )
        values.append(parameters["a"])
    torch.testing.assert_close(*values)
