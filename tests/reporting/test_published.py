from __future__ import annotations

import pytest

from layercache.reporting.published import (
    BACKBONES,
    BASELINE,
    CELLS,
    FUSION,
    Cell,
    known_dataset,
    published_accuracy,
    published_gain,
)


def test_spot_checks_of_the_paper():
    assert published_accuracy("flowers", cell=BASELINE, model="clip_b16") == 94.24
    assert published_accuracy("flowers", cell=FUSION, model="dinov2_b14") == 99.76
    assert published_gain("flowers", cell=FUSION, model="clip_b16") == pytest.approx(1.47)
    assert published_gain("svhn", cell=FUSION) == 27.25
    assert published_accuracy("svhn", cell=FUSION) == pytest.approx(83.31)
    assert (
        published_gain("cars", cell=Cell(head="attentive-tokens", layers="last", tokens="all"))
        == 8.97
    )


def test_the_whole_table_by_its_column_means():
    from layercache.reporting import published

    datasets = list(published._MEANS)
    assert (len(datasets), len(BACKBONES), len(CELLS)) == (20, 9, 6)
    columns = [sum(published_gain(d, cell=c) for d in datasets) / 20 for c in CELLS[1:]]
    # the means of the published table's own columns
    assert columns == pytest.approx([5.31, 1.3065, 3.7975, 1.8425, 5.54], abs=5e-5)


def test_names_are_found_whatever_their_spelling():
    assert known_dataset("wds:/data/RESISC-45") == "resisc45"
    assert known_dataset("folder:/x/Stanford_Cars/") == "cars"
    assert known_dataset("fashion_mnist") is None


def test_what_is_not_published_is_none():
    assert published_gain("fashion_mnist", cell=FUSION) is None
    assert published_gain("flowers", cell=FUSION, model="vit_nano") is None
    assert (
        published_gain("flowers", cell=Cell(head="attentive", layers="quarter", tokens="cls+ap"))
        is None
    )


def test_cells_in_words():
    assert str(FUSION) == "attentive, all layers, CLS+AP"
    assert str(Cell(head="linear", layers="5", tokens="ap")) == "linear, layer 5, AP"
    assert str(Cell(head="knn", layers="1,5", tokens="cls")) == "knn, layers 1,5, CLS"
