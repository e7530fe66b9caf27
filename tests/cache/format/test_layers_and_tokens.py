from __future__ import annotations

import pytest

from layercache.cache import parse_layers, parse_tokens, select_pairs
from layercache.errors import OptionError, UnknownNameError
from layercache.testing import make_spec

GRID = tuple(f"grid:2/{i}" for i in range(4))
PATCHES = tuple(f"patch/{i}" for i in range(12))
STORED = ("cls", "ap", *GRID, *PATCHES)


@pytest.mark.parametrize(
    ("words", "depth", "layers"),
    [
        ("last", 12, (12,)),
        ("mid-last", 12, (6, 12)),
        ("quarter", 12, (3, 6, 9, 12)),
        ("quarter", 24, (6, 12, 18, 24)),
        ("quarter", 2, (1, 2)),
        ("all", 3, (1, 2, 3)),
        ("9, 1,5,1", 12, (1, 5, 9)),
        ("12", 12, (12,)),
    ],
)
def test_parse_layers_of_words_and_numbers_returns_sorted_numbers(
    words: str, depth: int, layers: tuple[int, ...]
) -> None:
    assert parse_layers(words, depth) == layers


@pytest.mark.parametrize("words", ["0", "13", "-1", "1,13"])
def test_parse_layers_outside_the_depth_raises(words: str) -> None:
    with pytest.raises(
        OptionError, match="layers: expected numbers from 1 to 12 for this model, got"
    ):
        parse_layers(words, 12)


@pytest.mark.parametrize("words", ["", "midlast", "1,,2", "1-4", "1;2"])
def test_parse_layers_of_an_unknown_word_raises(words: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown layer choice"):
        parse_layers(words, 12)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("cls", ("cls",)),
        ("cls+ap", ("cls", "ap")),
        ("ap, cls", ("cls", "ap")),
        ("grid:2", GRID),
        ("cls+grid:2", ("cls", *GRID)),
        ("patch/3", ("patch/3",)),
        ("patch", PATCHES),
        ("all", ("cls", *PATCHES)),
    ],
)
def test_parse_tokens_returns_names_in_stored_order(words: str, names: tuple[str, ...]) -> None:
    assert parse_tokens(words, STORED) == names


def test_parse_tokens_of_patch_1_leaves_out_patch_10() -> None:
    assert parse_tokens("patch/1", STORED) == ("patch/1",)


def test_parse_tokens_of_all_without_class_token_returns_the_patches() -> None:
    assert parse_tokens("all", ("ap", *PATCHES)) == PATCHES


@pytest.mark.parametrize("words", ["all", "grid:2", "cls+grid:3", "", "cls+"])
def test_parse_tokens_of_what_is_not_stored_raises_naming_what_is(words: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"this cache stores cls, ap; extract it again with other tokens"
    ):
        parse_tokens(words, ("cls", "ap"))


def test_select_pairs_is_layer_major() -> None:
    assert select_pairs(make_spec(), layers="6,12", tokens="cls+ap") == (
        (6, "cls"),
        (6, "ap"),
        (12, "cls"),
        (12, "ap"),
    )
    assert select_pairs(make_spec(), layers=(12, 6), tokens=("ap",)) == ((12, "ap"), (6, "ap"))


def test_select_pairs_of_a_layer_that_is_not_stored_raises() -> None:
    with pytest.raises(OptionError, match=r"layers: expected some of 6, 12, .* got 3, 9"):
        select_pairs(make_spec(), layers="quarter", tokens="cls")
    with pytest.raises(UnknownNameError, match="unknown token 'register'"):
        select_pairs(make_spec(), layers="last", tokens=("register",))
