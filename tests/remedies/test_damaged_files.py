"""The remedy of `cache verify` for every kind of file of a cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.remedies.case import EXTRACT, cache_of, cut, must_run, run


@pytest.mark.parametrize(
    "file",
    [
        "spec.json",
        "commits/train/complete.json",
        "commits/test/00000000.json",
        "train.zarr/tokens/c*",
        "train.zarr/id/c/0",
        "annotations/*.npz",
        "annotations/columns.json",
        "train.zarr/zarr.json",
        "origins/*.json",
    ],
)
def test_remedy_of_verify_for_a_damaged_file_works(folder: Path, file: str) -> None:
    cut(file)(folder)
    code, text = run("cache verify")
    assert code == 1
    assert re.search("delete it and run the same extraction again|delete the file", text), text
    named = {Path(word) for word in re.findall(r"^(?:error: )?(/\S+?):? ", text, re.MULTILINE)}
    assert named
    for path in named & set(cache_of(folder / "home").rglob("*")):
        path.unlink()
    must_run(EXTRACT)
    must_run("cache verify")
