from __future__ import annotations

from typing import Any

import pytest

from layercache.probing.cli_options import training_options
from tests.probing.probe_specs import make_probe_spec


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, []),
        ({"validation": {"split": "val"}}, ["--val", "val"]),
        (
            {"validation": {"folds": 5, "repeats": 2, "group": "patient"}},
            ["--folds", "5", "--repeats", "2", "--group", "patient"],
        ),
        ({"splits": ["train", "v2"]}, ["--test", "v2"]),
        (
            {"tests": [{"name": "v2", "split": "v2"}], "paper_compat": True},
            ["--test", "test", "--test", "v2", "--paper-compat"],
        ),
        (
            {"tests": [{"name": "other/val", "split": "val", "fingerprint": "ab"}]},
            ["--test-cache", "other@val"],
        ),
    ],
)
def test_training_options_name_the_splits(changes: dict[str, Any], options: list[str]) -> None:
    assert training_options({**make_probe_spec(), **changes}, head="linear") == options
