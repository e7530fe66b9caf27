"""Hook of mkdocs: writes the page of the command line from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "cli.md"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page to those of the book."""
    files.append(File.generated(config, PAGE, content="\n".join(describe_commands())))
    return files


def describe_commands() -> Iterator[str]:
    """Yield the lines of the page."""
    from typer.main import get_command

    from layercache_cli.main import COMMANDS, build

    yield "# Command line"
    yield ""
    yield "`--debug` shows tracebacks, `--version` the version; both go before the command."
    for name, summary in COMMANDS.items():
        command: Any = get_command(build(name, debug=False)).commands[name]  # type: ignore[attr-defined]
        yield from describe_command(f"layercache {name}", command, summary=summary, level=2)


def describe_command(path: str, command: Any, *, summary: str, level: int) -> Iterator[str]:
    """Yield the lines of a command and of the commands in it.

    Args:
        path: The command as it is typed.
        command: A command of typer.
        summary: Text of a command without a help of its own.
        level: Level of its heading.
    """
    yield f"\n{'#' * level} {path}\n"
    yield escape(cleandoc(command.help or summary))
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    options = [option for option in options if option.name != "help"]
    if arguments or options:
        words = [metavar(argument) for argument in arguments]
        yield f"\n```console\n$ {' '.join([path, *words, '[OPTIONS]'])}\n```\n"
        yield "| option | meaning |\n|---|---|"
    for parameter in [*arguments, *options]:
        names = [*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())]
        if parameter in arguments:
            names = [metavar(parameter)]
        default = describe_default(parameter)
        text = escape(parameter.help or "").replace("|", "\\|").replace("\n", " ")
        yield f"| {', '.join(f'`{name}`' for name in names)} | {text}{default} |"
    for name, part in getattr(command, "commands", {}).items():
        if not part.hidden:
            yield from describe_command(f"{path} {name}", part, summary="", level=level + 1)


def metavar(argument: Any) -> str:
    """Return an argument as the usage shows it."""
    return argument.metavar or argument.name.strip("_").upper()


def describe_default(parameter: Any) -> str:
    """Return the default of an option in words, or ""."""
    shown, default = parameter.show_default, parameter.default
    if isinstance(shown, str):
        return f" Default: {escape(shown)}."
    if not shown or default is None or callable(default) or default in ([], (), False, ""):
        return ""
    return f" Default: `{default}`."


def escape(text: str) -> str:
    """Return text without the characters that Markdown takes for HTML."""
    return text.replace("<", "&lt;").replace("*", "\\*")
