"""A small study for real: run, repeated, varied, and completed despite a missing dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from layercache.cache.find import find_caches
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.probing.api import probe
from layercache.probing.options import Options
from layercache.probing.plan import plan_probes
from layercache.probing.request import ProbeRequest
from layercache.probing.runner import run_probes
from layercache.study import Study, run_study, study_status
from layercache.study.completed_jobs import find_cache, find_probes
from layercache.study.file import parse_study
from layercache.study.plan import PlannedExtraction, PlannedProbe, plan
from tests.deploy.trained import draw_images, save_random
from tests.extraction.models import own_modules
from tests.logs import logged

TEXT = """
models = ["tiny_vit"]
datasets = ["waves", "nowhere"]
seeds = 2
cache = "{root}/caches"
out = "{root}/report"
[grid]
lr = 0.01
weight_decay = 1e-4
dropout = [0.0, 0.1]
[protocol]
epochs = {epochs}
min_steps = 0
batch = 16
[extract]
device = "cpu"
workers = 0
{store}
[model.tiny_vit]
weights = "{root}/tiny_vit.pt"
[dataset.waves]
source = "folder:{root}/waves"
limit = {limit}
[dataset.nowhere]
source = "folder:{root}/nowhere"
[probe]
device = "cpu"
"""
HEADS = """
[model.tiny_eva]
weights = "{root}/tiny_eva.pt"
[[heads]]
head = "linear"
layers = "last"
tokens = "cls"
[[heads]]
head = "hybrid"
layers = "mid-last"
spatial = "grid:2"
[[heads]]
head = "logreg"
layers = "last"
join = "tiny_eva"
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    root = tmp_path_factory.mktemp("study")
    draw_images(root / "waves")
    for model in ("tiny_vit", "tiny_eva"):
        save_random(model, root / f"{model}.pt")

    def make(
        *,
        epochs: int = 2,
        limit: int = 22,
        store: str = 'store = "int8"',
        heads: str = HEADS,
        more: str = "",
    ) -> Study:
        content = TEXT.format(root=root, epochs=epochs, limit=limit, store=store)
        return parse_study(content + heads.format(root=root) + more, where="s", name="s")

    return make


def there(study: Study) -> list[str]:
    return [status.job.name for status in study_status(study) if status.complete]


def records(study: Study) -> dict[Path, int]:
    assert study.cache is not None
    return {path: path.stat().st_mtime_ns for path in Path(study.cache).rglob("probe.json")}


ON_WAVES = [
    "tiny_vit on waves: extract grid:2 of layers last as int8",
    "tiny_vit on waves: extract cls+ap of layers all",
    "tiny_vit on waves: linear last cls",
    "tiny_vit on waves: hybrid mid-last cls+ap grid:2@last",
    "tiny_eva on waves: extract cls+ap of layers all",
    "tiny_vit on waves: logreg last cls+ap joined to tiny_eva",
]


def test_run_study_again_runs_only_what_is_missing(
    text: Callable[..., Study],
) -> None:
    study = text()
    assert there(study) == []
    first = run_study(study, report=False)
    assert (first.jobs, first.done) == (12, 6)
    assert [str(failure).split(": folder")[0] for failure in first.failures] == [
        "tiny_vit on nowhere: extract grid:2 of layers last as int8",
        "tiny_vit on nowhere: extract cls+ap of layers all (3 probes of it not run)",
        "tiny_eva on nowhere: extract cls+ap of layers all",
    ]
    assert len(first.results) == len(records(study)) == 6
    assert there(study) == ON_WAVES

    before = records(study)
    again = run_study(study, report=False)
    assert records(study) == before
    assert sorted(p.id for p in again.results) == sorted(p.id for p in first.results)

    # another protocol trains other probes (except the baseline), another limit is another cache
    assert there(text(epochs=3)) == [ON_WAVES[i] for i in (0, 1, 4, 5)]
    assert there(text(limit=10)) == []


