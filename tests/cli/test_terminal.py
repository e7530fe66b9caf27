"""What a cache from someone else can do to the terminal, and where passwords could be shown."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import layercache_cli as cli
from layercache.testing import make_cache, make_spec
from layercache_cli._log import log_to_stdout
from layercache_cli.main import main

NAME = "x\x1b[31m\r\nerror: gone\u202e"


def _run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return int(stop.value.code or 0)


def _assert_harmless(text: str) -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert not re.search("^error: gone", text, re.MULTILINE)


@pytest.mark.parametrize("command", ["ls", "info", "verify"])
def test_cache_command_on_a_cache_with_hostile_names_escapes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    spec = make_spec(30, model=NAME, architecture=NAME, preprocessing={NAME: NAME})
    spec = replace(spec, dataset=replace(spec.dataset, name=NAME))
    cache = make_cache(tmp_path, spec, skipped={9: NAME})
    assert _run("cache", command, "--cache", str(tmp_path)) == 0
    out, err = capsys.readouterr()
    _assert_harmless(out + err)
    assert "x\\x1b[31m\\r\\nerror: gone\\u202e" in out or command == "verify"
    (cache.path / "train.zarr" / NAME.replace("/", "")).write_text("")
    (cache.path / "commits" / "train" / "complete.json").unlink()
    assert _run("cache", "verify", str(cache.path)) == 1
    _assert_harmless("".join(capsys.readouterr()))


def test_datasets_command_on_a_folder_with_hostile_names_escapes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for name in (NAME, "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
            (tmp_path / split / name / f"{NAME}.txt").write_text("")
    assert _run("datasets", f"folder:{tmp_path}") == 0
    out, err = capsys.readouterr()
    _assert_harmless(out + err)
    assert "x\\x1b[31m" in out


def test_error_that_names_a_hostile_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("predict", str(tmp_path / NAME), str(tmp_path / NAME)) == 1
    out, err = capsys.readouterr()
    _assert_harmless(out + err)
    assert err.count("\n") == 1


def test_log_of_a_hostile_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stdout(debug=False):
        logging.getLogger("layercache.anything").info("%s is read from https://u:secret@h", NAME)
    assert capsys.readouterr().out == (
        "x\\x1b[31m\\r\\nerror: gone\\u202e is read from https://***@h\n"
    )


SECRET = "hunter2"


@pytest.mark.parametrize(
    "words",
    [
        ("cache", "pull", f"hf://datasets/user:{SECRET}@x/y"),
        ("cache", "pull", f"hf://datasets/{SECRET}@x/y"),
        ("cache", "ls", "--cache", f"s3://key:{SECRET}@bucket"),
        ("cache", "ls", "--cache", f"s3://key:{SECRET}/more@bucket/x"),
        ("cache", "ls", "--cache", f"https://u:{SECRET}@host/x"),
        ("cache", "info", f"s3:/key:{SECRET}@bucket/x"),
        ("results", "--cache", f"hf://datasets/u:{SECRET}@x/y"),
        ("extract", "-m", "vit_nano", "-d", f"hf:https://u:{SECRET}@host/x"),
        ("extract", "-m", "vit_nano", "-d", f"s3://u:{SECRET}@host/x"),
        ("extract", "-m", "vit_nano", "-d", f"hf://datasets/u:{SECRET}@host/x"),
        ("extract", "-m", f"hf-hub:https://u:{SECRET}@host/x", "-d", "digits"),
        ("extract", "-m", "vit_nano", "-d", "digits", "--weights", f"https://u:{SECRET}@host/x"),
        ("datasets", f"hf:https://u:{SECRET}@host/x"),
        ("predict", f"s3://u:{SECRET}@host/x", "x.png"),
    ],
)
def test_command_with_a_password_in_an_address_refuses_it_without_showing_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("LAYERCACHE_HOME", str(tmp_path))
    assert _run(*words) in (1, 2)
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert list(tmp_path.rglob("*")) == []


def test_commands_print_through_the_terminal_module_only() -> None:
    for file in Path(cli.__file__).parent.glob("*.py"):
        if file.name not in ("_terminal.py", "_log.py"):
            printed = re.findall(r"typer\.(?:echo|confirm|secho)\(|\bprint\(", file.read_text())
            assert not printed, file
