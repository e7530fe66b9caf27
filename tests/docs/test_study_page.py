from __future__ import annotations

import re
from pathlib import Path

import pytest

from layercache.study import schema
from layercache.study.file import Study, read_study
from layercache.study.validation_errors import TITLES

PAGE = (Path(__file__).parents[2] / "docs" / "study.md").read_text()


@pytest.mark.parametrize("name", schema.TABLES)
def test_every_key_of_a_table_is_on_the_page(name: str) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    words = set(re.findall(r"`(\w+)`", "\n".join(rows)))
    assert set(schema.TABLES[name].spellings()) <= words


def test_every_key_of_the_top_level_is_on_the_page() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", PAGE, re.MULTILINE))
    keys = {*Study.spellings()}
    assert keys - {*schema.TABLES} <= {*re.findall(r"`(\w+)`", rows["top level"])}
    tables = keys & {*schema.TABLES}
    assert {f"`{TITLES.get(name, f'[{name}]')}`" for name in tables} <= {*rows}


def test_the_studies_on_the_page_are_valid(tmp_path: Path) -> None:
    studies = []
    for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        file = tmp_path / "file.toml"
        file.write_text(text)
        studies.append(read_study(file))
    assert [study.name for study in studies] == ["small", "file"]
    assert [len(study.heads) for study in studies] == [4, 2]
