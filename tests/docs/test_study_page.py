from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from layercache.study import tables
from layercache.study.file import read_study

PAGE = (Path(__file__).parents[2] / "docs" / "study.md").read_text()


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_key_of_a_table_is_on_the_page(name: str) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    words = set(re.findall(r"`(\w+)`", "\n".join(rows)))
    assert set(tables.TABLES[name].spellings()) <= words


def test_the_study_on_the_page_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert tomllib.loads(text)["name"] == "small"
    file = tmp_path / "small.toml"
    file.write_text(text)
    study = read_study(file)
    assert len(study.heads) == 4
