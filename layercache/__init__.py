"""Caches the tokens of every layer of frozen Vision Transformers; trains heads that fuse them.

Names are resolved when they are used, so that `import layercache` imports neither torch nor timm.
The package logs to the logger "layercache" and prints nothing; the command line shows what is
logged.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from layercache.errors import LayercacheError

if TYPE_CHECKING:
    from layercache import errors, heads
    from layercache.cache import Cache, open_cache
    from layercache.cache.annotate import annotate, drop_annotations
    from layercache.cache.copy import copy_cache
    from layercache.cache.export_tokens import export_tokens
    from layercache.deploy import Classifier, Regressor, load_classifier, load_regressor
    from layercache.estimators import ProbeClassifier, ProbeRegressor
    from layercache.extraction.api import extract
    from layercache.extraction.datasets.base import Dataset
    from layercache.extraction.datasets.open import open_dataset
    from layercache.extraction.datasets.registry import list_datasets
    from layercache.extraction.models.backbone import Backbone
    from layercache.extraction.models.encoder import Encoder
    from layercache.extraction.models.loading import load_encoder
    from layercache.extraction.models.preprocessing.options import PreprocessingOptions
    from layercache.extraction.models.registry import list_models
    from layercache.extraction.result import Extraction
    from layercache.importing.api import import_tokens
    from layercache.probing.api import probe
    from layercache.probing.ensemble.api import ensemble
    from layercache.probing.results.head_checkpoint import load_head
    from layercache.probing.results.lookup import find_probe, load_probe
    from layercache.probing.results.probe_store import Probe
    from layercache.probing.results.reading import read_results
    from layercache.probing.results.table.table import Results
    from layercache.probing.scan.api import scan
    from layercache.probing.scan.result import ScanResult
    from layercache.probing.training.config import HParams, TrainConfig
    from layercache.reporting import Report, report
    from layercache.study import read_study, run_study

    __version__: str

__all__ = [
    "Backbone",
    "Cache",
    "Classifier",
    "Dataset",
    "Encoder",
    "Extraction",
    "HParams",
    "LayercacheError",
    "PreprocessingOptions",
    "Probe",
    "ProbeClassifier",
    "ProbeRegressor",
    "Regressor",
    "Report",
    "Results",
    "ScanResult",
    "TrainConfig",
    "__version__",
    "annotate",
    "copy_cache",
    "drop_annotations",
    "ensemble",
    "errors",
    "export_tokens",
    "extract",
    "find_probe",
    "heads",
    "import_tokens",
    "list_datasets",
    "list_models",
    "load_classifier",
    "load_encoder",
    "load_head",
    "load_probe",
    "load_regressor",
    "open_cache",
    "open_dataset",
    "probe",
    "read_results",
    "read_study",
    "report",
    "run_study",
    "scan",
]

logging.getLogger("layercache").addHandler(logging.NullHandler())

_HOMES = {
    "Classifier": "layercache.deploy",
    "Regressor": "layercache.deploy",
    "Dataset": "layercache.extraction.datasets.base",
    "Probe": "layercache.probing.results.probe_store",
    "Backbone": "layercache.extraction.models.backbone",
    "Extraction": "layercache.extraction.result",
    "list_datasets": "layercache.extraction.datasets.registry",
    "list_models": "layercache.extraction.models.registry",
    "load_encoder": "layercache.extraction.models.loading",
    "open_dataset": "layercache.extraction.datasets.open",
    "ProbeClassifier": "layercache.estimators",
    "ProbeRegressor": "layercache.estimators",
    "Cache": "layercache.cache",
    "Encoder": "layercache.extraction.models.encoder",
    "TrainConfig": "layercache.probing.training.config",
    "Report": "layercache.reporting",
    "Results": "layercache.probing.results.table.table",
    "ScanResult": "layercache.probing.scan.result",
    "PreprocessingOptions": "layercache.extraction.models.preprocessing.options",
    "HParams": "layercache.probing.training.config",
    "annotate": "layercache.cache.annotate",
    "drop_annotations": "layercache.cache.annotate",
    "ensemble": "layercache.probing.ensemble.api",
    "export_tokens": "layercache.cache.export_tokens",
    "copy_cache": "layercache.cache.copy",
    "extract": "layercache.extraction.api",
    "import_tokens": "layercache.importing.api",
    "find_probe": "layercache.probing.results.lookup",
    "load_classifier": "layercache.deploy",
    "load_head": "layercache.probing.results.head_checkpoint",
    "load_regressor": "layercache.deploy",
    "load_probe": "layercache.probing.results.lookup",
    "open_cache": "layercache.cache",
    "probe": "layercache.probing.api",
    "read_results": "layercache.probing.results.reading",
    "read_study": "layercache.study",
    "report": "layercache.reporting",
    "run_study": "layercache.study",
    "scan": "layercache.probing.scan.api",
}

_MODULES = ("errors", "heads")


if not TYPE_CHECKING:  # or a type checker would take any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module("layercache._version").installed_version()
        if name in _MODULES:
            return import_module(f"layercache.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'layercache' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
