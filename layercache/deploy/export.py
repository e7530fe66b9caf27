"""A classifier as one file that works without this package, written only once it was seen to give the same logits.

The file is made under another name, loaded again as its user will load it, and run on real images, one at a time and several at once; only then is
it put in its place. The images are the two photographs that come with scikit-learn, their mirror images, and any that are given.
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
"""Largest difference of a logit, as a share of the largest logit of the check; float32 sums taken in another order differ by about 1e-6."""
ONE_FILE = 2**31 - 2**24
"""Bytes of weights that an ONNX file can hold (protobuf's limit); above, they lie beside it in FILE.data."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A file that was written and checked."""

    path: Path
    """The file."""
    bytes: int
    """Its size, with FILE.data where there is one."""
    images: int
    """Real images that it was checked on."""
    max_difference: float
    """Largest absolute difference of a logit from the module's."""


def export_onnx(
    classifier: Classifier, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `classifier` as ONNX: input "images" float32 (batch, 3, H, W), preprocessed; output "logits" (batch, C); any batch size.

    Classes and preprocessing are in the file's metadata, key "layercache". `images` are checked besides the bundled ones.
    Raises MissingExtraError, and ExportError where the exporter refuses or onnxruntime's logits differ: then no file is written.
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
        external = sum(p.numel() * p.element_size() for p in classifier.parameters()) > ONE_FILE
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
        program.save(str(file), external_data=external)
        onnx.checker.check_model(str(file))

    def load(file: Path) -> Run:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.cpu().numpy()})[0])

    return _export(classifier, Path(path), images=images, write=write, load=load)


def export_torch(
    classifier: Classifier, path: str | Path, *, images: Sequence[Image.Image] = ()
) -> Export:
    """Write `classifier` with torch.export (.pt2); `torch.export.load(FILE).module()` takes preprocessed float32 (B, 3, H, W), B from 1 up.

    Classes and preprocessing are in the extra file "layercache.json". Raises ExportError where torch refuses or the reloaded logits differ.
    """

    def write(example: Tensor, file: Path) -> None:
        program = torch.export.export(
            classifier, (example,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
        )
        torch.export.save(
            program, file, extra_files={"layercache.json": json.dumps(describe(classifier))}
        )

    def load(file: Path) -> Run:
        return torch.export.load(file).module()

    return _export(classifier, Path(path), images=images, write=write, load=load)


def describe(classifier: Classifier) -> dict[str, Any]:
    """What the user of an exported file needs to know, as plain JSON."""
    origin = classifier.head.origin
    return {
        "classes": list(classifier.classes),
        "activation": "sigmoid" if classifier.multi_label else "softmax",
        "preprocessing": classifier.preprocessing.to_json(),
        "backbone": origin.model,
        "backbone_digest": origin.weights,
        "dataset": origin.dataset,
    }


def real_images() -> list[Image.Image]:
    """Two photographs of scikit-learn's and their mirror images."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    return [*photographs, *(ImageOps.mirror(image) for image in photographs)]


def _export(
    classifier: Classifier,
    path: Path,
    *,
    images: Sequence[Image.Image],
    write: Callable[[Tensor, Path], None],
    load: Callable[[Path], Run],
) -> Export:
    x = classifier.preprocess([*real_images(), *images])
    with torch.inference_mode():
        wanted = classifier(x).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        made = Path(folder) / path.name  # the same name: an ONNX file names its FILE.data
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # the exporters' own deprecations; what counts is checked below
                write(x[:2], made)
                found = run_both(load(made), x)
        except Exception as error:  # exporters and runtimes raise their own kinds for an operator that they do not know
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"{path}: this classifier cannot be exported ({type(error).__name__}: {first}); nothing was written"
            ) from error
        difference = compare(found, wanted, where=path)
        files = sorted(
            Path(folder).iterdir(), key=lambda file: file == made
        )  # the file itself last
        total = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, path.parent / file.name)
    return Export(path=path, bytes=total, images=len(x), max_difference=difference)


def run_both(run: Run, x: Tensor) -> dict[str, Tensor]:
    """Logits of all images at once and of one after the other, by how they were run."""
    with torch.inference_mode():
        return {
            f"{len(x)} images at once": run(x).cpu(),
            "one image at a time": torch.cat([run(x[i : i + 1]).cpu() for i in range(len(x))]),
        }


def compare(found: Mapping[str, Tensor], wanted: Tensor, *, where: Path) -> float:
    """Largest difference between what was found and `wanted` (B, C). Raises ExportError above TOLERANCE."""
    worst = 0.0
    for how, got in found.items():
        if got.shape != wanted.shape:
            raise ExportError(
                f"{where}: expected logits {tuple(wanted.shape)}, the exported file gives {tuple(got.shape)} for {how}; nothing was written"
            )
        difference = float((got - wanted).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise ExportError(
                f"{where}: the exported file's logits differ by {difference:.2g} for {how}; nothing was written"
            )
        worst = max(worst, difference)
    return worst
