"""The report as files: what is on the page, beside it, and what it says when something is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from layercache.errors import CacheNotFoundError, MissingExtraError, OptionError
from layercache.reporting import report
from layercache.reporting.data import gather
from layercache.reporting.page import FigureBlock, Table, Text
from layercache.reporting.sections.certainty import certainty_section
from layercache.reporting.sections.depth import attention_section
from layercache.reporting.sections.gains import gains_section
from layercache.reporting.sections.overview import headline
from layercache.reporting.similarity import linear_cka
from tests.reporting import lab


class Outline(HTMLParser):
    """Addresses, identifiers and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [
            found[name] for name in ("src", "href", "xlink:href", "data") if found.get(name)
        ]
        self.identifiers += [found["id"]] if "id" in found else []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("caches")
    cache = lab.make_cache(root, dataset="flowers", model="clip_b16")
    lab.furnish(cache)
    out = tmp_path_factory.mktemp("report")
    green = Image.new("RGB", (300, 200), (0, 200, 0))
    return cache, report(
        out,
        root=root,
        per_head=True,
        thumbnails=lambda dataset, i: green if i.endswith("0.png") else None,
    )


@pytest.fixture(scope="module")
def page(made):
    return made[1].page.read_text()


def test_page_needs_nothing_else(page):
    outline = Outline(page)
    assert all(a.startswith(("#", "data:")) for a in outline.addresses)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert len(outline.identifiers) == len(set(outline.identifiers))
    targets = {a[1:] for a in outline.addresses if a.startswith("#")}
    assert targets <= set(outline.identifiers)


def test_first_screen_tells_the_result(made, page):
    assert (
        made[1]
        .headline[0]
        .endswith(
            "balanced accuracy goes from 50.0\N{NO-BREAK SPACE}% to 75.0\N{NO-BREAK SPACE}%, +25.0 points."
        )
    )
    assert "more than luck" in made[1].headline[1]
    top = page[: page.index("<main>")]
    for words in ("50.0\N{NO-BREAK SPACE}%", "75.0\N{NO-BREAK SPACE}%", "+25.0"):
        assert words in top


def test_figures_are_on_the_page_and_beside_it(made, page):
    stems = {path.stem for path in made[1].figures}
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
    assert {path.suffix for path in made[1].figures} == {".png", ".svg"}
    assert page.count("<svg") == len(stems) == len(made[1].figures) / 2
    for path in made[1].figures:
        assert path.stat().st_size > 3000


def test_gains_table_holds_the_papers_figures(made):
    table = pd.read_csv(made[1].page.parent / "tables" / "gains.csv")
    fusion = table[
        (table["head"] == "attentive") & (table["layers"] == "all") & (table["tokens"] == "cls+ap")
    ].iloc[0]
    assert (fusion["gain"], fusion["paper_gain"]) == (pytest.approx(25), pytest.approx(1.47))
    means = pd.read_csv(made[1].page.parent / "tables" / "gains-mean.csv")
    assert (
        means[
            (means["head"] == "attentive")
            & (means["layers"] == "all")
            & (means["tokens"] == "cls+ap")
        ].iloc[0]["paper_gain"]
        == 0.46
    )


def test_similarity_table_is_that_of_the_cached_tokens(made):
    cache = made[0]
    table = pd.read_csv(made[1].page.parent / "tables" / "cka-clip_b16-flowers.csv").set_index(
        "token"
    )
    pairs = [(1, "cls"), (4, "cls"), (4, "ap")]
    expected = linear_cka(cache.split("test").read(pairs))
    names = ["CLS 1", "CLS 4", "AP 4"]
    np.testing.assert_allclose(table.loc[names, names], expected, atol=1e-5)


def test_depth_table_is_layer_by_layer(made):
    table = pd.read_csv(made[1].page.parent / "tables" / "depth-clip_b16-flowers.csv")
    np.testing.assert_allclose(
        table["cls"], [100 * (80 - 8 * (4 - layer)) / 160 for layer in (1, 2, 3, 4)]
    )


def test_images_won_have_thumbnails_where_they_are_at_hand(made, page):
    table = pd.read_csv(made[1].page.parent / "tables" / "images-clip_b16-flowers.csv")
    assert sorted(table["row"]) == list(range(80, 120))
    assert set(table["outcome"]) == {"won"}
    assert set(table["id"]) == set(lab.ids_of("test")[80:120])
    shown = re.findall(r"<li>(<img[^>]*>)?(test/\d+\.png)", page)
    assert len(shown) == 12
    assert all(bool(image) == name.endswith("0.png") for image, name in shown)


def test_bootstrap_is_stated_in_words(page):
    assert re.search(
        r"clip_b16 on flowers, attentive, all layers, CLS\+AP: \+25\.0 points; 95 % of resamples of the 160 test images",
        page,
    )


