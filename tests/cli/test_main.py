"""The program as a whole: help without weight, faults without tracebacks."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import pytest
import typer

import layercache
from layercache._interruption import Interrupted
from layercache.errors import OptionError
from layercache_cli.main import COMMANDS, guard, main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_help_lists_every_command_without_importing_torch() -> None:
    code = (
        "import sys\nfrom layercache_cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    heavy = {'torch', 'timm', 'numpy', 'pandas', 'zarr', 'pydantic'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    for name in COMMANDS:
        assert f" {name} " in done.stdout


def test_main_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "prob")
    assert code == 2
    assert "'probe'" in err


@pytest.mark.parametrize(
    ("fault", "exit_code", "text"),
    [
        (OptionError("--lr must be positive, got -1"), 1, "error: --lr must be positive, got -1"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            1,
            "error: /x: No space left on device",
        ),
        (
            ZeroDivisionError("by zero"),
            1,
            "unexpected ZeroDivisionError: by zero\n  Run the command again with --debug",
        ),
        (
            KeyboardInterrupt("run it again to go on"),
            130,
            "interrupted: run it again to go on",
        ),
        (Interrupted("go on", signum=signal.SIGTERM), 143, "interrupted: go on"),
    ],
)
def test_guard_exception_prints_one_line_and_exits(
    fault: BaseException, exit_code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise fault

    with pytest.raises(typer.Exit) as stop:
        guard(command, debug=False)()
    err = capsys.readouterr().err
    assert stop.value.exit_code == exit_code
    assert text in err
    assert "Traceback" not in err
    with pytest.raises(type(fault)):
        guard(command, debug=True)()


def test_version_prints_the_installed_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"layercache {layercache.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("layercache pro", "probe"),
        ("layercache probe --see", "--seeds"),
        ("layercache cache v", "verify"),
    ],
)
def test_the_shell_completes_commands_and_their_options(
    line: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_LAYERCACHE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert not stopped.value.code
    assert expected in capsys.readouterr().out.split()
