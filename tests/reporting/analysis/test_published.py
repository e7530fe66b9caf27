from __future__ import annotations

import pytest

from layercache.reporting.analysis.published import (
    BASELINE,
    FUSION,
    PAPER_BACKBONES,
    PAPER_KINDS,
    ProbeKind,
    paper_dataset,
    published_accuracy,
    published_gain,
)


def test_published_values_equal_spot_checks_of_the_paper():
    assert published_accuracy("flowers", kind=BASELINE, model="clip_b16") == 94.24
    assert published_accuracy("flowers", kind=FUSION, model="dinov2_b14") == 99.76
    assert published_gain("flowers", kind=FUSION, model="clip_b16") == pytest.approx(1.47)
    assert published_gain("svhn", kind=FUSION) == 27.25
    assert published_accuracy("svhn", kind=FUSION) == pytest.approx(83.31)
    assert (
        published_gain("cars", kind=ProbeKind(head="attentive-tokens", layers="last", tokens="all"))
        == 8.97
    )


def test_published_gains_have_the_column_means_of_the_paper():
    from layercache.reporting.analysis import published

    datasets = list(published._MEANS)
    assert (len(datasets), len(PAPER_BACKBONES), len(PAPER_KINDS)) == (20, 9, 6)
    columns = [sum(published_gain(d, kind=c) for d in datasets) / 20 for c in PAPER_KINDS[1:]]
    # the means of the published table's own columns
    assert columns == pytest.approx([5.31, 1.3065, 3.7975, 1.8425, 5.54], abs=5e-5)


def test_published_accuracies_of_the_backbones_have_the_published_means():
    """Two tables of the paper, rounded separately, against each other."""
    from layercache.reporting.analysis import published

    kinds = [kind for kind in PAPER_KINDS if (kind.layers == "all") or kind in PAPER_KINDS[:2]]
    datasets = [name for name in published._MEANS if name != "imagenet"]
    for dataset in datasets:
        for kind in kinds:
            accuracies = [
                published_accuracy(dataset, kind=kind, model=model) for model in PAPER_BACKBONES
            ]
            mean = sum(accuracies) / len(PAPER_BACKBONES)
            assert mean == pytest.approx(published_accuracy(dataset, kind=kind), abs=0.011)
    assert (len(datasets), len(kinds)) == (19, 4)
    assert published_accuracy("imagenet", kind=FUSION, model="clip_b16") is None


def test_paper_dataset_in_any_spelling_is_found():
    assert paper_dataset("wds:/data/RESISC-45") == "resisc45"
    assert paper_dataset("folder:/x/Stanford_Cars/") == "cars"
    assert paper_dataset("fashion_mnist") is None


def test_published_accuracy_of_an_unpublished_result_is_none():
    assert published_gain("fashion_mnist", kind=FUSION) is None
    assert published_gain("flowers", kind=FUSION, model="vit_nano") is None
    assert (
        published_gain(
            "flowers", kind=ProbeKind(head="attentive", layers="quarter", tokens="cls+ap")
        )
        is None
    )


def test_probe_kind_as_text_is_in_words():
    assert str(FUSION) == "attentive, all layers, CLS+AP"
    assert str(ProbeKind(head="linear", layers="5", tokens="ap")) == "linear, layer 5, AP"
    assert str(ProbeKind(head="knn", layers="1,5", tokens="cls")) == "knn, layers 1,5, CLS"
