"""Complete probes with given predictions, which need no training.

Shapes: N test images, C classes, H attention heads, S tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layercache.cache import Cache, digest_ids
from layercache.cache.format.cache_spec import sha256_json
from layercache.probing.heads import HeadSpec
from layercache.probing.heads.spec import BASELINES
from layercache.probing.metrics import STORED, evaluate
from layercache.probing.results.predictions import Predictions
from layercache.probing.results.probe_folder import ProbeFolder
from layercache.probing.results.probe_store import PROBES, Probe, read_probe
from layercache.probing.spec import ProbeSpec
from layercache.probing.token_selection import select_tokens
from layercache.probing.training.config import TrainConfig

Array = np.ndarray[Any, np.dtype[Any]]


def write_probe(
    cache: Cache,
    logits: Array,
    *,
    targets: Array | None = None,
    ids: Sequence[str] | None = None,
    head: str = "linear",
    layers: str = "all",
    tokens: str = "cls+ap",
    grid: Sequence[Mapping[str, float]] = ({"lr": 0.1, "weight_decay": 0.0, "dropout": 0.0},),
    seed: int = 0,
    shots: int | None = None,
    num_heads: int = 0,
    train_config: TrainConfig | None = None,
    test_split: str = "test",
    attention: Array | None = None,
) -> Probe:
    """Store a complete probe of a single-label cache in the cache's folder.

    Args:
        cache: Cache of the probe.
        logits: Its logits on the images of `test_split`, float32 (N, C).
        targets: Class numbers, int64 (N,); None: the labels of `test_split`.
        ids: Ids of the images; None: those of `test_split`.
        head: Name of the head.
        layers: Layer choice.
        tokens: Token kinds.
        grid: Configurations of the search.
        seed: Seed.
        shots: Training samples per class.
        num_heads: Attention heads; 0: the default.
        train_config: Training configuration; None: the paper's.
        test_split: Split that it was tested on.
        attention: Mean attention (H, S) of an attentive head; None: uniform.
    """
    selection = select_tokens(cache, head=head, layers=layers, tokens=tokens)
    kind = "linear" if head in BASELINES else head
    head_spec = HeadSpec(
        kind=kind,
        tokens=len(selection.pairs),
        width=cache.spec.width,
        classes=len(cache.classes),
        num_heads=num_heads,
    )
    spec = ProbeSpec(
        tokens=selection,
        head=head,
        head_spec=head_spec,
        grid=tuple(grid),
        seed=seed,
        shots=shots,
        train_fraction=None,
        train_config=train_config or TrainConfig(),
        precision="fp32",
        test_split=test_split,
    )
    targets = cache.split(test_split).labels if targets is None else targets
    ids = cache.split(test_split).ids if ids is None else ids
    if head_spec.has_attention and attention is None:
        attention = np.full((head_spec.attention_rows, head_spec.tokens), 1 / head_spec.tokens)
    mean = None if attention is None else attention.astype(np.float32)
    predictions = Predictions(
        logits=logits.astype(np.float32),
        targets=targets,
        ids=digest_ids(list(ids)),
        sample_ids=tuple(ids),
        class_names=cache.classes,
        attention_mean=mean,
        attention_std=None if mean is None else mean / 4,
    )
    row = {
        "probe": spec.id,
        "model": cache.spec.model,
        "dataset": cache.spec.dataset.name,
        "head": head,
        "layers": selection.layers,
        "tokens": selection.kinds,
        "spatial": "",
        "embedding": False,
        "n_tokens": head_spec.tokens,
        "num_heads": head_spec.num_heads,
        "seed": seed,
        "shots": shots,
        "train_fraction": None,
        "fingerprint": cache.spec.fingerprint[:12],
        "weights_digest": cache.spec.weights[:12],
        "dataset_digest": sha256_json(cache.spec.to_json()["dataset"])[:12],
        "train_config_digest": sha256_json(spec.to_json()["train_config"])[:12],
        "n_configs": len(spec.grid),
        **dict.fromkeys((f"test_{name}" for name in STORED), None),
        **{f"test_{name}": v for name, v in evaluate(predictions.logits, targets).items()},
    }
    folder = ProbeFolder(cache.path / PROBES / spec.id)
    folder.write(spec=spec.to_json(), row=row, configs=[], head=None, predictions=[predictions])
    probe = read_probe(folder.path)
    assert probe is not None
    return probe
