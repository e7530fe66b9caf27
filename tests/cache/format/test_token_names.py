"""Kinds and positions of tokens from their names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layercache.cache.format.spec import POOLED_KINDS
from layercache.cache.format.token_names import (
    is_spatial,
    kind_word,
    kind_words,
    token_grid,
    token_kind,
    token_position,
)
from layercache.testing import make_spec


@pytest.mark.parametrize("name", POOLED_KINDS)
def test_pooled_tokens_have_their_name_as_kind_and_no_position(name: str) -> None:
    assert token_kind(name) == name
    assert token_position(name) is None
    assert not is_spatial(name)


@pytest.mark.parametrize(
    ("name", "kind", "position"),
    [("grid:4/0", "grid", 0), ("grid:12/143", "grid", 143), ("patch/17", "patch", 17)],
)
def test_spatial_tokens_have_a_kind_and_a_position(name: str, kind: str, position: int) -> None:
    assert (token_kind(name), token_position(name), is_spatial(name)) == (kind, position, True)


@pytest.mark.parametrize(
    ("size", "patches", "grid"), [((28, 28), 49, (7, 7)), ((32, 64), 8, (2, 4))]
)
def test_token_grid_of_patches_follows_the_shape_of_the_image(
    size: tuple[int, int], patches: int, grid: tuple[int, int]
) -> None:
    spec = replace(
        make_spec(rows=3),
        tokens=("cls", *(f"patch/{i}" for i in range(patches))),
        preprocessing={"input_size": list(size)},
    )
    assert token_grid(spec, "patch/3") == grid
    assert token_grid(spec, "grid:3/8") == (3, 3)
    with pytest.raises(ValueError, match="expected grid:K/I or patch/I"):
        token_grid(spec, "cls")
    with pytest.raises(ValueError, match="do not fill"):
        token_grid(replace(spec, tokens=spec.tokens[:-1]), "patch/3")


def test_kind_words_are_those_of_the_options_each_once() -> None:
    names = ["cls", "grid:2/0", "grid:2/1", "ap", "patch/0", "cls"]
    assert kind_words(names) == ["cls", "grid:2", "ap", "patch"]
    assert [kind_word(name) for name in names[:2]] == ["cls", "grid:2"]
