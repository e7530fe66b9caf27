"""Options that are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercache.errors import OptionError, UnknownNameError
from layercache.extraction.options import with_lists
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
        (
            {"batchsize": 3},
            UnknownNameError,
            "unknown option of extract 'batchsize': did you mean batch_size",
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


def test_with_lists_takes_a_single_model_split_layer_and_checkpoint() -> None:
    given = {"models": "vit_b16", "splits": "test", "layers": 12, "weights": Path("w.pt")}
    assert with_lists(given) == {
        "models": ["vit_b16"],
        "splits": ["test"],
        "layers": [12],
        "weights": {"vit_b16": "w.pt"},
    }


def test_with_lists_of_one_checkpoint_for_several_models_raises() -> None:
    with pytest.raises(OptionError, match="with 2 models, expected MODEL=FILE"):
        with_lists({"models": ["vit_b16", "vit_s16"], "weights": "w.pt"})


def test_extract_takes_one_model_and_one_layer_without_lists(run: Run) -> None:
    (done,) = run(models="fake", layers=2, splits="test")
    assert (done.model, done.splits) == ("fake", ("test",))
