"""Caches of schema 2, which had the labels in their fingerprint."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from layercache.cache import open_cache
from layercache.cache.cache import load_cache
from layercache.cache.format.layout import SplitLayout
from layercache.cache.upgrade import upgrade_cache
from layercache.cache.verify import verify
from layercache.errors import CacheCorruptError, CacheSchemaError, OptionError
from layercache.testing import CLASSES, make_cache, make_labels, make_spec, make_tokens
from layercache_cli.main import main
from tests.cache.folders import make_schema_2_cache, tree


def make_old(root: Path, *, multi_label: bool = False) -> Path:
    labels = {"train": make_labels(50, multi_label=multi_label)}
    return make_schema_2_cache(root, make_spec(50), labels, CLASSES)


@pytest.mark.parametrize("multi_label", [False, True])
def test_upgraded_cache_is_that_of_an_extraction(tmp_path: Path, multi_label: bool) -> None:
    old = make_old(tmp_path / "old", multi_label=multi_label)
    before = tree(old)
    new = upgrade_cache(old)
    assert verify(new) == []
    split = new.split("train")
    kept = np.delete(make_tokens(make_spec(50)), 3, axis=2)
    np.testing.assert_array_equal(split.read([(6, "cls")])[0], kept[0, 0])
    labels = make_labels(50, multi_label=multi_label)
    np.testing.assert_array_equal(split.labels, np.delete(labels, 3, axis=0))
    assert new.classes == CLASSES
    assert tree(old) == before
    extracted = make_cache(tmp_path / "new", make_spec(50), skipped={3: "broken"})
    assert new.path.name == extracted.path.name
    ours = {k: v for k, v in tree(Path(str(new.path))).items() if not k.startswith("annotations")}
    assert ours.items() <= tree(Path(str(extracted.path))).items()


def test_upgrade_that_was_stopped_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: int
) -> None:
    old = make_old(tmp_path)
    link = os.link

    def link_or_die(source: Path, target: Path) -> None:
        if str(target).endswith("c.0.0.2.0"):
            raise KeyboardInterrupt
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("layercache.cache.upgrade.os.link", link_or_die)
        with pytest.raises(KeyboardInterrupt):
            upgrade_cache(old)
    assert verify(upgrade_cache(old)) == []


def test_remedy_for_a_cache_of_schema_2_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make_old(tmp_path)
    with pytest.raises(CacheSchemaError, match="got schema 2") as error:
        open_cache(old)
    command = re.search(r"layercache (cache upgrade .*)", str(error.value))
    assert command is not None
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command[1]))
    assert not stop.value.code
    assert "upgraded to schema 3, no forward" in capsys.readouterr().out
    assert open_cache(root=tmp_path, model="vit_tiny").complete("train")


def test_upgrade_of_another_or_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    old = make_old(tmp_path)
    layout = SplitLayout(make_spec(50), "train")
    label = old / f"{layout.group}/label/c/0"
    label.write_bytes(b"\1" + label.read_bytes()[1:])
    with pytest.raises(CacheCorruptError, match="label/c/0: differs from the complete record"):
        upgrade_cache(old)
    current = make_cache(tmp_path, make_spec(20))
    with pytest.raises(OptionError, match="got schema 3: it needs no upgrade"):
        upgrade_cache(str(current.path))
    assert load_cache(current.path).complete("train")
