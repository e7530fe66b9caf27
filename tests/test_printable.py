from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layercache._printable import (
    escape_control,
    escape_message,
    guard_cell,
    has_credentials,
    redact,
)
from layercache.errors import OptionError, StorageError, UnknownNameError

HOSTILE = "a\x1b[2J\r\x9b31m\u202eb\u2028c\x00\x7f\udcff\n\terror: all is lost"


@given(st.text())
def test_escape_control_of_any_text_is_one_printable_line(text: str) -> None:
    escaped = escape_control(text)
    escaped.encode()
    assert len(escaped.splitlines()) <= 1
    assert not {c for c in escaped if ord(c) < 32 or 0x7F <= ord(c) < 0xA0}


def test_escape_control_keeps_text_of_any_script() -> None:
    text = "Straße, 猫と犬, قطة, 👩‍👩‍👧, \\n, C:\\x"
    assert escape_control(text) == text


def test_escape_control_writes_characters_as_python_does() -> None:
    assert escape_control(HOSTILE) == (
        r"a\x1b[2J\r\x9b31m\u202eb\u2028c\x00\x7f\udcff\n\terror: all is lost"
    )


def test_escape_message_keeps_only_line_breaks_before_an_indented_line() -> None:
    assert escape_message("two match:\n  a\n  b\nerror: c\n d") == (
        "two match:\n  a\n  b\\nerror: c\\n d"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://datasets/user:password@host/x", "hf://***@host/x"),
        ("at s3://AKIA:se/cr+et@bucket/key now", "at s3://***@bucket/key now"),
        ("'https://token@host/p'", "'https://***@host/p'"),
        ("HTTP://u:p@h and ftp://u:p@h", "HTTP://***@h and ftp://***@h"),
        ("s3:/key:secret@bucket", "s3://***@bucket"),
        ("hf:https://u:p@h/x", "hf:https://***@h/x"),
    ],
)
def test_redact_of_an_address_with_credentials_hides_them(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert has_credentials(text)
    assert not has_credentials("hf:user/name")
    for error in (OptionError(text), UnknownNameError("dataset", text, [text])):
        assert "***@" in str(error)
        assert not {"password", "cr+et", "token", "u:p"} & set(str(error).split("/"))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/user/name@revision",
        "folder:/data/a:b@c",
        "s3://bucket/key",
        "me@example.org",
        "https://host/p?q=a@b",
        "mean ± std @ 5 seeds: 3",
        "",
    ],
)
def test_redact_of_other_text_leaves_it(text: str) -> None:
    assert redact(text) == text


def test_error_with_credentials_in_its_cause_keeps_os_error_fields() -> None:
    error = StorageError("s3://k:s@b: is full")
    assert str(error) == "s3://***@b: is full"
    assert isinstance(error, OSError)


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", " =1", "\t=1", "=", "-1-1"])
def test_guard_cell_of_a_formula_puts_an_apostrophe_before_it(text: str) -> None:
    assert guard_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+2", "1e-5", "-inf", "a=b", "cls+ap", "", "'=1", "猫"])
def test_guard_cell_of_numbers_and_other_text_leaves_them(text: str) -> None:
    assert guard_cell(text) == text


def test_escaped_json_is_read_back_as_it_was() -> None:
    line = escape_message(json.dumps({"name": HOSTILE}))
    assert json.loads(line) == {"name": HOSTILE}
