"""`typer.Option` in each panel of `--help`, for commands with many options."""

from __future__ import annotations

from functools import partial

import typer

cache = partial(typer.Option, rich_help_panel="Cache")
target = partial(typer.Option, rich_help_panel="Target")
head = partial(typer.Option, rich_help_panel="Head")
search = partial(typer.Option, rich_help_panel="Search")
regularization = partial(typer.Option, rich_help_panel="Regularization")
selection = partial(typer.Option, rich_help_panel="Selection and tests")
model = partial(typer.Option, rich_help_panel="Model")
images = partial(typer.Option, rich_help_panel="Images")
tokens = partial(typer.Option, rich_help_panel="Tokens")
preprocessing = partial(typer.Option, rich_help_panel="Preprocessing")
run = partial(typer.Option, rich_help_panel="Run")
