"""A trained head in use: on its backbone, on image files, exported to ONNX or torch.export."""

from layercache.deploy.classifier import Classifier, load_classifier
from layercache.deploy.export import Export, export_onnx, export_torch
from layercache.deploy.predict import Prediction, PredictionResult, predict

__all__ = [
    "Classifier",
    "Export",
    "Prediction",
    "PredictionResult",
    "export_onnx",
    "export_torch",
    "load_classifier",
    "predict",
]
