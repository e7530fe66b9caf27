"""The studies that come with the project are valid, and the paper's is the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercache.reporting.analysis.published import (
    PAPER_BACKBONES,
    PAPER_KINDS,
    paper_dataset,
    published_accuracy,
)
from layercache.study.file import read_study
from layercache.study.plan import PlannedExtraction, PlannedProbe, plan

STUDIES = Path(__file__).parents[2] / "studies"


def test_alf_table1_plans_the_paper_s_table() -> None:
    study = read_study(STUDIES / "alf-table1.toml")
    jobs = plan(study)
    assert study.models == list(PAPER_BACKBONES)
    assert len({paper_dataset(name) for name in study.datasets}) == len(study.datasets) == 20
    assert [(head.head, head.layers, head.tokens) for head in study.heads] == [
        (job.head, job.layers, job.tokens) for job in PAPER_KINDS
    ]
    for dataset in study.datasets:
        assert published_accuracy(dataset, kind=PAPER_KINDS[0]) is not None
    trainings = [job for job in jobs if isinstance(job, PlannedProbe)]
    assert len(trainings) == 9 * 20 * 6
    assert (
        len(jobs) - len(trainings) == 9 * 20 * 2
    )  # pooled tokens of every layer, and every token of the last
    assert [len(head.configs) for head in study.heads] == [21, 63, 21, 21, 63, 63]
    assert {(head.train_config.epochs, head.train_config.min_steps) for head in study.heads} == {
        (40, 1000)
    }


def test_small_needs_no_network() -> None:
    from layercache.extraction.datasets.registry import DATASETS

    study = read_study(STUDIES / "small.toml")
    assert study.models == ["vit_nano"]
    assert [DATASETS[name].how_to_get for name in study.datasets] == ["bundled", "bundled"]
    wanted = {(job.head, job.layers, job.tokens) for job in PAPER_KINDS}
    assert wanted <= {(head.head, head.layers, head.tokens) for head in study.heads}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.name)
def test_studies_every_file_can_be_planned(path: Path) -> None:
    jobs = plan(read_study(path))
    assert isinstance(jobs[0], PlannedExtraction)
    assert isinstance(jobs[-1], PlannedProbe)
