"""Extraction against the bare forward pass, the roofline and the usual approach."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import timm
import torch
from extraction_rates import ExtractionRates
from images import Decoded, Files, write_jpegs
from naive_extract import extract as extract_naively
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.context import Context
from benchmarks.gpu.rates import least_seconds
from layercache._devices import available_cores
from layercache.extraction.decode_tuning import seconds_per_image
from layercache.extraction.models.registry import MODELS

TARGET = 0.97


def measure(context: Context) -> None:
    """Measure every model, precision and kind of image, the most important first."""
    models = ["vit_nano"] if context.tiny else ["vit_b16", "vit_l16", "vit_s16"]
    modes = [("bf16", False), ("fp32", False)]
    if not context.tiny:  # compiling takes a C compiler and a minute on a CPU
        modes.append(("bf16", True))
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder) / "jpeg")
        for precision, compiled in modes:
            for model in models:
                for kind in ("resident", "JPEG"):
                    what = f"{model}, {precision}{', compiled' if compiled else ''}, {kind}"
                    timing = f"{model}{compiled}"
                    if not context.has_time(what, kind=timing, least=30 if compiled else 15):
                        continue
                    start = time.monotonic()
                    try:
                        measure_one(context, what, model, precision, compiled, Path(folder))
                    except Exception as e:
                        context.fail(what, e)
                    context.took(timing, time.monotonic() - start)
        model = models[0]
        what = f"{model}, fp32, JPEG, usual approach"
        if context.has_time(what, least=20):
            try:
                usual(context, what, model, Path(folder))
            except Exception as e:
                context.fail(what, e)


def make_rates(
    context: Context, folder: Path, precision: str, *, compiled: bool
) -> ExtractionRates:
    """Return the measurements of extract.py with short durations."""
    return ExtractionRates(
        Namespace(
            device=context.device,
            precision=precision,
            compile=compiled,
            batch=16 if context.tiny else None,
            seconds=0.1 if context.tiny else 1.5,
            rounds=1 if context.tiny else 2,
            workers=1 if context.tiny else None,
        ),
        folder,
    )


def measure_one(
    context: Context, what: str, model: str, precision: str, compiled: bool, folder: Path
) -> None:
    """Run the bare forward and the extraction in turn, and write the rate of the extraction."""
    bench = make_rates(context, Path(tempfile.mkdtemp(dir=folder)), precision, compiled=compiled)
    jpegs = str(folder / "jpeg")
    jpeg = what.endswith("JPEG")
    rates, done = bench.compare(
        model,
        (lambda rows, _: Files(jpegs, rows)) if jpeg else (lambda rows, side: Decoded(rows, side)),
    )
    bare = statistics.median(rates)
    rate = statistics.median(e.images_per_s for e in done)
    ratio = statistics.median(e.images_per_s / r for e, r in zip(done, rates, strict=True))
    backbone = bench.backbone(model)
    least = least_seconds(
        context.rates, flop=flop_per_image(backbone.bare_forward, backbone), precision=precision
    )
    note = f"bare forward {bare:.0f}, batch {bench.batch(model)}"
    best = bare
    if jpeg:
        side = backbone.preprocessing.input_size
        sample = Files(jpegs, 20 if context.tiny else 100)
        decode = 1 / seconds_per_image(sample, [backbone.preprocessing], shapes=[(3, *side)])
        best = min(bare, decode * available_cores())
        note += f", {available_cores()} cores decode at most {decode * available_cores():.0f}"
    context.emit(
        what,
        rate,
        "images/s",
        bare=ratio,
        roofline=rate * least if least else None,
        target=f"bare >= {TARGET}" if best == bare else "",
        note=note,
    )


def flop_per_image(forward: object, backbone: object) -> float:
    """Return the floating-point operations of the products of one image's forward pass."""
    parameter = next(backbone.module.parameters())  # type: ignore[attr-defined]
    side = backbone.preprocessing.input_size  # type: ignore[attr-defined]
    x = torch.zeros(1, 3, *side, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        forward(x)  # type: ignore[operator]
    return float(counter.get_total_flops())


def usual(context: Context, what: str, model: str, folder: Path) -> None:
    """Write the rate of naive_extract.py, and that of ours over it."""
    bench = make_rates(context, Path(tempfile.mkdtemp(dir=folder)), "fp32", compiled=False)
    rows = bench.images(model, bench.bare(model)(4 * bench.batch(model)) / 2)
    files = Files(str(folder / "jpeg"), rows)
    if model == "vit_nano":
        from layercache.extraction.models.vit_nano import create_vit_nano

        module = create_vit_nano()
    else:
        module = timm.create_model(MODELS[model].architecture, pretrained=False)
    module = module.eval().to(context.device)
    seconds = extract_naively(
        module,
        files,
        timm.data.resolve_data_config({}, model=module),
        bench.folder / "naive",
        batch=bench.batch(model),
        workers=0 if context.tiny else available_cores(),
        device=context.device,
    )
    ours = bench.extraction(model, files).images_per_s
    context.emit(
        what,
        rows / seconds,
        "images/s",
        note=f"ours on the same files: {ours:.0f}, {ours * seconds / rows:.1f} times as fast",
    )
