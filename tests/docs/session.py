"""A reader's session: the blocks of one page, run from top to bottom in an empty folder.

Commands of layercache run in this process, all others in bash. Python blocks share one namespace.
A block whose first line names a file (`# encoders.py`, `# study.toml`) is written to that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from layercache.study import read_study
from layercache_cli.main import main
from tests.docs.pages import ROOT, Block

_SHELL_SYNTAX = re.compile(r"[|&;<>*$]")
_QUOTED = re.compile(r"'[^']*'")
_EXPORT = re.compile(r"export (\w+)=(\S+)$")
_PROBES = "**/probes/*/probe.json"


class Session(ExitStack):
    """Runs blocks in the current folder; a context that ends what the page's stage has started.

    The repository's benchmarks/ and studies/ are there. In commands and Python, CACHE stands for
    the newest cache, PROBE and OTHER_PROBE for the ids of the newest probe and the one before.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, stand_ins: Mapping[str, str], slow: bool
    ) -> None:
        super().__init__()
        self.slow = slow
        """The page's slow commands run, too."""
        self.home = Path.cwd() / "home"
        """Folder of the caches."""
        self.printed = ""
        """What the commands have printed."""
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self.monkeypatch = monkeypatch
        self.stand_ins = dict(stand_ins)
        monkeypatch.setenv("LAYERCACHE_HOME", str(self.home))
        for name in ("benchmarks", "studies"):
            os.symlink(ROOT / name, name)
        _put_on_path("layercache", Path.cwd() / ".bin", monkeypatch)

    def run_python(self, block: Block) -> None:
        """Run a Python block, or write the file that it shows."""
        text = self._substitute(block.text)
        if block.file_name:
            Path(block.file_name).write_text(text)
            return
        lines_above = "\n" * block.line  # so that a traceback has the page's line numbers
        exec(compile(lines_above + text, block.page, "exec"), self._namespace)

    def write_study(self, block: Block) -> None:
        """Write a study file and read it as `layercache study` does."""
        assert block.file_name, "the first line of a study is a comment with its file name"
        Path(block.file_name).write_text(self._substitute(block.text))
        read_study(block.file_name)

    def run_command(self, command: str) -> None:
        """Run one line that a reader types."""
        command = self._substitute(command)
        if export := _EXPORT.match(command):
            self.monkeypatch.setenv(export[1], os.path.expandvars(export[2]))
        elif command.startswith("layercache ") and not _SHELL_SYNTAX.search(
            _QUOTED.sub("", command)
        ):
            self.printed += run_layercache(command)
        else:
            done = subprocess.run(
                ["bash", "-uo", "pipefail", "-c", command], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            self.printed += done.stdout

    def _substitute(self, text: str) -> str:
        """Return a text with the page's stand-ins, and with a cache and a probe."""
        for name, stand_in in self.stand_ins.items():
            text = _replace_word(text, name, stand_in)
        for name, pattern, age in (
            ("CACHE", "**/spec.json", 1),
            ("PROBE", _PROBES, 1),
            ("OTHER_PROBE", _PROBES, 2),
        ):
            if re.search(rf"\b{name}\b", text):
                files = sorted(self.home.glob(pattern), key=lambda file: file.stat().st_mtime_ns)
                folder = files[-age].parent
                text = _replace_word(text, name, str(folder) if name == "CACHE" else folder.name)
        return text


def run_layercache(command: str) -> str:
    """Run a command line of layercache in this process and return what it prints.

    Args:
        command: The line, starting with `layercache`.
    """
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as stop:
        main(shlex.split(command)[1:])
    assert not stop.value.code, f"{command}\n{printed.getvalue()}"
    return printed.getvalue()


def _replace_word(text: str, word: str, replacement: str) -> str:
    return re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", lambda _: replacement, text)


def _put_on_path(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `layercache`, and `python` of the tests, programs that bash finds."""
    folder.mkdir()
    script = folder / program
    script.write_text(f"#!{sys.executable}\nfrom layercache_cli.main import main\nmain()\n")
    script.chmod(0o755)
    python = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), python, os.environ["PATH"]]))
