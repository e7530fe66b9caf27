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


def jobs(*, share: bool = True, more: str = "") -> list[PlannedExtraction]:
    study = parse_study(TEXT.format(share=str(share).lower(), more=more), where="s", name="s")
    assert study.extract.share_decode is share
    return [job for job in plan(study) if isinstance(job, PlannedExtraction)]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `extract` is calls for; it refuses vit_b16 on flowers."""
    calls: list[dict[str, Any]] = []

    def extract(**options: Any) -> list[Any]:
        calls.append(options)
        if "vit_b16" in options["models"] and options["dataset"] == "flowers":
            raise BackboneError("vit_b16: no weights\nmore")
        caches = ["", "spatial"] if options["spatial"] else [""]
        return [
            SimpleNamespace(path=Path(options["dataset"]) / model / cache)
            for model in options["models"]
            for cache in caches
        ]

    monkeypatch.setattr("layercache.extraction.api.extract", extract)
    return calls


def test_extract_models_of_one_dataset_run_once(runs: list[dict[str, Any]]) -> None:
    wanted = jobs()
    executor = LocalExecutor(shared_decode=wanted, confirm=False)
    assert [executor.extract(job) for job in wanted[:3]] == [
        Path("digits/vit_s16"),
        Path("digits/vit_b16"),
        Path("digits/clip_b16"),
    ]
    (only,) = runs
    assert only["models"] == ["vit_s16", "vit_b16", "clip_b16"]
    assert only["weights"] == {"clip_b16": "clip.safetensors"}
    assert (only["dataset"], only["confirm"]) == ("digits", False)


def test_extract_one_model_failing_extracts_the_others_alone(runs: list[dict[str, Any]]) -> None:
    wanted = jobs()[3:]
    executor = LocalExecutor(shared_decode=wanted)
    with logged() as said:
        assert executor.extract(wanted[0]) == Path("flowers/vit_s16")
    with pytest.raises(BackboneError, match="no weights"):
        executor.extract(wanted[1])
    assert executor.extract(wanted[2]) == Path("flowers/clip_b16")
    assert [run["models"] for run in runs] == [
        ["vit_s16", "vit_b16", "clip_b16"],
        ["vit_s16"],
        ["vit_b16"],
        ["clip_b16"],
    ]
    assert said == [
        "flowers: extracting 3 models together failed (vit_b16: no weights); "
        "extracting them one by one"
    ]


def test_extract_of_a_complete_model_whose_mates_are_missing_returns_its_cache(
    runs: list[dict[str, Any]],
) -> None:
    complete, *missing = jobs()[:3]
    executor = LocalExecutor(shared_decode=missing)
    assert executor.extract(complete) == Path("digits/vit_s16")
    assert executor.extract(missing[0]) == Path("digits/vit_b16")
    assert [run["models"] for run in runs] == [["vit_s16"], ["vit_b16", "clip_b16"]]


def test_extract_other_options_run_separately(runs: list[dict[str, Any]]) -> None:
    wanted = jobs(more='precision = "bf16"')
    executor = LocalExecutor(shared_decode=wanted)
    for job in wanted[:3]:
        executor.extract(job)
    assert [(run["models"], run["precision"]) for run in runs] == [
        (["vit_s16", "vit_b16"], "fp32"),
        (["clip_b16"], "bf16"),
    ]


def test_extract_without_share_decode_runs_each_model(runs: list[dict[str, Any]]) -> None:
    executor = LocalExecutor()
    for job in jobs(share=False)[:3]:
        executor.extract(job)
    assert [run["models"] for run in runs] == [["vit_s16"], ["vit_b16"], ["clip_b16"]]


@pytest.mark.parametrize("share", [True, False])
def test_extract_tokens_that_came_with_the_spatial_ones_runs_nothing(
    runs: list[dict[str, Any]], share: bool
) -> None:
    wanted = jobs(share=share, more='[[heads]]\nhead = "fusion"\nspatial = "patch"')
    executor = LocalExecutor(shared_decode=wanted if share else ())
    on_digits = [executor.extract(job) for job in wanted if job.dataset == "digits"]
    assert on_digits == [
        Path("digits") / model / cache
        for model in ("vit_s16", "vit_b16", "clip_b16")
        for cache in ("spatial", "")
    ]
    assert [run["spatial"] for run in runs] == ["patch"] * (1 if share else 3)
