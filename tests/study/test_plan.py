"""Which cells a study has, where each reads its tokens, and what they weigh."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layercache.errors import OptionError
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


def test_one_cache_serves_all_pooled_heads_and_others_get_their_own() -> None:
    cells = plan(study(LINEAR, EVERY, FUSION, HYBRID))
    first = cells[:7]
    assert [cell.name for cell in first] == [
        "vit_nano on digits: extract cls+ap of layers all",
        "vit_nano on digits: linear last cls",
        "vit_nano on digits: extract all of layers last",
        "vit_nano on digits: attentive-tokens last all",
        "vit_nano on digits: attentive all cls+ap",
        "vit_nano on digits: extract grid:2 of layers last",
        "vit_nano on digits: hybrid all cls+ap grid:2@last",
    ]
    pooled, linear, every, tokens, fusion, grid, hybrid = first
    assert isinstance(linear, PlannedProbe)
    assert isinstance(tokens, PlannedProbe)
    assert isinstance(fusion, PlannedProbe)
    assert isinstance(hybrid, PlannedProbe)
    assert linear.cache is fusion.cache is hybrid.cache is pooled
    assert tokens.cache is every
    assert hybrid.beside is grid
    assert linear.beside is None
    assert len(cells) == 4 * 7
    assert [cell.model for cell in cells[::7]] == ["vit_nano", "vit_b16"] * 2
    assert [cell.dataset for cell in cells[::7]] == ["digits", "digits", "flowers", "flowers"]
    assert fusion.seeds == (0, 1)


def test_models_without_a_class_token_can_be_studied_by_ap_alone() -> None:
    (cell, *_) = plan(study('head = "attentive"\ntokens = "ap"'))
    assert isinstance(cell, PlannedExtraction)
    assert cell.options.tokens == "ap"


def test_options_of_model_beat_those_of_data_set_beat_the_general_ones() -> None:
    more = (
        '[extract]\nroot = "data"\nbatch_size = 1\nworkers = 7\nlimit = 50\n[dataset.digits]\nbatch_size = 2\nlimit = 20\nlimit_seed = 9\n'
        '[model.vit_nano]\nbatch_size = 3\nweights = "w.pt"\n'
    )
    cells = {
        (c.model, c.dataset): c.options
        for c in plan(study(LINEAR, more=more))
        if isinstance(c, PlannedExtraction)
    }
    assert [
        cells[key].batch_size
        for key in (("vit_b16", "flowers"), ("vit_b16", "digits"), ("vit_nano", "digits"))
    ] == [1, 2, 3]
    assert (cells["vit_b16", "digits"].limit, cells["vit_b16", "digits"].seed) == (20, 9)
    assert (cells["vit_b16", "flowers"].limit, cells["vit_b16", "flowers"].seed) == (50, 0)
    assert cells["vit_nano", "flowers"].weights == {"vit_nano": "w.pt"}
    assert cells["vit_b16", "flowers"].weights == {}
    assert {options.workers for options in cells.values()} == {7}
    assert {options.data_root for options in cells.values()} == {"data"}


def test_a_source_of_one_s_own_has_its_own_place() -> None:
    text = study(
        LINEAR,
        more='[extract]\nroot = "data"\n[dataset.flowers]\nsource = "wds:/tars/my flowers"\n',
    )
    cell = next(
        c for c in plan(text) if isinstance(c, PlannedExtraction) and c.dataset == "flowers"
    )
    assert (cell.options.dataset, cell.options.data_root, cell.cached_name) == (
        "wds:/tars/my flowers",
        None,
        "my_flowers",
    )


def test_an_option_that_extract_does_not_take_is_refused_before_any_work() -> None:
    with pytest.raises(OptionError, match="precision: expected fp32 or bf16 or fp16, got 'fp8'"):
        plan(study(LINEAR, more='[model.vit_b16]\nprecision = "fp8"\n'))


def test_costs_grow_with_what_there_is_to_do() -> None:
    cells = plan(study(LINEAR, FUSION))
    by_name = {cell.name: cost(cell) for cell in cells}
    assert (
        by_name["vit_b16 on flowers: extract cls+ap of layers all"]
        > 50 * by_name["vit_nano on flowers: extract cls+ap of layers all"]
    )
    assert (
        by_name["vit_b16 on flowers: attentive all cls+ap"]
        > 10 * by_name["vit_b16 on flowers: linear last cls"]
    )
    twice = plan(replace(study(LINEAR, FUSION), seeds=(0, 1, 2, 3)))
    assert cost(twice[-1]) == pytest.approx(2 * cost(cells[-1]))


def test_sizes_and_tokens_are_counted() -> None:
    cells = plan(study(EVERY, FUSION, HYBRID, more="[extract]\nlimit = 100\n"))
    extraction = cells[0]
    assert isinstance(extraction, PlannedExtraction)
    size = size_of(extraction)
    assert (size.train, size.test, size.classes) == (100, 100, 10)
    from layercache.extraction.models.registry import MODELS

    seen = [
        tokens_seen(cell, MODELS["vit_nano"])
        for cell in cells
        if isinstance(cell, PlannedProbe) and cell.model == "vit_nano"
    ]
    assert seen[:3] == [50, 24, 28]
