from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layercache.errors import OptionError
from layercache.probing.api import probe
from layercache.probing.token_selection import select_tokens
from tests.probing.quick import ONE_CONFIG


def test_select_tokens_that_are_not_stored_names_the_extraction(
    planted: Callable[..., Any],
) -> None:
    with pytest.raises(
        OptionError,
        match=r"stores the tokens cls\+ap; this probe needs the tokens all. To extract them, run: "
        r"layercache extract .*--layers last --tokens all",
    ):
        probe(planted(), head="attentive-tokens", **ONE_CONFIG)


def test_tokens_in_both_branches_are_for_the_fusion_head_only(planted: Callable[..., Any]) -> None:
    cache = planted(kinds=("cls", "ap", "patch/0", "patch/1", "patch/2", "patch/3"))
    with pytest.raises(OptionError, match=r"token 'cls' is in both tokens cls\+ap and spatial all"):
        probe(cache, head="hybrid", spatial="all", **ONE_CONFIG)


def test_token_kinds_are_named_in_one_order_whatever_that_of_the_cache(
    planted: Callable[..., Any],
) -> None:
    cache = planted(kinds=("ap", "cls", "patch/0", "patch/1"))
    selection = select_tokens(cache, head="attentive", layers="all", tokens="cls+ap")
    assert selection.kinds == "cls+ap"
    assert [token for _, token in selection.pairs[:2]] == ["ap", "cls"], "as they are stored"
    mixed = select_tokens(cache, head="attentive", layers="last", tokens="patch,ap")
    assert mixed.kinds == "ap+patch"
