from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from layercache.probing.api import probe
from layercache.testing import make_cache, make_spec
from tests.probing.quick import ONE_CONFIG


def test_probe_records_the_precision_of_the_forward_in_its_head(tmp_path: Path) -> None:
    spec = replace(make_spec(), precision="bf16")
    cache = make_cache(tmp_path, spec, splits=("train", "test"))
    (trained,) = probe(cache, head="linear", **ONE_CONFIG | {"layers": "last"})
    assert trained.head().provenance.precision == "bf16"
