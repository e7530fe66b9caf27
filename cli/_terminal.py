"""Output of the commands: every text passes through here."""

from __future__ import annotations

import typer


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a message, see `escape_message`: lines after the first are indented, or escaped."""
    from layercache._printable import escape_message

    typer.echo(escape_message(text), err=err)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Print several lines, such as a table, in whose cells line breaks are escaped already."""
    for line in text.split("\n"):
        echo(line, err=err)


def confirm(question: str, *, abort: bool = False) -> bool:
    """Ask a question, see `echo`."""
    from layercache._printable import escape_message

    return typer.confirm(escape_message(question), abort=abort)
