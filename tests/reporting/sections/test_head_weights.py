from __future__ import annotations

import numpy as np

from layercache.probing.api import probe
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import FigureBlock, Table
from layercache.reporting.sections.head_weights import token_weights, weight_section
from tests.probing.quick import ONE_CONFIG


def test_weight_section_draws_each_head_and_lists_the_gates(planted):
    kinds = ("cls", "ap", "patch/0", "patch/1")
    cache = planted(kinds=kinds, kind=2, layer=4)
    results = [
        *probe(cache, head=["scalar-mix", "efficient"], **ONE_CONFIG),
        *probe(cache, head="fusion", spatial="patch", gate="class", **ONE_CONFIG),
    ]
    fused = results[-1]
    section = weight_section(load_report_data([cache]))
    assert section is not None
    figures = [b.name for b in section.blocks if isinstance(b, FigureBlock)]
    assert len(figures) == 3
    (gates,) = [b.frame for b in section.blocks if isinstance(b, Table)]
    stored = fused.predictions()
    assert gates["mean"].item() == 100 * stored.gate_mean.mean()
    assert gates["chosen"].item() == 100 * fused.row["spatial_share"]
    for one in results:
        np.testing.assert_allclose(token_weights(one).sum(), 1, atol=1e-6)
    on_patches = token_weights(fused)[8:].sum()
    np.testing.assert_allclose(on_patches, stored.gate_mean.mean(), atol=1e-6)


def test_weight_section_without_such_heads_is_left_out(planted):
    cache = planted()
    probe(cache, head="linear", **ONE_CONFIG)
    assert weight_section(load_report_data([cache])) is None
