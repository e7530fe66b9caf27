"""Kinds of tokens from their names."""

from __future__ import annotations

import pytest

from layercache.cache.format.cache_spec import POOLED_KINDS
from layercache.cache.format.token_names import (
    is_spatial,
    kind_word,
    kind_words,
    requested_kinds,
    token_kind,
)


@pytest.mark.parametrize("name", POOLED_KINDS)
def test_pooled_tokens_have_their_name_as_kind(name: str) -> None:
    assert token_kind(name) == name
    assert not is_spatial(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("grid:4/0", "grid"), ("grid:12/143", "grid"), ("patch/17", "patch")],
)
def test_spatial_tokens_have_the_kind_before_their_number(name: str, kind: str) -> None:
    assert (token_kind(name), is_spatial(name)) == (kind, True)


def test_kind_words_are_those_of_the_options_each_once() -> None:
    names = ["cls", "grid:2/0", "grid:2/1", "ap", "patch/0", "cls"]
    assert kind_words(names) == ["cls", "grid:2", "ap", "patch"]
    assert [kind_word(name) for name in names[:2]] == ["cls", "grid:2"]


@pytest.mark.parametrize(
    ("words", "kinds"), [("cls, ap", {"cls", "ap"}), ("all+grid:2", {"cls", "patch", "grid:2"})]
)
def test_requested_kinds_of_all_are_cls_and_patch(words: str, kinds: set[str]) -> None:
    assert requested_kinds(words) == kinds
