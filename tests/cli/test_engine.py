"""`--engine ray` on the command line: real processes and signals, no Ray process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.extraction.fakes import tree

pytestmark = [pytest.mark.slow, pytest.mark.alone]
pytest.importorskip("ray", reason="the extra ray is not installed")
MARK = "LAYERCACHE_TEST_RUN"
NOTICED = 200.0
"""Seconds until Ray's agents notice that the processes they served were killed, on busy cores."""
WORDS = ["extract", "-m", "vit_nano", "-d", "digits", "--limit", "1100", "--tokens", "all"]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """start(mark, *words): the program in a process group of its own, as a shell starts it.

    What still runs at the end, as after a failed test, is killed.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(mark: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "layercache_cli.main", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, MARK: mark},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def left(mark: str) -> list[str]:
    """What runs with this mark in its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes() and (
                words := (folder / "cmdline").read_bytes()
            ):
                found.append(words.replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue
    return found


def until(what: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    done = False
    while not done and time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # a folder that goes while it is listed
            done = what()
        time.sleep(0.05)
    return done


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: Start) -> dict[str, bytes]:
    """The files of a run on one machine without Ray."""
    folder = tmp_path_factory.mktemp("whole")
    process = start("whole", *WORDS, "--cache", str(folder))
    assert process.communicate(timeout=300)[1] == ""
    return tree(folder)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_no_process_and_is_continued(
    tmp_path: Path, start: Start, whole: dict[str, bytes], sig: signal.Signals
) -> None:
    mark = uuid.uuid4().hex
    words = [*WORDS, "--cache", str(tmp_path), "--engine", "ray"]
    process = start(mark, *words)
    assert until(lambda: bool(list(tmp_path.rglob("commits/train/0*.json"))), seconds=200)
    assert any("raylet" in line for line in left(mark)), "else there would be nothing to leave"
    if sig == signal.SIGINT:
        os.killpg(process.pid, sig)  # as a terminal does
    else:
        process.send_signal(sig)
    out, err = process.communicate(timeout=300)
    if sig == signal.SIGKILL:
        assert process.returncode == -sig
    else:
        assert process.returncode == 128 + sig, err
        assert err.startswith("\ninterrupted: ")
        assert "row blocks are committed and kept; the same command continues from there" in err
        assert err.count("\n") == 2
    assert until(lambda: not left(mark), seconds=NOTICED), left(mark)
    assert not list(tmp_path.rglob("complete.json")), out
    process = start(mark, *words)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert "on a Ray cluster of 1 node" in out
    assert tree(tmp_path) == whole
    assert until(lambda: not left(mark), seconds=NOTICED), left(mark)


def test_what_a_probe_prints(tmp_path: Path, start: Start) -> None:
    cache = ["--cache", str(tmp_path)]
    process = start("probe", "extract", "-m", "vit_nano", "-d", "digits", "--limit", "100", *cache)
    assert process.communicate(timeout=300)[1] == ""
    words = [
        "probe",
        "--head",
        "linear",
        "--epochs",
        "2",
        "--min-steps",
        "10",
        "--group-size",
        "8",
        *cache,
        "--engine",
        "ray",
    ]
    process = start("probe", *words)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert "21 configurations train in 3 groups of at most 7 (as requested)" in out
    assert "highest test balanced accuracy" in out
    assert "Ray cluster of 1 node" in out


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            "127.0.0.1:1",
            "error: cannot join a Ray cluster at 127.0.0.1:1: [Errno 111] Connection refused",
        ),
        ("ray://somewhere:1", "error: address 'ray://somewhere:1': expected auto or HOST:PORT"),
        ("auto", "error: cannot join a Ray cluster at auto: "),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, start: Start, address: str, text: str
) -> None:
    process = start(
        "nowhere", *WORDS, "--cache", str(tmp_path), "--engine", "ray", "--address", address
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.startswith(text)
    assert err.count("\n") == 1
    assert [line.partition(":")[0] for line in out.splitlines()] in (
        [],
        ["digits", "  10 classes", "vit_nano", "  preprocessing"],
    ), "the plan at most"
