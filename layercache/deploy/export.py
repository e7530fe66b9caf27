"""A classifier as one file that works without this package.

The exporter writes to a temporary folder. The file is loaded again as a user will load it and run
on real images, one at a time and several at once; only if its logits are those of the classifier is
it moved to its path. The images are two photographs that come with scikit-learn, their mirror
images, and any given.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from layercache.deploy.classifier import Classifier
from layercache.errors import ExportError, MissingExtraError

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit.

Float32 sums in another order differ by about 1e-6.
"""
ONNX_MAX_BYTES = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file (protobuf's limit).

Larger weights are written to FILE.data next to it.
"""

Forward = Callable[[Tensor], Tensor]


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
    """Largest absolute difference of a logit from the classifier's."""


def export_onnx(
    classifier: Classifier, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `classifier` as ONNX, for any batch size.

    Input "images" is preprocessed, float32 (batch, 3, H, W); output "logits" is (batch, C). Classes
    and preprocessing are in the file's metadata under the key "layercache".

    Args:
        classifier: From `load_classifier`.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.

    Raises:
        MissingExtraError: Without the extra `export`.
        ExportError: If the export fails or the logits of onnxruntime differ; then nothing is
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

    def write(example: Tensor, file: Path) -> None:
        weight_bytes = sum(p.numel() * p.element_size() for p in classifier.parameters())
        program = torch.onnx.export(
            classifier,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {0: "batch"}},
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props["layercache"] = json.dumps(describe(classifier))
        program.save(str(file), external_data=weight_bytes > ONNX_MAX_BYTES)
        onnx.checker.check_model(str(file))

    def load(file: Path) -> Forward:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.cpu().numpy()})[0])

    return export_checked(classifier, Path(path), images=images, write=write, load=load)


def export_torch(
    classifier: Classifier, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `classifier` with torch.export (.pt2), for any batch size.

    `torch.export.load(FILE).module()` maps preprocessed images, float32 (B, 3, H, W), to logits (B,
    C). Classes and preprocessing are in the extra file "layercache.json".

    Args:
        classifier: From `load_classifier`.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.

    Raises:
        ExportError: If the export fails or the logits of the reloaded program differ; then nothing
        is written.
    """

    def write(example: Tensor, file: Path) -> None:
        program = torch.export.export(
            classifier, (example,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
        )
        description = json.dumps(describe(classifier))
        torch.export.save(program, file, extra_files={"layercache.json": description})

    def load(file: Path) -> Forward:
        return torch.export.load(file).module()

    return export_checked(classifier, Path(path), images=images, write=write, load=load)


def describe(classifier: Classifier) -> dict[str, Any]:
    """Return what a user of the exported file needs to know, as plain JSON."""
    provenance = classifier.checkpoint.provenance
    return {
        "classes": list(classifier.classes),
        "activation": "sigmoid" if classifier.multi_label else "softmax",
        "preprocessing": classifier.preprocessing.to_json(),
        "backbone": provenance.model,
        "backbone_digest": provenance.weights,
        "dataset": provenance.dataset,
    }


def sample_images() -> list[Image.Image]:
    """Return scikit-learn's two photographs and their mirror images."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    return [*photographs, *(ImageOps.mirror(image) for image in photographs)]


def export_checked(
    classifier: Classifier,
    path: Path,
    *,
    images: Sequence[Image.Image],
    write: Callable[[Tensor, Path], None],
    load: Callable[[Path], Forward],
) -> Export:
    """Write a file, reload it, and move it to `path` if its logits are those of the classifier.

    Args:
        classifier: The classifier to export.
        path: File to write.
        images: Images to check the file on, in addition to the bundled ones.
        write: Writes the file, given example images.
        load: Loads the file as a function from images to logits.

    Raises:
        ExportError: If a step fails or the logits differ; then nothing is written.
    """
    x = classifier.preprocess([*sample_images(), *images])
    with torch.inference_mode():
        expected = classifier(x).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        # the same name, because an ONNX file refers to its FILE.data by name
        exported = Path(folder) / path.name
        try:
            with warnings.catch_warnings():
                # deprecations within the exporters; the check below is what counts
                warnings.simplefilter("ignore")
                write(x[:2], exported)
                logits = run_both_ways(load(exported), x)
        # exporters and runtimes raise their own exceptions for an unsupported operator
        except Exception as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"{path}: this classifier cannot be exported ({type(error).__name__}: "
                f"{first_line}); nothing was written"
            ) from error
        difference = max_difference(logits, expected, path=path)
        # FILE.data first, the file itself last
        files = sorted(Path(folder).iterdir(), key=lambda file: file == exported)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.parent / file.name)
    return Export(path=path, bytes=size, images=len(x), max_difference=difference)


def run_both_ways(forward: Forward, x: Tensor) -> dict[str, Tensor]:
    """Return the logits of all images in one batch and of each image on its own, by description."""
    with torch.inference_mode():
        return {
            f"{len(x)} images at once": forward(x).cpu(),
            "one image at a time": torch.cat([forward(x[i : i + 1]).cpu() for i in range(len(x))]),
        }


def max_difference(logits: Mapping[str, Tensor], expected: Tensor, *, path: Path) -> float:
    """Return the largest absolute difference of any logits from `expected` (B, C).

    Raises:
        ExportError: For another shape, or a difference above TOLERANCE.
    """
    worst = 0.0
    for description, got in logits.items():
        if got.shape != expected.shape:
            raise ExportError(
                f"{path}: expected logits {tuple(expected.shape)}, got {tuple(got.shape)} from the "
                f"exported file for {description}; nothing was written"
            )
        difference = float((got - expected).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ExportError(
                f"{path}: the logits of the exported file differ by {difference:.2g} for "
                f"{description}; nothing was written"
            )
        worst = max(worst, difference)
    return worst
