"""A trained head that goes to work: on its backbone, on image files, as an ONNX or torch.export file, with a card that says what it is."""

from layercache.deploy.classifier import Classifier
from layercache.deploy.export import Export, export_onnx, export_torch
from layercache.deploy.head import Head, load_head
from layercache.deploy.predict import Prediction, Predictions, predict

__all__ = [
    "Classifier",
    "Export",
    "Head",
    "Prediction",
    "Predictions",
    "export_onnx",
    "export_torch",
    "load_head",
    "predict",
]
