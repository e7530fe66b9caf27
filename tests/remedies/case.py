"""A command that fails, what its message says, and what works once that is done."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from layercache_cli.main import main

EXTRACT = "extract -m vit_nano -d digits --limit 20 --layers 6,12"
"""What the fixture `folder` has been extracted with."""
KNN = "probe --head knn --layers 12"
FAST = "probe --layers 12 --weight-decay 0 --dropout 0 --epochs 1 --min-steps 2"
LINEAR = f"{FAST} --head linear --lr 0.1"


def run(line: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and all that it printed."""
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as stop:
        main(shlex.split(line.removeprefix("layercache ")))
    return int(stop.value.code or 0), printed.getvalue()


def must_run(line: str) -> str:
    code, text = run(line)
    assert code == 0, f"{line}\n{text}"
    return text


def cache_of(root: Path) -> Path:
    (found,) = root.glob("*/*/*")
    return found


def probe_of(root: Path, *, head: bool) -> Path:
    (found,) = [
        probe
        for probe in root.glob("*/*/*/probes/*")
        if (probe / "head.safetensors").exists() == head
    ]
    return found


def cut(pattern: str) -> Callable[[Path], None]:
    """Cut a file of the cache in half."""

    def do(folder: Path) -> None:
        (file,) = cache_of(folder / "home").glob(pattern)
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])

    return do


@dataclass(frozen=True)
class Case:
    """A command that fails, its remedy, and the command that then succeeds."""

    fails: str
    """The command line; {home} and {cache} are the root and the cache."""
    says: str
    """Pattern of the remedy. Its first group is a command to run, unless `follow` is given."""
    then: str | None = None
    """The command that then succeeds; \\1 is the first group. By default the same as before."""
    slow: bool = False
    """Left to `make slow`."""
    make: Callable[[Path], object] = lambda folder: None
    """Makes the circumstances in the working folder."""
    follow: Callable[[Path, re.Match[str]], object] | None = None
    """Does what the message says."""


def follow_remedy(case: Case, folder: Path) -> None:
    """Run the command that fails, what its message says, and the command that then succeeds.

    Args:
        case: The case.
        folder: The working folder, with the root `home`.
    """
    for i in range(8):
        Image.new("RGB", (28, 28), (30 * i, 0, 0)).save(f"{i}.png")
    rows = [
        f"{i}.png,{'ab'[i % 2] if i < 7 else ''},{'test' if i > 5 else 'train'}" for i in range(8)
    ]
    Path("t.csv").write_text("\n".join(["path,label,split", *rows]))
    gone = [f"{i if i else 'gone'}.png,{'ab'[i % 2]}" for i in range(8)]
    Path("gone.csv").write_text("\n".join(["path,label", *gone]))
    cache = cache_of(folder / "home")
    names = {
        "home": folder / "home",
        "cache": cache,
        "knn": probe_of(folder / "home", head=False).name,
        "linear": probe_of(folder / "home", head=True).name,
    }
    case.make(folder)
    fails = case.fails.format(**names)
    if fails.endswith("*"):
        (found,) = Path(shlex.split(fails)[-1]).parent.glob("*")
        fails = f"cache verify {found}"
    code, text = run(fails)
    assert code == 1, text
    match = re.search(case.says, text, re.MULTILINE)
    assert match, text
    if case.follow is not None:
        case.follow(folder, match)
    else:
        must_run(match[1])
    must_run(match.expand(case.then).format(**names) if case.then else fails)


def parametrize(cases: Mapping[str, Case]) -> pytest.MarkDecorator:
    """Return the parameters `case` of a test; slow cases are left to `make slow`."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=name, marks=[pytest.mark.slow] if case.slow else [])
            for name, case in cases.items()
        ],
    )