def test_an_empty_world_says_which_commands_to_run(tmp_path):
    root = tmp_path / "caches"
    lab.make_cache(root, test=False)
    done = report(tmp_path / "out", root=root)
    text = done.page.read_text()
    at = f"--cache {root}"
    assert done.figures == ()
    for command in (
        f"layercache probe --model vit_toy --dataset toys --head linear --layers last --tokens cls {at}",
        f"layercache probe --model vit_toy --dataset toys --head attentive --layers all --tokens cls+ap {at}",
        f"layercache probe --model vit_toy --dataset toys --head linear --layers 1 --layers 2 --layers 3 --layers 4 --tokens ap {at}",
        f"layercache extract --model vit_toy --dataset toys {at}",
        f"layercache probe --model vit_toy --dataset toys --head attentive --layers all --tokens cls+ap --shots 1,2,5,10,20 {at}",
    ):
        assert command in text
    assert "no gain to tell" in done.headline[0]


def test_six_backbones_on_two_data_sets(tmp_path):
    """One data set gains everywhere, the other nowhere: the words must say which."""
    rng = np.random.default_rng(0)
    caches = []
    for number in range(6):
        for dataset, gain in (("rises", 40 + 4 * number), ("flat", int(rng.choice([-4, 4])))):
            cache = lab.make_cache(
                tmp_path, model=f"vit_{number}", dataset=dataset, depth=2, width=4, test=False
            )
            lab.keep(cache, head="linear", layers="last", tokens="cls", right=lab.first(80))
            lab.keep(
                cache, head="attentive", layers="all", tokens="cls+ap", right=lab.first(80 + gain)
            )
            caches.append(cache)
    material = gather(caches, details=1)
    assert len(material.detailed) == 1
    sentences, tiles = headline(material)
    assert "Over backbones the gain is significant on 1 of 2 data sets" in sentences[1]
    assert tiles[0].number == "6 × 2"
    blocks = certainty_section(material).blocks
    assert any(
        isinstance(b, Text)
        and b.text.endswith("gains significantly over backbones on rises; not on flat.")
        for b in blocks
    )
    table = next(
        b.frame for b in blocks if isinstance(b, Table) and b.name == "wilcoxon"
    ).set_index("dataset")
    assert table.loc["rises", "p"] == 2**-6
    assert table.loc["rises", "p_adjusted"] == 2**-5
    assert (
        list(table["significant"]) == [True, False] if table.index[0] == "rises" else [False, True]
    )


def test_attention_of_one_backbone_by_data_set(tmp_path):
    caches = [
        lab.make_cache(tmp_path, dataset=name, depth=2, width=8, test=False) for name in ("a", "b")
    ]
    for cache, top in zip(caches, (0, 3), strict=True):
        weights = np.full((4, 4), 0.1)
        weights[:, top] = 0.7
        lab.keep(
            cache,
            head="attentive",
            layers="all",
            tokens="cls+ap",
            right=lab.first(80),
            attention=weights,
        )
    blocks = attention_section(gather(caches)).blocks
    assert [b.name for b in blocks if isinstance(b, FigureBlock)] == [
        "attention-vit_toy",
        "attention-vit_toy-a",
        "attention-vit_toy-b",
    ]
    words = [b.text for b in blocks if isinstance(b, Text)]
    assert "most to CLS of layer 1 (70.0\N{NO-BREAK SPACE}%)" in words[0]
    assert "most to AP of layer 2 (70.0\N{NO-BREAK SPACE}%)" in words[1]
    assert words[1].startswith(
        "vit_toy on b: 20.0\N{NO-BREAK SPACE}% of the attention goes to layers below the last"
    )


def test_a_backbone_without_class_token_is_told_apart(tmp_path):
    cache = lab.make_cache(tmp_path, tokens=("ap",), test=False)
    lab.keep(cache, head="linear", layers="last", tokens="ap", right=lab.first(80))
    words = [b.text for b in gains_section(gather([cache])).blocks]
    assert words[0].startswith(
        "No CLS is cached for vit_toy on toys: without it there is no baseline"
    )


def test_only_what_was_asked_for(tmp_path):
    root = tmp_path / "caches"
    for model in ("vit_a", "vit_b"):
        lab.keep(
            lab.make_cache(root, model=model, test=False),
            head="linear",
            layers="last",
            tokens="cls",
            right=lab.first(8),
        )
    text = report(tmp_path / "out", root=root, model="vit_b").page.read_text()
    assert "vit_b" in text
    assert "vit_a" not in text
    with pytest.raises(
        CacheNotFoundError,
        match=r"no cache of model vit_c below .*; there is vit_a on toys and vit_b on toys",
    ):
        report(tmp_path / "out", root=root, model=["vit_c"])
    with pytest.raises(OptionError, match="at least 4 images for CKA"):
        report(tmp_path / "out", root=root, cka_images=3)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'layercache\[report\]'"):
        report(tmp_path / "out", root=tmp_path)


@pytest.mark.slow
def test_on_probes_that_were_really_trained(tmp_path):
    """The half of the classes that only lower layers know is what fusion gains; the report finds it from the files of real probes."""
    cache = lab.make_cache(tmp_path / "caches")
    lab.train(cache, head="linear", layers=["last", "1"], tokens="cls")
    lab.train(cache, head="attentive", layers=["last", "all"])
    done = report(tmp_path / "out", root=tmp_path / "caches")
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
    } <= {p.stem for p in done.figures}
