from __future__ import annotations

import pytest

import layercache
from layercache.probing.api import probe
from layercache.probing.results.encoder_attention import attention_by_encoder
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.page import FigureBlock, Table
from layercache.reporting.sections.encoders import encoder_section
from tests.probing.quick import ONE_CONFIG
from tests.reporting import synthetic


def test_encoder_section_has_the_share_of_each_encoder_and_its_layers(tmp_path):
    caches = [
        synthetic.make_cache(tmp_path, model=model, width=width)
        for model, width in (("vit_toy", 24), ("vit_other", 16))
    ]
    (joined,) = probe(caches[0], join="vit_other", **ONE_CONFIG).probes
    (alone,) = probe(caches[0], **ONE_CONFIG).probes
    data = load_report_data(caches)
    section = encoder_section(data)
    assert section is not None
    table, figure = section.blocks
    assert isinstance(table, Table)
    assert isinstance(figure, FigureBlock)
    shares = table.frame.set_index("encoder")
    assert shares["attention"].sum() == pytest.approx(100, abs=1e-3)
    expected = 100 * attention_by_encoder(joined)[0].share
    assert shares.loc["vit_toy", "attention"] == pytest.approx(expected)
    assert list(shares["if_uniform"]) == [50, 50]
    # a joined probe is another kind of probe than that of its first encoder
    tokens = data.table.set_index("probe")["tokens"]
    assert tokens[str(joined.path)] == "cls+ap, vit_toy+vit_other (map 24)"
    assert tokens[str(alone.path)] == "cls+ap"


def test_encoder_section_without_joined_probes_is_left_out(tmp_path):
    cache = synthetic.make_cache(tmp_path)
    probes = probe(cache, head=["ridge", "lda"], layers="last").probes
    pooled = layercache.ensemble(probes, device="cpu").probes[-1]
    data = load_report_data([cache])
    assert encoder_section(data) is None
    kind = data.table.set_index("probe").loc[str(pooled.path)]
    assert (kind["head"], kind["layers"]) == ("ensemble", "last")
    assert kind["tokens"].startswith("cls+ap, pool ")
