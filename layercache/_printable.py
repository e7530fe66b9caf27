"""Text from outside, made safe to show: names without control characters, URLs without passwords.

File names, class names and the names in a cache may come from anyone. Raw, they could move the
cursor, colour the terminal or pose as a message of the program.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 controls, line separators, controls of writing direction, bytes that are no text."""
_MESSAGE_CONTROL = re.compile(rf"(?!\n  ){_CONTROL.pattern}")
_CREDENTIALS = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]*://|\b(?:s3|hf|https?):/)(?:[^\s'\"]*:[^\s'\"]*@|[^\s/'\"]*@)",
    re.IGNORECASE,
)
"""Start of a URL up to the @ behind a user, a password or a token."""


def escape_control(text: str) -> str:
    r"""Return text with each control character as in a Python string: "\n", "\x1b"."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def escape_message(text: str) -> str:
    """Return a message for a terminal: without control characters and passwords.

    A line break stays only before a line that is indented by two spaces: no name in the message can
    begin a line that looks like another message.
    """
    return redact(_MESSAGE_CONTROL.sub(lambda match: ascii(match[0])[1:-1], text))


def redact(text: str) -> str:
    """Return text in which users, passwords and tokens in URLs are replaced by ***."""
    return _CREDENTIALS.sub(lambda match: f"{match[0].partition(':')[0]}://***@", text)


def has_credentials(text: str) -> bool:
    """Return whether a text has a URL with a user, password or token."""
    return _CREDENTIALS.search(text) is not None


def guard_cell(text: str) -> str:
    """Return text as the cell of a CSV file that no spreadsheet takes for a formula.

    Text that begins with = + - @ gets an apostrophe before it, unless it is a number.
    """
    if not text.lstrip().startswith(("=", "+", "-", "@")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
