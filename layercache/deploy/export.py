"""A trained head on its backbone as one file that works without this package.

The exporter writes to a temporary folder. The file is loaded again as a user will load it and run
on real images, one at a time and several at once; only if its output is that of the model is it
moved to its path. The images are two photographs that come with scikit-learn, their mirror images,
and any given.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image, ImageOps
from torch import Tensor

from layercache.deploy.classifier import Classifier, Regressor
from layercache.deploy.image_model import ImageModel, Inputs
from layercache.errors import ExportError, MissingExtraError

TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest logit, or to the largest deviation from
the mean of the predicted values of a regression.

Float32 sums in another order differ by about 1e-6.
"""
FLOAT_TOLERANCE = 1e-6
"""Difference that is allowed in any case, relative to the largest predicted value."""
ONNX_MAX_BYTES = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file (protobuf's limit).

Larger weights are written to FILE.data next to it.
"""

Forward = Callable[[Inputs], Tensor]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported and checked file."""

    path: Path
    """Path of the file."""
    bytes: int
    """Its size, including FILE.data if there is one."""
    images: int
    """Number of images that it was checked on."""
    max_difference: float
    """Largest absolute difference of an output from the model's."""


def export_onnx(
    model: ImageModel, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `model` as ONNX, for any batch size.

    Input "images" is preprocessed, float32 (batch, 3, H, W); a head that joins several encoders has
    an input for each, "images_0", "images_1" and so on. Output "logits" (of a regression "values")
    is (batch, C). Classes or columns, and preprocessing, are in the file's metadata under the key
    "layercache".

    Args:
        model: From `load_classifier` or `load_regressor`.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.

    Raises:
        MissingExtraError: Without the extra `export`.
        ExportError: If the export fails or the output of onnxruntime differs; then nothing is
        written.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError(
            f"onnx, onnxscript and onnxruntime ({error.name} is missing)", "export"
        ) from error

    output = "values" if isinstance(model, Regressor) else "logits"

    names = input_names(model)

    def write(example: Inputs, file: Path) -> None:
        weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": like(example, {0: "batch"})},
            input_names=names,
            output_names=[output],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props["layercache"] = json.dumps(describe(model))
        program.save(str(file), external_data=weight_bytes > ONNX_MAX_BYTES)
        onnx.checker.check_model(str(file))

    def load(file: Path) -> Forward:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

        def run(x: Inputs) -> Tensor:
            inputs = [x] if isinstance(x, Tensor) else x
            feed = {name: t.cpu().numpy() for name, t in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run([output], feed)[0])

        return run

    return export_checked(model, Path(path), images=images, write=write, load=load)


def export_torch(
    model: ImageModel, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `model` with torch.export (.pt2), for any batch size.

    `torch.export.load(FILE).module()` maps preprocessed images, float32 (B, 3, H, W), to logits (B,
    C), or the values of a regression; of a head that joins several encoders, a tuple of images for
    each. Classes or columns, and preprocessing, are in the extra file
    "layercache.json".

    Args:
        model: From `load_classifier` or `load_regressor`.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.

    Raises:
        ExportError: If the export fails or the output of the reloaded program differs; then nothing
        is written.
    """

    def write(example: Inputs, file: Path) -> None:
        dynamic = like(example, {0: torch.export.Dim.DYNAMIC})
        program = torch.export.export(model, (example,), dynamic_shapes={"images": dynamic})
        description = json.dumps(describe(model))
        torch.export.save(program, file, extra_files={"layercache.json": description})

    def load(file: Path) -> Forward:
        return torch.export.load(file).module()

    return export_checked(model, Path(path), images=images, write=write, load=load)


def describe(model: ImageModel) -> dict[str, Any]:
    """Return what a user of the exported file needs to know, as plain JSON."""
    provenance = model.checkpoint.provenance
    if isinstance(model, Classifier):
        activation = "sigmoid" if model.multi_label else "softmax"
        output = {"classes": list(model.classes), "activation": activation}
    else:
        output = {"columns": list(model.checkpoint.classes), "activation": "none"}
    encoders = [
        {
            "input": name,
            "preprocessing": preprocessing.to_json(),
            "backbone": record.model,
            "backbone_digest": record.weights,
        }
        for name, preprocessing, (record, _) in zip(
            input_names(model), model.preprocessings, provenance.tokens_by_encoder, strict=True
        )
    ]
    first = {name: value for name, value in encoders[0].items() if name != "input"}
    return {
        **output,
        **(first if len(encoders) == 1 else {"encoders": encoders}),
        "dataset": provenance.dataset,
    }


def input_names(model: ImageModel) -> list[str]:
    """Return the names of the inputs of an ONNX file: one for each encoder of the head."""
    n_inputs = len(model.preprocessings)
    return ["images"] if n_inputs == 1 else [f"images_{i}" for i in range(n_inputs)]


def like(inputs: Inputs, value: T) -> T | tuple[T, ...]:
    """Return a value, or a tuple of it for each of several inputs."""
    return value if isinstance(inputs, Tensor) else tuple(value for _ in inputs)


def select_rows(inputs: Inputs, rows: slice) -> Inputs:
    """Return some of the images of all inputs."""
    return inputs[rows] if isinstance(inputs, Tensor) else tuple(x[rows] for x in inputs)


def sample_images() -> list[Image.Image]:
    """Return scikit-learn's two photographs and their mirror images."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    return [*photographs, *(ImageOps.mirror(image) for image in photographs)]


def export_checked(
    model: ImageModel,
    path: Path,
    *,
    images: Sequence[Image.Image],
    write: Callable[[Inputs, Path], None],
    load: Callable[[Path], Forward],
) -> Export:
    """Write a file, reload it, and move it to `path` if its output is that of the model.

    Args:
        model: The model to export.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.
        write: Writes the file, given example images.
        load: Loads the file as a function from images to logits.

    Raises:
        ExportError: If a step fails or the output differs; then nothing is written.
    """
    checked = [*sample_images(), *images]
    x = model.preprocess(checked)
    with torch.inference_mode():
        expected = model(x).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        # the same name, because an ONNX file refers to its FILE.data by name
        exported = Path(folder) / path.name
        try:
            with warnings.catch_warnings():
                # deprecations within the exporters; the check below is what counts
                warnings.simplefilter("ignore")
                write(select_rows(x, slice(2)), exported)
                outputs = run_both_ways(load(exported), x, n_images=len(checked))
        # exporters and runtimes raise their own exceptions for an unsupported operator
        except Exception as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"{path}: this model cannot be exported ({type(error).__name__}: "
                f"{first_line}); nothing was written"
            ) from error
        difference = max_difference(
            outputs, expected, path=path, tolerance=tolerance(expected, model)
        )
        # FILE.data first, the file itself last
        files = sorted(Path(folder).iterdir(), key=lambda file: file == exported)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.parent / file.name)
    return Export(path=path, bytes=size, images=len(checked), max_difference=difference)


def run_both_ways(forward: Forward, x: Inputs, *, n_images: int) -> dict[str, Tensor]:
    """Return the output for all images in one batch, and for each on its own, by description."""
    with torch.inference_mode():
        one_by_one = [forward(select_rows(x, slice(i, i + 1))).cpu() for i in range(n_images)]
        return {
            f"{n_images} images at once": forward(x).cpu(),
            "one image at a time": torch.cat(one_by_one),
        }


def tolerance(expected: Tensor, model: ImageModel) -> float:
    """Return the largest difference from the output (B, C) that sums in another order explain."""
    largest = float(expected.abs().max())
    if isinstance(model, Classifier):
        return TOLERANCE * max(1.0, largest)
    deviation = float((expected - expected.mean(0)).abs().max())
    return TOLERANCE * deviation + FLOAT_TOLERANCE * largest


def max_difference(
    outputs: Mapping[str, Tensor], expected: Tensor, *, path: Path, tolerance: float
) -> float:
    """Return the largest absolute difference of any output from `expected` (B, C).

    Raises:
        ExportError: For another shape, or a difference above `tolerance`.
    """
    worst = 0.0
    for description, got in outputs.items():
        if got.shape != expected.shape:
            raise ExportError(
                f"{path}: expected an output {tuple(expected.shape)}, got {tuple(got.shape)} from "
                f"the exported file for {description}; nothing was written"
            )
        difference = float((got - expected).abs().max())
        if not difference <= tolerance:
            raise ExportError(
                f"{path}: the output of the exported file differs by {difference:.2g} for "
                f"{description}; nothing was written"
            )
        worst = max(worst, difference)
    return worst
