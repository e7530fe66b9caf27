"""Models that share a decode: in one run where they can, one by one where one of them cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercache.errors import BackboneError
from layercache.study.executor import LocalExecutor
from layercache.study.file import parse_study
from layercache.study.plan import PlannedExtraction, plan
from tests.logs import logged

TEXT = """
models = ["vit_s16", "vit_b16", "clip_b16"]
datasets = ["digits", "flowers"]
[extract]
share_decode = {share}
[model.clip_b16]
weights = "clip.safetensors"
{more}
[[heads]]
head = "linear"
"""


def cells(*, share: bool = True, more: str = "") -> list[PlannedExtraction]:
    study = parse_study(TEXT.format(share=str(share).lower(), more=more), where="s", name="s")
    assert study.share_decode is share
    return [cell for cell in plan(study) if isinstance(cell, PlannedExtraction)]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `extract` is asked for; it refuses vit_b16 on flowers."""
    asked: list[dict[str, Any]] = []

    def extract(**options: Any) -> list[Any]:
        asked.append(options)
        if "vit_b16" in options["models"] and options["dataset"] == "flowers":
            raise BackboneError("vit_b16: no weights\nmore")
        return [
            SimpleNamespace(path=Path(options["dataset"]) / model) for model in options["models"]
        ]

    monkeypatch.setattr("layercache.extraction.api.extract", extract)
    return asked


def test_models_of_one_data_set_are_extracted_in_one_run(runs: list[dict[str, Any]]) -> None:
    wanted = cells()
    doing = LocalExecutor(together=wanted, yes=True)
    assert [doing.extract(cell) for cell in wanted[:3]] == [
        Path("digits/vit_s16"),
        Path("digits/vit_b16"),
        Path("digits/clip_b16"),
    ]
    (only,) = runs
    assert only["models"] == ["vit_s16", "vit_b16", "clip_b16"]
    assert only["weights"] == {"clip_b16": "clip.safetensors"}
    assert (only["dataset"], only["confirm"]) == ("digits", False)


def test_a_model_that_fails_does_not_take_the_others_with_it(runs: list[dict[str, Any]]) -> None:
    wanted = cells()[3:]
    doing = LocalExecutor(together=wanted)
    with logged() as said:
        assert doing.extract(wanted[0]) == Path("flowers/vit_s16")
    with pytest.raises(BackboneError, match="no weights"):
        doing.extract(wanted[1])
    assert doing.extract(wanted[2]) == Path("flowers/clip_b16")
    assert [run["models"] for run in runs] == [
        ["vit_s16", "vit_b16", "clip_b16"],
        ["vit_s16"],
        ["vit_b16"],
        ["clip_b16"],
    ]
    assert said == [
        "flowers: 3 models together came to nothing (vit_b16: no weights); one by one now"
    ]


def test_other_options_are_another_run(runs: list[dict[str, Any]]) -> None:
    wanted = cells(more='precision = "bf16"')
    doing = LocalExecutor(together=wanted)
    for cell in wanted[:3]:
        doing.extract(cell)
    assert [(run["models"], run["precision"]) for run in runs] == [
        (["vit_s16", "vit_b16"], "fp32"),
        (["clip_b16"], "bf16"),
    ]


def test_without_sharing_each_has_its_own_run(runs: list[dict[str, Any]]) -> None:
    doing = LocalExecutor()
    for cell in cells(share=False)[:3]:
        doing.extract(cell)
    assert [run["models"] for run in runs] == [["vit_s16"], ["vit_b16"], ["clip_b16"]]
