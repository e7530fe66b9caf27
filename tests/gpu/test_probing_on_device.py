from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layercache.probing.closed_form.ridge import ridge
from layercache.probing.closed_form.targets import one_hot
from layercache.probing.data.resident import ResidentTokens
from layercache.probing.data.split_selection import SplitSelection, TokenSource
from layercache.probing.data.streaming import StreamedTokens
from layercache.probing.heads import HeadSpec
from layercache.probing.training.config import HParams, TrainConfig
from layercache.probing.training.fit import fit, predict
from layercache.testing import InMemoryTokens, make_cache, make_separable_tokens, make_spec

TRAIN, VAL = torch.arange(200), torch.arange(200, 300)
CONFIGS = [HParams(lr=1e-2, weight_decay=1e-2), HParams(lr=1e-3, weight_decay=1.0)]
SHORT = TrainConfig(epochs=4, min_steps=0, batch=50, noise=None)


def logits(device: torch.device, *, kind: str, precision: str = "fp32") -> torch.Tensor:
    """Logits (G, N, C) of two configurations after 16 steps."""
    plain = make_separable_tokens()
    dataset = InMemoryTokens(plain.x.to(device), plain.labels.to(device))
    fits = fit(
        dataset,
        head=HeadSpec(kind=kind, tokens=dataset.tokens, width=dataset.width, classes=3),
        configs=CONFIGS,
        train=TRAIN,
        val=VAL,
        seed=0,
        train_config=SHORT,
        device=device,
        precision=precision,
    )
    return torch.stack(
        [predict(f, dataset=dataset, rows=VAL, device=device, precision=precision) for f in fits]
    ).cpu()


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_training_in_fp32_gives_the_logits_of_the_cpu(device: torch.device, kind: str) -> None:
    expected = logits(torch.device("cpu"), kind=kind)
    torch.testing.assert_close(logits(device, kind=kind), expected, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(expected[0], expected[1], rtol=1e-2, atol=1e-2)  # negative control


def test_training_in_bf16_gives_nearly_the_logits_of_the_cpu(device: torch.device) -> None:
    expected = logits(torch.device("cpu"), kind="attentive")
    got = logits(device, kind="attentive", precision="bf16")
    agree = (got.argmax(-1) == expected.argmax(-1)).float().mean()
    assert agree >= 0.9


def test_training_twice_on_the_device_gives_nearly_the_same_logits(device: torch.device) -> None:
    one, two = (logits(device, kind="attentive") for _ in range(2))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(90, 12), (40, 60)])
def test_ridge_on_the_device_equals_the_normal_equations_in_float64(
    device: torch.device, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    y = one_hot(torch.randint(0, 3, (shape[0],), generator=generator), 3)
    fitted = ridge(x.to(device), y.to(device))
    centred, target = (t.double() - t.double().mean(0) for t in (x, y))
    for penalty in (0.1, 10.0):
        gram = centred.t() @ centred + penalty * torch.eye(shape[1], dtype=torch.float64)
        expected = centred @ torch.linalg.solve(gram, centred.t() @ target) + y.double().mean(0)
        (got,) = fitted.predict(x.to(device), [penalty])
        torch.testing.assert_close(got.double().cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("blocks", [1, 3])
def test_tokens_streamed_to_the_device_equal_those_read_from_the_cache(
    tmp_path: Path, device: torch.device, small_blocks: int, blocks: int
) -> None:
    split = make_cache(tmp_path, make_spec(100)).split("train")
    pairs = ((6, "cls"), (12, "ap"))
    selection = SplitSelection((TokenSource(split, pairs),), np.arange(split.rows))
    row_bytes = len(pairs) * split.spec.width * 2
    streamed = StreamedTokens(
        selection, device=device, memory_budget=2 * blocks * small_blocks * row_bytes
    )
    stored = torch.from_numpy(split.read(pairs)).permute(1, 0, 2).double()
    expected = torch.nn.functional.normalize(stored, dim=-1).float()
    rows = np.arange(split.rows)
    for dataset in (streamed, ResidentTokens(selection, device=device)):
        batches = dataset.iter_batches(rows, batch_size=32, train=False)
        got = torch.cat([x.cpu().clone() for x, _ in batches])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
