"""The program `layercache`: builds the commands, and turns errors into one line and an exit code.

Only the module of the requested command is imported; the others appear in the help by their
summary, so that --help answers at once.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from layercache_cli._log import log_to_stdout
from layercache_cli._terminal import echo

COMMANDS = {
    "demo": "Try every step in a minute, offline: vit_nano on handwritten digits.",
    "extract": "Run frozen ViTs over a dataset once; cache the tokens of every layer.",
    "import": "Make a cache from tokens that another tool has computed.",
    "annotate": "Add labels, groups, folds and other columns to a cache, from a table.",
    "scan": "Score every layer and token kind with closed-form heads, in one read.",
    "probe": "Train heads from cached tokens: search, refit, test once.",
    "ensemble": "Pool trained probes, with weights fitted on samples that they held out.",
    "results": "Print or export the table of all probes.",
    "predictions": "Print the metrics of a probe, or write its predictions to a table.",
    "report": "Write figures and an HTML page of the results.",
    "predict": "Predict the class or the number of images with a trained head.",
    "export": "Write a trained head with its backbone as ONNX or torch.export.",
    "export-tokens": "Write the tokens of a cache as parquet, HDF5 or npy files.",
    "study": "Run the grid of a paper from one file.",
    "cache": "List, describe, verify, copy or delete caches.",
    "models": "List the backbones.",
    "datasets": "List the datasets.",
    "doctor": "Show versions, devices and extras, and test that everything works.",
}
"""Summary of each command, in the order of the help.

A module NAME holds a function NAME, or a typer app NAME for a group of commands ("-" as "_").
"""
MODULES = {
    "annotate": "caches.annotate",
    "cache": "caches.cache",
    "ensemble": "probes.ensemble",
    "export-tokens": "caches.export_tokens",
    "import": "caches.import_tokens",
    "predictions": "probes.predictions",
    "probe": "probes.probe",
    "results": "probes.results",
    "scan": "probes.scan",
}
"""Command -> module below cli/, where it is not cli/NAME.py."""

COMPLETION_VARIABLE = "_LAYERCACHE_COMPLETE"
"""Set by the scripts that `layercache --install-completion` adds to a shell."""
SIGNAL_EXIT = 128
"""Exit code of a command that a signal stopped, minus the signal's number, as in a shell."""


def guard(command: Callable[..., Any], *, debug: bool) -> Callable[..., Any]:
    """Return a command that prints errors as one line and exits with a code.

    It is 1 for an error, 130 for Ctrl-C and 143 for SIGTERM.

    Args:
        command: The command.
        debug: Raise exceptions, with their traceback.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # `layercache results | head`: the reader has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt as interrupt:
            from layercache._interruption import interrupt_signal

            if debug:
                raise
            echo(err=True)
            echo(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}", err=True)
            raise typer.Exit(SIGNAL_EXIT + interrupt_signal(interrupt)) from None
        except Exception as error:
            if debug:
                raise
            echo(describe(error), err=True)
            raise typer.Exit(1) from None

    return guarded


def describe(error: Exception) -> str:
    """Return the text of an error for users; an unexpected one is marked as such."""
    from layercache.errors import LayercacheError

    if isinstance(error, LayercacheError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.strerror:
        return (
            f"error: {error.filename}: {error.strerror}"
            if error.filename
            else f"error: {error.strerror}"
        )
    if isinstance(error, OSError):
        return f"error: {error}"
    return (
        f"error: unexpected {type(error).__name__}: {error}\n"
        "  Run the command again with --debug for the traceback, and please report it."
    )


def build(name: str | None, *, debug: bool) -> typer.Typer:
    """Return the typer app; only the command `name` is real, the others are lines in the help."""
    app = typer.Typer(
        help=(
            "Probe frozen Vision Transformers on every layer: run the backbone once, "
            "train heads that fuse them from the cache as often as you like."
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", callback=print_version, is_eager=True
            ),
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")
        ] = False,
    ) -> None:
        pass

    for command, line in COMMANDS.items():
        if command != name:
            app.command(command, help=line)(lambda: None)
            continue
        module = MODULES.get(command, command.replace("-", "_"))
        member = getattr(import_module(f"layercache_cli.{module}"), module.rpartition(".")[2])
        if isinstance(member, typer.Typer):
            own = member.registered_callback  # of a group that is a command itself
            for info in [*member.registered_commands, *([own] if own else [])]:
                assert info.callback is not None
                info.callback = guard(info.callback, debug=debug)
            if own:
                app.add_typer(member, name=command)
            else:
                app.add_typer(member, name=command, help=line, no_args_is_help=True)
        else:
            app.command(command, help=member.__doc__ or line)(guard(member, debug=debug))
    return app


def print_version(requested: bool) -> None:
    """Print the installed version and exit."""
    if requested:
        from layercache._version import installed_version

        echo(f"layercache {installed_version()}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never returns.

    Args:
        arguments: Arguments without the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("LAYERCACHE_DEBUG") == "1"
    words = [word for word in words if word != "--debug"]
    typed = words
    if COMPLETION_VARIABLE in os.environ:  # the shell asks for completions of a line
        line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
        typed = line.split()[1:]
    name = next((word for word in typed if not word.startswith("-")), None)
    with log_to_stdout(debug=debug):
        build(name if name in COMMANDS else None, debug=debug)(args=words, prog_name="layercache")


if __name__ == "__main__":
    main()
