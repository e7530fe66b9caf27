"""The program `layercache`: builds the commands, and turns every fault into one line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click
import typer
from typer.core import TyperGroup

COMMANDS = {
    "demo": "The whole thing in a minute, offline: vit_nano on handwritten digits.",
    "extract": "Run frozen ViTs over a data set once; cache the tokens of every layer.",
    "probe": "Train heads from cached tokens; choose, refit, test.",
    "results": "Print or export the table of all probes.",
    "cache": "List, describe, verify or delete caches.",
    "models": "List the backbones.",
    "datasets": "List the data sets.",
}
"""name -> one line. The module cli/<name>.py holds a function, or for a group of commands a typer app, of that name."""


class LazyGroup(TyperGroup):
    """Imports a command's module only when that command is asked for, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        """The command itself; while --help lists the commands, a stand-in with its one line."""
        if cmd_name not in COMMANDS:
            return None
        if ctx.info_name and ctx.resilient_parsing is False and getattr(ctx, "_listing", False):
            return click.Command(cmd_name, help=COMMANDS[cmd_name])
        return load(cmd_name)


def load(name: str) -> Any:
    """The click command behind cli/<name>.py."""
    member = getattr(import_module(f"layercache_cli.{name}"), name)
    if isinstance(member, typer.Typer):
        return typer.main.get_command(member)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, help=member.__doc__ or COMMANDS[name])(member)
    return typer.main.get_command(app)