def test_study_status_new_seed_or_truncated_cache_is_missing(text: Callable[..., Study]) -> None:

    from layercache.study.plan import PlannedExtraction, plan

    study = text()
    run_study(study, report=False)
    more = study.model_copy(update={"seeds": (0, 1, 2)})
    assert there(more) == [ON_WAVES[i] for i in (0, 1, 4)]
    extraction = plan(study)[1]
    assert isinstance(extraction, PlannedExtraction)
    cache = find_cache(extraction)
    assert cache is not None
    other = replace(extraction.options, dataset="folder:/nope/waves")
    assert find_cache(replace(extraction, options=other)) is None  # of the same name
    resized = replace(extraction.options, preprocessing=PreprocessingOptions(input_size=40))
    assert find_cache(replace(extraction, options=resized)) is None
    record = cache.path / "commits" / "test" / "complete.json"
    kept = record.read_bytes()
    record.unlink()
    try:
        assert find_cache(extraction) is None
        assert there(study) == [ON_WAVES[0], ON_WAVES[4]]
    finally:
        record.write_bytes(kept)


def test_run_study_counts_two_names_of_a_head_once_and_says_so(
    text: Callable[..., Study],
) -> None:
    study = text(more='[[heads]]\nhead = "linear"\nlayers = "4"\ntokens = "cls"\n')
    with logged() as said:
        result = run_study(study, report=False)
    assert len(result.results) == len(run_study(text(), report=False).results)
    assert (
        "tiny_vit on waves: linear 4 cls: the same probes as tiny_vit on waves: linear last cls, "
        "counted once"
    ) in said


def test_study_status_of_probes_on_another_split_is_missing(text: Callable[..., Study]) -> None:
    study = text(epochs=4)
    run_study(text(), report=False)
    extraction, linear = plan(study)[1:3]
    assert isinstance(extraction, PlannedExtraction)
    assert isinstance(linear, PlannedProbe)
    cache = find_cache(extraction)
    assert cache is not None
    specs = plan_probes(cache, ProbeRequest(**linear.arguments))
    run_probes([replace(spec, test_split="train") for spec in specs], Options(device="cpu"))
    caches = {extraction.key: cache}
    assert find_probes(linear, caches) == []
    run_probes(specs, Options(device="cpu"))
    assert [probe.id for probe in find_probes(linear, caches)] == [spec.id for spec in specs]


def test_run_study_spatial_all_trains_the_probes_that_probe_trains(
    text: Callable[..., Study], tmp_path: Path
) -> None:
    head = '[[heads]]\nhead = "fusion"\nlayers = "mid-last"\nspatial = "all"\n'
    study = text(heads=head, store="").model_copy(update={"cache": str(tmp_path)})
    trained = run_study(study, report=False).results
    (cache,) = (cache for cache in find_caches(tmp_path) if cache.spec.tokens == ("cls", "ap"))
    direct = probe(
        cache,
        head="fusion",
        layers="mid-last",
        spatial="all",
        seeds=2,
        lr=0.01,
        weight_decay=1e-4,
        dropout=[0.0, 0.1],
        train_config=study.protocol.train_config(),
        device="cpu",
        progress=False,
    )
    assert {*direct.to_dataframe()["spatial"]} == {"all@last"}
    assert [result.id for result in direct] == [result.id for result in trained]


def test_status_of_all_tokens_of_a_model_without_class_token_is_complete(tmp_path: Path) -> None:
    draw_images(tmp_path / "waves")
    model = f"{Path(own_modules.__file__)}:torch_encoder"
    content = TEXT.format(root=tmp_path, epochs=2, limit=22, store="").replace("tiny_vit", model)
    lines = [
        line for line in content.splitlines() if "[model" not in line and "weights" not in line
    ]
    heads = '[[heads]]\nhead = "attentive-tokens"\nlayers = "last"\ntokens = "all"\n'
    study = parse_study("\n".join([*lines, heads]), where="s", name="s")
    study = study.model_copy(update={"models": (model,), "datasets": ("waves",)})
    result = run_study(study, report=False)
    assert result.failures == ()
    assert len(there(study)) == result.jobs == 2
