from __future__ import annotations

from layercache.cache import open_cache
from layercache.cache.format.origin import Origin
from layercache.cache.origin_records import record_origin
from layercache.reporting.data.loading import load_report_data
from layercache.reporting.sections.images import image_section
from tests.reporting import synthetic


def test_image_section_asks_for_images_of_the_recorded_source(tmp_path):
    cache = synthetic.make_cache(tmp_path)
    for head, layers, tokens, correct in (
        ("linear", "last", "cls", synthetic.first(80)),
        ("attentive", "all", "cls+ap", synthetic.first(90)),
    ):
        synthetic.save_probe(cache, head=head, layers=layers, tokens=tokens, correct=correct)
    record_origin(cache.path, Origin(dataset="folder:/my/toys"))
    requested = []
    data = load_report_data(
        [open_cache(cache.path)], load_thumbnail=lambda *request: requested.append(request)
    )
    image_section(data)
    assert {dataset for dataset, _ in requested} == {"folder:/my/toys"}
    assert {sample for _, sample in requested} == set(synthetic.ids_of("test")[80:90])
