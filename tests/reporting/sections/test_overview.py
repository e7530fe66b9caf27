from __future__ import annotations

import numpy as np
import pytest

from layercache.reporting.data.loading import load_report_data
from layercache.reporting.sections.overview import overview
from layercache.reporting.sections.significance import significance_section
from tests.reporting import synthetic

BASELINE = {"head": "linear", "layers": "last", "tokens": "cls"}
FUSION = {"head": "attentive", "layers": "all", "tokens": "cls+ap"}


def swap(won: int, lost: int) -> np.ndarray:
    """Correct on the first 80 images, but for `lost` of them, and on `won` others."""
    correct = synthetic.first(80)
    correct[:lost] = False
    correct[80 : 80 + won] = True
    return correct


def make_data(root, *changes, model="vit_toy", extra=()):
    """One dataset for each change (won, lost) of fusion against the baseline."""
    caches = []
    for number, (won, lost) in enumerate(changes):
        cache = synthetic.make_cache(
            root, model=model, dataset=f"toys{number}", depth=2, width=4, test=False
        )
        synthetic.save_probe(cache, correct=swap(0, 0), **BASELINE)
        synthetic.save_probe(cache, correct=swap(won, lost), **FUSION)
        for kind, correct in extra:
            synthetic.save_probe(cache, correct=correct, **kind)
        caches.append(cache)
    return load_report_data(caches)


@pytest.mark.parametrize(
    ("won", "lost", "words", "verdict", "tone", "label"),
    [
        (
            14,
            10,
            "makes no difference on toys0 that 160 test images can show",
            "which includes 0",
            "",
            ": no difference that 160 test images can show",
        ),
        (40, 10, "outperforms a linear probe", "so the gain is significant", "good", " gained"),
        (10, 40, "does worse than a linear probe", "so the loss is significant", "bad", " lost"),
    ],
)
def test_headline_follows_the_interval_in_words_and_colour(
    tmp_path, won, lost, words, verdict, tone, label
):
    data = make_data(tmp_path, (won, lost))
    sentences, tiles = overview(data)
    assert words in sentences[0]
    assert sentences[1].endswith(f"points, {verdict}.")
    assert (tiles[-1].tone, tiles[-1].label) == (tone, f"points of balanced accuracy{label}")
    (text,) = [
        b.text
        for b in significance_section(data).blocks
        if "interval over" in getattr(b, "text", "")
    ]
    ending = {"": "no difference that these images can show", "good": "gain", "bad": "loss"}[tone]
    assert text.endswith(f"{ending}.")


def test_headline_over_several_datasets_counts_significant_gains_and_losses(tmp_path):
    sentences, tiles = overview(make_data(tmp_path / "most", (40, 0), (40, 0), (14, 10)))
    assert (
        "outperforms a linear probe on the last layer's CLS on 2 of 3 combinations" in sentences[0]
    )
    assert tiles[-1].tone == "good"
    sentences, tiles = overview(make_data(tmp_path / "half", (40, 0), (14, 10), (0, 40)))
    assert "on 1 of 3 combinations, and does worse than it on 1:" in sentences[0]
    assert "and the loss on 1" in sentences[1]
    assert tiles[-1].tone == ""
    sentences, tiles = overview(make_data(tmp_path / "none", (14, 10), (10, 12)))
    assert "makes no difference on toys0 and toys1 that the test images can show" in sentences[0]
    assert "outperforms" not in " ".join(sentences)
    assert tiles[-1].tone == ""


def test_headline_compares_a_better_probe_with_fusion(tmp_path):
    linear = {"head": "linear", "layers": "all", "tokens": "cls+ap"}
    sentences, _ = overview(make_data(tmp_path / "a", (40, 0), extra=[(linear, swap(42, 0))]))
    assert sentences[2] == (
        "Another probe has a larger gain: linear, all layers, CLS+AP (+26.2 points, a difference "
        "that 160 test images cannot show)."
    )
    sentences, _ = overview(make_data(tmp_path / "b", (20, 0), extra=[(linear, swap(60, 0))]))
    assert sentences[2].endswith("(+37.5 points, significantly larger).")
