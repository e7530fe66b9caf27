"""CSV files as columns of text, with messages that name the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from layercache.errors import DataError

DELIMITERS = (",", ";", "\t")
"""Characters that may separate the fields."""
UNCLOSED_QUOTE = "opens a quote that is not closed on its line: close it, or remove it"


def describe_csv_error(error: csv.Error) -> str:
    """Return what is wrong with a line that the csv module refuses."""
    text = str(error)
    if "unexpected end" in text or "field larger" in text:
        return f"a field {UNCLOSED_QUOTE}"
    if "expected after" in text:
        return "a closing quote has text behind it: double the quotes within a field"
    return text


def describe_encoding(file: Path) -> str:
    """Return which line of a file is not UTF-8, and what to do."""
    with open(file, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                kind = "perhaps Latin-1"
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    kind = "UTF-16"
                return (
                    f"{file}, line {number}: expected text in UTF-8, got the byte 0x{byte:02x} "
                    f"({kind}): save the table as UTF-8"
                )
    return f"{file}: expected text in UTF-8: save the table as UTF-8"


def read_columns(file: Path) -> tuple[list[str], list[Sequence[str]]]:
    """Return the names and the texts of all columns of a CSV file.

    Fields are separated by whichever of DELIMITERS is most frequent in the first line.

    Raises:
        DataError: A line has another number of fields than the first, or cannot be read.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            header = f.readline(csv.field_size_limit())
            f.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            reader = csv.reader(f, delimiter=delimiter, skipinitialspace=True, strict=True)
            rows = list(_checked_rows(file, reader))
    except UnicodeDecodeError:
        raise DataError(describe_encoding(file)) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if not rows:
        raise DataError(f"{file}: expected a first line with the names of columns, got none")
    names, *values = rows
    return names, list(zip(*values, strict=True)) if values else [()] * len(names)


def _checked_rows(file: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows that are not blank."""
    n_fields = None
    while True:
        start = getattr(reader, "line_num", 0) + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{file}, line {start}: {describe_csv_error(error)}") from None
        if row is None:
            return
        if not row:
            continue
        n_fields = n_fields or len(row)
        if len(row) != n_fields:
            raise DataError(
                f"{file}, line {start}: expected {n_fields} fields, as in the first line, got "
                f"{len(row)}"
            )
        yield row
