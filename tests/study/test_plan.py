"""Which jobs a study has, where each reads its tokens, and what they weigh."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layercache.errors import OptionError
from layercache.extraction.models.preprocessing.options import PreprocessingOptions
from layercache.study.costs import cost, size_of, tokens_seen
from layercache.study.file import Study, parse_study
from layercache.study.plan import PlannedExtraction, PlannedProbe, plan

BASE = 'models = ["vit_nano", "vit_b16"]\ndatasets = ["digits", "flowers"]\nseeds = 2\n'


def study(*heads: str, more: str = "") -> Study:
    return parse_study(
        BASE + more + "".join(f"[[heads]]\n{head}\n" for head in heads), where="s", name="s"
    )


LINEAR = 'head = "linear"\nlayers = "last"\ntokens = "cls"'
FUSION = 'head = "attentive"'
EVERY = 'head = "attentive-tokens"'
HYBRID = 'head = "hybrid"\nspatial = "grid:2"\nspatial_layers = "last"'


def test_plan_pooled_heads_share_one_extraction() -> None:
    jobs = plan(study(LINEAR, EVERY, FUSION, HYBRID))
    first = jobs[:7]
    assert [job.name for job in first] == [
        "vit_nano on digits: extract grid:2 of layers last",
        "vit_nano on digits: extract cls+ap of layers all",
        "vit_nano on digits: linear last cls",
        "vit_nano on digits: extract all of layers last",
        "vit_nano on digits: attentive-tokens last all",
        "vit_nano on digits: attentive all cls+ap",
        "vit_nano on digits: hybrid all cls+ap grid:2@last",
    ]
    grid, pooled, linear, every, tokens, fusion, hybrid = first
    assert isinstance(linear, PlannedProbe)
    assert isinstance(tokens, PlannedProbe)
    assert isinstance(fusion, PlannedProbe)
    assert isinstance(hybrid, PlannedProbe)
    assert linear.cache is fusion.cache is hybrid.cache is pooled
    assert tokens.cache is every
    assert hybrid.spatial_cache is grid
    assert linear.spatial_cache is None
    assert len(jobs) == 4 * 7
    assert [job.model for job in jobs[::7]] == ["vit_nano", "vit_b16"] * 2
    assert [job.dataset for job in jobs[::7]] == ["digits", "digits", "flowers", "flowers"]
    assert fusion.seeds == (0, 1)


def test_plan_spatial_tokens_come_from_the_forward_of_the_other_tokens() -> None:
    heads = [f'head = "fusion"\nspatial = "patch"\ngate = "{gate}"' for gate in ("class", "sample")]
    text = study(LINEAR, *heads, more='[model.vit_b16]\nstore = "pq:92"\n')
    first, second = (
        [job for job in plan(text) if (job.model, job.dataset) == (model, "digits")]
        for model in text.models
    )
    spatial, pooled, *probes = first
    assert isinstance(spatial, PlannedExtraction)
    assert spatial.name == "vit_nano on digits: extract patch of layers last"
    assert second[0].name == "vit_b16 on digits: extract patch of layers last as pq:92"
    assert [probe.name.split(": ")[1] for probe in probes] == [
        "linear last cls",
        "fusion all cls+ap patch@last gate class",
        "fusion all cls+ap patch@last gate sample",
    ]
    assert isinstance(pooled, PlannedExtraction)
    assert pooled.options == replace(spatial.options, spatial=None, spatial_layers="last")
    assert (spatial.first_cache, pooled.first_cache) == (pooled, None)
    assert isinstance(second[0], PlannedExtraction)
    assert second[0].first_cache == second[1]
    for probe in probes[1:]:
        assert isinstance(probe, PlannedProbe)
        assert probe.extractions == (pooled, spatial)
        assert probe.caches({pooled.key: "a", spatial.key: "b"}) == {
            "cache": "a",
            "spatial_cache": "b",
            "join": [],
        }


def test_plan_spatial_all_is_every_patch_and_cls_in_a_cache_of_its_own() -> None:
    head = HYBRID.replace("hybrid", "fusion").replace("grid:2", "all")
    spatial, pooled, probe, *_ = plan(study(head))
    assert isinstance(spatial, PlannedExtraction)
    assert spatial.name == "vit_nano on digits: extract all of layers last"
    assert (spatial.options.tokens, spatial.options.spatial) == ("cls+ap", "all")
    assert isinstance(probe, PlannedProbe)
    assert (probe.cache, probe.spatial_cache) == (pooled, spatial)
    assert probe.arguments["spatial"] == "all"


@pytest.mark.parametrize(("store", "shared"), [("", True), ('store = "int8"\n', False)])
def test_plan_spatial_tokens_that_another_head_needs_are_extracted_once(
    store: str, shared: bool
) -> None:
    jobs = plan(study(EVERY, HYBRID.replace("grid:2", "patch"), more=f"[extract]\n{store}"))
    tokens, hybrid = (job for job in jobs[:5] if isinstance(job, PlannedProbe))
    assert (hybrid.spatial_cache is tokens.cache) is shared


def test_plan_joined_head_runs_for_every_other_model() -> None:
    joined = FUSION + '\njoin = ["vit_b16", "vit_s16"]\njoin_width = "pad"'
    jobs = plan(study(joined, more="[model.vit_s16]\nbatch_size = 3\n"))
    assert [job.name for job in jobs[:4]] == [
        "vit_nano on digits: extract cls+ap of layers all",
        "vit_b16 on digits: extract cls+ap of layers all",
        "vit_s16 on digits: extract cls+ap of layers all",
        "vit_nano on digits: attentive all cls+ap joined to vit_b16 joined to vit_s16 width pad",
    ]
    assert {job.model for job in jobs if isinstance(job, PlannedProbe)} == {"vit_nano"}
    probe, extraction = jobs[3], jobs[2]
    assert isinstance(probe, PlannedProbe)
    assert isinstance(extraction, PlannedExtraction)
    assert extraction.options.batch_size == 3
    assert probe.caches({job.key: job.model for job in jobs[:3]}) == {
        "cache": "vit_nano",
        "spatial_cache": None,
        "join": ["vit_b16", "vit_s16"],
    }
    assert "join" not in probe.arguments
    assert probe.arguments["join_width"] == "pad"


def test_plan_joined_and_test_caches_come_from_the_forward_of_their_spatial_tokens() -> None:
    fusion, joined = HYBRID.replace("hybrid", "fusion"), FUSION + '\njoin = "vit_b16"'
    more = '[dataset.digits]\ntest_cache = "flowers"\n'
    names = [job.name for job in plan(study(joined, more=more))]
    with_spatial = [job.name for job in plan(study(joined, fusion, more=more))]
    for extraction in (name for name in names if "extract" in name):
        place = with_spatial.index(extraction)
        model_and_dataset, _, _ = extraction.partition(":")
        assert f"{model_and_dataset}: extract grid:2 of layers last" in with_spatial[:place]


def test_plan_preprocessing_of_a_model_over_that_of_all() -> None:
    more = (
        "[extract]\ninput_size = 56\ncrop_pct = 0.9\n"
        '[model.vit_nano]\ninput_size = [32, 24]\nmean = [0, 0.5, 1]\ninterpolation = "bilinear"\n'
    )
    jobs = {
        job.model: job.options.preprocessing
        for job in plan(study(LINEAR, more=more))
        if isinstance(job, PlannedExtraction)
    }
    assert jobs["vit_b16"] == PreprocessingOptions(input_size=56, crop_pct=0.9)
    assert jobs["vit_nano"] == PreprocessingOptions(
        input_size=(32, 24), crop_pct=0.9, mean=(0, 0.5, 1), interpolation="bilinear"
    )


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('[extract]\ninput_size = "56"\n', r"s: \[extract\]: input_size: expected 2 numbers"),
        ("[model.vit_nano]\ncrop_pct = 2\n", r"s: \[model.vit_nano\]: crop_pct: expected more"),
        ("[extract]\nstd = [1, 1]\n", r"s: \[extract\]: std: expected 3 numbers, got \[1"),
    ],
)
def test_plan_preprocessing_out_of_range_raises(table: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        study(LINEAR, more=table)


def test_plan_only_ap_tokens_extracts_no_cls() -> None:
    (job, *_) = plan(study('head = "attentive"\ntokens = "ap"'))
    assert isinstance(job, PlannedExtraction)
    assert job.options.tokens == "ap"


def test_plan_statistics_of_the_patches_are_in_the_cache_of_all_layers() -> None:
    (job, *probes) = plan(study('head = "linear"\ntokens = "attn+std"', LINEAR))
    assert isinstance(job, PlannedExtraction)
    assert (job.options.tokens, job.options.layers) == ("cls+ap+std+attn", "all")
    assert all(isinstance(probe, PlannedProbe) for probe in probes[:2])


def test_plan_options_model_over_dataset_over_general() -> None:
    more = (
        '[extract]\nroot = "data"\nbatch_size = 1\nworkers = 7\nlimit = 50\n'
        "[dataset.digits]\nbatch_size = 2\nlimit = 20\nlimit_seed = 9\n"
        '[model.vit_nano]\nbatch_size = 3\nweights = "w.pt"\n'
    )
    jobs = {
        (c.model, c.dataset): c.options
        for c in plan(study(LINEAR, more=more))
        if isinstance(c, PlannedExtraction)
    }
    assert [
        jobs[key].batch_size
        for key in (("vit_b16", "flowers"), ("vit_b16", "digits"), ("vit_nano", "digits"))
    ] == [1, 2, 3]
    assert (jobs["vit_b16", "digits"].limit, jobs["vit_b16", "digits"].seed) == (20, 9)
    assert (jobs["vit_b16", "flowers"].limit, jobs["vit_b16", "flowers"].seed) == (50, 0)
    assert jobs["vit_nano", "flowers"].weights == {"vit_nano": "w.pt"}
    assert jobs["vit_b16", "flowers"].weights == {}
    assert {options.workers for options in jobs.values()} == {7}
    assert {options.data_root for options in jobs.values()} == {"data"}


def test_plan_own_source_ignores_the_general_root() -> None:
    text = study(
        LINEAR,
        more='[extract]\nroot = "data"\n[dataset.flowers]\nsource = "wds:/tars/my flowers"\n',
    )
    job = next(c for c in plan(text) if isinstance(c, PlannedExtraction) and c.dataset == "flowers")
    assert (job.options.dataset, job.options.data_root) == ("wds:/tars/my flowers", None)


def test_plan_probes_root_is_an_option_of_every_probe() -> None:
    jobs = plan(study(LINEAR, more='probes = "mine"\n[probe]\ndevice = "cpu"\n'))
    options = [job.options for job in jobs if isinstance(job, PlannedProbe)]
    assert options == [{"device": "cpu", "probes_root": "mine"}] * 4


def test_plan_wrong_extract_option_raises() -> None:
    with pytest.raises(
        OptionError, match=r"\[model.vit_b16\]: precision: expected 'fp32', 'bf16' or"
    ):
        plan(study(LINEAR, more='[model.vit_b16]\nprecision = "fp8"\n'))


def test_cost_more_work_costs_more() -> None:
    jobs = plan(study(LINEAR, FUSION))
    by_name = {job.name: cost(job) for job in jobs}
    assert (
        by_name["vit_b16 on flowers: extract cls+ap of layers all"]
        > 50 * by_name["vit_nano on flowers: extract cls+ap of layers all"]
    )
    assert (
        by_name["vit_b16 on flowers: attentive all cls+ap"]
        > 10 * by_name["vit_b16 on flowers: linear last cls"]
    )
    twice = plan(study(LINEAR, FUSION).model_copy(update={"seeds": (0, 1, 2, 3)}))
    assert cost(twice[-1]) == pytest.approx(2 * cost(jobs[-1]))


def test_size_of_and_tokens_seen_count_images_and_tokens() -> None:
    jobs = plan(study(EVERY, FUSION, HYBRID, more="[extract]\nlimit = 100\n"))
    extraction = jobs[0]
    assert isinstance(extraction, PlannedExtraction)
    size = size_of(extraction)
    assert (size.train, size.test, size.classes) == (100, 100, 10)
    from layercache.extraction.models.registry import MODELS

    seen = [
        tokens_seen(job, MODELS["vit_nano"])
        for job in jobs
        if isinstance(job, PlannedProbe) and job.model == "vit_nano"
    ]
    assert seen[:3] == [50, 24, 28]


def test_plan_passes_the_splits_of_a_dataset_to_its_probes() -> None:
    jobs = plan(
        study(
            LINEAR,
            more='[splits]\nfolds = 3\nrepeats = 2\ntest = ["test", "v2"]\n'
            '[dataset.flowers]\ngroup = "plant"\nval = "none"\n'
            "[probe]\npaper_compat = true\n",
        )
    )
    probes = {job.dataset: job for job in jobs if isinstance(job, PlannedProbe)}
    shared = {"folds": 3, "repeats": 2, "test_split": ["test", "v2"]}
    assert probes["digits"].splits == shared
    assert probes["flowers"].splits == shared | {"group": "plant", "val_split": None}
    assert probes["flowers"].arguments["group"] == "plant"
    assert probes["flowers"].arguments["paper_compat"] is True
    extraction = next(j for j in jobs if isinstance(j, PlannedExtraction) and j.dataset != "digits")
    assert extraction.options.dataset == "flowers"


def test_plan_extracts_a_test_dataset_of_the_study_before_the_probe() -> None:
    jobs = plan(
        study(
            LINEAR,
            more='[dataset.digits]\ntest_cache = "flowers"\n'
            '[dataset.flowers]\nsource = "folder:blooms"\n',
        )
    )
    names = [job.name for job in jobs[:3]]
    assert names == [
        "vit_nano on digits: extract cls+ap of layers all",
        "vit_nano on flowers: extract cls+ap of layers all",
        "vit_nano on digits: linear last cls",
    ]
    assert isinstance(jobs[2], PlannedProbe)
    assert jobs[2].splits == {"test_cache": ["folder:blooms"]}


def test_plan_with_wrong_splits_names_the_key() -> None:
    with pytest.raises(OptionError, match=r"\[splits\]: folds: expected a whole number"):
        plan(study(LINEAR, more='[splits]\nfolds = "three"\n'))


def test_plan_names_a_dataset_as_its_table_says() -> None:
    names = set()
    for more in ("", 'name = "garden"\n'):
        jobs = plan(study(LINEAR, more=f'[dataset.flowers]\nsource = "folder:blooms"\n{more}'))
        names |= {
            job.options.name
            for job in jobs
            if isinstance(job, PlannedExtraction) and job.dataset == "flowers"
        }
    assert names == {None, "garden"}
