"""Measure what a store of spatial tokens costs in accuracy, on a cache of uncompressed tokens.

For each store the codec is fitted on the training tokens of the cache, as `extract` does on those
of 256 images, and a cache of codes is written. Then the same attentive head, with the same seeds,
is trained and tested on both. Prints the error of the decoded tokens of the test split, per layer;
the test accuracy, and its difference from the uncompressed, mean over the seeds; and the accuracy
of the head that was trained on decoded tokens on the exact ones, which is what it would predict
from an image.

    python benchmarks/compressed_accuracy.py CACHE [--stores int8 pca:16 pq:16] [--layers quarter]
                                                   [--seeds 3] [--errors]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe
from sklearn.metrics import balanced_accuracy_score

import layercache
from layercache import TrainConfig
from layercache.cache import Cache, SplitWriter, open_cache
from layercache.cache.annotations.label import label_column, record_label
from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec
from layercache.cache.format.layers_and_tokens import parse_layers, select_pairs
from layercache.cache.storage.open import open_store
from layercache.cache.writing.codec import store_codec
from layercache.extraction.compression.fit_codec import fit_codec
from layercache.extraction.compression.sample import (
    SAMPLE_IMAGES,
    SAMPLE_TOKENS,
    TokenSample,
)
from layercache.extraction.compression.token_encoder import TokenEncoder
from layercache.probing.results.head_checkpoint import load_head


def read(cache: Cache, split: str, layers: str) -> np.ndarray:
    """Return the patch tokens of a split, (L, T, N, D)."""
    pairs = select_pairs(cache.spec, layers=layers, tokens="patch")
    n_layers = len(parse_layers(layers, cache.spec.depth))
    return (
        cache.split(split)
        .read(pairs)
        .reshape(n_layers, -1, cache.split(split).rows, cache.spec.width)
    )


def draw_sample(x_ltnd: np.ndarray) -> TokenSample:
    """Return the sample that an extraction would draw of these training tokens."""
    rows = np.unique(np.linspace(0, x_ltnd.shape[2] - 1, SAMPLE_IMAGES).round().astype(int))
    x = torch.from_numpy(x_ltnd[:, :, rows]).float().flatten(1, 2)
    drawn = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:SAMPLE_TOKENS]
    return TokenSample(
        tokens_lnd=x[:, drawn], low_ld=x.amin(1), high_ld=x.amax(1), images=len(rows), split="train"
    )


def write(
    root: Path, cache: Cache, tokens: dict[str, np.ndarray], layers: str, codec: TokenCodec | None
) -> Cache:
    """Write the patch tokens of a cache as a cache of their own, with or without a codec."""
    names = tuple(name for name in cache.spec.tokens if name.startswith("patch/"))
    spec = replace(
        cache.spec,
        layers=parse_layers(layers, cache.spec.depth),
        tokens=names,
        codec=None if codec is None else str(codec.spec),
    )
    if codec is not None:
        store_codec(root, spec, lambda: codec)
        encoder = TokenEncoder(codec, torch.device("cpu"))
    for split, x_ltnd in tokens.items():
        with SplitWriter(root, spec, split, ids=cache.split(split).all_ids) as writer:
            for block in writer.pending:
                part = x_ltnd[:, :, block * writer.block_rows : (block + 1) * writer.block_rows]
                if codec is not None:
                    x = torch.from_numpy(part).float()
                    part = np.stack([encoder(x[i], i).numpy() for i in range(len(x))])
                writer.write(block, part)
            writer.finish()
    labels = {split: cache.split(split).labels for split in tokens}
    column = label_column(labels, classes=cache.classes, splits=spec.dataset.splits)
    record_label(open_store(writer.path), column)
    return open_cache(writer.path)


def report_errors(
    name: str, exact: np.ndarray, decoded: np.ndarray, layers: tuple[int, ...]
) -> None:
    """Print the error of decoded tokens, (L, T, N, D), per layer."""
    for layer, x, y in zip(
        layers, exact.astype(np.float64), decoded.astype(np.float64), strict=True
    ):
        relative = np.linalg.norm(y - x) / np.linalg.norm(x)
        centred = np.linalg.norm(y - x) / np.linalg.norm(x - x.mean((0, 1)))
        norms = np.linalg.norm(y, axis=-1) * np.linalg.norm(x, axis=-1)
        cosine = (x * y).sum(-1) / norms
        print(
            f"| {name} | {layer} | {relative:.4f} | {centred:.4f} | {cosine.mean():.4f} | "
            f"{np.quantile(cosine, 0.01):.4f} |",
            flush=True,
        )


def accuracies(
    cache: Cache, exact: np.ndarray, labels: np.ndarray, options: argparse.Namespace
) -> np.ndarray:
    """Return balanced accuracy on the cache's test tokens and on the exact ones, (seeds, 2)."""
    x_nsd = exact.reshape(-1, *exact.shape[2:]).transpose(1, 0, 2).astype(np.float32)
    results = layercache.probe(
        cache,
        head="attentive",
        layers=options.numbers,
        tokens="patch",
        num_heads=4,
        lr=options.lr,
        weight_decay=1e-4,
        dropout=0.0,
        train_config=TrainConfig(epochs=options.epochs, min_steps=options.min_steps),
        precision=options.precision,
        seeds=list(range(options.seeds)),
        progress=False,
    )
    rows = []
    for probe in results:
        logits = load_head(probe.path).predict(x_nsd).cpu().numpy()
        on_exact = balanced_accuracy_score(labels, logits.argmax(1))
        rows.append((probe.row["test_balanced_accuracy"], on_exact))
    return np.array(rows)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("--stores", nargs="+", default=["int8", "pca:16", "pq:16"])
    parser.add_argument("--layers", default="quarter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--min-steps", type=int, default=1000)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--errors", action="store_true", help="print the errors alone")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(describe())
    cache = open_cache(options.cache)
    layers = parse_layers(options.layers, cache.spec.depth)
    options.numbers = ",".join(map(str, layers))
    splits = [split for split in cache.splits if cache.complete(split)]
    tokens = {split: read(cache, split, options.layers) for split in splits}
    if len(splits) == 1:  # errors of every third image, the codec fitted on the others
        (x,) = tokens.values()
        held_out = np.arange(x.shape[2]) % 3 == 2
        tokens = {"train": x[:, :, ~held_out], "test": x[:, :, held_out]}
    print(f"{cache.spec.model} on {cache.spec.dataset.name}, layers {options.numbers}")
    sample = draw_sample(tokens["train"])
    codecs: list[TokenCodec | None] = [None]
    codecs += [fit_codec(CodecSpec.parse(name), sample) for name in options.stores]
    print("\n| store | layer | relative L2 | of the centred tokens | cosine | its 1st percentile |")
    print("|---|---|---|---|---|---|")
    for codec in filter(None, codecs):
        encoder = TokenEncoder(codec, torch.device("cpu"))
        x = torch.from_numpy(tokens["test"]).float()
        codes = [
            encoder(x[i], i).numpy().reshape(-1, codec.spec.code_width(cache.spec.width))
            for i in range(len(x))
        ]
        decoded = np.stack([codec.decode(c, i).reshape(x[i].shape) for i, c in enumerate(codes)])
        report_errors(str(codec.spec), tokens["test"], decoded, layers)
    if options.errors:
        return
    print(
        "\n| store | bytes/image | accuracy | difference | on exact tokens |\n|---|---|---|---|---|"
    )
    reference = None
    with tempfile.TemporaryDirectory() as root:
        for codec in codecs:
            stored = write(Path(root), cache, tokens, options.layers, codec)
            scores = accuracies(stored, tokens["test"], cache.split("test").labels, options)
            reference = scores if reference is None else reference
            own, exact = 100 * scores.mean(0)
            difference = 100 * (scores[:, 0] - reference[:, 0])
            size = len(stored.spec.layers) * len(stored.spec.tokens) * stored.spec.token_bytes
            print(
                f"| {stored.spec.codec or stored.spec.storage_dtype} | {size} | {own:.2f} | "
                f"{difference.mean():+.2f} ± {difference.std(ddof=1):.2f} | {exact:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
