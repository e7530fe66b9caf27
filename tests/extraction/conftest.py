from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from layercache.cache.format import layout
from layercache.extraction import plan
from layercache.extraction.api import extract
from layercache.extraction.result import Extraction
from tests.extraction.fakes import dataset
from tests.extraction.runs import MODELS, Run


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Keeps what the library logs, from INFO on."""
    caplog.set_level(logging.INFO, logger="layercache")
    return caplog


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """extract(), on the fakes, with row blocks of 8 rows (16 where there is one layer)."""
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 512)
    monkeypatch.setattr(plan, "describe_model", lambda name, **_: MODELS[name])
    monkeypatch.setattr(plan, "load_encoder", lambda name, **_: MODELS[name])
    for model in MODELS.values():
        model.seen.clear()

    def run(**options: Any) -> list[Extraction]:
        given = {
            "models": ["fake"],
            "dataset": dataset(),
            "cache": tmp_path,
            "batch_size": 5,
            "workers": 0,
        }
        return extract(progress=False, **(given | options))

    return run
