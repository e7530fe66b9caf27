from __future__ import annotations

import numpy as np

from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import FigureBlock, Text
from layercache.reporting.sections.attention import attention_section
from tests.reporting import synthetic


def test_attention_section_of_one_backbone_draws_each_dataset(tmp_path):
    caches = [
        synthetic.make_cache(tmp_path, dataset=name, depth=2, width=8, test=False)
        for name in ("a", "b")
    ]
    for cache, top in zip(caches, (0, 3), strict=True):
        weights = np.full((4, 4), 0.1)
        weights[:, top] = 0.7
        synthetic.save_probe(
            cache,
            head="attentive",
            layers="all",
            tokens="cls+ap",
            correct=synthetic.first(80),
            attention=weights,
        )
    blocks = attention_section(load_report_data(caches)).blocks
    assert [b.name for b in blocks if isinstance(b, FigureBlock)] == [
        "attention-vit_toy",
        "attention-vit_toy-a",
        "attention-vit_toy-b",
    ]
    words = [b.text for b in blocks if isinstance(b, Text)]
    assert "most is on CLS of layer 1 (70.0\N{NO-BREAK SPACE}%)" in words[0]
    assert "most is on AP of layer 2 (70.0\N{NO-BREAK SPACE}%)" in words[1]
    assert words[1].startswith(
        "vit_toy on b: 20.0\N{NO-BREAK SPACE}% of the attention is on layers below the last"
    )
