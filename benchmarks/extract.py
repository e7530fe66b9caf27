"""Measure how close extraction comes to the speed of the bare forward pass.

    python benchmarks/extract.py [--device cuda --precision bf16 --compile] [--quick]

1. Throughput of a whole `extract` (decode, forward, pooling, checksummed and synced cache) relative
   to the bare forward pass of the same model, dtype and batch size on tensors that are already on
   the device, run in turn; for images that need no decoding, and for JPEG files of ImageNet's size.
2. Decoding throughput of one core. When forward and decoding share the cores (on a CPU), the best
   possible throughput is 1 / (forward + decode / cores) images/s, where forward and decode are
   seconds per image; the table also gives the ratio to that.
3. The usual approach (naive_extract.py) on the same JPEG files.
4. The process decoder against a torch DataLoader with persistent forkserver workers: same JPEG
   files, same transform, same number of workers, no model.
5. The effect of the batch size on the tokens, in float16 steps (ulps).
6. Peak memory for 1x and 8x the number of images.
7. With `--parts sources`: the first table for a ViT-S/16 of every source of models (sources.py).

Extraction is timed from the first decode to the last commit, without loading the model and starting
the workers. Weights are random.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from extraction_rates import ExtractionRates
from images import Decoded, Files, write_jpegs
from machine import describe
from naive_extract import decoding_rates
from naive_extract import extract as extract_naively
from peak_memory import peak_memory

from layercache._devices import available_cores
from layercache.cache import open_cache
from layercache.extraction.api import extract
from layercache.extraction.datasets.in_memory import InMemoryDataset
from layercache.extraction.decode_tuning import seconds_per_image
from layercache.extraction.models import vit_nano
from layercache.extraction.models.registry import MODELS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vit_nano", "vit_s16", "vit_b16"])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--batch", type=int, help="batch size; default: 256 on a GPU, 16 on a CPU (64 for vit_nano)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="duration of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, help="number of decoding processes; default: chosen by extract"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["decoded", "jpeg", "naive", "dataloader", "ulps", "memory"],
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smoke test: vit_nano only, half a second per measurement",
    )
    args = parser.parse_args()
    if args.quick:
        args.models, args.seconds, args.rounds = ["vit_nano"], 0.5, 1
    print(
        f"{describe()}; {args.device}, {args.precision}{', compiled' if args.compile else ''}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        size = write_jpegs(bench.folder / "jpeg")
        for part in args.parts:
            if part == "jpeg":
                print(f"JPEG files: 500 x 375, {size:.0f} kB\n")
            getattr(bench, part)()
            print(flush=True)


class Bench(ExtractionRates):
    """The tables, one method each; `--parts` selects them by name."""

    def sources(self) -> None:
        """Compare extraction with the bare forward pass for every source of models."""
        from sources import make_sources  # needs transformers and OpenCLIP

        self.addresses = make_sources(self.folder)
        if self.args.device == "cpu":
            self.forward_time()
        self.decoded([*self.addresses])

    def forward_time(self) -> None:
        """Compare the processor time of a forward with taps, pooling and all to the bare one's.

        It is less sensitive to other load on the machine than images/s.
        """
        header("forward of a batch", "bare (s)", "with taps (s)", "ratio of the minima", "median")
        for model in self.addresses:
            backbone = self.backbone(model)
            bare, batch = self.bare(model, timer=time.process_time), self.batch(model)
            side = backbone.preprocessing.input_size[0]
            images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
            pairs = []
            for _ in range(self.args.rounds):
                began = time.process_time()
                backbone(images)
                tapped_seconds = time.process_time() - began
                pairs.append((batch / bare(batch), tapped_seconds))
            plain, tapped = (min(column) for column in zip(*pairs, strict=True))
            median = statistics.median(a / b for a, b in pairs)
            print(
                f"| {model}, batch {batch} | {plain:.3f} | {tapped:.3f} | {plain / tapped:.3f} "
                f"| {median:.3f} |",
                flush=True,
            )
        print(flush=True)

    def decoded(self, models: Sequence[str] = ()) -> None:
        """Compare extraction with the bare forward pass on images that need no decoding."""
        header(
            "images that need no decoding",
            "images",
            "bare forward, images/s",
            "extract, images/s",
            "ratio",
            "time waiting for images, for disk",
        )
        for model in models or self.args.models:
            rates, done = self.compare(model, lambda rows, side: Decoded(rows, side))
            ratio = statistics.median(
                e.images_per_s / rate for e, rate in zip(done, rates, strict=True)
            )
            waited = [
                statistics.median(getattr(e, name) / e.seconds for e in done)
                for name in ("decode_wait_seconds", "write_wait_seconds")
            ]
            print(
                f"| {model}, batch {self.batch(model)} | {done[0].images} "
                f"| {statistics.median(rates):.1f} "
                f"| {statistics.median(e.images_per_s for e in done):.1f} | {ratio:.3f} "
                f"| {waited[0]:.1%}, {waited[1]:.1%} |",
                flush=True,
            )

    def jpeg(self) -> None:
        """Compare extraction with the bare forward pass on JPEG files."""
        cores = available_cores()
        header(
            "JPEG files",
            "decode, images/s per core",
            "bare forward, images/s",
            "extract, images/s",
            "ratio",
            "upper limit with shared cores, images/s",
            "ratio to upper limit",
        )
        for model in self.args.models:
            transform = self.backbone(model).preprocessing
            decode = 1 / seconds_per_image(
                Files(str(self.folder / "jpeg"), 200),
                [transform],
                shapes=[(3, *transform.input_size)],
            )
            rates, done = self.compare(
                model, lambda rows, _: Files(str(self.folder / "jpeg"), rows)
            )
            bare, rate = statistics.median(rates), statistics.median(e.images_per_s for e in done)
            self.rates[model] = rate
            best = (
                1 / (1 / bare + 1 / decode / cores)
                if self.args.device == "cpu"
                else min(bare, decode * cores)
            )
            print(
                f"| {model} | {decode:.0f} | {bare:.1f} | {rate:.1f} | {rate / bare:.3f} "
                f"| {best:.1f} | {rate / best:.3f} |",
                flush=True,
            )

    def naive(self) -> None:
        """Compare extraction with the usual approach on JPEG files."""
        header("usual approach, JPEG files", "images/s", "extract, images/s", "speed-up")
        for model in self.args.models:
            bare = self.bare(model)
            rows = self.images(model, bare(4 * self.batch(model)) / 2)
            files = Files(str(self.folder / "jpeg"), rows)
            module = (
                timm.create_model(MODELS[model].architecture, pretrained=False)
                if model != "vit_nano"
                else vit_nano.create_vit_nano()
            )
            module = module.eval().to(self.args.device)
            config = timm.data.resolve_data_config({}, model=module)
            usual, ours = [], []
            for turn in range(max(1, self.args.rounds - 1)):
                folder = self.folder / f"naive_{model}_{turn}"
                processes = available_cores() if self.args.workers is None else self.args.workers
                usual.append(
                    rows
                    / extract_naively(
                        module,
                        files,
                        config,
                        folder,
                        batch=self.batch(model),
                        workers=processes,
                        device=self.args.device,
                    )
                )
                ours.append(self.extraction(model, files, precision="fp32").images_per_s)
            a, b = statistics.median(usual), statistics.median(ours)
            print(
                f"| {model}, fp32 | {a:.1f} | {b:.1f} "
                f"| {statistics.median(o / u for o, u in zip(ours, usual, strict=True)):.2f} |",
                flush=True,
            )

    def dataloader(self) -> None:
        """Compare the process decoder with a DataLoader; their workers start before the timing."""
        workers = self.args.workers or available_cores()
        header(
            f"decoding JPEG files, {workers} workers",
            "DataLoader, images/s",
            "process decoder, images/s",
            "ratio (range)",
        )
        for model in self.args.models:
            transform, batch = self.backbone(model).preprocessing, self.batch(model)
            sample = Files(str(self.folder / "jpeg"), 200)
            shapes = [(3, *transform.input_size)]
            seconds = seconds_per_image(sample, [transform], shapes=shapes)
            rows = self.images(model, workers / seconds)
            rates = decoding_rates(
                Files(str(self.folder / "jpeg"), rows),
                transform,
                batch=batch,
                workers=workers,
                rounds=self.args.rounds,
            )
            ratios = [ours / theirs for theirs, ours in rates]
            theirs, ours = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"| {model}, {rows} images | {theirs:.1f} | {ours:.1f} "
                f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |",
                flush=True,
            )

    def ulps(self) -> None:
        """Measure how far the tokens of other batch sizes differ from those of batch size 64."""
        header(
            "model, batch size (reference: 64)",
            "largest difference (float16 ulps)",
            "token elements that differ",
        )
        for model in self.args.models:
            rows = 128 if model == "vit_nano" or self.args.device == "cuda" else 32
            side = self.backbone(model).preprocessing.input_size[0]

            def tokens(
                batch: int, model: str = model, rows: int = rows, side: int = side
            ) -> np.ndarray[Any, Any]:
                split = open_cache(
                    self.extraction(model, Decoded(rows, side), batch_size=batch).path
                ).split("train")
                return split.read(
                    [(layer, token) for layer in split.spec.layers for token in split.spec.tokens]
                )

            reference = tokens(64)
            assert np.array_equal(reference, tokens(64)) or self.args.device == "cuda", (
                "the same command wrote different bytes"
            )
            for batch in (1, 7, 32):
                steps = np.abs(ordered(tokens(batch)) - ordered(reference))
                print(
                    f"| {model}, {batch} | {steps.max()} | {np.mean(steps > 0):.4%} |", flush=True
                )

    def memory(self) -> None:
        """Measure peak memory for two numbers of images, each in its own process."""
        model, rows = self.args.models[0], 512 if self.args.quick else 4096
        header(f"{model}: images", "peak memory of the main process (MB)")
        for times in (1, 8):
            code = (
                f"import sys; sys.path[:0] = {sys.path!r}\nfrom extract import peak\n"
                f"peak({model!r}, {str(self.weights(model))!r}, {rows * times}, "
                f"{str(self.folder / f'memory{times}')!r}, {self.args.device!r})"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            print(f"| {rows * times} | {float(done.stdout):.0f} |", flush=True)


def header(*columns: str) -> None:
    """Print the heading of a table."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def peak(model: str, weights: str, rows: int, cache: str, device: str) -> None:
    """Run one extraction and print the peak resident size of this process in MB."""
    dataset = InMemoryDataset(
        name="bench", classes=("a", "b"), samples={"train": Decoded(rows, MODELS[model].input_size)}
    )
    extract(
        models=[model],
        dataset=dataset,
        weights={model: weights},
        cache=cache,
        device=device,
        progress=False,
    )
    print(peak_memory() / 1e6)


def ordered(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Map float16 to integers in numerical order, so that a difference counts float16 steps."""
    bits = tokens.view(np.int16).astype(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


if __name__ == "__main__":
    main()
