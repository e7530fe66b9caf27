"""Compare stores of spatial tokens: bytes, cost, error.

For int8, pca:R and pq:M of every patch token of some layers:

    bytes      of CLS and AP of all layers (float16) and of the patch tokens, per image
    encoding   time of a forward that keeps codes over that of one that keeps CLS and AP alone
    error      of decoded tokens of held-out images: relative L2 distance, and cosine, per layer;
               the head sees tokens of unit length, so the cosine is what it sees
    batch      images/s of shuffled batches from memory, tokens decoded and normalized, against
               float16 tokens, and against a training step of the textbook attentive head on them

Ratios are of runs in turn, medians of --rounds. Images are those of Fashion-MNIST (--images
FOLDER, torchvision's layout), or the digits.

    python benchmarks/compressed.py [--model clip_b16 --weights FILE] [--images FOLDER]
                                    [--stores int8 pca:92 pq:64] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe
from torch import Tensor

from layercache.cache.format.codecs.codec_spec import CodecSpec
from layercache.cache.format.codecs.token_codec import TokenCodec, count_saturated
from layercache.extraction import datasets
from layercache.extraction.compression.fit_codec import fit_codec
from layercache.extraction.compression.sample import TokenSample, sample_tokens
from layercache.extraction.compression.token_encoder import TokenEncoder
from layercache.extraction.models.backbone import Backbone, JointForward
from layercache.extraction.models.loading import load_encoder
from layercache.heads import AttentiveHead
from layercache.probing.data.stored_tokens import StoredTokens
from layercache.probing.data.token_decoder import TokenDecoder


def load_images(folder: str | None, backbone: Backbone, split: str, rows: int) -> Tensor:
    """Return evenly spread images of a split, uint8 (rows, 3, H, W)."""
    samples = open_data(folder).split(split)
    chosen = np.linspace(0, len(samples.labels) - 1, rows).round().astype(int)
    transform = backbone.preprocessing
    images = [samples.load(row) for row in chosen.tolist()]
    pixels = [transform.resize_and_crop(image.convert("RGB")) for image in images]
    return torch.from_numpy(np.stack(pixels))


def open_data(folder: str | None) -> datasets.Dataset:
    """Open the images."""
    if folder is None:
        return datasets.open_dataset("digits")
    return datasets.open_dataset("fashion_mnist", root=folder, offline=True)


def medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each function, run in turn, after one run each."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report_errors(codec: TokenCodec, x_ltbd: Tensor, layers: tuple[int, ...]) -> None:
    """Print errors of decoded tokens of images that the codec was not fitted on."""
    width = x_ltbd.shape[-1]
    for i, layer in enumerate(layers):
        x = x_ltbd[i].reshape(-1, width).double().numpy()
        codes = codec.encode(x, i)
        decoded = codec.decode(codes, i).astype(np.float64)
        relative = np.linalg.norm(decoded - x) / np.linalg.norm(x)
        centred = np.linalg.norm(decoded - x) / np.linalg.norm(x - x.mean(0))
        norms = np.linalg.norm(decoded, axis=1) * np.linalg.norm(x, axis=1)
        cosine = (decoded * x).sum(1) / norms
        saturated = count_saturated(codes) / codes.size
        print(
            f"| {codec.spec} | {layer} | {relative:.4f} | {centred:.4f} | {cosine.mean():.4f} | "
            f"{np.quantile(cosine, 0.01):.4f} | {100 * saturated:.4f} % |",
            flush=True,
        )


def time_batches(
    codecs: list[TokenCodec], layers: int, tokens: int, width: int, rounds: int
) -> None:
    """Print the throughput of batches from memory, and of a training step."""
    rows, batch = 32, 4
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(rows, generator=generator)[:batch]
    x = torch.randn(layers * tokens, rows, width, generator=generator)
    plain = StoredTokens((x.half(),), (None,))
    out = torch.empty(batch, layers * tokens, width)
    functions: dict[str, Callable[[], object]] = {
        "float16": lambda: plain.gather(positions, out=out)
    }
    for codec in codecs:
        shape = (layers * tokens, rows, codec.spec.code_width(width))
        # what the codes are makes no difference to the time
        drawn = torch.randint(0, 100, shape, generator=generator)
        codes = drawn.to(torch.from_numpy(np.empty(0, codec.spec.dtype)).dtype)
        index = [layer for layer in range(layers) for _ in range(tokens)]
        decoder = TokenDecoder(codec, index, torch.device("cpu"))
        stored = StoredTokens((codes,), (decoder,))
        functions[str(codec.spec)] = lambda stored=stored: stored.gather(positions, out=out)
    head = AttentiveHead(tokens=layers * tokens, width=width, classes=10, num_heads=8)
    optimizer = torch.optim.AdamW(head.parameters())
    labels = torch.arange(batch) % 10

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(out), labels).backward()
        optimizer.step()

    functions["training step"] = step
    seconds = medians(functions, rounds)
    print("\n| | images/s | time over a training step's |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {batch / value:.1f} | {value / seconds['training step']:.3f} |")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vit_nano")
    parser.add_argument("--weights")
    parser.add_argument("--images")
    parser.add_argument("--layers", default="quarter")
    parser.add_argument("--stores", nargs="+", default=["int8", "pca:16", "pq:16"])
    parser.add_argument("--rows", type=int, default=32, help="held-out images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=Path, help="file that keeps the sample of tokens")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(describe())
    encoder = load_encoder(
        options.model,
        weights=options.weights,
        spatial="patch",
        spatial_layers=options.layers,
        offline=True,
    )
    spatial = encoder.spatial
    assert spatial is not None
    if options.sample is not None and options.sample.exists():
        sample: TokenSample = torch.load(options.sample, weights_only=False)
    else:
        transform = spatial.preprocessing
        sample = sample_tokens(
            open_data(options.images),
            spatial,
            transform=transform,
            shape=(3, *transform.input_size),
            skip_failures=False,
        )
        if options.sample is not None:
            torch.save(sample, options.sample)
    pooled = len(encoder.layers) * len(encoder.tokens) * encoder.width * 2
    tokens = len(spatial.layers) * len(spatial.tokens)
    codecs: list[TokenCodec] = []
    print("\n| store | bytes/token | kB/image, spatial | with CLS and AP | fit (s) |")
    print("|---|---|---|---|---|")
    print(
        f"| float16 | {2 * spatial.width} | {tokens * spatial.width * 2 / 1000:.1f} | "
        f"{(pooled + tokens * spatial.width * 2) / 1000:.1f} | |"
    )
    for name in options.stores:
        began = time.perf_counter()
        codec = fit_codec(CodecSpec.parse(name), sample)
        seconds = time.perf_counter() - began
        codecs.append(codec)
        size = codec.spec.code_width(spatial.width) * np.dtype(codec.spec.dtype).itemsize
        kilobytes = f"{tokens * size / 1000:.1f} | {(pooled + tokens * size) / 1000:.1f}"
        print(f"| {name} | {size} | {kilobytes} | {seconds:.1f} |", flush=True)

    images = load_images(options.images, spatial, "test", options.rows)
    x_ltbd = torch.cat([spatial(part) for part in images.split(8)], dim=2)
    print(
        "\n| store | layer | relative L2 | of the centred tokens | cosine | its 1st percentile | "
        "saturated |\n|---|---|---|---|---|---|---|"
    )
    for codec in codecs:
        report_errors(codec, x_ltbd, spatial.layers)

    batch = images[:8]
    functions: dict[str, Callable[[], object]] = {
        "CLS and AP alone": lambda: JointForward([encoder])(batch),
        "and patches, float16": lambda: JointForward([encoder, spatial])(batch),
    }
    for codec in codecs:
        token_encoder = TokenEncoder(codec, spatial.device)

        def run(token_encoder: TokenEncoder = token_encoder) -> None:
            spatial.token_encoder = token_encoder
            JointForward([encoder, spatial])(batch)
            spatial.token_encoder = None

        functions[f"and patches, {codec.spec}"] = run
    forward_seconds = medians(functions, options.rounds)
    alone = forward_seconds["CLS and AP alone"]
    print("\n| forward | images/s | time over the first |\n|---|---|---|")
    for name, value in forward_seconds.items():
        print(f"| {name} | {len(batch) / value:.2f} | {value / alone:.3f} |")
    time_batches(
        codecs,
        layers=len(spatial.layers),
        tokens=len(spatial.tokens),
        width=spatial.width,
        rounds=options.rounds,
    )


if __name__ == "__main__":
    main()
