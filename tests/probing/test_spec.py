from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from layercache.probing.api import probe
from layercache.probing.heads.fusion import FUSION_VERSION
from layercache.probing.heads.spec import HeadSpec
from layercache.testing import make_cache, make_spec
from tests.probing.probe_specs import make_probe_spec
from tests.probing.quick import ONE_CONFIG


def test_probe_records_the_precision_of_the_forward_in_its_head(tmp_path: Path) -> None:
    spec = replace(make_spec(), precision="bf16")
    cache = make_cache(tmp_path, spec, splits=("train", "test"))
    (trained,) = probe(cache, head="linear", **ONE_CONFIG | {"layers": "last"})
    assert trained.head().provenance.precision == "bf16"


def test_spec_of_a_fusion_probe_alone_names_the_rule_of_its_share() -> None:
    shape = HeadSpec(kind="fusion", tokens=4, width=8, classes=3, spatial_tokens=2, gate="scalar")
    assert make_probe_spec(head="attentive", head_spec=shape)["fusion_version"] == FUSION_VERSION
    for head in ("linear", "attentive", "knn"):
        assert "fusion_version" not in make_probe_spec(head=head)
