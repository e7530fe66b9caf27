"""Rates of this machine for cost.py: decoding, forward, disk and training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import Files, write_jpegs
from benchmarks.stream import drop, files_of
from benchmarks.vit_b_spec import KINDS, LAYERS, SPLIT, WIDTH, make_spec
from layercache.cache import Cache, SplitWriter, digest_ids, open_cache
from layercache.cache.format import layout
from layercache.cache.storage.paths import CachePath
from layercache.testing import write_labels

CONFIGURATIONS = 2
"""Number of configurations that train together in a measured step."""


def write_cache(root: CachePath, rows: int) -> Cache:
    """Write a complete cache of random tokens at full width."""
    ids, labels = [f"{i}.JPEG" for i in range(rows)], np.arange(rows, dtype=np.int64) % 10
    spec = make_spec(rows, WIDTH, ids=digest_ids(ids))
    with SplitWriter(root, spec, SPLIT, ids=ids) as writer:
        write_labels(writer.path, spec, {SPLIT: labels}, classes=tuple("abcdefghij"))
        tokens = (
            np.random.default_rng(0)
            .standard_normal((LAYERS, len(KINDS), writer.block_rows, WIDTH), np.float32)
            .astype(np.float16)
        )
        for block in writer.pending:
            writer.write(
                block, tokens[:, :, : min(writer.block_rows, rows - block * writer.block_rows)]
            )
        writer.finish()
        return open_cache(writer.path)


def measured_decode(folder: Path) -> float:
    """Measure the images/s that one core decodes."""
    from layercache.extraction.decode_tuning import seconds_per_image
    from layercache.extraction.models.preprocessing.transform import Preprocessing

    write_jpegs(folder)
    side, half = (224, 224), (0.5, 0.5, 0.5)
    usual = Preprocessing(
        input_size=side,
        resize=(248, 248),
        interpolation="bicubic",
        crop_mode="center",
        mean=half,
        std=half,
    )
    return 1 / seconds_per_image(Files(str(folder), 200), [usual], shapes=[(3, *side)])


def measured_forward(*, device: str, batch: int) -> float:
    """Measure the images/s of the forward pass on one device."""
    import timm

    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval().to(device)
    x = torch.randn(batch, 3, 224, 224, device=device)
    with torch.inference_mode():
        return batch / _median(lambda: model.forward_features(x), device)


def measured_disk(folder: Path) -> tuple[float, float]:
    """Measure the bytes/s of writing, and of reading with a cold page cache."""
    size = layout.planned_bytes(make_spec(16 * 512, WIDTH), 16 * 512)
    begin = time.perf_counter()
    cache = write_cache(folder, 16 * 512)
    write = size / (time.perf_counter() - begin)
    drop(files_of(cache))
    pairs = [(layer, kind) for layer in cache.spec.layers for kind in KINDS]
    out = np.zeros((len(pairs), 512, WIDTH), np.float16)
    begin = time.perf_counter()
    for start in range(0, 16 * 512, 512):
        cache.split(SPLIT).read(pairs, rows=(start, start + 512), out=out)
    return write, size / (time.perf_counter() - begin)


def measured_step(classes: int, *, device: str) -> float:
    """Measure the seconds per training step of one configuration."""
    from layercache.probing.heads import HeadSpec
    from layercache.probing.training.config import TrainConfig, paper_grid
    from layercache.probing.training.config_batch import ConfigBatch

    head = HeadSpec(kind="attentive", tokens=LAYERS * len(KINDS), width=WIDTH, classes=classes)
    configs = paper_grid("attentive")[:CONFIGURATIONS]
    group = ConfigBatch(
        head,
        configs,
        seed=0,
        train_config=TrainConfig(),
        steps=10**6,
        class_weights=None,
        device=torch.device(device),
        precision="fp32",
    )
    x = torch.nn.functional.normalize(
        torch.randn(TrainConfig().batch, head.tokens, WIDTH, device=device), dim=-1
    )
    y = torch.randint(0, classes, (len(x),), device=device)
    return _median(lambda: group.step(x, y, step=0), device) / CONFIGURATIONS


def _median(call: Callable[[], object], device: str) -> float:
    times = []
    for turn in range(4):
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)
