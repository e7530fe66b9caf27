"""Options that are refused before any work."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.api import extract
from layercache.extraction.options import ExtractOptions, weights_by_model
from tests.extraction.runs import MODELS, Run


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"models": []}, OptionError, "models: expected at least one model"),
        ({"models": ["fake", "fake"]}, OptionError, "models: expected each once"),
        ({"limit": 0}, OptionError, "limit: expected at least 1, got 0"),
        ({"batch_size": 0}, OptionError, "batch_size: expected at least 1"),
        ({"workers": -1}, OptionError, "workers: expected at least 0"),
        (
            {"precision": "int8"},
            OptionError,
            "precision: expected fp32 or bf16 or fp16, got 'int8'",
        ),
        ({"on_error": "ignore"}, OptionError, "on_error: expected raise or skip"),
        ({"device": "tpu"}, OptionError, "device: expected auto or cpu or cuda"),
        (
            {"splits": ["trian"]},
            UnknownNameError,
            "unknown split of dataset pictures 'trian': did you mean train",
        ),
        (
            {"weights": {"fakee": "x"}},
            UnknownNameError,
            "unknown model of weights 'fakee': did you mean fake",
        ),
        ({"dataset": "digts"}, UnknownNameError, "unknown dataset 'digts': did you mean digits"),
        ({"compressor": "zip"}, OptionError, "compressor 'zip': expected zstd"),
    ],
)
def test_extract_with_a_wrong_option_is_refused_before_any_work(
    run: Run, tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(**options)
    assert MODELS["fake"].seen == []
    assert not list(tmp_path.rglob("tokens/c.*"))


def test_extract_with_an_unknown_option_is_refused(run: Run) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        run(batchsize=3)


def test_extract_takes_every_option_of_extract_options() -> None:
    parameters = inspect.signature(extract).parameters
    assert {field.name for field in fields(ExtractOptions)} < set(parameters)


def test_weights_by_model_takes_the_file_of_the_only_model() -> None:
    assert weights_by_model(None, models=["vit_b16"]) == {}
    assert weights_by_model(Path("w.pt"), models=["vit_b16"]) == {"vit_b16": "w.pt"}
    with pytest.raises(OptionError, match="with 2 models, expected MODEL=FILE"):
        weights_by_model("w.pt", models=["vit_b16", "vit_s16"])


def test_extract_takes_one_model_and_one_layer_without_lists(run: Run) -> None:
    (done,) = run(models="fake", layers=2, splits="test")
    assert (done.model, done.splits) == ("fake", ("test",))
