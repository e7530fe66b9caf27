"""A trained head in use: on its backbone, on image files, exported to ONNX or torch.export."""

from layercache.deploy.classifier import (
    Classifier,
    Regressor,
    load_classifier,
    load_model,
    load_regressor,
)
from layercache.deploy.export import Export, export_onnx, export_torch
from layercache.deploy.predict import Prediction, PredictionResult, ValuePrediction, predict
from layercache.deploy.predict_probe import predict_probe
from layercache.deploy.scoring import Score, folders_are_classes, score

__all__ = [
    "Classifier",
    "Export",
    "Prediction",
    "PredictionResult",
    "Regressor",
    "Score",
    "ValuePrediction",
    "export_onnx",
    "export_torch",
    "folders_are_classes",
    "load_classifier",
    "load_model",
    "load_regressor",
    "predict",
    "predict_probe",
    "score",
]
