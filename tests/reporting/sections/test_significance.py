from __future__ import annotations

import numpy as np

from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import Table, Text
from layercache.reporting.sections.overview import overview
from layercache.reporting.sections.significance import significance_section
from tests.reporting import synthetic


def test_significance_of_six_backbones_names_the_dataset_with_a_significant_gain(tmp_path):
    """One dataset gains on all backbones, the other on none."""
    rng = np.random.default_rng(0)
    caches = []
    for number in range(6):
        for dataset, gain in (("rises", 40 + 4 * number), ("flat", int(rng.choice([-4, 4])))):
            cache = synthetic.make_cache(
                tmp_path, model=f"vit_{number}", dataset=dataset, depth=2, width=4, test=False
            )
            synthetic.save_probe(
                cache, head="linear", layers="last", tokens="cls", correct=synthetic.first(80)
            )
            synthetic.save_probe(
                cache,
                head="attentive",
                layers="all",
                tokens="cls+ap",
                correct=synthetic.first(80 + gain),
            )
            caches.append(cache)
    data = load_report_data(caches, details=1)
    assert len(data.detailed) == 1
    sentences, tiles = overview(data)
    assert "Over backbones, the gain is significant on 1 of 2 datasets" in sentences[1]
    assert tiles[0].number == "6 × 2"
    blocks = significance_section(data).blocks
    assert any(
        isinstance(b, Text) and b.text.endswith("gains significantly on rises; not on flat.")
        for b in blocks
    )
    table = next(
        b.frame for b in blocks if isinstance(b, Table) and b.name == "wilcoxon"
    ).set_index("dataset")
    assert table.loc["rises", "p"] == 2**-6
    assert table.loc["rises", "p_adjusted"] == 2**-5
    assert table["significant"].to_dict() == {"rises": True, "flat": False}
