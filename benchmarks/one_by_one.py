"""The search as most people write it: one textbook module after another, in a loop.

Loop (a) takes batches from a DataLoader, loop (b) slices of tensors; see probe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from layercache.probing.heads import HeadSpec
from layercache.probing.metrics import evaluate
from layercache.probing.training.class_weights import balanced_class_weights
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.schedule import cosine_lr
from layercache.testing import InMemoryTokens
from tests.probing.textbook import TextbookAttentive, TextbookLinear


class PerSample(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Dataset of loop (a): normalizes one sample per call and adds noise to it."""

    def __init__(self, data: InMemoryTokens, rows: Tensor, train_config: TrainConfig) -> None:
        self.x, self.y, self.noise = data.x[rows].cpu(), data.labels[rows].cpu(), train_config.noise

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = nn.functional.normalize(self.x[i], dim=-1)
        if self.noise is not None and torch.rand(()) < self.noise.probability:
            x = x + self.noise.std * torch.randn_like(x)
        return x, self.y[i]


def from_loader(
    data: InMemoryTokens, rows: Tensor, train_config: TrainConfig, batch: int
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function that iterates over one epoch of loop (a)."""
    return lambda: iter(
        torch.utils.data.DataLoader(
            PerSample(data, rows, train_config), batch_size=batch, shuffle=True
        )
    )


def from_slices(
    data: InMemoryTokens, rows: Tensor, train_config: TrainConfig, batch: int
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function that iterates over one epoch of loop (b)."""
    x_all, y_all, noise = data.x[rows], data.labels[rows], train_config.noise

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.randperm(len(y_all), device=x_all.device).split(batch):
            x = nn.functional.normalize(x_all[part], dim=-1)
            if noise is not None:
                picked = torch.rand(len(part), 1, 1, device=x.device) < noise.probability
                x = x + picked * noise.std * torch.randn_like(x)
            yield x, y_all[part]

    return epoch


def one_by_one(
    source: object,
    data: InMemoryTokens,
    *,
    head: HeadSpec,
    config: HParams,
    rows: Tensor,
    seed: int,
    train_config: TrainConfig,
) -> nn.Module:
    """Train the textbook module in one complete fit."""
    torch.manual_seed(seed)
    schedule = train_config.schedule(len(rows))
    module = textbook(head, config.dropout).to(data.x.device)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    criterion = nn.CrossEntropyLoss(
        weight=balanced_class_weights(data.labels[rows], head.classes).to(data.x.device)
    )
    epoch, step = source(data, rows, train_config, schedule.batch_size), 0  # type: ignore[operator]
    for _ in range(schedule.epochs):
        for x, y in epoch():
            optimizer.param_groups[0]["lr"] = cosine_lr(
                config.lr, end=train_config.lr_end, step=step, steps=schedule.steps
            )
            optimizer.zero_grad()
            criterion(module(x.to(data.x.device)), y.to(data.x.device)).backward()
            nn.utils.clip_grad_norm_(module.parameters(), train_config.clip or float("inf"))
            optimizer.step()
            step += 1
    return module.eval()


def textbook(head: HeadSpec, dropout: float = 0.0) -> nn.Module:
    """Build the textbook module of a head."""
    shape = {"tokens": head.tokens, "width": head.width, "classes": head.classes}
    return (
        TextbookLinear(**shape)
        if head.kind == "linear"
        else TextbookAttentive(**shape, num_heads=head.num_heads, dropout=dropout)
    )


def accuracy(module: nn.Module, data: InMemoryTokens, rows: Tensor) -> float:
    """Return the balanced accuracy on the given rows."""
    with torch.inference_mode():
        logits = torch.cat([module(data.x[part]) for part in rows.split(2048)])
    return evaluate(logits.cpu().numpy(), data.labels[rows].cpu().numpy())["balanced_accuracy"]
