from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from layercache.errors import CacheNotFoundError, MissingExtraError, OptionError
from layercache.reporting import report
from layercache.reporting.analysis.similarity import linear_cka
from tests.reporting import synthetic


class Outline(HTMLParser):
    """Addresses, identifiers and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.addresses += [
            attributes[name]
            for name in ("src", "href", "xlink:href", "data")
            if attributes.get(name)
        ]
        self.identifiers += [attributes["id"]] if "id" in attributes else []


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = synthetic.make_cache(
        tmp_path_factory.mktemp("caches"), dataset="flowers", model="clip_b16"
    )
    synthetic.save_all_probes(cache)
    return cache


@pytest.fixture(scope="module")
def flowers(cache, tmp_path_factory):
    """The report on one backbone and one dataset with all probes."""
    green = Image.new("RGB", (300, 200), (0, 200, 0))
    return report(
        tmp_path_factory.mktemp("report"),
        root=cache.path.parents[2],
        per_head=True,
        load_thumbnail=lambda dataset, i: green if i.endswith("0.png") else None,
    )


@pytest.fixture(scope="module")
def page(flowers):
    return flowers.page.read_text()


def test_page_needs_no_other_file(page):
    outline = Outline(page)
    assert all(a.startswith(("#", "data:")) for a in outline.addresses)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert len(outline.identifiers) == len(set(outline.identifiers))
    targets = {a[1:] for a in outline.addresses if a.startswith("#")}
    assert targets <= set(outline.identifiers)


def test_page_starts_with_the_result(flowers, page):
    assert flowers.headline[0].endswith(
        "balanced accuracy goes from 50.0\N{NO-BREAK SPACE}% to 75.0\N{NO-BREAK SPACE}%, +25.0 "
        "points."
    )
    assert "so the gain is significant" in flowers.headline[1]
    top = page[: page.index("<main>")]
    for words in ("50.0\N{NO-BREAK SPACE}%", "75.0\N{NO-BREAK SPACE}%", "+25.0"):
        assert words in top


def test_report_writes_figures_to_the_page_and_to_files(flowers, page):
    stems = {path.stem for path in flowers.figures}
    expected = {
        "gains",
        "attention",
        "attention-heads",
        "depth",
        "cka",
        "cka-worth",
        "subsets",
        "tokens",
        "other-heads",
        "heads",
        "shots",
        "confusions",
    }
    assert {s.removesuffix("-clip_b16-flowers") for s in stems} == expected
    assert {path.suffix for path in flowers.figures} == {".png", ".svg"}
    assert page.count("<svg") == len(stems) == len(flowers.figures) / 2
    for path in flowers.figures:
        assert path.stat().st_size > 3000


def test_gains_table_has_the_published_gains(flowers):
    table = pd.read_csv(flowers.page.parent / "tables" / "gains.csv")
    fusion = table[
        (table["head"] == "attentive") & (table["layers"] == "all") & (table["tokens"] == "cls+ap")
    ].iloc[0]
    assert (fusion["gain"], fusion["paper_gain"]) == (pytest.approx(25), pytest.approx(1.47))
    means = pd.read_csv(flowers.page.parent / "tables" / "gains-mean.csv")
    assert (
        means[
            (means["head"] == "attentive")
            & (means["layers"] == "all")
            & (means["tokens"] == "cls+ap")
        ].iloc[0]["paper_gain"]
        == 0.46
    )


def test_similarity_table_equals_cka_of_the_cached_tokens(cache, flowers):
    table = pd.read_csv(flowers.page.parent / "tables" / "cka-clip_b16-flowers.csv").set_index(
        "token"
    )
    pairs = [(1, "cls"), (4, "cls"), (4, "ap")]
    expected = linear_cka(cache.split("test").read(pairs))
    names = ["CLS 1", "CLS 4", "AP 4"]
    np.testing.assert_allclose(table.loc[names, names], expected, atol=1e-5)


def test_depth_table_has_the_accuracy_of_each_layer(flowers):
    table = pd.read_csv(flowers.page.parent / "tables" / "depth-clip_b16-flowers.csv")
    np.testing.assert_allclose(
        table["cls"], [100 * (80 - 8 * (4 - layer)) / 160 for layer in (1, 2, 3, 4)]
    )


def test_images_won_have_thumbnails_where_available(flowers, page):
    table = pd.read_csv(flowers.page.parent / "tables" / "images-clip_b16-flowers.csv")
    assert sorted(table["row"]) == list(range(80, 120))
    assert set(table["outcome"]) == {"won"}
    assert set(table["id"]) == set(synthetic.ids_of("test")[80:120])
    shown = re.findall(r"<li>(<img[^>]*>)?(test/\d+\.png)", page)
    assert len(shown) == 12
    assert all(bool(image) == name.endswith("0.png") for image, name in shown)


def test_page_states_the_bootstrap_in_words(page):
    assert re.search(
        r"clip_b16 on flowers, attentive, all layers, CLS\+AP: \+25\.0 points, 95 % interval over "
        r"the 160 test images",
        page,
    )


def test_report_without_probes_shows_the_commands_to_run(tmp_path):
    root = tmp_path / "caches"
    synthetic.make_cache(root, test=False)
    result = report(tmp_path / "out", root=root)
    text = re.sub("</?span[^>]*>", "", result.page.read_text())
    at = f"--cache {root}"
    assert result.figures == ()
    for command in (
        "layercache probe --model vit_toy --dataset toys --head linear --layers last --tokens "
        f"cls {at}",
        "layercache probe --model vit_toy --dataset toys --head attentive --layers all --tokens "
        f"cls+ap {at}",
        "layercache probe --model vit_toy --dataset toys --head linear --layers 1 --layers 2 "
        f"--layers 3 --layers 4 --tokens ap {at}",
        f"layercache extract --model vit_toy --dataset toys {at}",
        "layercache probe --model vit_toy --dataset toys --head attentive --layers all --tokens "
        f"cls+ap --shots 1,2,5,10,20 {at}",
    ):
        assert command in text
    assert "no gain to report" in result.headline[0]


def test_report_with_a_filter_includes_only_matching_caches(tmp_path):
    root = tmp_path / "caches"
    for model in ("vit_a", "vit_b"):
        synthetic.save_probe(
            synthetic.make_cache(root, model=model, test=False),
            head="linear",
            layers="last",
            tokens="cls",
            correct=synthetic.first(8),
        )
    text = report(tmp_path / "out", root=root, model="vit_b").page.read_text()
    assert "vit_b" in text
    assert "vit_a" not in text
    with pytest.raises(
        CacheNotFoundError,
        match=r"no cache of model vit_c below .*, found vit_a on toys and vit_b on toys",
    ):
        report(tmp_path / "out", root=root, model=["vit_c"])
    with pytest.raises(OptionError, match="cka_images: expected at least 4, got 3"):
        report(tmp_path / "out", root=root, cka_images=3)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "scipy"])
def test_report_without_an_extra_package_names_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[report\]'"):
        report(tmp_path / "out", root=tmp_path)


@pytest.mark.slow
def test_report_of_trained_probes_finds_the_planted_gain(tmp_path):
    """Half of the class information is in lower layers only, which fusion gains."""
    cache = synthetic.make_cache(tmp_path / "caches")
    synthetic.train(cache, head="linear", layers=["last", "1"], tokens="cls")
    synthetic.train(cache, head="attentive", layers=["last", "all"])
    result = report(tmp_path / "out", root=tmp_path / "caches")
    table = pd.read_csv(tmp_path / "out" / "tables" / "gains.csv").set_index(
        ["head", "layers", "tokens"]
    )
    assert table.loc[("attentive", "all", "cls+ap"), "gain"] > 20
    attention = pd.read_csv(tmp_path / "out" / "tables" / "attention-vit_toy-toys.csv")
    assert attention[attention["head"] == "all"]["mean"].sum() == pytest.approx(1, abs=1e-4)
    assert {
        "gains",
        "attention-vit_toy-toys",
        "cka-vit_toy-toys",
        "confusions-vit_toy-toys",
        "subsets",
    } <= {p.stem for p in result.figures}
