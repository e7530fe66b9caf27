from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from layercache import probe
from layercache.probing.heads.fusion import FUSION_VERSION
from layercache.probing.results.table.notes import describe_selection
from layercache.probing.results.table.table import Results
from layercache.probing.spec import probe_id
from tests.probing.quick import ONE_CONFIG

SPEC = {"head_spec": {"kind": "fusion", "multi_label": False}, "fusion_version": FUSION_VERSION}


@pytest.mark.parametrize(
    ("share", "branch"),
    [(0.0, "the layers"), (1.0, "the spatial tokens"), (0.5, None), (None, None)],
)
def test_note_names_the_branch_that_a_fusion_head_falls_back_on(
    share: float | None, branch: str | None
) -> None:
    probe = SimpleNamespace(row={"spatial_share": share}, configs=(), spec=SPEC)
    lines = [line for line in describe_selection([probe]) if "fusion" in line]  # type: ignore[list-item]
    assert lines == ([] if branch is None else lines[:1])
    assert branch is None or f"one branch alone for fusion: {branch} (1 probe)" in lines[0]


def test_fusion_probe_of_an_earlier_version_is_a_row_and_an_experiment_of_its_own(
    planted: Callable[..., Any],
) -> None:
    kinds = ("cls", "ap", "patch/0", "patch/1")
    (new,) = probe(planted(kinds=kinds), head="fusion", spatial="patch", **ONE_CONFIG)
    spec = {name: value for name, value in new.spec.items() if name != "fusion_version"}
    assert probe_id(spec) != new.id == probe_id(new.spec)
    old = replace(new, spec=spec, path=new.path.with_name(probe_id(spec)))

    results = Results([old, new])
    assert len(results.over_seeds()) == 2
    text = results.to_text()
    assert "version" in text.partition("---")[0].split()
    note = "1 fusion probe of an earlier version, trained or selected in another way"
    assert note in " ".join(text.split())
    assert "earlier version" not in Results([new]).to_text()
