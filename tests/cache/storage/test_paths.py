from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache.storage.paths import (
    HOME_VARIABLE,
    RemotePath,
    as_cache_path,
    as_remote,
    cache_root,
)
from layercache.errors import OptionError

PART = st.text(
    st.characters(blacklist_characters="/@:", blacklist_categories=("Cs",)), min_size=1, max_size=8
)


@given(st.lists(PART, min_size=1, max_size=5))
def test_remote_path_joined_and_split_is_the_same(parts: list[str]) -> None:
    place = as_remote(f"s3://{parts[0]}")
    for part in parts[1:]:
        place = place / part
    assert str(place) == "s3://" + "/".join(parts)
    assert (place.bucket, place.key, place.name) == (parts[0], "/".join(parts[1:]), parts[-1])
    assert len(place.parents) == len(parts) - 1
    assert (place / "x" / "y").parents[1] == place
    assert pickle.loads(pickle.dumps(place)) == place == as_cache_path(str(place))
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
def test_as_cache_path_of_any_form_of_an_address_is_one_path(text: str | Path | RemotePath) -> None:
    assert as_cache_path(text) == RemotePath("s3://bucket/a/b")


def test_as_cache_path_of_anything_else_is_a_folder() -> None:
    assert as_cache_path("~/caches") == Path.home() / "caches"
    assert as_cache_path("s3") == Path("s3")
    assert as_cache_path("a:b/c") == Path("a:b/c")


def test_remote_path_of_the_hub_has_repository_and_key() -> None:
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
def test_as_cache_path_of_a_wrong_address_raises(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message.replace(" or hf://", ".* or .*")):
        as_cache_path(text)


def test_cache_root_may_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", "s3://bucket/caches/")
    assert cache_root() == as_remote("s3://bucket/caches")


def test_cache_root_that_is_a_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        OptionError, match=rf"root of all caches: expected a folder, got the file {file}"
    ):
        cache_root(file)
    monkeypatch.setenv("LAYERCACHE_HOME", str(file))
    with pytest.raises(OptionError, match=r"\$LAYERCACHE_HOME: expected a folder"):
        cache_root()


def test_cache_root_is_the_option_else_the_environment_else_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    assert cache_root(tmp_path / "option") == tmp_path / "option"
    assert cache_root() == tmp_path / "home"
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root().name == "layercache"
