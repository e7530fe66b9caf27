from __future__ import annotations

import pytest

from layercache.cache import parse_layers, parse_tokens, select_pairs
from layercache.errors import OptionError, UnknownNameError
from tests.cache.making import make_spec

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
def test_layers(words: str, depth: int, layers: tuple[int, ...]) -> None:
    assert parse_layers(words, depth) == layers


@pytest.mark.parametrize("words", ["0", "13", "-1", "1,13"])
def test_layers_outside_the_depth_are_refused(words: str) -> None:
    with pytest.raises(OptionError, match=rf"--layers {words}: this model has layers 1 to 12, not"):
        parse_layers(words, 12)


@pytest.mark.parametrize("words", ["", "midlast", "1,,2", "1-4", "1;2"])
def test_unknown_layer_words_are_refused(words: str) -> None:
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
def test_tokens(words: str, names: tuple[str, ...]) -> None:
    assert parse_tokens(words, STORED) == names


def test_patch_1_is_not_patch_10() -> None:
    assert parse_tokens("patch/1", STORED) == ("patch/1",)


def test_all_of_a_model_without_class_token() -> None:
    assert parse_tokens("all", ("ap", *PATCHES)) == PATCHES


@pytest.mark.parametrize("words", ["all", "grid:2", "cls+grid:3", "", "cls+"])
def test_tokens_that_are_not_stored_are_refused_naming_those_that_are(words: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"this cache stores cls, ap; extract others with --tokens"
    ):
        parse_tokens(words, ("cls", "ap"))


def test_pairs_are_layer_major() -> None:
    assert select_pairs(make_spec(), layers="6,12", tokens="cls+ap") == (
        (6, "cls"),
        (6, "ap"),
        (12, "cls"),
        (12, "ap"),
    )
    assert select_pairs(make_spec(), layers=(12, 6), tokens=("ap",)) == ((12, "ap"), (6, "ap"))


def test_a_layer_that_is_not_stored_is_refused() -> None:
    with pytest.raises(OptionError, match=r"layer 3, 9 is not in this cache, which stores 6, 12"):
        select_pairs(make_spec(), layers="quarter", tokens="cls")
    with pytest.raises(UnknownNameError, match="unknown token 'register'"):
        select_pairs(make_spec(), layers="last", tokens=("register",))
