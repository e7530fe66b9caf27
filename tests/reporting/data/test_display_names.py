from __future__ import annotations

from dataclasses import replace

import numpy as np

from layercache.reporting.data.display_names import label_datasets, label_models, slugify
from layercache.testing import make_identity, make_ids


def identity(name="flowers", *, rows=9, limit=None, limit_seed=0, shift=0):
    made = make_identity({"train": np.roll(make_ids(rows), shift).tolist()}, name=name)
    return replace(made, limit=limit, limit_seed=limit_seed)


def test_label_datasets_of_distinct_names_are_the_names():
    assert label_datasets({"1": identity("a"), "2": identity("b")}) == {"1": "a", "2": "b"}


def test_label_datasets_with_a_limit_always_has_it():
    assert label_datasets({"1": identity(limit=200)}) == {"1": "flowers (limit 200)"}


def test_label_datasets_of_one_name_says_what_differs():
    limits = {"1": identity(), "2": identity(limit=6, rows=6), "3": identity(limit=6, limit_seed=1)}
    assert label_datasets(limits) == {
        "1": "flowers (all images)",
        "2": "flowers (limit 6)",
        "3": "flowers (limit 6, seed 1)",
    }
    assert label_datasets({"1": identity(), "2": identity(rows=12)}) == {
        "1": "flowers (9 images)",
        "2": "flowers (12 images)",
    }


def test_label_datasets_with_other_images_of_one_number_shows_digests():
    labels = label_datasets({"0123456789ab": identity(), "fedcba987654": identity(shift=1)})
    assert labels == {"0123456789ab": "flowers (012345)", "fedcba987654": "flowers (fedcba)"}


def test_label_models_of_one_name_shows_the_weights():
    names = {"0123456789ab": "vit_b16", "fedcba987654": "vit_b16", "aaaaaaaaaaaa": "vit_l16"}
    assert label_models(names) == {
        "0123456789ab": "vit_b16 (weights 012345)",
        "fedcba987654": "vit_b16 (weights fedcba)",
        "aaaaaaaaaaaa": "vit_l16",
    }


def test_slugify_keeps_letters_of_file_names():
    assert slugify("vit_nano on labels.csv (5 classes)") == "vit_nano-labels-csv-5-classes"
    assert slugify("../../x on 猫") == "------x"
