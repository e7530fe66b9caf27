from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layercache.cache.annotations.table import TableColumn, read_table
from layercache.errors import DataError, DataNotFoundError, LayercacheError, OptionError

MISSING = -(2**63)


def read(tmp_path: Path, text: str, **options: object) -> dict[str, TableColumn]:
    file = tmp_path / "table.csv"
    file.write_text(text, encoding="utf-8")
    return dict(read_table(file, **options).columns)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "2", ""], "integer", [1, 2, MISSING]),
        (["1.0", "2.0", "nan"], "integer", [1, 2, MISSING]),
        (["1.5", "-2e3", "NaN"], "float", [1.5, -2000.0, np.nan]),
        (["true", "False", ""], "integer", [1, 0, MISSING]),
        (["007", "7", ""], "class", [0, 1, -1]),
        (["b", "a", " b "], "class", [1, 0, 1]),
        (["NA", "DE", ""], "class", [1, 0, -1]),
        (["9223372036854775807999", "1", "2"], "float", [9.223372036854775807999e21, 1, 2]),
        (["", "", ""], "class", [-1, -1, -1]),
    ],
)
def test_column_of_text_has_the_kind_of_all_its_values(
    tmp_path: Path, values: list[str], kind: str, expected: list[float]
) -> None:
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values))
    column = read(tmp_path, f"id,x\n{rows}")["x"]
    assert column.kind == kind
    np.testing.assert_array_equal(column.values, expected)


def test_ids_are_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;x\n007;1\n8;2\n")
    assert list(read_table(tmp_path / "t.csv").ids) == ["007", "8"]
    frame = pd.DataFrame({"id": [7, 8], "x": ["a", "b"]})
    assert list(read_table(frame).ids) == ["7", "8"]
    gaps = pd.DataFrame({"id": [7.0, 8.0], "x": ["a", "b"]})
    assert list(read_table(gaps).ids) == ["7", "8"]


def test_data_frame_keeps_the_order_of_its_categories() -> None:
    grades = pd.Categorical(["low", "high", None], categories=["low", "mid", "high"])
    frame = pd.DataFrame({"grade": grades}, index=pd.Index(["a", "b", "c"], name="id"))
    column = read_table(frame).columns["grade"]
    assert column.classes == ("low", "mid", "high")
    assert column.values.tolist() == [0, 2, -1]


def test_parquet_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"name": ["a", "b"], "age": [1.5, np.nan], "ok": [True, False]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", id_column="name", columns=["age", "ok"])
    assert [column.kind for column in table.columns.values()] == ["float", "integer"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a first line with the names of columns"),
        ("name,x\na,1\n", "expected the ids in a column id or path, got the columns name, x"),
        ("id\na\n", r"expected a column next to the ids \(id\), got none"),
        ("id,x,x\na,1,2\n", "expected the column 'x' once"),
        ("id,\na,1\n", "expected a name of at most 200 printable characters"),
        ('id,"a,b"\na,1\n', "without a comma: rename the column"),
        ("id,x\n,1\n", r"expected an id in every row, got none in row 1 \(1 such rows\)"),
        ("id,x,y\na,1,2\nb,1\n", r"line 3: expected 3 fields, as in the first line, got 2"),
        ("id,x\na,1\nb,1,2\n", "line 3: expected 2 fields, as in the first line, got 3"),
        ("id,x\na,1\nb,inf\nc,2\n", None),
        ('id,x\na,"1\n', "line 2: a field opens a quote that is not closed"),
    ],
)
def test_bad_table_is_refused_with_its_reason(
    tmp_path: Path, text: str, message: str | None
) -> None:
    if message is None:
        assert read(tmp_path, text)["x"].kind == "class"
        return
    with pytest.raises((DataError, OptionError), match=message):
        read(tmp_path, text)


def test_table_in_another_encoding_or_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,x\na,é\n".encode("latin-1"))
    with pytest.raises(DataError, match="expected text in UTF-8, got the byte 0xe9"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(DataNotFoundError, match="there is no such file"):
        read_table(tmp_path / "u.csv")
    with pytest.raises(DataNotFoundError, match="expected a file, got a folder"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("a",), ("b",)], "expected text or numbers, got tuple"),
        ([float("inf"), 1.0], "expected finite numbers"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "expected text or numbers, got Timestamp"),
        (np.array([2**63, 1], np.uint64), "expected integers below"),
    ],
)
def test_values_of_other_types_are_refused(values: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(pd.DataFrame({"id": ["a", "b"], "x": values}))


def test_mixed_column_is_taken_by_its_texts() -> None:
    frame = pd.DataFrame({"id": ["a", "b", "c"], "x": [1, "cat", None]}, dtype=object)
    column = read_table(frame).columns["x"]
    assert (column.classes, column.values.tolist()) == (("1", "cat"), [0, 1, -1])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200) | st.text(alphabet='id,x;\t\n"\r 01.-na\0', max_size=80))
def test_any_bytes_are_a_table_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes | str
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "t.csv"
    file.write_bytes(b"id,x\n" + (data if isinstance(data, bytes) else data.encode()))
    try:
        table = read_table(file)
    except LayercacheError:
        return
    assert all(len(column.values) == len(table.ids) for column in table.columns.values())
