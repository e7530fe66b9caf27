from __future__ import annotations

import pytest

from layercache.errors import OptionError, UnknownNameError
from layercache.probing.heads import HeadSpec


def test_num_heads_left_out_is_that_of_the_paper() -> None:
    assert HeadSpec(kind="attentive", tokens=24, width=384, classes=10).num_heads == 24
    assert HeadSpec(kind="attentive", tokens=24, width=384, classes=10).head_width == 32
    assert HeadSpec(kind="attentive", tokens=5, width=384, classes=10).head_width == 152
    assert HeadSpec(kind="attentive-tokens", tokens=197, width=768, classes=10).num_heads == 8
    assert (
        HeadSpec(kind="attentive-tokens", tokens=197, width=768, classes=10, num_heads=4).num_heads
        == 4
    )


def test_head_spec_with_invalid_values_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean attentive"):
        HeadSpec(kind="atentive", tokens=1, width=4, classes=2)
    with pytest.raises(OptionError, match=r"between 1 and the width 4, got 5: set num_heads"):
        HeadSpec(kind="attentive", tokens=5, width=4, classes=2)
    with pytest.raises(OptionError, match="at least 2 classes"):
        HeadSpec(kind="linear", tokens=5, width=4, classes=1)
    with pytest.raises(OptionError, match="linear head has no attention heads"):
        HeadSpec(kind="linear", tokens=5, width=4, classes=2, num_heads=2)
    with pytest.raises(OptionError, match="only the hybrid or the fusion head has embedding_ids"):
        HeadSpec(kind="attentive", tokens=2, width=4, classes=2, embedding_ids=(0, 1))
    with pytest.raises(OptionError, match=r"2 tokens, counted from 0 without gaps, got \(0, 2\)"):
        HeadSpec(kind="hybrid", tokens=2, width=4, classes=2, embedding_ids=(0, 2))
