from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache.find import cache_root
from layercache.cache.storage.paths import RemotePath, as_place, as_remote
from layercache.errors import OptionError

PART = st.text(
    st.characters(blacklist_characters="/@", blacklist_categories=("Cs",)), min_size=1, max_size=8
)


@given(st.lists(PART, min_size=1, max_size=5))
def test_joining_and_taking_apart_undo_each_other(parts: list[str]) -> None:
    place = as_remote(f"s3://{parts[0]}")
    for part in parts[1:]:
        place = place / part
    assert str(place) == "s3://" + "/".join(parts)
    assert (place.bucket, place.key, place.name) == (parts[0], "/".join(parts[1:]), parts[-1])
    assert len(place.parents) == len(parts) - 1
    assert (place / "x" / "y").parents[1] == place
    assert pickle.loads(pickle.dumps(place)) == place == as_place(str(place))
    assert place.parent == (place if len(parts) == 1 else as_remote("s3://" + "/".join(parts[:-1])))


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a/b",
        "s3://bucket/a/b/",
        "s3://bucket//a/b",
        Path("s3://bucket/a/b"),
        RemotePath("s3://bucket/a/b"),
    ],
)
def test_one_address_in_all_its_forms(text: str | Path | RemotePath) -> None:
    assert as_place(text) == RemotePath("s3://bucket/a/b")


def test_what_is_no_address_is_a_folder() -> None:
    assert as_place("~/caches") == Path.home() / "caches"
    assert as_place("s3") == Path("s3")
    assert as_place("a:b/c") == Path("a:b/c")


def test_a_repository_of_the_hub() -> None:
    place = as_remote("hf://datasets/me/caches/digits")
    assert (place.scheme, place.bucket, place.key) == ("hf", "me/caches", "digits")
    assert place.parent.parent == place.parent == as_remote("hf://datasets/me/caches")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://", "expected s3://BUCKET/PREFIX"),
        ("gs://bucket/x", r"gs://\.\.\.: expected a folder, or s3:// or hf://"),
        ("hf://me/caches", "expected hf://datasets/USER/NAME"),
        ("hf://datasets/me", "expected hf://datasets/USER/NAME"),
    ],
)
def test_wrong_addresses_are_told(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message.replace(" or hf://", ".* or .*")):
        as_place(text)


def test_the_home_of_caches_may_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", "s3://bucket/caches/")
    assert cache_root() == as_remote("s3://bucket/caches")
